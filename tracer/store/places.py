"""Where a recording's arrays lie in its pack."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from tracer.names import encode
from tracer.store.zarr3 import brief

GRADIENTS = "gradients/"
"""What stands before the place of an activation or weight in the place of its gradient."""


def activation(node: str, keys: Mapping[str, str], part: str = "") -> str:
    """The place of a node's tensor: under its aligned name if ``keys`` has one, else under its own.

    ``part`` is empty or :data:`GRADIENTS`.
    """
    return f"{part}layers/{encode(keys[node])}" if node in keys else f"{part}unaligned/{encode(node)}"


def weight(layer: str, param: str, part: str = "") -> str:
    """The place of a parameter, by the aligned names of its layer and of itself."""
    return f"{part}weights/{encode(layer)}/{encode(param)}"


def dimensions(place: str, rank: int) -> list[str]:
    """Names of an array's axes. No other array has them: xarray opens all layers as one data set."""
    return [f"{place.rpartition('/')[2]}_axis{axis}" for axis in range(rank)]


def dimensions_json(place: str, rank: int) -> str:
    """The JSON of :func:`dimensions`: nothing in a place has to be escaped there, and no place has an asterisk."""
    return _axes(rank).replace("*", place.rpartition("/")[2])


@lru_cache(maxsize=256)
def _axes(rank: int) -> str:
    return brief(dimensions("*", rank))
