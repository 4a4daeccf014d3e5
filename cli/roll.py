"""How an instance gets new code or settings under live calls: new beside old, switch, old ones out, one by one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError

Say = Callable[[str], None]


class Rolled(Protocol):
    """The processes of an instance, as far as a roll needs to know them."""

    config: Config

    @property
    def slots(self) -> int:
        """How many transceivers there can be at once."""

    @property
    def staying(self) -> list[int]:
        """Slots of the transceivers that do not retire."""

    @property
    def retiring(self) -> list[int]:
        """Slots of those that do."""

    async def start_held(self, slots: Iterable[int], config: Config) -> None:
        """Raises UserError, when none of them is left."""

    def open(self, slots: Iterable[int]) -> None: ...

    def retire(self, slots: Iterable[int], deadline_s: int) -> None: ...

    async def replace_relay(self, index: int) -> str:
        """Why it does not come back, else empty."""

    async def replace_control(self) -> str:
        """Why it does not come back, else empty."""

    async def replace_admin(self) -> str:
        """Why it does not come back, else empty."""


def free_slots(
    slots: int, staying: Sequence[int], retiring: Sequence[int], wanted: int
) -> list[int]:
    """The lowest `wanted` free ones of `slots`. Raises UserError when there are fewer."""
    free = [slot for slot in range(slots) if slot not in {*staying, *retiring}]
    if len(free) >= wanted:
        return free[:wanted]
    mend = "stop and start with fewer"
    if retiring:
        numbers = " ".join(map(str, retiring))
        mend = f"wait for those that drain, or hasten them: voicerelay drain {numbers} --deadline 0"
    raise UserError(
        f"{wanted} new transceivers do not fit beside the {len(staying) + len(retiring)} that run, "
        f"of {slots} at most; {mend}"
    )


async def reload(
    fleet: Rolled, config: Config, deadline_s: int, say: Say, control: bool = False
) -> list[int]:
    """Roll transceivers, then control if asked to, then relays; returns the slots that retire.

    Raises UserError. When it comes from a transceiver that does not start, all is as it was.
    """
    old = fleet.staying
    fresh = free_slots(fleet.slots, old, fleet.retiring, config.transceivers)
    say(f"starting {transceivers(fresh)} beside {transceivers(old)}")
    await fleet.start_held(fresh, config)
    fleet.config = config
    fleet.open(fresh)
    fleet.retire(old, deadline_s)
    say(f"new calls go to {transceivers(fresh)}; draining {transceivers(old)}")
    if control:
        _succeeded("control", await fleet.replace_control())
        say("control is replaced")
    for relay in range(config.relays):
        _succeeded(f"relay {relay}", await fleet.replace_relay(relay))
        say(f"relay {relay} is replaced")
    _succeeded("the admin process", await fleet.replace_admin())
    return old


def transceivers(slots: Sequence[int]) -> str:
    """Such as "transceivers 0, 1"."""
    return f"transceiver{'s' * (len(slots) != 1)} {', '.join(map(str, slots)) or '(none)'}"


def _succeeded(name: str, reason: str) -> None:
    """One that does not come back stops the roll, so that the others go on as they were."""
    if reason:
        raise UserError(f"{name} was replaced and does not come back: {reason}")
