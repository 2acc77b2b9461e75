"""Frozen graphs and SavedModels: what is recorded, that nothing in them runs unasked, what is said of bad ones."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli import run
from tracer.adapter import Array, LoadRequest, MemorySink, Run
from tracer.alignment import align
from tracer.errors import InputError, ModelError, RefusedError
from tracer.graph import Structure

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")

from tensorflow.core.protobuf import saved_model_pb2  # noqa: E402
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2  # noqa: E402

from tracer_keras import KerasAdapter  # noqa: E402
from tracer_keras.graphs.model import GraphModel  # noqa: E402

v1 = tf.compat.v1


def load(path: Path, **more: Any) -> GraphModel:
    loaded = KerasAdapter().load(LoadRequest(path, **more))
    assert isinstance(loaded, GraphModel)
    return loaded


def recorded(path: Path, **inputs: Array) -> tuple[Structure, dict[str, Any], GraphModel]:
    """Structure and values, after the checks that hold for every recording."""
    model = load(path)
    structure = model.structure(inputs)
    sink = MemorySink()
    model.capture(inputs, sink)
    assert list(sink.values) == [node.name for node in structure.stored()]
    seen: set[str] = set()
    for node in structure:
        assert node.name not in seen
        assert set(node.parents) <= seen, node
        assert node.alias_of is None or node.alias_of in seen, node
        seen.add(node.name)
        value = sink.values.get(node.name)
        if isinstance(value, np.ndarray):
            assert (value.shape, str(value.dtype)) == (node.shape, node.dtype), node
    owned = Counter((owner, param.name) for owner, param, _ in model.parameters())
    assert set(owned.values()) <= {1}
    assert {(node.owner, p.name) for node in structure for p in node.params} == set(owned)
    for _, param, value in model.parameters():
        assert (value.shape, str(value.dtype)) == (param.shape, param.dtype)
    assert Structure.from_json(structure.to_json()) == structure
    _complete(model, inputs)
    return structure, sink.values, model


def _complete(model: GraphModel, inputs: dict[str, Array]) -> None:
    """Every operation that is run is accounted for, counted against TensorFlow's own graph: what depends on the
    input's values is a node, or is left out for a reason that the operation itself shows."""
    imported = model._imported(inputs)
    accounts = imported.drawing.accounts
    operations = [op for op in imported.graph.get_operations() if op.name in model._source.flat.items]
    assert [op.name for op in operations] == [op.name for op in operations if op.name in accounts]
    assert len(accounts) == len(operations) == len(model._source.flat.items)
    placeholders = {op.name for op in operations if op.type == "Placeholder"}
    depends = placeholders | {op.name for op in operations if "Random" in op.type}
    for _ in range(2):  # the second time for what comes round a loop
        for op in operations:
            if op.type not in ("Shape", "Size", "Rank") and any(t.op.name in depends for t in op.inputs):
                depends.add(op.name)
    looped = any(op.type == "Enter" for op in operations)
    for op in operations:
        fate = accounts[op.name]
        if op.name not in depends:
            assert fate != "node" or looped, op.name
        elif fate == "passed on":
            assert op.type in ("Identity", "IdentityN", "StopGradient"), op.name
        elif fate == "no tensor":
            assert {t.dtype.base_dtype.name for t in op.outputs} & {"variant", "resource"}, op.name
        elif fate == "inside a loop or branch":
            assert looped, op.name
        else:
            assert fate == "node", (op.name, fate)


def rand(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def network(library: Any) -> Any:
    layers = library.layers
    image = library.Input((12, 12, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Activation("gelu", name="gelu")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise", padding="same")(x)
    x = layers.Activation("swish", name="swish")(x)
    x = layers.SeparableConv2D(6, 3, name="separable")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Reshape((16, 6), name="rows")(x)
    x = layers.LayerNormalization(name="ln")(x)
    x = layers.Dense(5, name="dense")(x)
    x = layers.Conv1D(5, 2, strides=5, name="conv1d")(x)
    x = layers.LSTM(7, name="lstm")(x)
    model = library.Model(image, layers.Dense(3, activation="softmax", name="probs")(x))
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if layer.name == "bn":
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


LAYERS = {
    "image": "input",
    "conv/preactivation": "conv2d",
    "conv": "relu",
    "bn": "batchnorm",
    "gelu": "gelu",
    "depthwise": "depthwise_conv2d",
    "swish": "silu",
    "separable": "separable_conv2d",
    "rows": "reshape",
    "ln": "layernorm",
    "dense": "dense",
    "conv1d": "conv1d",
    "lstm": "lstm",
    "probs/preactivation": "dense",
    "probs": "softmax",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One network of each Keras: the model, and its files."""
    folder = tmp_path_factory.mktemp("graphs")
    tf_keras.utils.set_random_seed(0)
    three, two = network(keras), network(tf_keras)
    three.export(str(folder / "three"), verbose=False)
    two.save(str(folder / "two"), save_format="tf")
    function = tf.function(lambda x: three(x, training=False))
    frozen = convert_variables_to_constants_v2(
        function.get_concrete_function(tf.TensorSpec((None, 12, 12, 3), name="image")), lower_control_flow=False
    )
    (folder / "frozen.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    return {
        "three": three, "two": two, "frozen": three,
        "paths": {"three": folder / "three", "two": folder / "two", "frozen": folder / "frozen.pb"},
    }  # fmt: skip


@pytest.mark.parametrize("which", ["three", "two", "frozen"])
def test_a_keras_model_as_a_graph_reads_like_the_model(saved: dict[str, Any], which: str) -> None:
    x = rand(2, 12, 12, 3)
    structure, values, model = recorded(saved["paths"][which], image=x)
    shown = {node.name: node.kind for node in structure if node.role != "inner"}
    assert shown == LAYERS
    assert model.loader == f"tensorflow {tf.__version__} graph"
    assert model.signature()[0].shape == (None, 12, 12, 3)
    assert model.signature()[0].layout == "channels_last"
    by = structure.by_name
    assert by["conv/preactivation"].role == "activation"
    assert by["conv"].parents == ("conv/preactivation",)
    assert by["bn"].parents == ("conv",)
    assert [p.name for p in by["bn"].params] == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert by["bn"].config["epsilon"] == 0.001
    assert by["ln"].config["epsilon"] == 0.001
    assert by["conv/preactivation"].config["strides"] == [2, 2]
    assert by["conv/preactivation"].config["padding"] == "same"
    assert structure.outputs == ("probs",)
    twin = saved[which]
    wrapped = KerasAdapter().wrap(twin)
    sink = MemorySink()
    own = wrapped.structure({"image": x})
    wrapped.capture({"image": x}, sink)
    for name in LAYERS:
        np.testing.assert_array_equal(values[name], sink.values[name], err_msg=name)
    weights = {(owner, p.name): value for owner, p, value in model.parameters()}
    for owner, param, value in wrapped.parameters():
        name = {"depthwise_kernel": "kernel"}.get(param.name, param.name) if owner == "depthwise" else param.name
        if (owner, name) in weights:
            np.testing.assert_array_equal(weights.pop((owner, name)), value)
    assert not weights
    pairs = {pair.reference: pair.candidate for pair in align(own, structure).pairs}
    assert pairs == {(name,): (name,) for name in LAYERS}


def test_the_operations_inside_a_layer_are_recorded_but_not_compared(saved: dict[str, Any]) -> None:
    x = rand(2, 12, 12, 3)
    structure, values, _ = recorded(saved["paths"]["three"], image=x)
    inner = [node for node in structure if node.role == "inner"]
    (product,) = (node for node in inner if node.name == "bn/batchnorm/mul_1")
    assert product.parents == ("conv",)
    scale = values[product.name] / np.where(values["conv"] == 0, 1, values["conv"])
    gamma, _, _, variance = saved["three"].get_layer("bn").get_weights()
    expected = gamma / np.sqrt(variance + 1e-3)
    where = values["conv"] != 0
    np.testing.assert_allclose(scale[where], np.broadcast_to(expected, scale.shape)[where], rtol=1e-5)
    other = align(structure, structure)
    assert not {name for pair in other.pairs for name in pair.reference} & {node.name for node in inner}
    assert any("inside layers" in note for note in structure.notes)
    assert any("compute shapes" in note for note in structure.notes)


def test_only_what_the_sink_wants_is_copied_and_large_graphs_run_in_pieces(
    saved: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rand(2, 12, 12, 3)
    model = load(saved["paths"]["frozen"])
    model.structure({"image": x})
    whole, some, pieces = MemorySink(), MemorySink(only=frozenset({"ln", "probs"})), MemorySink()
    model.capture({"image": x}, whole)
    model.capture({"image": x}, some)
    assert list(some.values) == ["ln", "probs"]
    monkeypatch.setattr("tracer_keras.graphs.model._SEGMENT", 2000)
    ran: list[tuple[int, int]] = []
    imported = model._imported({"image": x})
    plain = imported.run
    monkeypatch.setattr(
        imported, "run", lambda tensors, feeds: ran.append((len(tensors), len(feeds))) or plain(tensors, feeds)
    )
    model.capture({"image": x}, pieces)
    assert len(ran) > 3
    assert max(fed for _, fed in ran[1:]) <= 5  # what is read later, and no more
    for name, value in whole.values.items():
        np.testing.assert_array_equal(pieces.values[name], value)


# -- graphs of TensorFlow 1 ----------------------------------------------------------------------------------------


def _norm(x: Any, training: Any) -> Any:
    with v1.variable_scope("BatchNorm"):

        def weight(name: str, low: float) -> Any:
            return v1.get_variable(name, [x.shape[-1]], initializer=v1.random_uniform_initializer(low, low + 1, seed=3))

        gamma, beta, mean, variance = (
            weight(name, low)
            for name, low in (("gamma", 0.5), ("beta", -0.5), ("moving_mean", -0.5), ("moving_variance", 0.5))
        )

        def train() -> Any:
            now, spread = tf.nn.moments(x, [0, 1, 2])
            with v1.control_dependencies([v1.assign(mean, now), v1.assign(variance, spread)]):
                return tf.identity(now), tf.identity(spread)

        used = v1.cond(training, train, lambda: (tf.identity(mean), tf.identity(variance)))
        return tf.nn.batch_normalization(x, *used, beta, gamma, 1e-3)


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Array, Array]:
    """A graph as TF-slim made them, with its training parts: frozen, as a SavedModel, an input and the output."""
    folder = tmp_path_factory.mktemp("slim")
    x = rand(2, 16, 16, 3)
    with tf.Graph().as_default() as graph:
        v1.disable_control_flow_v2()
        v1.disable_resource_variables()
        try:
            image = v1.placeholder(tf.float32, [None, 16, 16, 3], name="input")
            training = v1.placeholder(tf.bool, [], name="is_training")
            labels = v1.placeholder(tf.int64, [None], name="labels")
            keep = v1.placeholder(tf.float32, [], name="keep_prob")
            with v1.variable_scope("MobilenetV1"):
                with v1.variable_scope("Conv2d_0"):
                    w = v1.get_variable("weights", [3, 3, 3, 8])
                    h = tf.nn.relu6(_norm(v1.nn.conv2d(image, w, [1, 2, 2, 1], "SAME", name="Conv2D"), training))
                with v1.variable_scope("Conv2d_1_depthwise"):
                    w = v1.get_variable("depthwise_weights", [3, 3, 8, 1])
                    h = tf.nn.depthwise_conv2d(h, w, [1, 1, 1, 1], "SAME", name="depthwise")
                    h = tf.nn.relu6(_norm(h, training))
                with v1.variable_scope("Logits"):
                    h = tf.nn.avg_pool2d(h, 8, 1, "VALID", name="AvgPool_1a")
                    h = v1.nn.dropout(h, keep_prob=keep)
                    with v1.variable_scope("Conv2d_1c_1x1"):
                        w, b = v1.get_variable("weights", [1, 1, 8, 5]), v1.get_variable("biases", [5])
                        h = tf.nn.bias_add(v1.nn.conv2d(h, w, [1, 1, 1, 1], "SAME", name="Conv2D"), b)
                    h = tf.squeeze(h, [1, 2], name="SpatialSqueeze")
                    # What MTCNN's graphs hold for PReLU.
                    a = v1.get_variable("alpha", [5], initializer=v1.random_uniform_initializer(0, 1, seed=5))
                    h = tf.nn.relu(h) + tf.multiply(a, -tf.nn.relu(-h))
                h = tf.nn.softmax(h, name="Predictions")
            out = tf.identity(h, name="output")
            right = tf.cast(tf.equal(tf.argmax(h, 1), labels), tf.float32)
            accuracy = tf.reduce_mean(right, name="accuracy")
            v1.summary.scalar("accuracy", accuracy)
            with v1.Session(graph=graph) as session:
                session.run(v1.global_variables_initializer())
                v1.saved_model.simple_save(session, str(folder / "saved"), {"images": image}, {"classes": out})
                expected = session.run(out, {image: x, training: False, keep: 1.0})
                frozen = v1.graph_util.convert_variables_to_constants(
                    session, graph.as_graph_def(), ["output", "accuracy"]
                )
        finally:
            v1.enable_control_flow_v2()
            v1.enable_resource_variables()
    (folder / "frozen.pb").write_bytes(frozen.SerializeToString())
    return folder / "frozen.pb", folder / "saved", x, expected


def test_a_slim_graph_reads_like_its_network(slim: tuple[Path, Path, Array, Array]) -> None:
    path, saved, x, expected = slim
    with pytest.raises(InputError, match=r"several ends.*output.*accuracy.*--outputs"):
        load(path)
    with pytest.raises(InputError, match="did you mean output"):
        load(path, outputs=("outptu",))
    model = load(path, outputs=("output",))
    structure = model.structure({"input": x})
    shown = [(node.name, node.kind) for node in structure if node.role != "inner"]
    top = "MobilenetV1/"
    assert shown == [
        ("input", "input"),
        (top + "Conv2d_0/Conv2D", "conv2d"),
        (top + "Conv2d_0/BatchNorm", "batchnorm"),
        (top + "Conv2d_0/Relu6", "relu6"),
        (top + "Conv2d_1_depthwise/depthwise", "depthwise_conv2d"),
        (top + "Conv2d_1_depthwise/BatchNorm", "batchnorm"),
        (top + "Conv2d_1_depthwise/Relu6", "relu6"),
        (top + "Logits/AvgPool_1a", "avg_pool2d"),
        (top + "Logits/dropout", "dropout"),
        (top + "Logits/Conv2d_1c_1x1", "conv2d"),
        (top + "Logits/SpatialSqueeze", "squeeze"),
        (top + "Logits/add", "prelu"),
        (top + "Predictions", "softmax"),
        ("output", "identity"),
    ]
    assert any("is_training" in note for note in model.notes)
    assert any("keep_prob" in note for note in model.notes)
    other, values, _ = recorded(saved, images=x)
    assert [(n.name, n.kind) for n in other if n.role != "inner"][1:] == shown[1:]
    sink = MemorySink()
    model.capture({"input": x}, sink)
    for name in (top + "Predictions", top + "Conv2d_0/BatchNorm"):
        np.testing.assert_array_equal(sink.values[name], values[name])
    np.testing.assert_array_equal(values[top + "Predictions"], expected)
    norm = other.by_name[top + "Conv2d_0/BatchNorm"]
    assert [p.name for p in norm.params] == ["gamma", "beta", "moving_mean", "moving_variance"]
    weights = {p.name: value for owner, p, value in model.parameters() if owner == norm.name}
    before, after = sink.values[top + "Conv2d_0/Conv2D"], sink.values[norm.name]
    scale = weights["gamma"] / np.sqrt(weights["moving_variance"] + norm.config["epsilon"])
    np.testing.assert_allclose(after, (before - weights["moving_mean"]) * scale + weights["beta"], atol=1e-5)


def test_a_port_to_pytorch_pairs_with_the_frozen_graph(slim: tuple[Path, Path, Array, Array]) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    port = nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.AvgPool2d(8), nn.Conv2d(8, 5, 1), nn.Flatten(), nn.PReLU(5), nn.Softmax(1),
    ).eval()  # fmt: skip
    from tracer_torch import TorchAdapter

    path, _, x, _ = slim
    structure = load(path, outputs=("output",)).structure({"input": x})
    wrapped = TorchAdapter().wrap(port)
    name = wrapped.signature()[0].name
    theirs = wrapped.structure({name: np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    found = align(structure, theirs)
    pairs = {pair.reference[-1].removeprefix("MobilenetV1/"): pair.candidate[-1] for pair in found.pairs}
    weighted = {node.name.removeprefix("MobilenetV1/"): pairs.get(node.name.removeprefix("MobilenetV1/"))
                for node in structure if node.params}  # fmt: skip
    assert weighted == {
        "Conv2d_0/Conv2D": "1", "Conv2d_0/BatchNorm": "2", "Conv2d_1_depthwise/depthwise": "4",
        "Conv2d_1_depthwise/BatchNorm": "5", "Logits/Conv2d_1c_1x1": "8", "Logits/add": "10",
    }  # fmt: skip


def test_a_loop_of_the_old_kind_is_one_layer(tmp_path: Path) -> None:
    x = rand(2, 6, 5)
    with tf.Graph().as_default() as graph:
        v1.disable_control_flow_v2()
        try:
            given = v1.placeholder(tf.float32, [None, 6, 5], name="x")
            kernel, bias = tf.constant(rand(9, 16)), tf.constant(rand(16))
            with v1.name_scope("rnn"):
                steps = tf.TensorArray(tf.float32, 6).unstack(tf.transpose(given, [1, 0, 2]))
                zeros = tf.zeros([tf.shape(given)[0], 4])

                def step(t: Any, c: Any, h: Any, out: Any) -> Any:
                    z = tf.matmul(tf.concat([steps.read(t), h], 1), kernel) + bias
                    i, j, f, o = tf.split(z, 4, 1)
                    c = c * tf.sigmoid(f) + tf.sigmoid(i) * tf.tanh(j)
                    h = tf.tanh(c) * tf.sigmoid(o)
                    return t + 1, c, h, out.write(t, h)

                start = [0, zeros, zeros, tf.TensorArray(tf.float32, 6)]
                stack = v1.while_loop(lambda t, *_: t < 6, step, start)[3].stack()
            v1.nn.xw_plus_b(stack[-1], rand(4, 3), rand(3), name="logits")
            with v1.Session(graph=graph) as session:
                expected = session.run("logits:0", {given: x})
        finally:
            v1.enable_control_flow_v2()
    (tmp_path / "rnn.pb").write_bytes(graph.as_graph_def().SerializeToString())
    structure, values, _ = recorded(tmp_path / "rnn.pb", x=x)
    kinds = {node.name: node.kind for node in structure if node.role != "inner"}
    assert kinds == {"x": "input", "rnn": "lstm", "strided_slice": "slice", "logits": "dense"}
    assert [p.shape for p in structure.by_name["rnn"].params] == [(9, 16), (16,)]
    assert structure.by_name["rnn"].parents == ("x",)
    assert structure.by_name["rnn"].shape == (6, 2, 4)  # known only after a run
    np.testing.assert_array_equal(values["logits"], expected)
    assert any("one operation" in note for note in structure.notes)


def test_a_normalisation_of_a_mean_and_a_residual_around_it(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 3, 3, 6], name="x")
        pooled = tf.reduce_mean(x, [1, 2], name="pool")
        mean, variance = tf.nn.moments(pooled, [-1], keepdims=True)
        normal = tf.nn.batch_normalization(pooled, mean, variance, rand(6), rand(6) + 2, 1e-6, name="norm")
        tf.add(pooled, normal, name="sum")
    (tmp_path / "g.pb").write_bytes(graph.as_graph_def().SerializeToString())
    structure, values, _ = recorded(tmp_path / "g.pb", x=rand(2, 3, 3, 6))
    shown = [node for node in structure if node.role != "inner"]
    assert [node.kind for node in shown] == ["input", "global_avg_pool", "layernorm", "add"]
    assert shown[3].parents == ("pool", shown[2].name)
    assert shown[2].config == {"epsilon": 1e-6, "axis": -1}
    assert [p.name for p in shown[2].params] == ["gamma", "beta"]
    np.testing.assert_array_equal(values["sum"], values["pool"] + values[shown[2].name])


def test_a_published_saved_model(tmp_path: Path) -> None:
    """basic-pitch's: 668 operations, most of them a constant-Q transform that is spelled out."""
    found = find_spec("basic_pitch")
    if found is None or found.origin is None:
        pytest.skip("basic-pitch is not installed")
    path = Path(found.origin).parent / "saved_models" / "icassp_2022" / "nmp"
    x = rand(2, 43844, 1)
    structure, values, model = recorded(path, input_2=x)
    shown = [node for node in structure if node.role != "inner"]
    assert len(model._source.flat.items) > 650
    assert len(shown) < 200
    kinds = Counter(node.kind for node in shown)
    assert (kinds["conv2d"], kinds["conv1d"], kinds["batchnorm"]) == (6, 26, 3)
    assert {"batch_normalization_2", "conv2d_3", "conv2d_3/preactivation", "contours-reduced"} <= set(values)
    expected = tf.saved_model.load(str(path)).signatures["serving_default"](tf.constant(x))
    for name, end in zip(sorted(expected), structure.outputs, strict=True):
        np.testing.assert_allclose(values[end], expected[name].numpy(), atol=1e-5)


def test_a_failing_operation_is_named_and_what_ran_before_is_handed_over(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        ids = tf.cast(tf.nn.relu(x, name="first"), tf.int32, name="ids")
        tf.nn.tanh(tf.gather(tf.constant(rand(3, 2)), ids, name="look"), name="last")
    (tmp_path / "g.pb").write_bytes(graph.as_graph_def().SerializeToString())
    model = load(tmp_path / "g.pb")
    x = np.full((2, 4), 7, "float32")
    sink = MemorySink()
    model.structure({"x": x})
    with pytest.raises(ModelError, match=r"node 'look' raised InvalidArgumentError: .*7"):
        model.capture({"x": x}, sink)
    assert list(sink.values) == ["x", "first", "ids"]


def test_inputs_and_outputs_cut_the_graph(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        middle = tf.nn.relu(x @ tf.constant(rand(4, 6)), name="scope/middle")
        tf.nn.tanh(middle @ tf.constant(rand(6, 2)), name="one")
        tf.nn.tanh(middle @ tf.constant(rand(6, 3)), name="two")
    path = tmp_path / "g.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    both = load(path)
    assert both.structure({"x": rand(3, 4)}).outputs == ("one", "two")
    assert any("one, two: --outputs" in note for note in both.notes)
    part = load(path, inputs=("middle",), outputs=("two:0",))
    assert [spec.name for spec in part.signature()] == ["scope/middle"]
    assert part.signature()[0].shape is None
    structure = part.structure({"scope/middle": rand(3, 6)})
    assert [node.name for node in structure] == ["scope/middle", "matmul_2", "two"]
    with pytest.raises(InputError, match="also need x"):
        load(path, inputs=("one",), outputs=("two",))
    with pytest.raises(InputError, match="are for graphs"):
        KerasAdapter().preflight(LoadRequest(tmp_path / "m.keras", outputs=("a",)))


def test_signatures(tmp_path: Path) -> None:
    class Two(tf.Module):
        def __init__(self) -> None:
            self.w = tf.Variable(rand(4, 2), name="w")

        @tf.function(input_signature=[tf.TensorSpec((None, 4), name="x")])
        def small(self, x: Any) -> Any:
            return {"y": tf.nn.relu(x @ self.w)}

        @tf.function(input_signature=[tf.TensorSpec((None, 2), name="x")])
        def large(self, x: Any) -> Any:
            return {"z": x @ tf.transpose(self.w)}

    module = Two()
    signatures = {"small": module.small, "large": module.large}
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=signatures)
    with pytest.raises(InputError, match=r"no default among its signatures.*(small, large|large, small).*--outputs"):
        load(tmp_path / "m")
    for outputs in (("large",), ("z",)):
        model = load(tmp_path / "m", outputs=outputs)
        sink = MemorySink()
        model.structure({"x": rand(3, 2)})
        model.capture({"x": rand(3, 2)}, sink)
        np.testing.assert_allclose(list(sink.values.values())[-1], rand(3, 2) @ module.w.numpy().T, rtol=1e-6)


def test_a_graph_only_runs_as_saved(saved: dict[str, Any]) -> None:
    model = load(saved["paths"]["frozen"])
    for how, words in ((Run(mode="train"), "no training mode"), (Run(loss="sum"), "no gradients")):
        model.run = how
        with pytest.raises(InputError, match=words):
            model.structure({"image": rand(2, 12, 12, 3)})
    model.run = Run()
    with pytest.raises(InputError, match="12, 12, 3"):
        model.structure({"image": rand(2, 11, 12, 3)})


# -- files that should not be trusted, or are not what they say ----------------------------------------------------


def _graph(*nodes: tuple[str, str, list[str], dict[str, Any]]) -> Any:
    graph = v1.GraphDef()
    graph.versions.producer = 1000
    for name, op, inputs, attributes in nodes:
        node = graph.node.add(name=name, op=op, input=inputs)
        for key, value in attributes.items():
            if isinstance(value, str):
                node.attr[key].func.name = value
            elif isinstance(value, bytes):
                node.attr[key].s = value
            elif isinstance(value, list):
                node.attr[key].list.type.extend(kind.as_datatype_enum for kind in value)
            elif isinstance(value, tf.DType):
                node.attr[key].type = value.as_datatype_enum
            else:
                node.attr[key].tensor.CopyFrom(value)
    return graph


X = ("x", "Placeholder", [], {"dtype": tf.float32})
Y = ("y", "Relu", ["x"], {"T": tf.float32})


def _text(name: str, text: bytes) -> tuple[str, str, list[str], dict[str, Any]]:
    return name, "Const", [], {"dtype": tf.string, "value": tf.make_tensor_proto(text)}


def hostile(target: Path) -> dict[str, Any]:
    """Nodes that would do something to the machine, by the operation they are refused for."""
    file = _text("file", str(target).encode())
    return {
        "WriteFile": [file, ("w", "WriteFile", ["file", "file"], {})],
        "ReadFile": [file, ("w", "ReadFile", ["file"], {})],
        "MatchingFiles": [file, ("w", "MatchingFiles", ["file"], {})],
        "PyFunc": [("w", "PyFunc", ["x"], {"token": b"f", "Tin": [tf.float32], "Tout": [tf.float32]})],
        "ImmutableConst": [("w", "ImmutableConst", [], {"dtype": tf.float32, "memory_region_name": b"/etc/passwd"})],
        "Abort": [("w", "Abort", [], {})],
        "MyOwnOp": [("w", "MyOwnOp", ["x"], {"T": tf.float32})],
    }


@pytest.mark.parametrize("op", list(hostile(Path())))
@pytest.mark.parametrize("place", ["graph", "function", "saved model"])
def test_operations_that_do_more_than_compute_are_refused(tmp_path: Path, op: str, place: str) -> None:
    target = tmp_path / "written"
    nodes = hostile(target)[op]
    if place == "function":
        graph = _graph(X, Y)
        function = graph.library.function.add()
        function.signature.name = "hidden"
        function.node_def.extend(_graph(*nodes).node)
    else:
        graph = _graph(X, Y, *nodes)
    path = tmp_path / "g.pb"
    if place == "saved model":
        model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
        meta = model.meta_graphs.add()
        meta.meta_info_def.tags.append("serve")
        meta.graph_def.CopyFrom(graph)
        meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "w"
        signature = meta.signature_def["serving_default"]
        signature.inputs["x"].name, signature.outputs["y"].name = "x:0", "y:0"
        path = tmp_path / "model"
        path.mkdir()
        (path / "saved_model.pb").write_bytes(model.SerializeToString())
    else:
        path.write_bytes(graph.SerializeToString())
    request = LoadRequest(path)
    with pytest.raises(RefusedError, match=rf"{op} in 'w'.*--trust"):
        KerasAdapter().preflight(request)
    assert any(op in sentence for sentence in KerasAdapter().runs_code(request))
    # What is vouched for is not run either when the outputs do not need it.
    loaded = load(path, trust=True, outputs=("y",))
    assert [node.name for node in loaded.structure({"x": rand(2, 3)})] == ["x", "y"]
    assert not target.exists()


def test_an_operation_that_hides_behind_a_function_s_name_is_refused(tmp_path: Path) -> None:
    """TensorFlow looks a function's name up among its operations when the library does not hold it."""
    call = ("y", "PartitionedCall", ["x"], {"f": "ReadFile", "Tin": [tf.float32], "Tout": [tf.float32]})
    (tmp_path / "g.pb").write_bytes(_graph(X, call).SerializeToString())
    with pytest.raises(RefusedError, match="ReadFile in 'y'"):
        load(tmp_path / "g.pb")


def test_a_function_with_an_operation_s_name_is_refused(tmp_path: Path) -> None:
    """The list would take ``ReadFile`` in a branch for the file's own function."""
    kinds = {"Tcond": tf.float32, "Tin": [tf.float32], "Tout": [tf.float32]}
    graph = _graph(X, ("y", "If", ["x", "x"], {"then_branch": "branch", "else_branch": "branch", **kinds}))
    for name, body in (("branch", ("r", "ReadFile", ["a"], {})), ("ReadFile", ("r", "Relu", ["a"], {"T": tf.float32}))):
        function = graph.library.function.add()
        function.signature.name = name
        function.signature.input_arg.add(name="a", type=1)
        function.signature.output_arg.add(name="b", type=1)
        function.node_def.extend(_graph(body).node)
        function.ret["b"] = "r:activations:0"
    (tmp_path / "g.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(RefusedError, match="ReadFile in 'r'"):
        load(tmp_path / "g.pb")


@pytest.mark.parametrize("how", ["call", "branch", "bomb"])
def test_functions_without_end_are_refused(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    types = {"Tin": [tf.float32], "Tout": [tf.float32]}
    graph = _graph(X, ("y", "PartitionedCall", ["x"], {"f": "f0", **types}))
    depth = 40 if how == "bomb" else 1
    monkeypatch.setattr("tracer_keras.graphs.flat._MOST_NODES", 5000)
    for number in range(depth):
        function = graph.library.function.add()
        function.signature.name = f"f{number}"
        function.signature.input_arg.add(name="a", type=1)
        function.signature.output_arg.add(name="b", type=1)
        following = f"f{(number + 1) % depth}"
        if how == "branch":
            branches = {"then_branch": following, "else_branch": following, "Tcond": tf.float32, **types}
            function.node_def.extend(_graph(("c", "If", ["a", "a"], branches)).node)
        else:
            calls = [("c", "PartitionedCall", ["a"], {"f": following, **types})]
            if how == "bomb":
                calls = [*calls, ("d", "PartitionedCall", ["c:output:0"], {"f": following, **types})]
            function.node_def.extend(_graph(*calls).node)
        function.ret["b"] = "d:output:0" if how == "bomb" else "c:output:0"
    (tmp_path / "g.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(RefusedError, match=r"without end|unfold to over"):
        load(tmp_path / "g.pb")


def test_constants_that_unpack_to_more_than_the_file_are_refused(tmp_path: Path) -> None:
    value = tf.make_tensor_proto(1.0, shape=[1 << 20, 1 << 12])
    big = ("c", "Const", [], {"dtype": tf.float32, "value": value})
    (tmp_path / "g.pb").write_bytes(_graph(X, big, ("y", "AddV2", ["x", "c"], {"T": tf.float32})).SerializeToString())
    with pytest.raises(RefusedError, match="unpack to 16384 MiB"):
        load(tmp_path / "g.pb")


def test_the_last_of_two_names_of_an_operation_is_checked_too(tmp_path: Path) -> None:
    """A field that occurs twice counts last for TensorFlow's parser."""
    node = _graph(Y).node[0].SerializeToString() + b"\x12\x08ReadFile"
    graph = _graph(X).SerializeToString() + b"\x0a" + bytes([len(node)]) + node
    (tmp_path / "g.pb").write_bytes(graph)
    with pytest.raises(RefusedError, match="ReadFile"):
        KerasAdapter().preflight(LoadRequest(tmp_path / "g.pb"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pb", b"", "is empty"),
        ("a.pb", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs pointer"),
        ("a.pb", b"<!doctype html><html></html>", "web page"),
        ("a.pb", b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:\x00", "ONNX"),
        ("a.pb", b"node {\n  name: \"x\"\n}\n", "text form"),
        ("a.pbtxt", b"# a graph\n", "text form"),
        ("a.pb", bytes(range(1, 250)), "no TensorFlow graph"),
        ("a.pb", _graph(X, Y).SerializeToString()[:-3], "no TensorFlow graph, or it is truncated"),
        ("a.pb", _graph(X, ("y", "Relu", ["gone"], {"T": tf.float32})).SerializeToString(), "'y' reads 'gone'"),
        ("a.pb", _graph(("c", "Const", [], {"dtype": tf.float32, "value": tf.make_tensor_proto(1.0)}))
         .SerializeToString(), "no output that depends on an input"),
        ("a.pb", _graph(("v", "VarHandleOp", [], {"dtype": tf.float32}), X,
                        ("r", "ReadVariableOp", ["v"], {"dtype": tf.float32}),
                        ("y", "AddV2", ["x", "r"], {"T": tf.float32})).SerializeToString(), "not frozen"),
        ("a.pb", _graph(("a", "Relu", ["b"], {"T": tf.float32}), ("b", "Relu", ["a"], {"T": tf.float32}))
         .SerializeToString(), "reads its own output|no output"),
        ("folder/readme.txt", b"x", "without a saved_model.pb"),
        ("folder/saved_model.pbtxt", b"x", "text form"),
        ("folder/saved_model.pb", b"\x08\x01", "not a SavedModel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",  # a protobuf's bytes are not the same every time
)  # fmt: skip
def test_what_is_no_graph_is_said_in_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path = path.parent if "/" in name else path
    with pytest.raises(InputError, match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_a_saved_model_without_its_variables(saved: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes((saved["paths"]["three"] / "saved_model.pb").read_bytes())
    with pytest.raises(InputError, match=r"no variables/variables\.index"):
        load(tmp_path)
    (tmp_path / "variables").mkdir()
    for part in (saved["paths"]["three"] / "variables").iterdir():
        (tmp_path / "variables" / part.name).write_bytes(part.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot read the variable"):
        load(tmp_path).structure({"image": rand(2, 12, 12, 3)})


def test_claims(saved: dict[str, Any], tmp_path: Path) -> None:
    assert KerasAdapter.claims(saved["paths"]["three"])
    assert KerasAdapter.claims(saved["paths"]["frozen"])
    assert not KerasAdapter.claims(tmp_path)


def test_through_the_command_line_in_a_confined_worker(saved: dict[str, Any], tmp_path: Path) -> None:
    trace = str(tmp_path / "t.zarr")
    for name in ("three", "frozen"):
        run("record", "tf", saved["paths"][name], "--name", name, "--trace", trace, cwd=tmp_path)
    done = run("diff", "three", "frozen", "--trace", trace, "--json", "--atol", "0", "--rtol", "0", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["verdict"] == "match"
    assert len(found["pairs"]) == len(LAYERS)
    assert found["unmatched"] == {"reference": [], "candidate": []}
