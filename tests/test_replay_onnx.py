"""Running ONNX graphs again with tensors exchanged on the way, in the model's own and in double precision."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper

from tests.onnx_graphs import export, floats, load, model, node, random, recorded, torch_net, wrap
from tracer.adapter import MemorySink
from tracer.errors import ModelError, ReplayError
from tracer_onnx.double import Doubled
from tracer_onnx.model import OnnxModel


class Exchanged:
    """Keeps what it is handed and gives what it is told to; a copy of the value itself where ``same``."""

    def __init__(
        self, given: dict[str, Any] | None = None, *, same: bool = False, only: set[str] | None = None
    ) -> None:
        self.given = given or {}
        self.same = same
        self.only = only
        self.seen: dict[str, Any] = {}

    def wants(self, name: str) -> bool:
        return self.only is None or name in self.only

    def __call__(self, name: str, value: Any) -> Any:
        assert name not in self.seen
        self.seen[name] = np.array(value)
        if name in self.given:
            return self.given[name]
        return np.array(value) if self.same else None


def replayed(
    loaded: OnnxModel, inputs: dict[str, Any], given: dict[str, Any] | None = None, *, double: bool = False
) -> dict[str, Any]:
    exchange = Exchanged(given)
    loaded.structure(inputs)
    loaded.replay(inputs, exchange, double=double)
    return exchange.seen


def tensor(name: str, element: int, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


# --- exchanging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamo", [False, True])
def test_a_network_gives_the_same_bits_again_and_its_double_what_torch_computes_in_double(
    tmp_path: Path, dynamo: bool
) -> None:
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    shape, net = (2, 3, 16, 16), torch_net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporters
        loaded = load(export(net, tmp_path / "net.onnx", shape, opset=20, dynamo=dynamo))
    inputs = {"x": random(*shape)}
    structure, values = recorded(loaded, inputs)
    exchange = Exchanged(same=True)
    loaded.replay(inputs, exchange)
    assert set(exchange.seen) == {found.name for found in structure.stored()}
    for name, value in values.items():
        assert exchange.seen[name].dtype == value.dtype
        np.testing.assert_array_equal(exchange.seen[name], value)
    place = {name: position for position, name in enumerate(exchange.seen)}
    assert all(place[parent] < place[found.name] for found in structure for parent in found.parents)

    doubled = replayed(loaded, inputs, double=True)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.LayerNorm):
            module.eps = float(np.float32(module.eps))  # as the file holds it
    with torch.no_grad():
        wanted = net.double()(torch.from_numpy(inputs["x"]).double())
    for name, exact in zip(structure.outputs, wanted, strict=True):
        np.testing.assert_allclose(doubled[name], exact.numpy(), rtol=0, atol=1e-13)
        assert np.abs(values[name] - exact.numpy()).max() > 1e-8
    assert {str(value.dtype) for value in doubled.values()} == {"float64"}

    assert np.array_equal(recorded(loaded, inputs)[1][structure.outputs[0]], values[structure.outputs[0]])


def test_a_value_reaches_all_that_reads_it_and_nothing_else() -> None:
    nodes = [
        node("Relu", "x", "a"), node("Neg", "a", "b"), node("Sub", "a b", "c"), node("Neg", "x", "d"),
        node("Concat", "a b c d", "y", axis=0),
    ]  # fmt: skip
    x, other = random(2, 3), random(3, 3)[:2].astype(np.float64)
    loaded = wrap(model(nodes, [floats("x", None, 3)], "y a"))
    seen = replayed(loaded, {"x": x}, {"a": other})
    used = other.astype(np.float32)
    np.testing.assert_array_equal(seen["a"], np.maximum(x, 0))
    np.testing.assert_array_equal(seen["b"], -used)
    np.testing.assert_array_equal(seen["c"], used + used)
    np.testing.assert_array_equal(seen["d"], -x)
    np.testing.assert_array_equal(seen["y"], np.concatenate([used, -used, used + used, -x]))
    # The input, and an array that is used again as soon as the call is over.
    loaned = np.array(other)

    class Borrowed(Exchanged):
        def __call__(self, name: str, value: Any) -> Any:
            super().__call__(name, value)
            loaned[:] = other if name == "x" else np.nan
            return loaned if name == "x" else None

    exchange = Borrowed()
    loaded.replay({"x": x}, exchange)
    np.testing.assert_array_equal(exchange.seen["d"], -used)


def test_a_value_of_another_shape_passes_and_so_do_the_shapes_computed_from_it() -> None:
    nodes = [
        node("Relu", "x", "a"), node("Shape", "a", "s"), node("Gather", "s zero", "rows", axis=0),
        node("Concat", "rows minus", "to", axis=0), node("Unsqueeze", "a zero", "u"), node("Reshape", "u to", "flat"),
        node("MatMul", "flat w", "y"),
    ]  # fmt: skip
    weights = {"zero": np.array([0]), "minus": np.array([-1]), "w": random(6, 4)}
    loaded = wrap(model(nodes, [floats("x", None, 2, 3)], "y", weights))
    other = random(5, 2, 3)
    for double in (False, True):
        seen = replayed(loaded, {"x": random(4, 2, 3)}, {"a": other}, double=double)
        assert seen["a"].shape == (4, 2, 3)
        np.testing.assert_allclose(seen["y"], other.reshape(5, 6) @ weights["w"], rtol=1e-5, atol=1e-6)


def test_a_value_is_cast_to_the_type_of_the_node() -> None:
    nodes = [
        node("Greater", "x zero", "mask"), node("Cast", "x", "whole", to=TensorProto.INT32),
        node("Cast", "x", "half", to=TensorProto.BFLOAT16), node("Cast", "half", "back", to=TensorProto.FLOAT),
        node("Where", "mask back x", "y"), node("Cast", "x", "small", to=TensorProto.INT4),
        node("Cast", "small", "z", to=TensorProto.FLOAT), node("Abs", "whole", "v"),
    ]  # fmt: skip
    loaded = wrap(model(nodes, [floats("x", None, 2)], "y z v", {"zero": np.float32(0)}))
    x = np.array([[1.0, -2.0]], np.float32)
    given = {"mask": np.array([[0.0, 1.0]]), "half": np.array([[5.0, 1.001]]), "whole": np.array([[-3.0, -4.0]])}
    seen = replayed(loaded, {"x": x}, given)
    np.testing.assert_array_equal(seen["y"], [[1.0, 1.0]])
    np.testing.assert_array_equal(seen["v"], [[3, 4]])
    assert seen["v"].dtype == np.int32
    # In double precision the step through bfloat16 rounds nothing.
    np.testing.assert_array_equal(replayed(loaded, {"x": x}, given, double=True)["y"], [[1.0, 1.001]])
    with pytest.raises(ReplayError, match="'small' holds integers of four bits"):
        replayed(loaded, {"x": x}, {"small": np.zeros((1, 2))})


def test_what_is_not_wanted_is_neither_handed_over_nor_computed() -> None:
    nodes = [node("Relu", "x", "a"), node("Gather", "a far", "broken"), node("Neg", "x", "b")]
    loaded = wrap(model(nodes, [floats("x", None, 2)], "broken b", {"far": np.array([0])}))
    loaded.structure({"x": random(2, 2)})
    exchange = Exchanged({"x": random(0, 2)}, only={"x", "b"})  # there is no row 0 any more
    loaded.replay({"x": random(2, 2)}, exchange)
    assert set(exchange.seen) == {"x", "b"}
    with pytest.raises(ModelError, match=r"'broken' \(Gather\)"):
        loaded.replay({"x": random(2, 2)}, Exchanged({"x": random(0, 2)}))


def test_a_value_that_does_not_fit_names_the_layer_after_what_ran_before() -> None:
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("Conv", "r4 k", "c"), node("MatMul", "r v", "y")]
    nodes.insert(2, node("Unsqueeze", "r axes", "r4"))
    weights = {"w": random(3, 4), "v": random(4, 2), "k": random(2, 1, 1, 1), "axes": np.array([0, 1])}
    loaded = wrap(model(nodes, [floats("x", None, 3)], "y c", weights))
    for double in (False, True):
        exchange = Exchanged({"r": random(2, 5)})
        loaded.structure({"x": random(2, 3)})
        with pytest.raises(ModelError, match=r"^the model raised 'y' \(MatMul\): ") as caught:
            loaded.replay({"x": random(2, 3)}, exchange, double=double)
        assert {"x", "a", "r"} <= set(exchange.seen)
        assert "\n" not in str(caught.value)
        with pytest.raises(ModelError, match=r"'c' \(Conv\)"):  # which numpy computes in double precision
            loaded.replay({"x": random(2, 3)}, Exchanged({"r4": random(1, 2, 4)}), double=double)


def test_what_the_exchange_raises_is_passed_on() -> None:
    class Ending(Exchanged):
        def __call__(self, name: str, value: Any) -> Any:
            raise LookupError(name)

    loaded = wrap(model([node("Relu", "x", "y")], [floats("x", 2)], "y"))
    loaded.structure({"x": random(2)})
    with pytest.raises(LookupError, match="y"):
        loaded.replay({"x": random(2)}, Ending(only={"y"}))


def test_a_model_that_raised_raises_again_unless_the_exchange_mends_it() -> None:
    nodes = [node("MatMul", "x w", "a"), node("Reshape", "a to", "b"), node("Relu", "b", "y")]
    loaded = wrap(model(nodes, [floats("x", 2, 3)], "y", {"w": random(3, 4), "to": np.array([3, 4])}))
    assert loaded.structure({"x": random(2, 3)}).fault
    exchange = Exchanged()
    with pytest.raises(ModelError, match=r"'b' \(Reshape\)"):
        loaded.replay({"x": random(2, 3)}, exchange)
    assert set(exchange.seen) == {"x", "a"}
    loaded.replay({"x": random(2, 3)}, Exchanged({"a": random(4, 3)}))


# --- branches and loops ----------------------------------------------------------------------------------------


def branchy() -> OnnxModel:
    def branch(kind: str, weight: float) -> onnx.GraphProto:
        made = [node("Mul", "a inner", "m"), node(kind, "m", f"{kind}_out")]
        initial = onnx.numpy_helper.from_array(np.float32(weight), "inner")
        return helper.make_graph(made, kind, [], [floats(f"{kind}_out", None)], [initial])

    nodes = [
        node("Tanh", "x", "a"), node("ReduceSum", "a", "total", keepdims=0), node("Greater", "total zero", "positive"),
        node("If", "positive", "chosen", name="gate", then_branch=branch("Neg", 0.1), else_branch=branch("Abs", 0.3)),
        node("Exp", "chosen", "y"),
    ]  # fmt: skip
    return wrap(model(nodes, [floats("x", None)], "y", {"zero": np.float32(0)}))


def test_the_recorded_branch_is_replayed_and_another_one_is_refused() -> None:
    x = np.array([0.5, 0.25, -0.125], np.float32)
    loaded = branchy()
    other = np.array([0.75, 0.0, -0.25], np.float32)
    seen = replayed(loaded, {"x": x}, {"a": other})
    np.testing.assert_allclose(seen["y"], np.exp(-np.float32(0.1) * other), rtol=1e-6)
    doubled = replayed(loaded, {"x": x}, double=True)
    exact = np.exp(-float(np.float32(0.1)) * np.tanh(x.astype(np.float64)))
    np.testing.assert_allclose(doubled["y"], exact, rtol=1e-14)
    for double in (False, True):
        with pytest.raises(ReplayError, match="If 'gate' does not take its then branch"):
            replayed(loaded, {"x": x}, {"a": -other}, double=double)


@pytest.mark.parametrize("kind", ["Tanh", "Erf"])
def test_what_a_loop_reads_from_outside_is_exchanged(kind: str) -> None:
    """Tanh there is in double precision; Erf is not, and the loop is then run as it is."""
    body = helper.make_graph(
        [node("Add", "state a", "sum"), node(kind, "sum", "next"), node("Identity", "keep", "going")],
        "body",
        [tensor("step", TensorProto.INT64), tensor("keep", TensorProto.BOOL), floats("state", None)],
        [tensor("going", TensorProto.BOOL), floats("next", None)],
    )
    nodes = [node("Relu", "x", "a"), node("Loop", "times _ start", "end", body=body), node("Neg", "end", "y")]
    weights = {"times": np.int64(3), "start": np.zeros(2, np.float32)}
    loaded = wrap(model(nodes, [floats("x", 2)], "y", weights))
    other = np.array([0.3, -0.7], np.float32)

    def wanted(dtype: Any) -> Any:
        state = np.zeros(2, dtype)
        for _ in range(3):
            state = np.tanh(state + other) if kind == "Tanh" else np.vectorize(math.erf)(state + other)
        return -state

    seen = replayed(loaded, {"x": random(2)}, {"a": other})
    np.testing.assert_allclose(seen["y"], wanted(np.float32), rtol=1e-5)
    doubled = replayed(loaded, {"x": random(2)}, {"a": other.astype(np.float64)}, double=True)
    assert doubled["end"].dtype == doubled["y"].dtype == np.float64
    np.testing.assert_allclose(doubled["y"], wanted(np.float64), rtol=1e-15 if kind == "Tanh" else 1e-6)


# --- double precision ------------------------------------------------------------------------------------------


def convolved(x: Any, w: Any) -> Any:
    return np.einsum("nchwij,fcij->nfhw", sliding_window_view(x, w.shape[2:], (2, 3)), w)


def pooled(x: Any) -> Any:
    return sliding_window_view(x, (2, 2), (2, 3)).mean((-2, -1))


FORMULAS: dict[str, tuple[onnx.NodeProto, dict[str, Any], Callable[..., Any]]] = {
    "conv": (node("Conv", "x w", "y"), {"w": random(3, 4, 2, 3)}, convolved),
    "pool": (node("AveragePool", "x", "y", kernel_shape=[2, 2]), {}, pooled),
    "dense": (node("MatMul", "x w", "y"), {"w": random(6, 4)}, lambda x, w: x @ w),
    "gelu": (node("Gelu", "x", "y"), {}, lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
    "softplus": (node("Softplus", "x", "y"), {}, lambda x: np.log1p(np.exp(x))),
    "leaky": (node("LeakyRelu", "x", "y", alpha=0.2), {}, lambda x: np.where(x < 0, float(np.float32(0.2)) * x, x)),
    "global": (node("GlobalAveragePool", "x", "y"), {}, lambda x: x.mean((2, 3), keepdims=True)),
    "made": (node("Sub", "x one", "y"), {"one": np.float32(1 / 3)}, lambda x, one: x - one),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_double_precision_is_that_of_the_formula(name: str) -> None:
    step, weights, formula = FORMULAS[name]
    x = random(2, 4, 5, 6)
    loaded = wrap(model([step], [floats("x", *x.shape)], "y", weights))
    wanted = formula(*(value.astype(np.float64) for value in (x, *weights.values())))
    np.testing.assert_allclose(replayed(loaded, {"x": x}, double=True)["y"], wanted, rtol=0, atol=1e-14)
    single = replayed(loaded, {"x": x})["y"]
    assert single.dtype == np.float32
    assert 1e-9 < np.abs(single - wanted).max() < 1e-5


IMAGE, LINE = (2, 4, 6, 7), (5, 2, 4)
OPERATORS: dict[str, tuple[onnx.NodeProto, dict[str, Any], tuple[int, ...]]] = {
    f"{kind}{'' if not more else ' ' + ' '.join(f'{k}={v}' for k, v in more.items())}": (
        node(kind, f"x {' '.join(weights)}", outputs, **more), weights, shape
    )
    for kind, more, weights, shape, outputs in [
        ("Conv", {"group": 2, "dilations": [2, 1], "pads": [1, 0, 2, 1], "strides": [1, 2]},
         {"w": random(6, 2, 3, 2), "b": random(6)}, IMAGE, "y"),
        ("Conv", {"group": 4, "auto_pad": "SAME_LOWER", "strides": [2, 2]}, {"w": random(8, 1, 3, 2)}, IMAGE, "y"),
        ("Conv", {"auto_pad": "SAME_UPPER"}, {"w": random(3, 2, 4)}, LINE, "y"),
        ("ConvTranspose", {"strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 0], "group": 2},
         {"w": random(4, 3, 3, 2), "b": random(6)}, IMAGE, "y"),
        ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0], "strides": [2, 1]}, {}, IMAGE, "y"),
        ("AveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "count_include_pad": 1}, {}, IMAGE, "y"),
        ("BatchNormalization", {}, {k: np.abs(random(4)) for k in "abcd"}, IMAGE, "y"),
        ("InstanceNormalization", {"epsilon": 0.01}, {"s": random(4), "b": random(4)}, IMAGE, "y"),
        ("GroupNormalization", {"num_groups": 2}, {"s": random(4), "b": random(4)}, IMAGE, "y"),
        ("LayerNormalization", {}, {"s": random(7), "b": random(7)}, IMAGE, "y"),
        ("LRN", {"size": 3, "alpha": 0.4}, {}, IMAGE, "y"),
        ("LSTM", {"hidden_size": 3, "direction": "bidirectional"},
         {"w": random(2, 12, 4), "r": random(2, 12, 3), "b": random(2, 24)}, LINE, "y h c"),
        ("GRU", {"hidden_size": 3, "linear_before_reset": 1},
         {"w": random(1, 9, 4), "r": random(1, 9, 3), "b": random(1, 18)}, LINE, "y h"),
        ("Erf", {}, {}, LINE, "y"), ("Mish", {}, {}, LINE, "y"),
        ("Shrink", {"lambd": 0.01, "bias": 0.1}, {}, LINE, "y"),
        ("Elu", {"alpha": 0.7}, {}, LINE, "y"), ("Softmax", {"axis": 1}, {}, LINE, "y"),
    ]
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_double_precision_rounds_nothing_to_single(name: str) -> None:
    """A function without steps is straight over a tiny distance; one that rounds on the way jumps by 1e-8."""
    step, weights, shape = OPERATORS[name]
    loaded = wrap(model([step], [floats("x", *shape)], " ".join(step.output), weights))
    x = random(*shape)
    values = recorded(loaded, {"x": x})[1]
    way = np.random.default_rng(1).standard_normal(shape) * 1e-8
    points = [replayed(loaded, {"x": x}, {"x": x.astype(np.float64) + count * way}, double=True) for count in range(3)]
    del values["x"]
    for key, value in values.items():
        first, middle, last = (point[key] for point in points)
        assert first.dtype == np.float64
        np.testing.assert_allclose(first, value, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(first + last, 2 * middle, rtol=0, atol=1e-12)
        assert np.abs(first - last).max() > 1e-10


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
@pytest.mark.parametrize("way", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
def test_resizing_in_double_precision(mode: str, way: str) -> None:
    nodes, ends, weights = [], [], dict[str, Any]()
    for place, scales in enumerate([(2, 3), (1.7, 0.6), (1 / 3, 1), (0.4, 0.9)]):
        to = [int(15 * scales[0]), int(12 * scales[1])]
        weights |= {f"s{place}": np.array([1, 1, *scales], np.float32), f"t{place}": np.array([2, 1, *to])}
        for rounding in ("floor", "round_prefer_floor") if mode == "nearest" else ("floor",):
            settings = {"mode": mode, "coordinate_transformation_mode": way, "nearest_mode": rounding}
            ends += [f"a{place}{rounding}", f"b{place}{rounding}"]
            nodes += [
                node("Resize", f"x _ s{place}", ends[-2], **settings),
                node("Resize", f"x _ _ t{place}", ends[-1], **settings),
            ]
    loaded = wrap(model(nodes, [floats("x", 2, 1, 15, 12)], " ".join(ends), weights))
    x = random(2, 1, 15, 12)
    single = recorded(loaded, {"x": x})[1]
    finer = x + np.float64(1e-10)
    for name, value in replayed(loaded, {"x": x}, {"x": finer}, double=True).items():
        np.testing.assert_allclose(value, single[name], rtol=0, atol=1e-5, err_msg=name)
        if mode == "nearest" and name != "x":
            assert np.isin(value, finer).all()


def test_what_has_no_double_precision_is_run_in_its_own_type_between_casts() -> None:
    nodes = [
        node("QuantizeLinear", "x scale zero", "q"), node("DequantizeLinear", "q scale zero", "d"),
        node("MatMul", "d w", "m"), node("LSTM", "m k r _ lengths", "l"), node("Squeeze", "l axis", "y"),
    ]  # fmt: skip
    nodes[3].attribute.append(helper.make_attribute("hidden_size", 3))
    weights = {
        "scale": np.float32(0.05), "zero": np.int8(1), "w": random(3, 4), "k": random(1, 12, 4), "r": random(1, 12, 3),
        "lengths": np.array([4, 3], np.int32), "axis": np.array([1]),
    }  # fmt: skip
    loaded = wrap(model(nodes, [floats("x", 5, 2, 3)], "y", weights))
    x = random(5, 2, 3)
    single, double = replayed(loaded, {"x": x}), replayed(loaded, {"x": x}, double=True)
    assert double["q"].dtype == np.int8
    np.testing.assert_array_equal(double["q"], single["q"])
    np.testing.assert_array_equal(double["d"], single["d"].astype(np.float64))
    np.testing.assert_allclose(
        double["m"], single["d"].astype(np.float64) @ weights["w"].astype(np.float64), rtol=1e-14
    )
    np.testing.assert_array_equal(double["y"].astype(np.float32), double["y"])  # rounded to single at the end
    np.testing.assert_allclose(double["y"], single["y"], rtol=1e-5, atol=1e-6)
    assert {str(double[name].dtype) for name in ("x", "d", "m", "y")} == {"float64"}
    assert [op.type for op in Doubled(loaded._source.proto, loaded._whole).own] == [
        "QuantizeLinear", "DequantizeLinear", "LSTM"
    ]  # fmt: skip


def test_half_precision_becomes_double_and_what_the_file_computes_from_weights_is_computed_again() -> None:
    nodes = [
        node("Mul", "w w", "square"),  # of constants alone
        node("Cast", "x", "half", to=TensorProto.FLOAT16), node("MatMul", "half square", "m"),
        node("ConstantOfShape", "two", "zeros"), node("Cast", "zeros", "zeros16", to=TensorProto.FLOAT16),
        node("Concat", "m zeros16", "c", axis=0), node("Cast", "c", "y", to=TensorProto.FLOAT),
    ]  # fmt: skip
    w = random(3, 4).astype(np.float16)
    loaded = wrap(model(nodes, [floats("x", 2, 3)], "y", {"w": w, "two": np.array([1, 4])}))
    x = random(2, 3)
    doubled = replayed(loaded, {"x": x}, double=True)
    np.testing.assert_allclose(doubled["m"], x.astype(np.float64) @ np.square(w.astype(np.float64)), rtol=1e-14)
    np.testing.assert_allclose(doubled["y"][:2], doubled["m"], rtol=0)
    assert {str(value.dtype) for value in doubled.values()} == {"float64"}


def test_the_model_is_left_as_it_was() -> None:
    weights = {"w": random(2, 4, 3, 3), "b": random(2)}
    loaded = wrap(model([node("Conv", "x w b", "y")], [floats("x", 1, 4, 6, 6)], "y", weights))
    inputs = {"x": random(1, 4, 6, 6)}
    before = recorded(loaded, inputs)[1]["y"]
    fed = inputs["x"].copy()
    for double in (False, True):
        replayed(loaded, inputs, {"x": -fed, "y": before * 0}, double=double)
    np.testing.assert_array_equal(inputs["x"], fed)
    for _, param, value in loaded.parameters():
        np.testing.assert_array_equal(value, weights[{"weight": "w", "bias": "b"}[param.name]])
    sink = MemorySink()
    loaded.capture(inputs, sink)
    np.testing.assert_array_equal(sink.values["y"], before)
