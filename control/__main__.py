"""`python -m voicerelay.control SETTINGS`, as the supervisor starts it."""

import sys

from voicerelay.control.process import ControlSettings, main

main(ControlSettings.from_json(sys.argv[1]))
