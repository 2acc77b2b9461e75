"""Where the eighth set's modules register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.corpus.mutations.kinds import KindedSet

SET = KindedSet("eighth")
network, defect = SET.network, SET.defect
one_layer, neighbours = SET.one_layer, SET.neighbours


def slip(name: str, at: str, kinds: str, vague: str = "") -> None:
    """Registers a mistake that the port makes where it is told the mistake's name."""
    SET.mistake(name, at, kinds, vague, **{name.partition("/")[2]: True})


def ways(network_: str, *names: str) -> None:
    """Registers other correct ways to write a port, which it takes where it is told their names."""
    for name in names:
        SET.variant(f"{network_}/{name}", **{name: True})


def doubled(path: str) -> Callable[[Any], None]:
    """Gives an LSTM the bias that Keras has once for the steps and for the state as well."""

    def apply(port: Any) -> None:
        lstm = port.get_submodule(path)
        lstm.bias_hh_l0.data.copy_(lstm.bias_ih_l0)

    return apply
