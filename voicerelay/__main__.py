"""`python -m voicerelay`: the same as the `voicerelay` command."""

from voicerelay.cli.main import main

main()
