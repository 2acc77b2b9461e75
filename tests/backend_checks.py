"""What holds of recordings on torch besides their values; run by test_keras_backends.py in a process of its own."""

from __future__ import annotations

import sys
from typing import Any

# A machine without TensorFlow: whatever asks for it is told that it is not there.
sys.modules["tensorflow"] = None  # type: ignore[assignment]
sys.modules["tf_keras"] = None  # type: ignore[assignment]

import keras  # noqa: E402
import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from backend_models import MODELS, functional, numbers, rand, recorded, stateful, weighted  # noqa: E402
from keras import layers, ops  # noqa: E402

from tests.exchanging import captured, replayed, same  # noqa: E402
from tracer.adapter import MemorySink, NotRecorded, Run  # noqa: E402
from tracer.errors import InputError, ModelError  # noqa: E402
from tracer_keras import KerasAdapter  # noqa: E402


class Written(keras.Model):
    def __init__(self, body: Any) -> None:
        super().__init__()
        self.first = layers.Dense(4, name="first")
        self.body = body
        self.constant = torch.ones(3, 4)

    def call(self, x: Any) -> Any:
        return self.body(self, self.first(x))


def capture(model: Any, run: Run | None = None, **inputs: Any) -> tuple[Any, MemorySink]:
    loaded = KerasAdapter().wrap(model)
    loaded.run = run or Run()
    structure = loaded.structure(inputs)
    sink = MemorySink()
    loaded.capture(inputs, sink)
    return structure, sink


def body(made: Any) -> Any:
    model = Written(made)
    model(rand(3, 5))
    return model


def in_place() -> None:
    def call(self: Any, x: Any) -> Any:
        y = x * 2.0
        y += 1.0
        y[:, 0] = 0.0
        return torch.relu_(y).clone()

    model = body(call)
    structure, values = recorded(model, {"x": rand(3, 5)})
    kinds = [node.kind for node in structure]
    assert kinds == ["input", "dense", "mul", "add", "setitem", "relu"], kinds
    doubled = values["first"] * 2
    np.testing.assert_array_equal(values["mul"], doubled)
    np.testing.assert_array_equal(values["add"], doubled + 1)
    last = np.maximum(np.where(np.arange(4) == 0, 0, doubled + 1), 0)
    np.testing.assert_array_equal(values[structure.outputs[0]], last)


class Single(layers.Layer):
    """No layer inside, and its tensors change after they were made."""

    def call(self, x: Any) -> Any:
        y = x + 1.0
        y.mul_(3.0)
        return y


def in_place_inside_one_node() -> None:
    x = layers.Input((4,), name="x")
    model = keras.Model(x, Single(name="single")(x))
    structure, values = recorded(model, {"x": rand(2, 4)})
    assert [node.name for node in structure] == ["x", "single"]
    np.testing.assert_allclose(values["single"], (rand(2, 4) + 1) * 3, rtol=1e-6)


def faults() -> None:
    def call(self: Any, x: Any) -> Any:
        if x.shape[0] == 2:
            raise ValueError("no pairs")
        return ops.relu(x)

    model = body(call)
    loaded = KerasAdapter().wrap(model)
    assert "raised ValueError: no pairs" in loaded.structure({"x": rand(2, 5)}).fault
    sink = MemorySink()
    with pytest.raises(ModelError, match="no pairs"):
        loaded.capture({"x": rand(2, 5)}, sink)
    assert set(sink.values) == {"x", "first"}
    with pytest.raises(InputError, match="x"):
        loaded.structure({"y": rand(2, 5)})
    loaded.run = Run(loss="sum")
    with pytest.raises(InputError, match="no gradients of Keras on torch: start with KERAS_BACKEND=tensorflow"):
        loaded.structure({"x": rand(3, 5)})


def seen_or_said() -> None:
    structure, _ = capture(body(lambda self, x: self.first(torch.cat([x, x[:, :1]], 1)) + self.constant), x=rand(3, 5))
    assert [node.kind for node in structure if node.role == "op"] == ["slice", "concat", "add"]
    assert not structure.notes
    structure, _ = capture(body(lambda self, x: self.first(torch.ones(3, 5))), x=rand(3, 5))
    assert not structure.notes, structure.notes
    outside = torch.ones(3, 5)
    structure, _ = capture(body(lambda self, x: self.first(outside)), x=rand(3, 5))
    assert any("takes a tensor whose making was not seen" in note for note in structure.notes), structure.notes


def types() -> None:
    model = keras.Sequential([layers.Input((4,), name="x"), layers.Dense(3, dtype="mixed_bfloat16", name="fc")])
    structure, sink = capture(model, x=rand(2, 4))
    assert structure.by_name["fc"].dtype == "bfloat16"
    assert sink.values["fc"].dtype == ml_dtypes.bfloat16

    def sparse(self: Any, x: Any) -> Any:
        return torch.sparse.mm((x @ x.T).to_sparse(), x)

    structure, sink = capture(body(sparse), x=rand(3, 5))
    reasons = [v.reason for v in sink.values.values() if isinstance(v, NotRecorded)]
    assert reasons == ["sparse tensor"], reasons


def nothing_stays() -> None:
    model, inputs = stateful()
    before = dict(vars(ops)), keras.layers.Layer.__call__, torch.get_rng_state()
    capture(weighted(model), **inputs)
    assert dict(vars(ops)) == before[0]
    assert keras.layers.Layer.__call__ is before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(not w.value.grad_fn for w in model.weights)


def training() -> None:
    x = layers.Input((4,), name="x")
    model = keras.Model(x, layers.Dropout(0.5, name="drop")(layers.BatchNormalization(name="bn")(x)))
    before = [np.array(v) for v in model.variables]
    _, sink = capture(model, Run(mode="train"), x=rand(50, 4))
    assert abs(sink.values["bn"].mean()) < 1e-5
    assert 0.2 < (sink.values["drop"] == 0).mean() < 0.8
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(new))


def runs_again() -> None:
    """Every model gives its values again, in float64 as well, and goes on from a tensor that is exchanged."""
    for make in MODELS:
        built, inputs = make()
        weighted(built)
        before = numbers(built)
        model = KerasAdapter().wrap(built)
        values = captured(model, inputs)
        same(replayed(model, inputs), values)
        same(replayed(model, inputs, values), values)
        wide = replayed(model, inputs, double=True)
        for name, value in values.items():
            assert wide[name].dtype == (np.float64 if value.dtype == np.float32 else value.dtype), name
            np.testing.assert_allclose(wide[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        assert all(np.array_equal(a, b) for a, b in zip(before, numbers(built), strict=True))
        same(captured(model, inputs), values)
        if make is functional:
            kernel, bias = (np.array(w, np.float64) for w in built.get_layer("dense").get_weights())
            flat = np.full((2, kernel.shape[0]), 1.5, np.float32)
            found = replayed(model, inputs, {"flat": flat}, double=True)
            assert np.abs(found["dense/preactivation"] - (flat @ kernel + bias)).max() < 1e-11
            relu = replayed(model, inputs, {"dense/preactivation": np.eye(2, 6, dtype=np.float32)})["dense"]
            expected = np.exp(np.eye(2, 6)) / np.exp(np.eye(2, 6)).sum(-1, keepdims=True)
            assert np.abs(relu - expected).max() < 1e-6


def main() -> None:
    for check in (in_place, in_place_inside_one_node, faults, seen_or_said, types, nothing_stays, training, runs_again):
        check()
    assert sys.modules["tensorflow"] is None
