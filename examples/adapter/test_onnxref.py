"""tracer's contract of adapters, kept by this one; ``pytest`` runs every rule."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tracer_onnxref import ReferenceAdapter

from tracer.adapter import LoadRequest
from tracer.testing import AdapterContract, Case

X = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
W = np.random.default_rng(1).standard_normal((4, 5)).astype("float32")


def graph():
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["fc"]),
                helper.make_node("Relu", ["fc"], ["relu"]),
            ],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
            [helper.make_tensor_value_info("relu", TensorProto.FLOAT, [None, 5])],
            [numpy_helper.from_array(W, "fc.weight"), numpy_helper.from_array(W[0, :1].repeat(5), "fc.bias")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def saved(folder):
    onnx.save(graph(), folder / "net.onnx")
    return LoadRequest(folder / "net.onnx")


def computed(model, inputs):
    return {"relu": np.maximum(inputs["x"] @ W + W[0, 0], 0)}


class TestReferenceAdapter(AdapterContract):
    adapter = ReferenceAdapter
    cases = (
        Case(
            "net",
            model=lambda: ReferenceEvaluator(graph()),
            file=saved,
            inputs={"x": X},
            nodes={"x": "input", "fc": "dense", "relu": "relu"},
            expect=computed,
            other={"x": X[:2]},
            wrong={"x": X[:, :3]},
        ),
    )
