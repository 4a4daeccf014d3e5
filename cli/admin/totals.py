"""Counters that never go back: what processes counted before they were replaced stays counted. No clock."""

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class _Series:
    life: Hashable
    before: float = 0.0  # by earlier processes
    now: float = 0.0


class Totals:
    """Series by name and owner, such as ("packets", "received") of relay 0.

    As many as there are names and slots; what a process counted after it was last looked at is lost
    with it.
    """

    def __init__(self) -> None:
        self._names: dict[Hashable, dict[int, _Series]] = {}

    def note(self, name: Hashable, owner: int, life: Hashable, value: float) -> None:
        """`owner` counts `value` now; `life` is another one when it is a new process."""
        owners = self._names.setdefault(name, {})
        series = owners.get(owner)
        if series is None:
            series = owners[owner] = _Series(life)
        if series.life != life:
            series.life, series.before, series.now = life, series.before + series.now, 0.0
        series.now = max(series.now, value)

    def names(self) -> list[Hashable]:
        return list(self._names)

    def of(self, name: Hashable) -> dict[int, float]:
        """Owner -> total; also of owners that are gone."""
        owners = self._names.get(name, {})
        return {owner: series.before + series.now for owner, series in sorted(owners.items())}

    def sum(self, name: Hashable) -> float:
        """Of all owners."""
        return sum(self.of(name).values())
