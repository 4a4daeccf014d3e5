"""`python -m voicerelay.transceiver SETTINGS`, as the supervisor starts it."""

import sys

from voicerelay.transceiver.process import main
from voicerelay.transceiver.settings import TransceiverSettings

main(TransceiverSettings.from_json(sys.argv[1]))
