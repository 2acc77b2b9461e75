"""The published adapter kit, run on the Keras adapter with Keras 3 and with tf_keras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from tracer.adapter import Array, LoadRequest
from tracer.testing import AdapterContract, Case, CodeFile
from tracer_keras import KerasAdapter

SERIES = np.random.default_rng(0).standard_normal((3, 8, 2), dtype=np.float32)
WORDS = np.random.default_rng(0).integers(0, 11, (3, 3)).astype("int32")


def made(library: Any, build: Callable[[Any], Any]) -> Callable[[], Any]:
    def make() -> Any:
        library.utils.set_random_seed(1)
        return build(library)

    return make


def network(k: Any) -> Any:
    """Fused activation, normalisation, a shared layer, a model inside."""
    x = k.Input((8, 2), name="x")
    h = k.layers.Conv1D(4, 3, padding="same", activation="relu", name="conv")(x)
    h = k.layers.BatchNormalization(name="norm")(h)
    twice = k.layers.Dense(4, name="twice")
    h = k.layers.Add(name="sum")([twice(twice(h)), h])
    inner = k.Sequential([k.Input((8, 4)), k.layers.Dropout(0.5, name="drop"), k.layers.ELU(name="elu")], name="inner")
    h = k.layers.GlobalAveragePooling1D(name="pool")(inner(h))
    return k.Model(x, [k.layers.Dense(2, name="head")(h), h])


def tagger(k: Any) -> Any:
    x = k.Input((3,), dtype="int32", name="tokens")
    h = k.layers.Embedding(11, 6, name="embed")(x)
    # tf_keras compiles the LSTM of every model anew, which takes longer than all else here.
    recurrent = k.layers.LSTM if k is keras else k.layers.SimpleRNN
    h = recurrent(4, return_sequences=True, name="recurrent")(h)
    h = k.layers.MultiHeadAttention(2, 3, name="attention")(h, h)
    return k.Model(x, k.layers.LayerNormalization(name="norm")(h))


def broken(k: Any) -> Any:
    class Broken(k.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first = k.layers.Conv1D(4, 3, name="first")

        def call(self, x: Any) -> Any:
            x = self.first(x)
            raise RuntimeError("no weights for this day")

    model = Broken()
    model.first.build((None, 8, 2))
    return model


def computed(model: Any, inputs: Any) -> dict[str, Array]:
    conv = model.get_layer("conv")(inputs["x"])
    return {"conv": conv.numpy(), "norm": model.get_layer("norm")(conv, training=False).numpy()}


def differentiated(model: Any, inputs: Any) -> dict[str | tuple[str, str], Array]:
    x = tf.constant(inputs["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = sum(tf.reduce_sum(out) for out in model(x, training=False))
    kernel = model.get_layer("head").kernel
    of_x, of_kernel = tape.gradient(loss, [x, kernel.value if isinstance(kernel, keras.Variable) else kernel])
    return {"x": of_x.numpy(), ("head", "kernel"): of_kernel.numpy()}


def state(model: Any) -> object:
    layers = list(model._flatten_layers())
    return [(layer.name, layer.trainable, sorted(vars(layer)), type(layer)) for layer in layers]


def saved(library: Any, build: Callable[[Any], Any], name: str) -> Callable[[Path], LoadRequest]:
    def write(folder: Path) -> LoadRequest:
        made(library, build)().save(folder / name)
        return LoadRequest(folder / name)

    return write


def cases(k: Any, suffix: str) -> tuple[Case, ...]:
    nodes = {
        "conv/preactivation": "conv1d", "conv": "relu", "norm": "batchnorm", "twice#0": "dense", "twice#1": "dense",
        "sum": "add", "inner/elu": "elu", "pool": "global_avg_pool", "head": "dense",
    }  # fmt: skip
    words = {
        "embed": "embedding",
        "recurrent": "lstm" if k is keras else "rnn",
        "attention": "attention",
        "norm": "layernorm",
    }
    return (
        Case(
            "network", {"x": SERIES}, made(k, network), saved(k, network, f"network{suffix}"), nodes=nodes,
            expect=computed, gradients=differentiated, state=state, other={"x": SERIES[:2]},
            wrong={"x": SERIES[:, :, :1]}, tolerance=1e-4,
        ),
        Case(
            "tagger", {"tokens": WORDS}, made(k, tagger), saved(k, tagger, f"tagger{suffix}"), nodes=words,
            tolerance=1e-4,
        ),
        Case("broken", {"x": SERIES}, made(k, broken), nodes={"first": "conv1d"}, raises="no weights for this day"),
    )  # fmt: skip


def code(library: Any, suffix: str) -> Callable[[Path, Path], LoadRequest]:
    def write(folder: Path, marker: Path) -> LoadRequest:
        x = library.Input((2,))
        touch = eval(f"lambda t: (__import__('pathlib').Path({str(marker)!r}).touch(), t)[1]")
        library.Model(x, library.layers.Lambda(touch)(x)).save(folder / f"code{suffix}")
        marker.unlink(missing_ok=True)  # the layer ran here as well
        return LoadRequest(folder / f"code{suffix}")

    return write


class TestKeras3(AdapterContract):
    adapter = KerasAdapter
    entry = "tf"
    cases = cases(keras, ".keras")
    code_files = (CodeFile("keras", code(keras, ".keras")), CodeFile("h5", code(keras, ".h5")))


class TestKeras2(AdapterContract):
    adapter = KerasAdapter
    cases = cases(tf_keras, ".h5")
    code_files = (CodeFile("h5", code(tf_keras, ".h5")),)
