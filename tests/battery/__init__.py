"""Batteries: many attacks, faults and odd values in one go, their outcomes counted.

A battery is a module of this package with ``run(seed, cases) -> Tally``. The suite runs a few cases of each (``tests/
test_battery_*.py``); ``scripts/battery`` runs them all and prints the counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What became of the cases of one battery.

    ``outcomes`` counts by group (a file format, a storage call) and outcome (``refused``, ``accepted``, ``read back``);
    ``broken`` holds a line for each case in which a promise was broken: none is what must be.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        MADE.append(self)

    def add(self, group: str, outcome: str) -> None:
        self.outcomes[group, outcome] += 1

    def breaks(self, group: str, case: str, promise: str) -> None:
        """A case that must not be: told with what repeats it (a seed, a name)."""
        self.outcomes[group, "BROKEN"] += 1
        self.broken.append(f"{group}: {case}: {promise}")

    @property
    def cases(self) -> int:
        return sum(self.outcomes.values())


MADE: list[Tally] = []
"""All there are: a battery that is interrupted is told up to there."""
