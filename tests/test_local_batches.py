"""Recordings in several batches are run again batch by batch, and tell what one of a single run tells."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tracer.batches import Samples, split
from tracer.compare.comparing import Diff
from tracer.compare.verdict import Verdict
from tracer.errors import ReplayError

keras = pytest.importorskip("keras")


class Port(nn.Module):
    """Convolution, recurrence with time first, a flatten; the errors that can be planted are of all kinds."""

    def __init__(self, *, eps: float = 1e-3, late: float = 0.0, order: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 5, padding=2)
        self.norm = nn.BatchNorm1d(8, eps=eps)
        self.lstm = nn.LSTM(8, 6)
        self.place = nn.Parameter(torch.linspace(-1, 1, 6))
        self.fc = nn.Linear(6 * 6, 4)
        self.late, self.order = late, order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.where(x > 1.5, x + self.late, x)
        y, _ = self.lstm(x.permute(2, 0, 1))
        y = y.transpose(0, 1) + self.place
        return self.fc((y.transpose(1, 2) if self.order else y).reshape(y.shape[0], -1))


def reference() -> Any:
    layers = keras.layers

    class Placed(layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.place = self.add_weight(shape=(6,), name="place")

        def call(self, x: Any) -> Any:
            return x + self.place

    i = keras.Input((6, 3))
    x = layers.ReLU(name="act")(
        layers.BatchNormalization(name="norm")(layers.Conv1D(8, 5, padding="same", name="conv")(i))
    )
    x = Placed(name="placed")(layers.LSTM(6, return_sequences=True, name="lstm")(x))
    return keras.Model(i, layers.Dense(4, name="fc")(layers.Flatten(name="flat")(x)))


@pytest.fixture(scope="module")
def ported() -> tuple[Any, dict[str, torch.Tensor]]:
    """The reference, and the weights of its port."""
    model, rng = reference(), np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.4, weight.shape) ** (2 if "variance" in weight.name else 1))
    kernel, bias = (np.array(w) for w in model.get_layer("conv").weights)
    given, hidden, gates = (np.array(w).T for w in model.get_layer("lstm").weights)
    norm = dict(zip(("weight", "bias", "running_mean", "running_var"), model.get_layer("norm").weights, strict=True))
    dense = model.get_layer("fc").weights
    state = {
        "conv.weight": kernel.transpose(2, 1, 0), "conv.bias": bias, "lstm.weight_ih_l0": given,
        "lstm.weight_hh_l0": hidden, "lstm.bias_ih_l0": gates, "lstm.bias_hh_l0": np.zeros_like(gates),
        "place": np.array(model.get_layer("placed").place), "fc.weight": np.array(dense[0]).T,
        "fc.bias": np.array(dense[1]),
        **{f"norm.{name}": np.array(weight) for name, weight in norm.items()},
    }  # fmt: skip
    return model, {name: torch.tensor(np.ascontiguousarray(value)) for name, value in state.items()}


def port(state: dict[str, torch.Tensor], **planted: Any) -> nn.Module:
    net = Port(**planted).eval()
    net.load_state_dict(state, strict=False)
    return net


@pytest.fixture
def x() -> Any:
    return np.random.default_rng(3).normal(size=(7, 6, 3)).astype("float32")


def diff(ported: Any, net: nn.Module, x: Any, path: Path, ours: int | None, theirs: int | None, **more: Any) -> Diff:
    model = ported[0]
    tracer.record(model, x, trace=path, name="a", batch=ours, force=True, **more)
    tracer.record(net, x, trace=path, name="b", batch=theirs, force=True, **more)
    trace = tracer.open(path)
    return tracer.diff(trace.recording("a"), trace.recording("b"), models=(model, net))


PLANTED: dict[str, dict[str, Any]] = {
    "none": {},
    "epsilon": {"eps": 1e-5},
    "late": {"late": 0.25},
    "order": {"order": True},
}


@pytest.mark.parametrize("planted", PLANTED)
def test_batches_tell_what_one_run_tells(ported: Any, x: Any, trace_path: Path, planted: str) -> None:
    x[:6] *= 0.2  # what is planted shows in the last batch alone
    net = port(ported[1], **PLANTED[planted])
    whole = diff(ported, net, x, trace_path, None, None)
    assert bool(whole.counts[Verdict.DIVERGED]) == (planted != "none")
    for ours, theirs in ((3, 3), (2, 3), (None, 3), (3, None)) if planted == "late" else ((3, 3),):
        parts = diff(ported, net, x, trace_path, ours, theirs)
        assert [p.aligned for p in parts.pairs] == [p.aligned for p in whole.pairs]
        for one, other in zip(whole.pairs, parts.pairs, strict=True):
            assert one.local is not None
            assert other.local is not None
            why = f"{one.aligned} of {ours} and {theirs}: {one.local} {other.local}"
            assert one.verdict == other.verdict, why
            a, b = one.local, other.local
            unit = 4 * a.epsilon * max(a.scale, 1e-30)
            assert math.isclose(a.scale, b.scale, rel_tol=1e-5), why
            assert math.isclose(a.error, b.error, rel_tol=1e-3, abs_tol=unit), why
            assert (a.shape, a.axes, a.reordered, a.unexpected) == (b.shape, b.axes, b.reordered, b.unexpected), why
            if a.error > 100 * unit and math.isfinite(a.error):
                assert (a.argmax, a.basis) == (b.argmax, b.basis), why
                for r, s in (
                    (a.rounding_reference, b.rounding_reference),
                    (a.rounding_candidate, b.rounding_candidate),
                ):
                    assert r is not None
                    assert s is not None
                    assert math.isclose(r, s, rel_tol=0.8, abs_tol=unit), why


def test_no_run_takes_more_than_a_batch(ported: Any, x: Any, trace_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = port(ported[1], eps=1e-5)
    taken: list[tuple[torch.dtype, int]] = []
    net.conv.register_forward_hook(lambda module, args, out: taken.append((out.dtype, len(out))))
    found = diff(ported, net, x, trace_path, 3, 3)
    assert found.counts[Verdict.DIVERGED] == 1
    assert {length for _, length in taken} == {3, 1}
    assert torch.float64 in {dtype for dtype, _ in taken}


def test_in_training_both_are_to_have_the_same_batches(ported: Any, x: Any, trace_path: Path) -> None:
    net = port(ported[1])
    same = diff(ported, net, x, trace_path, 3, 3, mode="train")
    norm = next(p for p in same.pairs if p.aligned == "norm")
    assert norm.local is not None
    assert norm.local.known
    with pytest.raises(ReplayError, match="same --batch"):
        diff(ported, net, x, trace_path, 2, 3, mode="train")


def test_recordings_that_do_not_say_their_batches_are_refused(ported: Any, x: Any, trace_path: Path) -> None:
    recording = tracer.record(port(ported[1]), x, trace=trace_path, batch=3)
    assert split(recording).axis("lstm") == 1
    assert len(split(recording)) == 3
    for samples in (
        None,
        {"total": 7, "size": 3},
        {"total": 7, "size": 9, "axes": {}},
        {"total": 7, "size": 3, "axes": {"x": "y"}},
    ):
        recording.attributes["samples"] = samples
        with pytest.raises(ReplayError):
            split(recording)
    for shape, axis in (((6, 2), 0), ((7, 2), 2), ((0, 2), 0)):
        with pytest.raises(ReplayError, match="damaged"):
            Samples(0, 3, 7).of(np.zeros(shape), axis)
