"""Recording a model and running it again with tensors exchanged on the way, for the tests of replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tracer.adapter import Array, LoadedModel, MemorySink

Inputs = Mapping[str, Array]


class Exchanger:
    """Keeps what it is handed, in order, and answers with ``instead``."""

    def __init__(self, instead: Inputs | None = None, only: frozenset[str] | None = None) -> None:
        self.seen: dict[str, Array] = {}
        self.instead = instead or {}
        self.only = only

    def wants(self, name: str) -> bool:
        return self.only is None or name in self.only

    def __call__(self, name: str, value: Array) -> Array | None:
        assert name not in self.seen
        self.seen[name] = np.array(value)
        return self.instead.get(name)


def captured(model: LoadedModel, inputs: Inputs) -> dict[str, Array]:
    sink = MemorySink()
    model.structure(inputs)
    model.capture(inputs, sink)
    return {name: value for name, value in sink.values.items() if isinstance(value, np.ndarray)}


def replayed(model: LoadedModel, inputs: Inputs, instead: Inputs | None = None, **more: Any) -> dict[str, Array]:
    exchange = Exchanger(instead)
    model.replay(inputs, exchange, **more)
    return exchange.seen


def same(found: Inputs, expected: Inputs) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].tobytes() == value.tobytes(), name
