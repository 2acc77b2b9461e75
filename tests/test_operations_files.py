"""Steps read from recordings of ONNX files and of TensorFlow's graphs, against what those gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tests.cli import run
from tracer.causes import operations, reading
from tracer.causes.step import Unknown
from tracer.store import Recording, Trace

_MOST = 4e-6


def _bad(recording: Recording) -> tuple[list[str], set[str]]:
    """What is not read or not reproduced, and the kinds that are."""
    bad: list[str] = []
    good: set[str] = set()
    for node in recording.structure.nodes:
        if node.role in ("input", "container", "item", "inner") or node.alias_of is not None:
            continue
        try:
            step = reading.read(recording, node.name)
            made = operations.run(step, [recording.read(recording.resolve(name)) for name in node.parents])
        except Unknown as error:
            bad.append(f"{node.name} ({node.kind}, {node.label}): {error}")
            continue
        wanted = recording.read(recording.resolve(node.name))
        same = made.shape == wanted.shape
        off = np.abs(made - wanted.astype(float)).max() / max(1e-30, np.abs(wanted).max()) if same else np.inf
        if off <= _MOST:
            good.add(node.kind)
        else:
            bad.append(f"{node.name} ({node.kind}, {node.label}): off by {off:.1e}, {dict(step.settings)}")
    return bad, good


def test_operators_of_onnx(tmp_path: Path) -> None:
    """Attributes in ONNX's ways: pads of all begins and then all ends, automatic ones, matrices either way."""
    pytest.importorskip("onnxruntime")
    from tests import onnx_graphs
    from tests.onnx_graphs import floats, node

    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return rng.uniform(0.1, 0.9, shape).astype(np.float32)

    weights = {
        "k": draw(4, 6, 3, 2), "b": draw(4), "kd": draw(12, 1, 3, 3), "kt": draw(6, 4, 3, 3), "kg": draw(9, 2, 3, 3),
        "g6": draw(6), "b6": draw(6), "g7": draw(7), "b7": draw(7), "s6": draw(6, 1, 1), "m": draw(7, 7),
        "m5": draw(7, 5), "low": np.float32(-0.4), "high": np.float32(0.6), "axes": np.array([2]), "b5": draw(5),
    }  # fmt: skip
    nodes = [
        node("Conv", "x k b", "c0", pads=[1, 0, 2, 1], strides=[2, 1]),
        node("Conv", "x k", "c1", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Conv", "x k b", "c2", auto_pad="SAME_LOWER"),
        node("Conv", "x kd", "c3", group=6, dilations=[2, 1]),
        node("Conv", "x kg", "c4", group=3),
        node("ConvTranspose", "x kt b", "t0", strides=[2, 2], pads=[1, 0, 1, 2], output_padding=[1, 0]),
        node("ConvTranspose", "x kt", "t1", strides=[2, 2], auto_pad="SAME_UPPER"),
        node("MaxPool", "x", "p0", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0]),
        node("MaxPool", "x", "p1", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("AveragePool", "x", "p2", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
        node("AveragePool", "x", "p3", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
        node("GlobalAveragePool", "x", "p4"),
        node("GlobalMaxPool", "x", "p5"),
        node("BatchNormalization", "x g6 b6 b6 g6", "n0", epsilon=0.1),
        node("InstanceNormalization", "x g6 b6", "n1", epsilon=0.1),
        node("LayerNormalization", "x g7 b7", "n2", epsilon=0.1),
        node("LpNormalization", "x", "n3", axis=1, p=1),
        node("GroupNormalization", "x g6 b6", "n4", num_groups=3, epsilon=0.1),
        node("LpNormalization", "x", "n5"),
        node("PRelu", "x s6", "a0"),
        node("LeakyRelu", "x", "a1", alpha=0.3),
        node("Elu", "x", "a2", alpha=0.5),
        node("HardSigmoid", "x", "a3"),
        node("HardSigmoid", "x", "a4", alpha=0.5, beta=0.4),
        node("HardSwish", "x", "a5"),
        node("Softmax", "x", "a6", axis=1),
        node("LogSoftmax", "x", "a7"),
        node("Clip", "x low high", "a8"),
        node("Clip", "x low", "a9"),
        node("Gelu", "x", "a10", approximate="tanh"),
        node("Selu", "x", "a11"),
        node("Celu", "x", "a12", alpha=0.5),
        node("ThresholdedRelu", "x", "a13", alpha=0.3),
        node("Softplus", "x", "a14"),
        node("Mish", "x", "a15"),
        node("ReduceMean", "x axes", "r0", keepdims=0),
        node("ReduceL2", "x axes", "r1"),
        node("ReduceL1", "x axes", "r2"),
        node("ReduceLogSumExp", "x axes", "r3"),
        node("ArgMax", "x", "r4", axis=1, keepdims=0),
        node("MatMul", "x m", "d0"),
        node("MatMul", "x m5", "d1"),
        node("Flatten", "x", "flat", axis=3),
        node("Gemm", "flat m b7", "d2", transB=1),
        node("Gemm", "flat m", "d3"),
        node("Gemm", "flat m5 b5", "d4"),
    ]  # fmt: skip
    for place, one in enumerate(nodes):  # each its own: what two share is listed at the first
        for slot, name in enumerate(one.input):
            if name in weights:
                one.input[slot] = f"{name}_{place}"
                weights[one.input[slot]] = weights[name]
    names = " ".join(one.output[0] for one in nodes)
    model = onnx_graphs.model(nodes, [floats("x", 2, 6, 9, 7)], names, weights)
    x = rng.normal(size=(2, 6, 9, 7)).astype(np.float32)
    tracer.record(model, x, trace=tmp_path / "t.zarr", name="onnx")
    bad, _ = _bad(Trace.open(tmp_path / "t.zarr").recording("onnx"))
    assert not bad, "\n".join(bad)


def test_a_softmax_of_older_onnx_takes_all_that_follows(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tests import onnx_graphs
    from tests.onnx_graphs import floats, node

    model = onnx_graphs.model([node("Softmax", "x", "y", axis=1)], [floats("x", 2, 3, 4)], "y", opset=11)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    tracer.record(model, x, trace=tmp_path / "t.zarr", name="onnx")
    recording = Trace.open(tmp_path / "t.zarr").recording("onnx")
    assert not _bad(recording)[0]
    (name,) = [node.name for node in recording.structure if node.kind == "softmax"]
    assert reading.read(recording, name).settings["axis"] == (1, 2)


def test_layers_of_a_saved_model(tmp_path: Path) -> None:
    """TensorFlow's graph of a Keras model: its layers are put together from operations."""
    keras = pytest.importorskip("keras")
    k = keras.layers
    x = start = keras.Input((11, 9, 4))
    x = k.Conv2D(6, 3, strides=2, padding="same", activation="relu")(x)
    x = k.BatchNormalization(epsilon=0.1)(x)
    x = k.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    x = k.SeparableConv2D(6, 3, activation="elu")(x)
    x = k.Conv2DTranspose(5, 3, strides=2, padding="same")(x)
    x = k.LeakyReLU(negative_slope=0.3)(x)
    x = k.MaxPooling2D(3, 2, padding="same")(x)
    x = k.AveragePooling2D(2, 1, padding="same")(x)
    x = k.LayerNormalization(epsilon=0.1)(x)
    x = k.Activation("gelu")(x)
    x = k.GlobalAveragePooling2D()(x)
    x = k.Dense(5, activation="hard_sigmoid")(x)
    model = keras.Model(start, k.Softmax()(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 0.6, weight.shape) for weight in model.get_weights()])
    model.export(tmp_path / "saved", verbose=False)
    data = rng.normal(size=(2, 11, 9, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", data)
    run("record", "tf", "saved", "--input", "x.npy", "--trace", "t.zarr", cwd=tmp_path)
    bad, good = _bad(Trace.open(tmp_path / "t.zarr").recording("tf"))
    assert not bad, "\n".join(bad)
    assert good >= {"conv2d", "batchnorm", "depthwise_conv2d", "separable_conv2d", "conv_transpose2d", "layernorm"}
