"""The published adapter kit, run on the ONNX adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tests.onnx_graphs import floats, model, node, random
from tracer.adapter import Array, LoadRequest
from tracer.testing import AdapterContract, Case
from tracer_onnx import OnnxAdapter

IMAGE = random(2, 3, 8, 8)
WORDS = np.random.default_rng(0).integers(0, 11, (2, 5))


def image() -> Any:
    nodes = [
        node("Conv", "x conv.weight conv.bias", "c"), node("BatchNormalization", "c g b m v", "n"),
        node("Sigmoid", "n", "s"), node("Mul", "n s", "a"), node("Conv", "a conv.weight2", "d"),
        node("Conv", "d conv.weight2", "e"), node("Add", "a e", "sum"), node("GlobalAveragePool", "sum", "p"),
        node("Flatten", "p", "f"), node("MatMul", "f w", "mm"), node("Add", "mm wb", "y"),
    ]  # fmt: skip
    weights = {
        "conv.weight": random(4, 3, 3, 3), "conv.bias": random(4), "g": random(4), "b": random(4), "m": random(4),
        "v": abs(random(4)) + 1, "conv.weight2": random(4, 4, 1, 1), "w": random(4, 5), "wb": random(5),
    }  # fmt: skip
    return model(nodes, [floats("x", "batch", 3, 8, 8)], "y sum", weights, opset=17)


def words() -> Any:
    nodes = [
        node("Gather", "table ids", "e", name="/embed/Gather"), node("Transpose", "e", "t", perm=[1, 0, 2]),
        node("LSTM", "t k r", "h last cell", hidden_size=4, name="/lstm/LSTM"),
        node("Cast", "h", "text", to=TensorProto.STRING, name="text"), node("Shape", "h", "length"),
    ]  # fmt: skip
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 5])
    weights = {"table": random(11, 3), "k": random(1, 16, 3), "r": random(1, 16, 4)}
    return model(nodes, [ids], "h text", weights, opset=17)


def branching() -> Any:
    def branch(kind: str) -> Any:
        return helper.make_graph(
            [node(kind, "x", "inner")], kind, [], [helper.make_tensor_value_info("inner", 1, None)]
        )

    nodes = [
        node("ReduceSum", "flag", "total", keepdims=0), node("Cast", "total", "yes", to=TensorProto.BOOL),
        node("If", "yes", "y", then_branch=branch("Relu"), else_branch=branch("Neg"), name="choose"),
    ]  # fmt: skip
    return model(nodes, [floats("x", None, 3), helper.make_tensor_value_info("flag", TensorProto.INT64, [2])], "y")


def broken() -> Any:
    nodes = [node("Conv", "x w", "c", name="first"), node("Relu", "c", "r"), node("Reshape", "r bad", "y", name="bad")]
    return model(nodes, [floats("x", 2, 3, 8, 8)], "y", {"w": random(4, 3, 3, 3), "bad": np.array([7, 11])})


def computed(proto: Any, inputs: Any) -> dict[str, Array]:
    """What onnx's own interpreter computes."""
    names = {"c": "conv", "n": "n", "a": "a", "sum": "sum", "p": "p", "f": "f", "y": "y"}
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in names)
    return dict(zip(names.values(), ReferenceEvaluator(proto).run(None, dict(inputs)), strict=True))


def written(build: Callable[[], Any]) -> Callable[[Path], LoadRequest]:
    def write(folder: Path) -> LoadRequest:
        path = folder / "model.onnx"
        path.write_bytes(build().SerializeToString())
        return LoadRequest(path)

    return write


class TestOnnxAdapter(AdapterContract):
    adapter = OnnxAdapter
    entry = "onnx"
    suffix = ".onnx"
    cases = (
        Case(
            "image", model=image, file=written(image), inputs={"x": IMAGE}, expect=computed, tolerance=1e-4,
            nodes={"conv": "conv2d", "n": "batchnorm", "a": "silu", "a/Sigmoid": "sigmoid", "p": "global_avg_pool",
                   "y": "dense"},
            other={"x": random(3, 3, 8, 8)}, wrong={"x": random(2, 4, 8, 8)},
        ),
        Case(
            "words", model=words, file=written(words), inputs={"ids": WORDS},
            nodes={"embed": "embedding", "lstm": "lstm"}, unrecorded=frozenset({"text"}), wrong={"ids": IMAGE},
        ),
        Case(
            "branching", model=branching, inputs={"x": random(2, 3), "flag": np.array([1, 0])},
            other={"x": random(4, 3), "flag": np.array([0, 0])},
        ),
        Case("broken", model=broken, inputs={"x": IMAGE}, raises="bad", nodes={"first": "conv2d"}),
    )  # fmt: skip
