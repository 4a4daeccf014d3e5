"""What is heard over a bad network: how much, how right, and how late. Ours against stock aiortc's receiver.

Each call goes through a proxy of tests/support/proxy.py, which loses and delays from a seed.
"""

import sys
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.voice.caller import SHIFT, Talk
from bench.voice.contenders import Contender, Cores, talk_to
from bench.voice.said import PACKET_S, RATE, align
from tests.support.impair import Impairment
from tests.support.server import ServerError

BEFORE_S, DURING_S, AFTER_S = 3.0, 8.0, 4.0
SETTLED_S = 1.0  # after the end of the loss the delay should be back
SEEDS = 2  # calls of each network
PIECE = 10  # frames whose place in the signal is looked for
HOP = 12  # frames
ALIKE = 0.7  # correlation from which on a piece is what was said
LONGEST_S = 1.5  # delay that is looked for
SPAN = round((LONGEST_S + 0.1) * RATE)

NETWORKS: dict[str, Impairment] = {
    "0 %": Impairment(),
    "1 %": Impairment(loss=0.01),
    "5 %": Impairment(loss=0.05),
    "10 %": Impairment(loss=0.10),
    "20 %": Impairment(loss=0.20),
    "5 % in bursts of 3": Impairment(loss=0.05, burst=3.0),
    "40 ms jitter": Impairment(jitter_s=0.04),
    "5 %, 40 ms jitter": Impairment(loss=0.05, jitter_s=0.04),
}


@dataclass
class Heard:
    """Of one call. Delays in ms, from the moment a frame was ready to be sent until the agent had it.

    audible: share of the 20 ms slots while the network was bad. right: share of pieces that are what was said.
    """

    audible: float
    right: float
    in_order: bool
    before_ms: float
    during_ms: float
    after_ms: float
    recovered_ms: float | None = None
    concealed_ms: float | None = None
    silent_ms: float | None = None


def measure(contender: Contender, cores: Cores, seed: int, scale: float) -> dict[str, list[Heard]]:
    """Every network at once, each on its own calls. `scale` of the spans of time."""
    before, during, after = (span * scale for span in (BEFORE_S, DURING_S, AFTER_S))
    names = [name for name in NETWORKS for _ in range(SEEDS)]
    how = [asdict(replace(NETWORKS[name], delay_s=0.0)) for name in names]
    talk = Talk(
        "",
        len(names),
        before,
        during + after,
        impairments=how,
        impaired_s=(before, before + during),
        seed=seed,
    )
    with contender.start(cores) as running:
        figures = talk_to(running, cores, talk)
        if figures["dropped_by_proxies"]:
            raise ServerError("the proxies dropped packets of their own accord")
        lag_ms = figures["caller_lag_p99_ms"]
        print(f"loss {contender.key:<16} caller_lag_p99_ms {lag_ms:.2f}", file=sys.stderr)
        folder = running.folder
        found: dict[str, list[Heard]] = {name: [] for name in NETWORKS}
        for index, (name, resource) in enumerate(zip(names, figures["resources"], strict=True)):
            path = folder / f"{resource.rpartition('/')[2]}.npz"
            with np.load(path) as kept:
                began = figures["start"] + index * PACKET_S / len(names)
                found[name].append(judge(dict(kept), index, began, talk))
    return found


def judge(kept: dict[str, Any], index: int, began: float, talk: Talk) -> Heard:
    times: npt.NDArray[np.float64] = kept["times"] - began
    frames: npt.NDArray[np.int16] = kept["frames"]
    begin, end = talk.impaired_s
    until = end + 0.3  # so that what is under way counts
    loud = frames.any(axis=1)
    audible = np.count_nonzero(loud & (times >= begin) & (times < until))
    pieces = []
    for first in range(0, len(frames) - PIECE, HOP):
        # What was said so long ago, in samples of the call's own beginning.
        near = round((times[first] - LONGEST_S + SHIFT * index * PACKET_S) * RATE)
        place, likeness = align(frames[first : first + PIECE].reshape(-1), near, SPAN)
        if likeness >= ALIKE:
            said = place / RATE - SHIFT * index * PACKET_S
            pieces.append((times[first], times[first] - said, said))
    spans = ((0.5, begin), (begin, end), (end + SETTLED_S, np.inf))
    delays = [[1000 * d for at, d, _ in pieces if a <= at < b] or [np.nan] for a, b in spans]
    said_at = [said for _, _, said in pieces]
    return Heard(
        min(1.0, audible * PACKET_S / (until - begin)),
        len(pieces) / max(1, len(range(0, len(frames) - PIECE, HOP))),
        said_at == sorted(said_at),
        *(float(median(each)) for each in delays),
        *(float(kept[name]) if name in kept else None for name in _REPAIRS),
    )


_REPAIRS = ("recovered_ms", "concealed_ms", "silent_ms")
