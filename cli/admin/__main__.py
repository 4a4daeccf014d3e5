"""`python -m voicerelay.cli.admin SETTINGS`, as the supervisor starts it."""

import sys

from voicerelay.cli.admin.process import main
from voicerelay.cli.admin.settings import AdminSettings

main(AdminSettings.from_json(sys.argv[1]))
