"""Where a recording's arrays lie, as paths relative to the trace."""

from __future__ import annotations

from collections.abc import Mapping

from tracer.names import encode

GRADIENTS = "gradients/"
"""What stands before the place of an activation or weight in the place of its gradient."""


def activation(node: str, keys: Mapping[str, str], key: str, part: str = "") -> str:
    """The place of a node's tensor: under its aligned name if ``keys`` has one, else under the recording's own.

    ``key`` is the recording's encoded name, ``part`` is empty or :data:`GRADIENTS`.
    """
    if node in keys:
        return f"{part}layers/{encode(keys[node])}/{key}"
    return f"{part}unaligned/{key}/{encode(node)}"


def weight(layer: str, param: str, key: str, part: str = "") -> str:
    """The place of a parameter, by the aligned names of its layer and of itself."""
    return f"{part}weights/{encode(layer)}/{encode(param)}/{key}"


def renamed(path: str, key: str) -> str:
    """The same place for a recording whose encoded name is ``key``."""
    head, _, last = path.rpartition("/")
    part = GRADIENTS if path.startswith(GRADIENTS) else ""
    return f"{part}unaligned/{key}/{last}" if path.startswith(f"{part}unaligned/") else f"{head}/{key}"
