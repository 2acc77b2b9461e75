"""Which settings of layers differ, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracer.compare.verdict import AGREEING
from tracer.names import display

if TYPE_CHECKING:
    from tracer.compare import Diff, PairDiff

_MOST = 4


def hidden(diff: Diff, shown: PairDiff | None) -> tuple[PairDiff, ...]:
    """Pairs that disagree and whose layers are set differently, but for the one that is told about by itself."""
    return tuple(p for p in diff.pairs if p.settings and p.verdict not in AGREEING and p is not shown)


def differing(pairs: Sequence[PairDiff]) -> list[str]:
    """Settings that differ, each once with the layers that are set so; what computes otherwise comes first."""
    found: dict[tuple[bool, str, str], list[str]] = {}
    for pair in pairs:
        for setting in pair.settings:
            found.setdefault((not setting.computes, setting.values, setting.means), []).append(pair.aligned)
    parts = []
    for (_, values, means), names in sorted(found.items(), key=lambda item: item[0][0]):
        where = f"{display(names[0])} {display(values)}"
        if len(names) > 1:
            where = f"{display(values)} in {len(names)} layers ({first(names, 2)})"
        parts.append(f"{where}: {display(means)}" if means else where)
    return parts[:_MOST] + ([f"and {len(parts) - _MOST} more"] if len(parts) > _MOST else [])


def first(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` of some names, and how many more there are."""
    return ", ".join(map(display, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
