"""The voice path: packets in, PCM to the agent; PCM from the agent, packets out."""

from pathlib import Path
from typing import Final

LIBRARY: Final = Path(__file__).with_name("libvoice.so.1")  # of voice.c, where a compiler was there
