"""Where the seventh set's modules register."""

from __future__ import annotations

from typing import Any

from benchmarks.corpus.mutations.kinds import KindedSet

SET = KindedSet("seventh")
network, control, defect = SET.network, SET.control, SET.defect
one_layer, neighbours = SET.one_layer, SET.neighbours


def slip(name: str, at: str, kinds: str, vague: str = "") -> None:
    """Registers a mistake that the port makes where it is told the mistake's name."""
    SET.mistake(name, at, kinds, vague, **{name.partition("/")[2]: True})


def ways(network_: str, *names: str) -> None:
    """Registers other correct ways to write a port, which it takes where it is told their names."""
    for name in names:
        SET.variant(f"{network_}/{name}", **{name: True})


def grown(model: Any, share: float, *names: str) -> None:
    """Multiplies kernels of layers, so that what comes behind them is not next to nothing."""
    for name in names:
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel * share)
