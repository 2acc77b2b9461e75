"""The ONNX adapter: every operator of real graphs, right values, good names, weights where they belong."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

import tracer
from tests.onnx_graphs import export, floats, load, model, node, packaged, random, recorded, torch_net, wrap
from tracer.adapter import MemorySink
from tracer.compare import diff
from tracer.compare.weights import facts
from tracer.graph import Structure
from tracer.kinds import WEIGHTED

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

SILERO = packaged("silero_vad", "data/silero_vad.onnx")
MAGIKA = packaged("magika", "models/standard_v3_3/model.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def exports(folder: Path) -> dict[str, Path]:
    """The same network by torch's two exporters, before and after ONNX had LayerNormalization and Gelu."""
    pytest.importorskip("torch")
    net, shape = torch_net(), (2, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {f"script{opset}": export(net, folder / f"s{opset}.onnx", shape, opset=opset) for opset in (12, 20)}
        if __import__("importlib.util").util.find_spec("onnxscript"):
            found["dynamo"] = export(net, folder / "d.onnx", shape, opset=20, dynamo=True)
    return found


def kinds(proto: Any, inputs: dict[str, Any]) -> list[tuple[str, str]]:
    return [(n.label, n.kind) for n in wrap(proto).structure(inputs) if n.role != "input"]


# --- nothing is missed, nothing is wrong -----------------------------------------------------------------------


def shown_operators(proto: Any) -> Counter[str]:
    """The operators of a graph without branches that hang on an input's values, or, being a table, on its length."""
    initial = {t.name for t in proto.graph.initializer}
    live = {v.name for v in proto.graph.input} - initial
    tables = {t.name for t in proto.graph.initializer if len(t.dims) > 1 and t.data_type == TensorProto.FLOAT}
    lengths: set[str] = set()
    found: Counter[str] = Counter()
    for n in proto.graph.node:
        if n.op_type in ("Shape", "Size"):
            lengths.update(n.output)
        elif live & {*n.input} or (lengths & {*n.input} and tables & {*n.input}):
            live.update(n.output)
            found[n.op_type] += 1
        elif lengths & {*n.input}:
            lengths.update(n.output)
    return found


def check_all(path: Path, inputs: dict[str, Any]) -> Structure:
    """Every operator is a node, and the outputs are those of onnxruntime."""
    structure, values = recorded(load(path), inputs)
    shown = Counter(n.label.rpartition("+")[2] for n in structure if n.role not in ("input", "item"))
    assert shown == shown_operators(onnx.load(path))
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for name, wanted in zip(structure.outputs, session.run(None, inputs), strict=True):
        np.testing.assert_allclose(values[name], wanted, rtol=1e-4, atol=1e-5)
    seen = set()
    for found in structure:  # parents come first
        assert seen.issuperset(found.parents)
        seen.add(found.name)
    return structure


@pytest.mark.parametrize("which", ["script12", "script20", "dynamo"])
def test_every_operator_of_torch_exports(exports: dict[str, Path], which: str) -> None:
    if which not in exports:
        pytest.skip("needs onnxscript")
    structure = check_all(exports[which], {"x": random(2, 3, 16, 16)})
    layers = [(n.name, n.kind) for n in structure if n.kind in WEIGHTED and n.role == "layer"]
    assert layers == [
        ("stem", "conv2d"),
        ("layer1.0.conv1", "conv2d"), ("layer1.0.conv2", "depthwise_conv2d"),
        ("layer1.1.conv1", "conv2d"), ("layer1.1.conv2", "depthwise_conv2d"),
        ("proj", "dense"), ("lstm", "lstm"), ("fc", "dense"),
    ]  # fmt: skip
    by_kind = {n.kind: n.name for n in structure}
    assert (by_kind["layernorm"], by_kind["gelu"]) == ("ln", "act")
    assert [n.name for n in structure if n.kind == "batchnorm"] == ["layer1.0.bn", "layer1.1.bn"]


@pytest.mark.skipif(MAGIKA is None, reason="needs magika")
def test_every_operator_of_magika() -> None:
    assert MAGIKA is not None
    structure = check_all(MAGIKA, {"bytes": np.random.default_rng(0).integers(0, 256, (2, 2048), dtype=np.int32)})
    assert len(structure) > 80


@pytest.mark.skipif(SILERO is None, reason="needs silero-vad")
@pytest.mark.parametrize(("rate", "window", "branch"), [(16000, 576, "then"), (8000, 288, "else")])
def test_the_branch_that_silero_takes_is_seen(rate: int, window: int, branch: str) -> None:
    # The whole network stands in an If on the sampling rate.
    assert SILERO is not None
    inputs = {"input": random(3, window), "state": random(2, 3, 128), "sr": np.array(rate)}
    structure, values = recorded(load(SILERO), inputs)
    assert Counter(n.kind for n in structure)["conv1d"] == 6
    assert next(n.shape for n in structure if n.kind == "lstm") == (1, 1, 3, 128)
    assert any(f"took its {branch} branch" in note for note in structure.notes)
    session = ort.InferenceSession(SILERO, providers=["CPUExecutionProvider"])
    for name, wanted in zip(structure.outputs, session.run(None, inputs), strict=True):
        np.testing.assert_allclose(values[name], wanted, rtol=1e-4, atol=1e-5)


def test_other_branch_in_another_run() -> None:
    def branch(kind: str) -> Any:
        return helper.make_graph([node(kind, "x", "inner")], kind, [], [onnx.ValueInfoProto(name="inner")])

    choose = node("If", "flag", "y", then_branch=branch("Relu"), else_branch=branch("Neg"), name="choose")
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    loaded = wrap(model([choose, node("Abs", "y", "z")], [floats("x", None, 3), flag], "z"))
    x = random(2, 3)
    for value, label in ((True, "Relu"), (False, "Neg"), (True, "Relu")):
        structure, values = recorded(wrap(model([choose, node("Abs", "y", "z")], [floats("x", None, 3), flag], "z")),
                                     {"x": x, "flag": np.array(value)})  # fmt: skip
        assert [n.label for n in structure][2:] == [label, "Abs"]
        np.testing.assert_array_equal(values[structure.nodes[2].name], np.maximum(x, 0) if value else -x)
    # A run that takes another branch than the announced one hands over what was announced, and nothing wrong.
    structure = loaded.structure({"x": x, "flag": np.array(True)})
    sink = MemorySink()
    loaded.capture({"x": x, "flag": np.array(False)}, sink)
    assert set(sink.values) == {n.name for n in structure}


def test_loops_are_boundaries() -> None:
    body = helper.make_graph(
        [node("Add", "sum x", "next"), node("Identity", "going", "on")], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("going", TensorProto.BOOL, []), floats("sum", None, 3)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), floats("next", None, 3)],
    )  # fmt: skip
    loop = node("Loop", "n c x", "y", body=body, name="again")
    proto = model([loop, node("Relu", "y", "z")], [floats("x", None, 3)], "z", {"n": np.array(3), "c": np.array(True)})
    structure, values = recorded(wrap(proto), {"x": random(2, 3)})
    assert [(n.name, n.parents) for n in structure] == [("x", ()), ("again", ("x", "x")), ("z", ("again",))]
    np.testing.assert_allclose(values["again"], 4 * random(2, 3), rtol=1e-6)
    assert any("inside loops is not visible" in note and "1 Loop" in note for note in structure.notes)


def test_functions_are_put_in_place() -> None:
    gate = helper.make_function(
        "my", "Gate", ["a"], ["b"], [node("Sigmoid", "a", "s"), node("Mul", "a s", "b")], [helper.make_opsetid("", 21)]
    )
    nodes = [node("Gate", "x", "t", domain="my"), node("Gate", "t", "y", domain="my")]
    proto = model(nodes, [floats("x", None, 3)], "y", functions=[gate], domains=["my"])
    assert kinds(proto, {"x": random(2, 3)}) == [("Sigmoid", "sigmoid"), ("Sigmoid+Mul", "silu")] * 2


# --- what is left out ------------------------------------------------------------------------------------------


def test_constants_and_shape_arithmetic_are_no_nodes() -> None:
    nodes = [
        node("Shape", "x", "shape"), node("Gather", "shape zero", "n"), node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 rest", "to", axis=0), node("Add", "w w", "w2"), node("MatMul", "x w2", "m"),
        node("ConstantOfShape", "to", "h0"), node("Add", "m h0", "a"),
        node("Slice", "table axes n1 axes", "rows"), node("Add", "a rows", "y"),
    ]  # fmt: skip
    w = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([4]), "w": random(3, 4), "table": random(9, 4)}
    loaded = wrap(model(nodes, [floats("x", None, 3)], "y", w))
    structure, values = recorded(loaded, {"x": random(2, 3)})
    # The table read up to the input's length is a layer; the zeros of that shape are not.
    assert [(n.label, n.parents) for n in structure][1:] == [
        ("MatMul", ("x",)), ("Add", ("m",)), ("Slice", ()), ("Add", ("a", "rows")),
    ]  # fmt: skip
    np.testing.assert_allclose(values["y"], random(2, 3) @ (2 * random(3, 4)) + random(9, 4)[:2], rtol=1e-5, atol=1e-6)
    assert structure.notes == ("left out are operators that compute from 1 of constants alone and 5 of shapes alone",)
    own = {(owner, p.name): value for owner, p, value in loaded.parameters()}
    np.testing.assert_array_equal(own["m", "kernel"], 2 * random(3, 4))
    np.testing.assert_array_equal(own["rows", "table"], random(9, 4))


def test_outputs_that_hang_on_no_input_are_kept() -> None:
    proto = model([node("Relu", "x", "y"), node("Add", "k k", "z")], [floats("x", None, 3)], "y z x", {"k": random(3)})
    structure, values = recorded(wrap(proto), {"x": random(2, 3)})
    assert structure.outputs == ("y", "z", "x")
    np.testing.assert_array_equal(values["z"], 2 * random(3))


# --- kinds, configuration, weights -----------------------------------------------------------------------------

IMAGE = {"x": random(2, 4, 8, 8)}
OPERATORS: list[tuple[Any, dict[str, Any], dict[str, Any], str, dict[str, Any], list[str]]] = [
    (node("Conv", "x w b", "y", pads=[1, 1, 1, 1], strides=[2, 2]), {"w": random(6, 4, 3, 3), "b": random(6)}, IMAGE,
     "conv2d", {"padding": [1, 1], "strides": [2, 2], "kernel_size": [3, 3], "filters": 6, "in_channels": 4,
                "groups": 1, "bias": True, "dilation": [1, 1]}, ["weight", "bias"]),
    (node("Conv", "x w", "y", group=4, pads=[0, 0, 1, 1]), {"w": random(4, 1, 3, 3)}, IMAGE,
     "depthwise_conv2d", {"padding": [0, 0, 1, 1], "groups": 4, "bias": False}, ["weight"]),
    (node("Conv", "x w", "y", auto_pad="SAME_UPPER"), {"w": random(4, 4, 3, 3)}, IMAGE, "conv2d",
     {"padding": "same"}, ["weight"]),
    (node("ConvTranspose", "x w", "y", strides=[2, 2]), {"w": random(4, 6, 2, 2)}, IMAGE, "conv_transpose2d",
     {"filters": 6, "in_channels": 4, "output_padding": [0, 0]}, ["weight"]),
    (node("BatchNormalization", "x w b m v", "y", epsilon=1e-3),
     {"w": random(4), "b": random(4), "m": random(4), "v": abs(random(4))}, IMAGE, "batchnorm", {"epsilon": 1e-3},
     ["weight", "bias", "running_mean", "running_var"]),
    (node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), {}, IMAGE, "max_pool2d",
     {"kernel_size": [2, 2], "ceil_mode": True, "padding": [0, 0]}, []),
    (node("AveragePool", "x", "y", kernel_shape=[3, 3]), {}, IMAGE, "avg_pool2d", {"count_include_pad": False}, []),
    (node("GlobalAveragePool", "x", "y"), {}, IMAGE, "global_avg_pool", {}, []),
    (node("ReduceMean", "x axes", "y"), {"axes": np.array([2, 3])}, IMAGE, "global_avg_pool", {"axis": [2, 3]}, []),
    (node("Clip", "x lo hi", "y"), {"lo": np.float32(0), "hi": np.float32(6)}, IMAGE, "relu6", {"max_value": 6.0}, []),
    (node("Clip", "x lo", "y"), {"lo": np.float32(0)}, IMAGE, "relu", {}, []),
    (node("LeakyRelu", "x", "y", alpha=0.2), {}, IMAGE, "leaky_relu", {"negative_slope": 0.2}, []),
    (node("Reshape", "x s", "y"), {"s": np.array([0, -1])}, IMAGE, "flatten", {"args": [0, -1]}, []),
    (node("Transpose", "x", "y", perm=[0, 2, 3, 1]), {}, IMAGE, "permute", {"permutation": [0, 2, 3, 1]}, []),
    (node("Resize", "x _ s", "y", mode="linear"), {"s": np.array([1, 1, 2, 2], np.float32)}, IMAGE, "upsample",
     {"mode": "linear", "scale_factor": [1.0, 1.0, 2.0, 2.0]}, []),
    (node("Pad", "x p", "y", mode="reflect"), {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, IMAGE, "pad",
     {"mode": "reflect"}, []),
    (node("Mul", "x k", "y"), {"k": np.float32(0.5)}, IMAGE, "mul", {"args": [0.5]}, []),
    (node("Mul", "x layer.gamma", "y"), {"layer.gamma": random(4, 1, 1)}, IMAGE, "mul", {}, ["gamma"]),
    (node("Softmax", "x", "y", axis=1), {}, IMAGE, "softmax", {"axis": 1}, []),
    (node("Gemm", "x w b", "y", transB=1), {"w": random(5, 3), "b": random(5)}, {"x": random(2, 3)}, "dense",
     {"units": 5, "in_features": 3, "bias": True}, ["weight", "bias"]),
    (node("Gemm", "x w", "y", alpha=2.0), {"w": random(3, 5)}, {"x": random(2, 3)}, "dense",
     {"units": 5, "in_features": 3, "alpha": 2.0}, ["kernel"]),
    (node("Gather", "w x", "y"), {"w": random(7, 3)}, {"x": np.array([[1, 6]])}, "embedding",
     {"input_dim": 7, "output_dim": 3}, ["weight"]),
    (node("Gather", "x i", "y", axis=1), {"i": np.array(1)}, IMAGE, "slice", {"axis": 1}, []),
    (node("LSTM", "x w r b", "y", hidden_size=5, direction="bidirectional"),
     {"w": random(2, 20, 3), "r": random(2, 20, 5), "b": random(2, 40)}, {"x": random(4, 2, 3)}, "lstm",
     {"units": 5, "bidirectional": True}, ["kernel", "recurrent_kernel", "bias"]),
    (node("GRU", "x w r", "y", hidden_size=5, linear_before_reset=1), {"w": random(1, 15, 3), "r": random(1, 15, 5)},
     {"x": random(4, 2, 3)}, "gru", {"reset_after": True}, ["kernel", "recurrent_kernel"]),
    (node("LayerNormalization", "x w b", "y", epsilon=1e-3), {"w": random(3), "b": random(3)}, {"x": random(2, 3)},
     "layernorm", {"epsilon": 1e-3}, ["weight", "bias"]),
    (node("Erf", "x", "y"), {}, IMAGE, "erf", {}, []),
]  # fmt: skip


@pytest.mark.parametrize("case", OPERATORS, ids=lambda case: f"{case[0].op_type}-{case[3]}")
def test_kind_configuration_and_weights(case: Any) -> None:
    operator, weights, inputs, kind, config, params = case
    specs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(inputs["x"].dtype), inputs["x"].shape)]
    structure, _ = recorded(wrap(model([operator], specs, "y", weights)), inputs)
    (_, found, *_) = structure
    assert (found.kind, [p.name for p in found.params]) == (kind, params)
    assert config.items() <= dict(found.config).items(), found.config


def test_layers_written_as_several_operators() -> None:
    rms = [
        node("Pow", "x two", "sq"), node("ReduceMean", "sq last", "ms"), node("Add", "ms eps", "e"),
        node("Sqrt", "e", "r"), node("Div", "x r", "d"), node("Mul", "d norm.weight", "y"),
    ]  # fmt: skip
    tanh = [
        node("Pow", "x three", "c"), node("Mul", "c k", "kc"), node("Add", "x kc", "s"), node("Mul", "s root", "i"),
        node("Tanh", "i", "t"), node("Add", "t one", "o"), node("Mul", "x half", "h"), node("Mul", "h o", "y"),
    ]  # fmt: skip
    mish = [node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t", "y")]
    conv = [node("Conv", "x w", "c"), node("Add", "c b", "y")]
    scalars = {"two": 2, "three": 3, "eps": 1e-6, "k": 0.044715, "root": (2 / np.pi) ** 0.5, "one": 1, "half": 0.5}
    weights = {name: np.float32(value) for name, value in scalars.items()}
    weights |= {"last": np.array([-1]), "norm.weight": random(8), "w": random(6, 4, 3, 3), "b": random(1, 6, 1, 1)}
    wanted = {
        "rmsnorm": (rms, {"epsilon": 1e-6, "axis": [-1]}, ["weight"]), "gelu": (tanh, {"approximate": "tanh"}, []),
        "mish": (mish, {}, []), "conv2d": (conv, {"bias": True, "filters": 6}, ["weight", "bias"]),
    }  # fmt: skip
    for kind, (nodes, config, params) in wanted.items():
        used = {name for n in nodes for name in n.input}
        structure, _ = recorded(
            wrap(model(nodes, [floats("x", 2, 4, 8, 8)], "y", {k: v for k, v in weights.items() if k in used})), IMAGE
        )
        *inner, last = structure.nodes[1:]
        assert (last.kind, [p.name for p in last.params]) == (kind, params)
        assert config.items() <= dict(last.config).items()
        assert {n.role for n in inner} == {"inner"}
        assert not any(n.kind in WEIGHTED or n.params for n in inner)


def test_a_sum_that_is_no_bias_stays_a_sum() -> None:
    for shape in ((1, 7), (2, 1), (2, 7)):
        weights = {"w": random(3, 7), "b": random(*shape)}
        proto = model([node("MatMul", "x w", "m"), node("Add", "m b", "y")], [floats("x", 2, 3)], "y", weights)
        found = kinds(proto, {"x": random(2, 3)})
        assert found == ([("MatMul", "matmul"), ("MatMul+Add", "dense")] if shape == (1, 7) else
                         [("MatMul", "dense"), ("Add", "add")])  # fmt: skip


def test_a_kernel_that_is_read_twice_is_listed_once() -> None:
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "r"), node("Conv", "r w", "b"), node("Add", "a b", "y")]
    loaded = wrap(model(nodes, [floats("x", 2, 4, 8, 8)], "y", {"w": random(4, 4, 1, 1)}))
    structure, _ = recorded(loaded, IMAGE)
    first, second = (n for n in structure if n.label == "Conv")
    assert (second.owner, second.call, second.params) == (first.owner, 1, ())
    assert [(owner, p.name) for owner, p, _ in loaded.parameters()] == [(first.owner, "weight")]
    # Equal vectors are merged by exporters: each layer has its own all the same.
    nodes = [node("Conv", "x w b", "a"), node("Conv", "a v b", "y")]
    weights = {"w": random(4, 4, 1, 1), "v": random(4, 4, 2, 2), "b": np.zeros(4, np.float32)}
    structure, _ = recorded(wrap(model(nodes, [floats("x", 2, 4, 8, 8)], "y", weights)), IMAGE)
    assert [[p.name for p in n.params] for n in structure][1:] == [["weight", "bias"]] * 2


def test_files_that_onnxruntime_optimised(folder: Path) -> None:
    weights = {"w": random(4, 4, 3, 3), "b": random(4)}
    nodes = [
        node("Conv", "x w b", "c"), node("Relu", "c", "r"),
        node("Sigmoid", "r", "s"), node("Mul", "r s", "g"), node("Flatten", "g", "y"),
    ]  # fmt: skip
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "fused.onnx")
    plain = model(nodes, [floats("x", None, 4, 8, 8)], "y", weights, opset=17)
    ort.InferenceSession(plain.SerializeToString(), options, providers=["CPUExecutionProvider"])
    structure, values = recorded(load(folder / "fused.onnx"), IMAGE)
    assert [(n.label, n.kind) for n in structure][1:] == [
        ("com.microsoft.FusedConv", "conv2d"), ("com.microsoft.QuickGelu", "silu"), ("Flatten", "flatten"),
    ]  # fmt: skip
    assert structure.nodes[1].config["activation"] == "relu"
    assert any("activations inside fused operators are not visible" in note for note in structure.notes)
    _, wanted = recorded(wrap(plain), IMAGE)
    np.testing.assert_allclose(values[structure.outputs[0]], wanted["y"], rtol=1e-5, atol=1e-6)


def test_folded_normalisations_are_said(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    structure = load(export(net, folder / "folded.onnx", (2, 3, 8, 8), opset=17)).structure({"x": random(2, 3, 8, 8)})
    assert [n.label for n in structure] == ["input", "Conv"]
    assert any("folded batch normalisations into 1 convolutions" in note for note in structure.notes)


def test_names_of_exporters() -> None:
    def scoped(op: Any, *scopes: str) -> Any:
        op.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(["", *scopes]))
        return op

    weights = {"w": random(4, 4, 1, 1), "enc.conv.weight": random(4, 4, 1, 1), "k": np.float32(2)}
    inputs = [floats("x", 2, 4, 8, 8)]
    cases = {
        "torch": ([node("Conv", "x w", "a", name="/enc/enc.0/conv/Conv"),
                   node("Mul", "a k", "b", name="/enc/enc.0/Mul"), node("Relu", "b", "c", name="/enc/enc.0/act/Relu"),
                   node("Relu", "c", "d", name="/Relu"), node("Relu", "d", "e", name="/Relu")],
                  ["enc.0.conv", "enc.0/Mul", "enc.0.act", "Relu", "Relu~2"]),
        "tf2onnx": ([node("Conv", "x w", "a:0", name="StatefulPartitionedCall/model/conv1/BiasAdd"),
                     node("Relu", "a:0", "b:0", name="StatefulPartitionedCall/model/conv1/Relu"),
                     node("Relu", "b:0", "c:0", name="StatefulPartitionedCall/model/act/Relu")],
                    ["conv1/BiasAdd", "conv1/Relu", "act"]),
        "dynamo": ([scoped(node("Conv", "x enc.conv.weight", "a"), "enc", "enc.bn", "batch_norm"),
                    scoped(node("Relu", "a", "b"), "enc", "enc.act", "relu"),
                    scoped(node("Mul", "b k", "c"), "enc", "mul_12"),
                    scoped(node("Relu", "c", "d"), "enc", "enc.act", "relu_1")],
                   ["enc.conv", "enc.act#0", "enc/mul", "enc.act#1"]),
        "older torch": ([node("Conv", "x enc.conv.weight", "12", name="Conv_0"),
                         node("Relu", "12", "13", name="Relu_1")], ["enc.conv", "Relu_1"]),
        "none": ([node("Conv", "x w", "a"), node("Relu", "a", "x2")], ["a", "x2"]),
    }  # fmt: skip
    for producer, (nodes, names) in cases.items():
        used = {name for n in nodes for name in n.input}
        proto = model(nodes, inputs, nodes[-1].output[0], {k: v for k, v in weights.items() if k in used})
        assert [n.name for n in wrap(proto).structure(IMAGE)] == ["x", *names], producer


def test_quantized_networks(exports: dict[str, Path], folder: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = [{"x": random(2, 3, 16, 16)}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    formats = quantization.QuantFormat
    for form, labels in ((formats.QDQ, {"Conv", "DequantizeLinear"}), (formats.QOperator, {"QLinearConv"})):
        path = folder / f"q{form}.onnx"
        quantization.quantize_static(exports["script12"], path, Reader(), quant_format=form, per_channel=False)
        structure, _ = recorded(load(path), {"x": random(2, 3, 16, 16)})
        assert labels <= {n.label for n in structure}
        convolutions = [n for n in structure if n.kind in ("conv2d", "depthwise_conv2d")]
        assert len(convolutions) == 5
        for found in convolutions:
            assert "weight" in [p.name for p in found.params]
        (first, *_) = convolutions
        if form == formats.QDQ:  # the weights as the convolution reads them
            wanted = torch_net().stem.weight.detach().numpy()
            value = next(v for o, p, v in load(path).parameters() if o == first.owner and p.name == "weight")
            np.testing.assert_allclose(value, wanted, atol=np.abs(wanted).max() / 100)


# --- against the other frameworks ------------------------------------------------------------------------------


def check_pairs(reference: Any, candidate: Any, layers: int) -> None:
    """They agree, and every weighted layer is paired with the same weights."""
    result = diff(reference, candidate)
    assert bool(tracer.diff(reference, candidate)), str(tracer.diff(reference, candidate))
    weighted = [n.name for n in reference.structure if n.kind in WEIGHTED]
    pairs = {p.node.name: p for p in result.pairs if p.node.kind in WEIGHTED}
    assert set(pairs) == set(weighted)
    assert len(pairs) == layers
    for name, pair in pairs.items():
        assert pair.candidate_node.kind == pair.node.kind or pair.pair.what, name
        said = facts(pair, reference, candidate, result.alignment.parameters)
        assert [f.startswith("Its weights are the same") for f in said] == [True], (name, said)


@pytest.mark.parametrize("which", ["script12", "script20", "dynamo"])
def test_torch_and_its_export_agree(exports: dict[str, Path], which: str, trace_path: Path) -> None:
    if which not in exports:
        pytest.skip("needs onnxscript")
    x = random(2, 3, 16, 16)
    a = tracer.record(torch_net(), x, name="pt", trace=trace_path)
    b = tracer.record(onnx.load(exports[which]), x, name="onnx", trace=trace_path)
    check_pairs(a, b, 8)


def test_keras_and_its_export_agree(trace_path: Path) -> None:
    keras, tf2onnx = pytest.importorskip("keras"), pytest.importorskip("tf2onnx")
    import tensorflow as tf

    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv")(inputs)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(6, activation="swish", name="hidden")(x)
    net = keras.Model(inputs, keras.layers.Dense(4, activation="softmax", name="out")(x))
    for weight in net.weights:
        if weight.path.endswith("bias"):
            weight.assign(random(*weight.shape))
    spec = [tf.TensorSpec((None, 16, 16, 3), tf.float32, name="x")]
    proto, _ = tf2onnx.convert.from_function(tf.function(lambda x: net(x)), spec, opset=15)
    x = random(2, 16, 16, 3)
    a = tracer.record(net, x, name="tf", trace=trace_path)
    b = tracer.record(proto, x, name="onnx", trace=trace_path)
    check_pairs(a, b, 4)
