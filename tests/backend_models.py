"""Keras 3 models that are recorded on one backend and compared with another.

``python tests/backend_models.py FOLDER`` records each of them on the backend of KERAS_BACKEND and leaves in FOLDER
``NAME.npz`` with the values and ``NAME.json`` with the structure, and what else is checked there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tracer.adapter import MemorySink
from tracer_keras import KerasAdapter


class Block(layers.Layer):
    """Operators, an own weight and two layers."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = layers.Dense(units, activation="relu", name="first")
        self.second = layers.Dense(units, activation=layers.LeakyReLU(0.1), name="second")

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")
        self.first.build(shape)
        self.second.build(shape)

    def call(self, x: Any) -> Any:
        y = ops.tanh(self.first(x * self.scale)) - 0.5
        z = self.second(-y)
        return (1.0 - z) / (2.0 + z**2) + 0.01 * x[:, 0:1] @ ops.transpose(x, (0, 2, 1)) @ x + abs(x) // 999.0


class Swish(layers.Layer):
    """No layer inside: one node."""

    def call(self, x: Any) -> Any:
        return x * ops.sigmoid(x)


class Written(keras.Model):
    """A model without a graph; one block is called twice."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.one = Block(5, name="one")
        self.two = Block(5, name="two")
        self.swish = Swish(name="swish")
        self.norm = layers.BatchNormalization(name="norm")
        self.drop = layers.Dropout(0.5, name="drop")
        self.gru = layers.GRU(3, return_sequences=True, return_state=True, name="gru")

    def call(self, x: Any) -> Any:
        h = self.one(self.swish(self.two(self.one(x))))
        sequence, state = self.gru(self.norm(h))
        mask = h > 0.25
        return {"y": self.drop(sequence), "s": [state, ops.where(mask, h, 0.0 * h)], "m": ops.mean(h, axis=-1)}


def functional() -> tuple[Any, dict[str, Any]]:
    inner_in = layers.Input((6, 6, 4), name="inner_in")
    inner_mid = layers.SeparableConv2D(4, 3, padding="same", activation="elu", name="sep")(inner_in)
    inner = keras.Model(inner_in, layers.PReLU(shared_axes=[1, 2], name="prelu")(inner_mid) + inner_in, name="inner")
    image = layers.Input((8, 8, 3), name="image")
    tokens = layers.Input((7,), dtype="int32", name="tokens")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = inner(inner(x))
    x = ops.relu(x) * 2.0 + 1.0
    x = layers.Dense(6, activation="softmax", name="dense")(layers.Flatten(name="flat")(x))
    t = layers.Embedding(11, 6, name="embed", mask_zero=True)(tokens)
    t = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(t)
    t = layers.MultiHeadAttention(2, 3, name="attend")(t, t)
    t = layers.TimeDistributed(layers.Dense(6, activation="gelu"), name="each")(t)
    t = layers.GlobalAveragePooling1D(name="pool")(t)
    both = layers.Concatenate(name="cat")([layers.GaussianNoise(0.1, name="noise")(x), t])
    return keras.Model({"image": image, "tokens": tokens}, {"joint": both, "text": t}), {
        "image": rand(2, 8, 8, 3),
        "tokens": np.arange(14, dtype="int32").reshape(2, 7) % 11,
    }


def written() -> tuple[Any, dict[str, Any]]:
    model = Written()
    model(rand(2, 4, 5))
    return model, {"x": rand(2, 4, 5)}


def stateful() -> tuple[Any, dict[str, Any]]:
    x = layers.Input(batch_shape=(2, 4, 3), name="x")
    y = layers.LSTM(3, stateful=True, return_sequences=True, name="lstm")(x)
    return keras.Model(x, layers.Conv1D(2, 2, padding="causal", name="conv")(y)), {"x": rand(2, 4, 3)}


def rand(*shape: int) -> Any:
    return np.random.default_rng(1).normal(size=shape).astype("float32")


MODELS = (functional, written, stateful)


def weighted(model: Any) -> Any:
    """``model`` with weights that are the same on every backend."""
    numbers = np.random.default_rng(2)
    model.set_weights(
        [
            w if "seed" in v.path else numbers.uniform(0.05, 0.3, w.shape).astype(w.dtype)
            for v, w in zip(model.weights, model.get_weights(), strict=True)
        ]
    )
    return model


def numbers(model: Any) -> list[Any]:
    return [np.array(v.numpy()) for v in model.variables]


def recorded(model: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Structure and values; the model is as before, and gives what it gives without us."""
    loaded = KerasAdapter().wrap(model)
    before = numbers(model)
    structure = loaded.structure(inputs)
    sink = MemorySink()
    loaded.capture(inputs, sink)
    for old, new in zip(before, numbers(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert list(sink.values) == [n.name for n in structure.stored()] or not loaded.flavour.on_tensorflow
    assert set(sink.values) == {n.name for n in structure.stored()}
    for node in structure.stored():
        value = sink.values[node.name]
        assert isinstance(value, np.ndarray), (node, value)
        assert (value.shape, str(value.dtype)) == (node.shape, node.dtype), node
    return structure, sink.values


def main(folder: Path) -> None:
    for make in MODELS:
        model, inputs = make()
        structure, values = recorded(weighted(model), inputs)
        name = make.__name__
        np.savez(folder / f"{name}.npz", **{f"{i}": values[n.name] for i, n in enumerate(structure.stored())})
        loaded = KerasAdapter().wrap(model)
        text = {"structure": structure.to_json(), "loader": loaded.loader, "versions": loaded.versions()}
        (folder / f"{name}.json").write_text(json.dumps(text))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
