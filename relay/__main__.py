"""`python -m voicerelay.relay SETTINGS`, as the supervisor starts it."""

import sys

from voicerelay.relay.process import RelaySettings, main

main(RelaySettings.from_json(sys.argv[1]))
