"""Where the fifth set's modules register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.causes.names import RIGHT, VAGUE
from benchmarks.corpus.mutations.pairs import Apply, DefectSet

SET = DefectSet("fifth")
KINDS: dict[str, str] = {}
"""The kind of each defect, as benchmarks.causes.names knows them."""
network, control, variant = SET.network, SET.control, SET.variant
one_layer, neighbours = SET.one_layer, SET.neighbours


def defect(name: str, at: str, kinds: str, vague: str = "") -> Callable[[Apply], Apply]:
    """Registers what a function does to a port.

    ``kinds`` begins with the defect's; what follows are kinds or names that are as true of it. ``vague`` are names that
    are too general, beside those that its kinds have.
    """
    return SET.defect(name, at, *_names(name, kinds, vague))


def mistake(name: str, at: str, kinds: str, vague: str = "", **wrong: Any) -> None:
    """Registers keywords that build a port in Keras wrongly, the rest as in ``defect``."""
    SET.mistake(name, at, *_names(name, kinds, vague), **wrong)


def _names(name: str, kinds: str, vague: str) -> tuple[str, str]:
    KINDS[name], *_ = every = kinds.split()
    assert KINDS[name] in RIGHT, name
    right = frozenset[str]().union(*(RIGHT.get(kind, {kind}) for kind in every))
    general = frozenset(vague.split()).union(*(VAGUE.get(kind, ()) for kind in every))
    return " ".join(sorted(right)), " ".join(sorted(general - right))
