"""Running ONNX graphs: bounded memory, element types, faults; files that are damaged or built to do harm."""

from __future__ import annotations

import math
import subprocess
import sys
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
from tests.cli import refused, run
from tests.onnx_graphs import floats, load, model, node, random, recorded, wrap
from tracer.adapter import LoadRequest, MemorySink, NotRecorded, for_object
from tracer.errors import InputError, ModelError, RefusedError
from tracer_onnx import OnnxAdapter

IMAGE = {"x": random(2, 4, 8, 8)}


def test_a_graph_without_inputs_is_recorded(trace_path: Path) -> None:
    constant = random(2, 3)
    recording = tracer.record(model([node("Relu", "w", "y")], [], "y", {"w": constant}), trace=trace_path)
    np.testing.assert_array_equal(recording.read("y"), np.maximum(constant, 0))


def test_an_infinite_constant_is_no_obstacle(trace_path: Path) -> None:
    low = np.float32(-np.inf)
    graph = model([node("Max", "x low", "y")], [floats("x", 2, 3)], "y", {"low": low})
    given = random(2, 3)
    recording = tracer.record(graph, given, trace=trace_path)
    np.testing.assert_array_equal(recording.read("y"), given)
    assert recording.structure.by_name["y"].config["args"] == ["-inf"]


def test_batches_of_a_fixed_size_are_joined_along_the_second_axis_where_time_is_the_first(trace_path: Path) -> None:
    there, back = (node("Transpose", *names, perm=[1, 0, 2]) for names in (("x", "t"), ("r", "y")))
    nodes = [there, node("Relu", "t", "r"), back]
    given = random(3, 4, 5)
    recording = tracer.record(model(nodes, [floats("x", 1, 4, 5)], "y"), given, trace=trace_path)
    np.testing.assert_array_equal(recording.read("r"), np.maximum(given, 0).transpose(1, 0, 2))
    np.testing.assert_array_equal(recording.read("y"), np.maximum(given, 0))


# --- running ---------------------------------------------------------------------------------------------------


def chain(length: int) -> Any:
    nodes = [node("Conv", f"v{i} w", f"c{i}", pads=[1] * 4) for i in range(length)]
    steps = [step for i, conv in enumerate(nodes) for step in (conv, node("Tanh", f"c{i}", f"v{i + 1}"))]
    return model(steps, [floats("v0", None, 4, 8, 8)], f"v{length}", {"w": random(4, 4, 3, 3)})


def test_memory_is_bounded_and_the_values_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracer_onnx import running

    pieces: list[int] = []
    real = running.Engine._session
    monkeypatch.setattr(
        running.Engine, "_session", lambda self, ops, *rest: pieces.append(len(ops)) or real(self, ops, *rest)
    )
    inputs = {"v0": random(2, 4, 8, 8)}
    whole = wrap(chain(10))
    _, values = recorded(whole, inputs)
    assert pieces == [20, 20]
    small = wrap(chain(10))
    small.budget = 5 * values["v1"].nbytes
    pieces.clear()
    _, again = recorded(small, inputs)
    assert max(pieces) <= 5
    for name, value in values.items():
        np.testing.assert_array_equal(value, again[name])


def test_only_what_is_wanted_is_computed_and_handed_over() -> None:
    loaded = wrap(chain(6))
    inputs = {"v0": random(2, 4, 8, 8)}
    structure, values = recorded(loaded, inputs)
    name = structure.nodes[5].name
    sink = MemorySink(only=frozenset({name}))
    loaded.capture(inputs, sink)
    assert set(sink.values) == {name}
    np.testing.assert_array_equal(sink.values[name], values[name])


def test_element_types() -> None:
    types = {
        TensorProto.BFLOAT16: "bfloat16", TensorProto.FLOAT8E4M3FN: "float8_e4m3fn", TensorProto.FLOAT16: "float16",
        TensorProto.INT4: "int8", TensorProto.UINT4: "uint8", TensorProto.DOUBLE: "float64", TensorProto.BOOL: "bool",
    }  # fmt: skip
    casts = [node("Cast", "x", f"y{element}", to=element) for element in types]
    others = [
        node("Cast", "x", "text", to=TensorProto.STRING), node("SequenceConstruct", "x x", "sequence"),
        node("Optional", "", "empty", type=helper.make_tensor_type_proto(TensorProto.FLOAT, [1])),
        node("ConcatFromSequence", "sequence", "joined", axis=0), node("RandomNormalLike", "x", "noise"),
    ]  # fmt: skip
    loaded = wrap(model([*casts, *others], [floats("x", None, 3)], "joined empty noise"))
    x = np.array([[1, -3, 0], [2, 7, -8]], np.float32)
    structure, values = recorded(loaded, {"x": x})
    by_name = structure.by_name
    for element, name in types.items():
        assert by_name[f"y{element}"].dtype == name
        wanted = np.clip(x, 0, 15) if element == TensorProto.UINT4 else x
        if element not in (TensorProto.UINT4, TensorProto.BOOL):
            np.testing.assert_array_equal(values[f"y{element}"].astype(np.float32), wanted)
    assert {n: v.reason for n, v in values.items() if isinstance(v, NotRecorded)} == {
        "text": "elements of type string",
        "sequence": "not a tensor: seq(tensor(float))",
        "empty": "an optional that is empty",
    }
    np.testing.assert_array_equal(values["joined"], np.concatenate([x, x]))
    assert any("draws random numbers (RandomNormalLike)" in note for note in structure.notes)
    # bfloat16 as an input.
    spec = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, [2, 3])
    back = wrap(model([node("Cast", "x", "y", to=TensorProto.FLOAT)], [spec], "y"))
    _, values = recorded(back, {"x": x.astype(by_name and values["y16"].dtype)})
    np.testing.assert_array_equal(values["y"], x)


@pytest.mark.parametrize(
    "element", [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN, TensorProto.BFLOAT16]
)
def test_weights_of_few_bits(element: int) -> None:
    whole = np.random.default_rng(0).integers(0, 8, 64 * 64)
    weight = helper.make_tensor("w", element, [64, 64], whole.tolist())
    reduced = element in (TensorProto.INT4, TensorProto.UINT4)
    nodes = [
        node("DequantizeLinear", "w scale", "d") if reduced else node("Cast", "w", "d", to=TensorProto.FLOAT),
        node("MatMul", "x d", "y", name="dense"),
    ]
    loaded = wrap(model(nodes, [floats("x", None, 64)], "y", {"scale": np.float32(0.5)}, initializers=[weight]))
    wanted = whole.reshape(64, 64) * np.float32(0.5 if reduced else 1)
    _, values = recorded(loaded, {"x": random(2, 64)})
    np.testing.assert_allclose(values["dense"], random(2, 64) @ wanted, rtol=1e-3, atol=1e-3)
    ((owner, param, value),) = loaded.parameters()
    assert (owner, param.name) == ("dense", "kernel")
    np.testing.assert_array_equal(value, wanted)


# --- faults ----------------------------------------------------------------------------------------------------


def faulty(batch: int | None) -> Any:
    nodes = [node("Conv", "x w", "c", name="conv"), node("Relu", "c", "r", name="act"),
             node("Reshape", "r bad", "s", name="res"), node("Neg", "s", "y", name="neg")]  # fmt: skip
    weights = {"w": random(4, 4, 1, 1), "bad": np.array([7, 11])}
    return model(nodes, [floats("x", batch, 4, 8, 8)], "y", weights)


def test_what_ran_before_a_fault_is_kept() -> None:
    loaded = wrap(faulty(2))
    structure = loaded.structure(IMAGE)
    assert [n.name for n in structure] == ["x", "conv", "act"]
    assert structure.fault.startswith("'res' (Reshape): The input tensor cannot be reshaped")
    sink = MemorySink()
    with pytest.raises(ModelError, match=r"^the model raised 'res' \(Reshape\): .*requested shape:\{7,11\}$"):
        loaded.capture(IMAGE, sink)
    assert set(sink.values) == {"x", "conv", "act"}
    np.testing.assert_array_equal(sink.values["act"], np.maximum(sink.values["conv"], 0))


def test_a_fault_that_another_input_may_mend() -> None:
    with pytest.raises(InputError, match=r"does not take x \(2, 4, 8, 8\) float32: 'res' \(Reshape\)"):
        wrap(faulty(None)).structure(IMAGE)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"x": random(2, 4, 8)}, r"input 'x' has shape \[2, 4, 8\], the model takes \[any, 4, 8, 8\]"),
        ({"x": random(2, 3, 8, 8)}, r"has shape \[2, 3, 8, 8\], the model takes \[any, 4, 8, 8\]"),
        ({"x": random(2, 4, 8, 8).astype(np.float64)}, "is float64, the model takes float32"),
        ({"z": random(2, 4, 8, 8)}, "has no input 'z': it takes x"),
        ({}, "input 'x' is missing"),
    ],
)
def test_inputs_are_checked(inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        wrap(faulty(None)).structure(inputs)


# --- signature, live objects -----------------------------------------------------------------------------------


def test_signature() -> None:
    nodes = [
        node("Conv", "first w", "a"), node("Transpose", "last", "t", perm=[0, 3, 1, 2]), node("Conv", "t w", "b"),
        node("Cast", "ids", "i", to=TensorProto.INT32), node("Gather", "table i", "e"),
    ]  # fmt: skip
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 5])
    weights = {"w": random(2, 3, 1, 1), "table": random(7, 2)}
    inputs = [floats("first", "batch", 3, -1, 8), floats("last", None, 8, 8, 3), ids, floats("w", 2, 3, 1, 1)]
    first, last, third = wrap(model(nodes, inputs, "a b e", weights)).signature()  # w is a weight, not an input
    assert (first.shape, first.layout) == ((None, 3, None, 8), "channels_first")
    assert (last.shape, last.layout) == ((None, 8, 8, 3), "channels_last")
    assert (third.shape, third.dtype, third.maximum) == ((None, 5), "int64", 6)


def test_live_objects(tmp_path: Path, trace_path: Path) -> None:
    proto = faulty(2)
    del proto.graph.node[2:]
    proto.graph.output[0].name = "r"
    before = proto.SerializeToString()
    path = tmp_path / "live.onnx"
    path.write_bytes(before)
    names = []
    for thing in (proto, ort.InferenceSession(before), ort.InferenceSession(path)):
        assert for_object(thing)[0] == "onnx"
        recording = tracer.record(thing, IMAGE["x"], trace=trace_path)
        assert [n.name for n in recording.structure] == ["x", "conv", "act"]
        names.append(recording.name)
    assert names == ["onnx", "onnx-2", "onnx-3"]
    assert proto.SerializeToString() == before
    assert bool(tracer.diff(*(tracer.open(trace_path).recording(n) for n in names[:2])))
    path.unlink()
    session = ort.InferenceSession(before)
    session._model_bytes = None
    with pytest.raises(InputError, match="does not say what it was made from"):
        OnnxAdapter().wrap(session)
    assert not OnnxAdapter.owns(object())


def test_the_adapter_imports_nothing_before_it_loads(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(faulty(2).SerializeToString())
    code = (
        "import sys; from pathlib import Path; from tracer import adapter; a = adapter.get('onnx');"
        f"p = Path({str(path)!r}); r = adapter.LoadRequest(p); a.preflight(r); a.files(r); assert a.claims(p);"
        "assert not a.owns(3); assert not a.runs_code(r);"
        "sys.exit(str([m for m in ('onnx', 'onnxruntime', 'google.protobuf') if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


# --- files -----------------------------------------------------------------------------------------------------


def product(**weight: Any) -> Any:
    """A product with a weight ``w`` of 3×4 numbers, by its own TensorProto."""
    tensor = TensorProto(name="w", **{"data_type": TensorProto.FLOAT, "dims": (3, 4), **weight})
    return model([node("MatMul", "x w", "y", name="product")], [floats("x", None, 3)], "y", initializers=[tensor])


def beside(location: str, dims: tuple[int, ...] = (3, 4), **entries: Any) -> Any:
    """The same with the weight in another file."""
    proto = product(dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        proto.graph.initializer[0].external_data.add(key=key, value=str(value))
    return proto


def test_weights_in_files_beside_the_model(tmp_path: Path) -> None:
    w = random(3, 4)
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "w.bin").write_bytes(b"\0" * 16 + w.tobytes() + b"\0" * 8)
    path = folder / "m.onnx"
    path.write_bytes(beside("deep/w.bin", offset=16, length=48).SerializeToString())
    assert OnnxAdapter().files(LoadRequest(path)) == (folder / "deep" / "w.bin",)
    x = random(2, 3)
    _, values = recorded(load(path), {"x": x})
    np.testing.assert_allclose(values["product"], x @ w, rtol=1e-5)
    np.save(tmp_path / "x.npy", x)
    done = run("record", "onnx", path, "--input", "x.npy", cwd=tmp_path)  # the sandbox lets the file through
    assert "recorded 'onnx': 2 of 2 activations" in done.stdout
    assert "sandbox" not in done.stderr, done.stderr
    with pytest.raises(InputError, match=r"lies in a file beside the model: load it with onnx\.load"):
        wrap(beside("deep/w.bin", offset=16, length=48))


@pytest.mark.parametrize(
    ("proto", "kind", "says"),
    [
        (beside("../w.bin"), RefusedError, "lies outside the model's folder: refused"),
        (beside("/etc/passwd"), RefusedError, "lies outside the model's folder: refused"),
        (beside("link.bin"), RefusedError, "is a symbolic link: refused"),
        (beside("sub/w.bin"), RefusedError, "is a symbolic link: refused"),
        (beside("here"), RefusedError, "is not a regular file: refused"),
        (beside("none.bin"), InputError, "no such file; an ONNX file is copied together with its external data"),
        (beside("w.bin", (3, 4 << 30)), InputError, "51539607552 bytes wanted at 0"),
        (beside("w.bin", length=12), InputError, "48 bytes wanted at 0"),
        (beside("w.bin", offset=8), InputError, "48 bytes wanted at 8, which the file of 48 bytes does not hold"),
        (beside("w.bin", offset="a"), InputError, "are no numbers"),
        (beside("w.bin", (-3, 4)), InputError, "has no possible shape or type"),
        (product(dims=(3, 1 << 40), raw_data=b"1234"), InputError, "its data does not fill its shape"),
    ],
)
def test_refused_weights(proto: Any, kind: type[InputError], says: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    (folder / "here").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "here"):
        (place / "w.bin").write_bytes(bytes(48))
    (folder / "link.bin").symlink_to(folder / "w.bin")
    (folder / "sub").symlink_to(folder / "here")
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(kind, match=says) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    if kind is RefusedError:
        assert OnnxAdapter().files(LoadRequest(path)) == ()


def doubling(levels: int) -> Any:
    """Functions that each call the next one twice."""
    functions = [
        helper.make_function(
            "my", f"F{i}", ["a"], ["b"],
            [node(f"F{i + 1}", "a", "c", domain="my"), node(f"F{i + 1}", "c", "b", domain="my")],
            [helper.make_opsetid("", 21), helper.make_opsetid("my", 1)],
        )
        for i in range(levels)
    ]  # fmt: skip
    last = helper.make_function(
        "my", f"F{levels}", ["a"], ["b"], [node("Relu", "a", "b")], [helper.make_opsetid("", 21)]
    )
    call = node("F0", "x", "y", domain="my")
    return model([call], [floats("x", None, 3)], "y", functions=[*functions, last], domains=["my"])


def branching(levels: int) -> Any:
    """Branches that each hold the next one twice."""
    body = helper.make_graph([node("Identity", "x", "o")], "g", [], [])
    for _ in range(levels):
        body = helper.make_graph(
            [helper.make_node("If", ["c"], ["o"], then_branch=body, else_branch=body)], "g", [], []
        )
    return model([*body.node, node("Relu", "o", "y")], [floats("x", 3)], "y")


def itself() -> Any:
    proto = doubling(1)
    proto.functions[1].node[0].CopyFrom(node("F0", "a", "b", domain="my"))
    return proto


@pytest.mark.parametrize(
    ("proto", "says"),
    [
        (model([node("Magic", "x", "y", name="mag", domain="com.acme")], [floats("x", 3)], "y", domains=["com.acme"]),
         r"operator com.acme::Magic \(the first at 'mag'\) .* no such library is ever loaded"),
        (doubling(40), "unfold to more than 262,144 operators: refused"),
        (branching(18), "unfold to more than 262,144 operators: refused"),
        (itself(), "calls itself: refused"),
        (model([node("Relu", "b", "y", name="r"), node("Relu", "x", "b")], [floats("x", 3)], "y"),
         "'r' reads 'b', which nothing before it computes"),
        (model([node("Relu", "x", "y"), node("Neg", "x", "y", name="n")], [floats("x", 3)], "y"),
         "'y' is computed twice, again by 'n'"),
        (model([node("Relu", "x", "y")], [floats("x", 3)], "z"), "output 'z' is computed by nothing"),
        (model([node("Relu", "x", "y")], [floats("x", 3)], "y", opset=99), "operator set 99, onnx .* knows"),
        (model([node("Identity", "x", "y")], [helper.make_tensor_value_info("x", TensorProto.STRING, [3])], "y"),
         "input 'x' is text: only tensors of numbers can be fed"),
        (model([node("Reshape", "k s", "z", name="rk"), node("Add", "x z", "y")], [floats("x", 3)], "y",
               {"k": random(3), "s": np.array([7])}), r"onnxruntime cannot run 'rk' \(Reshape\)"),
    ],
)  # fmt: skip
def test_refused_graphs(proto: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        wrap(proto)
    assert "\n" not in str(caught.value)


def test_an_operator_that_this_onnxruntime_has_not() -> None:
    loaded = wrap(model([node("Reluu", "x", "y", name="r")], [floats("x", None, 3)], "y"))
    with pytest.raises(InputError, match=r"^onnxruntime \S+ cannot run 'r' \(Reluu\): .*No Op registered for Reluu"):
        loaded.structure({"x": random(2, 3)})


def test_a_sparse_bomb() -> None:
    proto = product(raw_data=random(3, 4).tobytes())
    sparse = onnx.SparseTensorProto(dims=[3, 1 << 40])
    sparse.values.CopyFrom(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], raw_data=b"1234"))
    sparse.indices.CopyFrom(TensorProto(data_type=TensorProto.INT64, dims=[1], raw_data=bytes(8)))
    del proto.graph.initializer[:]
    proto.graph.sparse_initializer.append(sparse)
    with pytest.raises(RefusedError, match="sparse weight 'w' would unpack to 13194139533312 bytes"):
        wrap(proto)


def test_sparse_weights(tmp_path: Path) -> None:
    proto = product()
    sparse = onnx.SparseTensorProto(dims=[3, 4])
    sparse.values.CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [2], [2.0, 3.0]))
    sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [2], [1, 11]))
    del proto.graph.initializer[:]
    proto.graph.sparse_initializer.append(sparse)
    _, values = recorded(wrap(proto), {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(values["product"], [[0, 2, 0, 3]] * 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"hello world, no model", "is not an ONNX file"),
        (b"<html><body>404</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "is a git-lfs pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "is an HDF5 file"),
        (b"\x08\x08\x12\x04test", "holds no graph"),
        (b"\x18\0\0\0ORTM" + bytes(64), "onnxruntime's own format"),
        (0.5, "is truncated or damaged"),
        (-40, "is truncated or damaged"),
    ],
)
def test_files_that_are_none(content: bytes | float, says: str, tmp_path: Path) -> None:
    whole = product(raw_data=random(3, 4).tobytes()).SerializeToString()
    if not isinstance(content, bytes):
        content = whole[: math.ceil(len(whole) * content) if content > 0 else int(content)]
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        OnnxAdapter().preflight(LoadRequest(path))


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    whole = bytearray(beside("w.bin").SerializeToString())
    path = tmp_path / "m.onnx"
    rng = np.random.default_rng(0)
    (tmp_path / "w.bin").write_bytes(bytes(48))
    outcomes = set()
    for _ in range(200):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), 1):
            data[position] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            loaded = load(path)
            assert list(loaded.parameters())
            outcomes.add(loaded.structure({"x": random(2, 3)}).fault)
        except InputError as error:
            outcomes.add(str(error))
    assert "" in outcomes
    assert len(outcomes) > 10
    assert not any("\n" in outcome for outcome in outcomes)


def test_the_command(tmp_path: Path) -> None:
    fault = tmp_path / "fault.onnx"
    fault.write_bytes(faulty(2).SerializeToString())
    line = refused("record", "onnx", fault, cwd=tmp_path, code=3, says="the model raised 'res' (Reshape)")
    assert line.endswith("requested shape:{7,11}")
    assert "failed" in run("runs", cwd=tmp_path).stdout
    whole = tmp_path / "whole.onnx"
    whole.write_bytes(product(raw_data=random(3, 4).tobytes()).SerializeToString())
    assert "2 of 2 activations" in run("record", "onnx", whole, "--name", "a", cwd=tmp_path).stdout
    table = run("inspect", whole, cwd=tmp_path).stdout
    assert "product" in table
    assert "parameters: 12" in table
    refused(
        "record",
        "onnx",
        whole,
        "--name",
        "b",
        "--arch",
        "a.py:b",
        cwd=tmp_path,
        says="--weights and --arch do not go with it",
    )
    refused("record", "onnx", tmp_path / "no.onnx", "--name", "b", cwd=tmp_path, says="no such file")
