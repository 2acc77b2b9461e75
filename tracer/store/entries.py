"""What the index of a recording says of each array, put together while the arrays are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracer.store import zarr3


@dataclass(slots=True)
class Row:
    """An entry of the index: what comes first in it, the summary as JSON, and the rest."""

    start: Sequence[Any]
    summary: str
    rest: Sequence[Any] = ()

    def __str__(self) -> str:
        rest = "".join(f",{zarr3.brief(value)}" for value in self.rest)
        return f"{zarr3.brief(self.start)[:-1]},{self.summary}{rest}]"


def listed(keys: Mapping[tuple[str, str], tuple[str, str]]) -> list[list[str]]:
    """As attributes: which aligned layer and parameter belong to an owner's parameter, where these have other names."""
    return [[*own, *aligned] for own, aligned in keys.items() if own != aligned]
