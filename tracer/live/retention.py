"""Which steps of a recording stay."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pydantic import BaseModel, ConfigDict, Field


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

    def dropped(self, sizes: Mapping[int, int], events: Collection[int]) -> list[int]:
        """The steps that go, of those that are there with their sizes in bytes, and with events."""
        steps = sorted(sizes)
        newest = set(steps[-self.last :]) if self.last else set(steps)
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
