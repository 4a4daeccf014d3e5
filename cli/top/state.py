"""What a person has chosen in `top`, and what each key makes of it. No I/O."""

from dataclasses import dataclass, replace

SORTS = ("age", "rtt", "loss", "jitter", "late", "id")
INTERVALS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
HELP = (
    ("s", "sort by the next column"),
    ("r", "turn the order round"),
    ("j k", "scroll down, up (arrows too)"),
    ("g", "back to the first call"),
    ("p", "pause, and go on (space too)"),
    ("+ -", "look more often, less often"),
    ("?", "this help"),
    ("q", "quit"),
)


@dataclass(frozen=True)
class State:
    """`offset`: calls that are scrolled away."""

    sort: str = "age"
    descending: bool = True
    offset: int = 0
    paused: bool = False
    help: bool = False
    quit: bool = False
    interval_s: float = 1.0


def press(state: State, key: str) -> State:
    """The state after a key; keys that mean nothing change nothing."""
    if state.help:
        return replace(state, help=False, quit=key == "q")
    match key:
        case "q" | "ctrl-c":
            return replace(state, quit=True)
        case "?" | "h":
            return replace(state, help=True)
        case "p" | " ":
            return replace(state, paused=not state.paused)
        case "s":
            following = SORTS[(SORTS.index(state.sort) + 1) % len(SORTS)]
            return replace(state, sort=following, descending=following != "id", offset=0)
        case "r":
            return replace(state, descending=not state.descending, offset=0)
        case "j" | "down":
            return replace(state, offset=state.offset + 1)
        case "k" | "up":
            return replace(state, offset=max(0, state.offset - 1))
        case "page-down":
            return replace(state, offset=state.offset + 10)
        case "page-up":
            return replace(state, offset=max(0, state.offset - 10))
        case "g":
            return replace(state, offset=0)
        case "+" | "-":
            return replace(state, interval_s=_step(state.interval_s, slower=key == "-"))
        case _:
            return state


def _step(interval_s: float, slower: bool) -> float:
    """The next of INTERVALS_S."""
    if slower:
        return min((one for one in INTERVALS_S if one > interval_s), default=interval_s)
    return max((one for one in INTERVALS_S if one < interval_s), default=interval_s)


_SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "page-up",
    "\x1b[6~": "page-down",
    "\x03": "ctrl-c",
}


def keys_of(text: str) -> list[str]:
    """Keys in what a terminal has sent; sequences of no meaning here are left out."""
    found = []
    while text:
        sequence = next((one for one in _SEQUENCES if text.startswith(one)), "")
        if sequence:
            found.append(_SEQUENCES[sequence])
            text = text[len(sequence) :]
        elif text[0] == "\x1b":
            return found
        else:
            found.append(text[0])
            text = text[1:]
    return found
