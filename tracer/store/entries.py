"""What the index of a recording says of each array, put together while the arrays are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tracer.store import places, zarr3


@dataclass(slots=True)
class Row:
    """An entry of the index: what comes first in it, the summary as JSON, and the rest."""

    start: Sequence[Any]
    summary: str
    rest: Sequence[Any] = ()


class Weight(NamedTuple):
    """A parameter, or the gradient of one, that is to be written: the attribute that lists it, whose it is, the aligned
    layer and name, and what else the index says of it."""

    kind: str
    owner: str
    name: str
    key: tuple[str, str]
    more: tuple[bool, ...] = ()

    @property
    def place(self) -> str:
        return places.weight(*self.key, places.GRADIENTS if self.kind == "weight_gradients" else "")


def encoded(rows: Iterable[Row]) -> str:
    """The JSON of a list of entries."""
    return zarr3.briefly([(row.start, row.summary, row.rest) for row in rows])


def listed(keys: Mapping[tuple[str, str], tuple[str, str]]) -> list[list[str]]:
    """As attributes: which aligned layer and parameter belong to an owner's parameter, where these have other names."""
    return [[*own, *aligned] for own, aligned in keys.items() if own != aligned]
