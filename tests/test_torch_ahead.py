"""A small model is run once to be recorded, with what two runs give; a larger one is run twice."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

import tracer
from tracer.adapter import Array, MemorySink, NotRecorded
from tracer.errors import InputError
from tracer_torch import TorchAdapter


class Counting(nn.Module):
    """Counts its calls where nobody puts that back, and changes tensors after they were seen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.drop = nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.calls = self.Calls()

    class Calls:
        number = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls.number += 1
        y = self.relu(self.first(x)).add_(1)
        return self.drop(y.t()), y.bfloat16().expand(3, *y.shape)


def values(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def captured(model: nn.Module, ahead: int, x: Array, again: Array | None = None) -> MemorySink:
    """What a recording of ``again`` gets where ``x`` was looked at."""
    loaded = TorchAdapter().wrap(model)
    loaded.ahead = ahead
    loaded.structure({"x": x})
    sink = MemorySink()
    loaded.capture({"x": x if again is None else again}, sink)
    return sink


def same(one: MemorySink, two: MemorySink) -> None:
    assert list(one.values) == list(two.values)
    assert len(one.values) > 4
    for name, value in one.values.items():
        other = two.values[name]
        assert not isinstance(value, NotRecorded)
        assert not isinstance(other, NotRecorded)
        assert value.dtype == other.dtype
        assert value.shape == other.shape
        assert value.tobytes() == other.tobytes()


def test_a_small_model_runs_once_and_gives_the_same(tmp_path: Path) -> None:
    model = Counting()
    same(captured(model, 1 << 20, values(5, 4)), captured(model, 0, values(5, 4)))
    assert model.calls.number == 1 + 2
    found = tracer.record(model, values(5, 4), name="r", trace=tmp_path / "t.zarr")
    assert model.calls.number == 1 + 2 + 1
    sink = captured(model, 0, values(5, 4))
    assert set(found.activations) == set(sink.values)
    assert found.state == "complete"
    for name, value in sink.values.items():
        assert not isinstance(value, NotRecorded)
        assert found.read(name).tobytes() == value.tobytes()


def test_what_is_larger_or_of_another_input_is_run_again() -> None:
    model = Counting()
    x, other = values(5, 4), values(5, 4) + 1
    full = sum(value.nbytes for value in captured(model, 0, x).values.values() if not isinstance(value, NotRecorded))
    for ahead in (1, x.nbytes, full):
        before = model.calls.number
        same(captured(model, ahead, x), captured(model, 0, x))
        assert model.calls.number == before + 2 + 2
    same(captured(model, 1 << 20, x, other), captured(model, 0, other))


def test_what_was_kept_is_used_once_and_not_after_a_refusal() -> None:
    model = Counting()
    loaded = TorchAdapter().wrap(model)
    loaded.ahead = 1 << 20
    x = {"x": values(5, 4)}
    loaded.structure(x)
    with contextlib.suppress(InputError):
        loaded.structure({"x": values(5, 3)})
    for expected in (2, 3):  # the refused run counts, the first capture does not
        loaded.capture(x, MemorySink())
        assert model.calls.number == expected
    weights = {("first", "weight"): np.zeros((6, 4), np.float32)}
    loaded.structure(x)
    loaded.assign(weights)
    sink = MemorySink()
    loaded.capture(x, sink)
    np.testing.assert_array_equal(sink.values["first"], np.broadcast_to(model.first.bias.detach().numpy(), (5, 6)))
