"""Which steps of a recording stay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import accumulate
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tracer import names
from tracer.store.packs import pack_name, packs
from tracer.store.recordings import STEPS

_WAITING = 1_000_000_000
"""Bytes of a recording's steps that are kept for the rules and comparisons alone."""


class Retention(BaseModel):
    """The table ``[retention]`` of ``tracer.toml``. Nothing is dropped where neither ``last`` nor ``budget`` is set.

    Attributes:
        last: so many of the newest steps stay; 0 for all.
        every: of older ones those whose number this divides; 0 for none.
        budget: bytes that a recording may take; then the oldest go, those of ``every`` and with events last. The newest
            step always stays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    last: int = Field(default=0, ge=0)
    every: int = Field(default=0, ge=0)
    budget: int = Field(default=0, ge=0)

    def __bool__(self) -> bool:
        return bool(self.last or self.budget)

    def dropped(self, sizes: Mapping[int, int], events: Collection[int], wanted: Collection[int] = ()) -> list[int]:
        """The steps that go, of those that are there with their sizes in bytes, and with events.

        Those ``wanted`` are to be looked at yet: they stay up to 1 GB, and within the budget.
        """
        steps = sorted(sizes)
        newest = set(steps[-self.last :]) if self.last else set(steps)
        if wanted:
            waiting = sorted((step for step in wanted if step in sizes and step not in newest), reverse=True)
            room = accumulate(sizes[step] for step in waiting)
            newest.update(step for step, total in zip(waiting, room, strict=True) if total <= _WAITING)
        worth = {step for step in steps if step in events or (self.every and step % self.every == 0)}
        gone = [step for step in steps if step not in newest and step not in worth]
        if self.budget:
            left = [step for step in steps if step not in set(gone)]
            total = sum(sizes[step] for step in left)
            for step in [*(s for s in left if s not in worth), *(s for s in left if s in worth)]:
                if total <= self.budget or step == steps[-1]:
                    continue
                total -= sizes[step]
                gone.append(step)
        return sorted(gone)


class Kept:
    """The steps of a recording that lie on the disk, of which some go. Raises OSError where the disk fails.

    Args:
        last: the newest one that is known of; what is there beyond it is still to be :meth:`added`.

    Attributes:
        events: the steps that have some.
    """

    def __init__(self, trace: Path, name: str, last: int, events: Collection[int]) -> None:
        self._folder = trace / "recordings" / names.encode(name) / STEPS
        self._sizes = {step: path.stat().st_size for step, path in packs(self._folder).items() if step <= last}
        self.events = set(events)

    def added(self, step: int) -> None:
        """A step was written."""
        self._sizes[step] = (self._folder / pack_name(step)).stat().st_size

    def drop(self, retention: Retention, wanted: Collection[int]) -> None:
        """Remove what need not stay; a reader that has a step open reads on."""
        for step in retention.dropped(self._sizes, self.events, wanted):
            (self._folder / pack_name(step)).unlink(missing_ok=True)
            del self._sizes[step]


__all__ = ["Kept", "Retention"]
