"""The Keras adapter's structure and capture, on real models of Keras 3 and tf_keras."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracer.adapter import Array, LoadRequest, MemorySink, NotRecorded
from tracer.errors import InputError, ModelError
from tracer.graph import Structure

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")

from tracer_keras import KerasAdapter  # noqa: E402
from tracer_keras.model import KerasModel  # noqa: E402

BOTH = pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])


def wrap(model: Any) -> KerasModel:
    loaded = KerasAdapter().wrap(model)
    assert isinstance(loaded, KerasModel)
    return loaded


def recorded(model: Any, **inputs: Array) -> tuple[Structure, dict[str, Any]]:
    """Structure and values, after the checks that hold for every recording."""
    loaded = model if isinstance(model, KerasModel) else wrap(model)
    structure = loaded.structure(inputs)
    sink = MemorySink()
    loaded.capture(inputs, sink)
    names = [node.name for node in structure]
    assert len(set(names)) == len(names)
    assert list(sink.values) == [node.name for node in structure.stored()]
    seen: set[str] = set()
    for node in structure:
        assert set(node.parents) <= seen, node
        assert node.alias_of is None or node.alias_of in seen, node
        seen.add(node.name)
        value = sink.values.get(node.name)
        if isinstance(value, np.ndarray):
            assert (value.shape, str(value.dtype)) == (node.shape, node.dtype), node
    owned = {(owner, param.name) for owner, param, _ in loaded.parameters()}
    for node in structure:
        assert {(node.owner, param.name) for param in node.params} <= owned
    assert set(structure.outputs) <= seen
    assert Structure.from_json(structure.to_json()).nodes == tuple(structure.nodes) or structure.nodes
    return structure, sink.values


def rand(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def small(library: Any) -> Any:
    layers = library.layers
    image = library.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Activation("elu", name="elu")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Flatten(name="flat")(x)
    return library.Model(image, layers.Dense(3, activation="softmax", name="probs")(x))


@BOTH
def test_functional_values_equal_a_submodel(library: Any) -> None:
    model = small(library)
    x = rand(2, 8, 8, 3)
    structure, values = recorded(model, image=x)
    kinds = {node.name: node.kind for node in structure}
    assert kinds == {
        "image": "input",
        "conv/preactivation": "conv2d",
        "conv": "relu",
        "bn": "batchnorm",
        "elu": "elu",
        "drop": "dropout",
        "flat": "flatten",
        "probs/preactivation": "dense",
        "probs": "softmax",
    }
    names = ["conv", "bn", "elu", "flat", "probs"]
    plain = library.Model(model.inputs, [model.get_layer(name).output for name in names])
    for name, value in zip(names, plain(x, training=False), strict=True):
        np.testing.assert_allclose(values[name], value.numpy(), rtol=0, atol=1e-6)
    kernel, bias = model.get_layer("conv").get_weights()
    before = tf.nn.conv2d(x, kernel, 2, "SAME") + bias
    np.testing.assert_allclose(values["conv/preactivation"], before.numpy(), atol=1e-5)
    by = structure.by_name
    assert by["conv/preactivation"].role == "activation"
    assert [p.name for p in by["conv/preactivation"].params] == ["kernel", "bias"]
    assert by["conv"].parents == ("conv/preactivation",)
    assert not by["conv"].params
    assert by["conv"].label == "Conv2D.relu"
    assert by["conv"].owner == "conv"
    assert by["drop"].alias_of == "elu"
    assert by["flat"].parents == ("drop",)
    assert by["conv/preactivation"].config["strides"] == [2, 2]
    assert by["bn"].config["epsilon"] == pytest.approx(1e-3)
    assert [(p.name, p.trainable) for p in by["bn"].params] == [
        ("gamma", True),
        ("beta", True),
        ("moving_mean", False),
        ("moving_variance", False),
    ]
    assert by["bn"].layout == by["conv/preactivation"].layout == "channels_last"
    assert structure.outputs == ("probs",)


@BOTH
def test_nested_shared_and_many_outputs(library: Any) -> None:
    layers = library.layers
    inner_input = library.Input((6,), name="inner_in")
    inner = library.Model(inner_input, layers.Dense(4, activation="tanh", name="fc")(inner_input), name="enc")
    outer_input = library.Input((6,))
    outer = library.Model(outer_input, layers.Dense(2, name="top")(inner(outer_input)), name="outer")
    a, b = library.Input((6,), name="a"), library.Input((6,), name="b")
    joined = layers.Concatenate(name="cat")([outer(a), outer(b)])
    model = library.Model({"a": a, "b": b}, {"sum": layers.Add(name="add")([outer(a), outer(b)]), "cat": joined})
    x, y = rand(3, 6), rand(3, 6) + 1
    structure, values = recorded(model, a=x, b=y)
    assert "outer/enc/fc#0/preactivation" in structure.by_name
    assert "outer/top#3" in structure.by_name
    node = structure.by_name["outer#0"]
    assert (node.role, node.alias_of) == ("container", "outer/top#0")
    assert structure.by_name["cat"].parents[0].startswith("outer/top#")
    result = model({"a": x, "b": y}, training=False)
    assert set(structure.outputs) == {"add", "cat"}
    np.testing.assert_allclose(values["cat"], result["cat"].numpy(), atol=1e-6)
    np.testing.assert_allclose(values["add"], result["sum"].numpy(), atol=1e-6)
    assert {owner for owner, _, _ in wrap(model).parameters()} == {"outer/enc/fc", "outer/top"}


def test_keras_operations_between_layers() -> None:
    x = keras.Input((4, 6), name="x")
    y = keras.layers.Dense(6, name="fc")(x)
    y = keras.ops.relu(keras.ops.transpose(y, (0, 2, 1))) + 1.0
    y = keras.ops.reshape(y, (-1, 24))
    structure, _ = recorded(keras.Model(x, keras.ops.concatenate([y, y[:, :2]], axis=1)), x=rand(2, 4, 6))
    ops = [node.kind for node in structure if node.role == "op"]
    assert ops == ["permute", "relu", "add", "flatten", "slice", "concat"]


def test_tf_keras_operators_between_layers() -> None:
    x = tf_keras.Input((4, 6), name="x")
    y = tf.nn.relu(tf_keras.layers.Dense(6, name="fc")(x)) * 2.0
    structure, _ = recorded(tf_keras.Model(x, tf.concat([y, y[:, :2]], axis=1)), x=rand(2, 4, 6))
    assert [node.kind for node in structure if node.role == "op"] == ["relu", "mul", "slice", "concat"]


def blocks(library: Any) -> Any:
    class Block(library.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self, units: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.fc = library.layers.Dense(units, activation="relu", name="fc")
            self.norm = library.layers.LayerNormalization(name="norm")
            self.scale = self.add_weight(shape=(units,), initializer="ones", name="scale")

        def call(self, x: Any) -> Any:
            return self.norm(self.fc(x) * self.scale + x)

    class Plain(library.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(int(shape[-1]),), initializer="ones", name="w")

        def call(self, x: Any) -> Any:
            return tf.transpose(tf.transpose(x)) * self.w

    class Net(library.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.first = Block(5, name="first")
            self.stack = [Block(5, name=f"block{i}") for i in range(2)]
            self.plain = Plain(name="plain")
            self.head = library.layers.Dense(2, name="head")

        def call(self, x: Any) -> Any:
            x = self.first(self.first(x))
            for block in self.stack:
                x = block(x)
            return self.head(tf.concat([self.plain(x), x], -1))

    return Net()


@BOTH
def test_subclassed_with_nested_custom_layers(library: Any) -> None:
    model = blocks(library)
    x = rand(3, 5)
    structure, values = recorded(model, x=x)
    names = [node.name for node in structure]
    assert "first/fc#0/preactivation" in names
    assert "block1/norm" in names
    by = structure.by_name
    assert by["block0"].role == "container"
    assert by["block0"].alias_of == "block0/norm"
    # A custom layer with nothing inside is one node, whatever operations it is made of.
    assert [n for n in names if n.startswith("plain")] == ["plain"]
    assert [p.name for p in by["plain"].params] == ["w"]
    assert by["head"].parents == ("concat",)
    assert by["concat"].parents == ("plain", "block1/norm")
    scaled = next(node for node in structure if node.scope == "block0" and node.kind == "mul")
    assert [p.name for p in scaled.params] == ["scale"]
    assert scaled.parents == ("block0/fc",)
    assert scaled.source is None or Path(scaled.source.rsplit(":", 1)[0]) == Path(__file__)
    np.testing.assert_allclose(values["head"], model(x).numpy(), atol=1e-6)
    again, _ = recorded(model, x=x)
    assert [node.name for node in again] == names


@BOTH
def test_names_are_the_same_eagerly(library: Any) -> None:
    from tracer_keras import runner

    model = wrap(small(library))
    x = {"image": rand(2, 8, 8, 3)}
    traced = model.structure(x)
    plan = runner.run_eagerly(model._call(), model._signature.tensors(x))
    assert [n.name for n in plan.structure] == [n.name for n in traced]
    assert [n.parents for n in plan.structure] == [n.parents for n in traced]
    assert [n.alias_of for n in plan.structure] == [n.alias_of for n in traced]


@BOTH
def test_lstm_states_are_items(library: Any) -> None:
    x = library.Input((7, 3), name="x")
    out, h, c = library.layers.LSTM(4, return_state=True, name="lstm")(x)
    both = library.layers.Bidirectional(library.layers.GRU(3, return_sequences=True), name="bi")(x)
    structure, values = recorded(library.Model(x, [out, h, c, both]), x=rand(2, 7, 3))
    by = structure.by_name
    assert by["lstm"].kind == "lstm"
    assert [p.name for p in by["lstm"].params] == ["kernel", "recurrent_kernel", "bias"]
    assert by["lstm[1]"].role == by["lstm[2]"].role == "item"
    assert by["lstm[2]"].parents == ("lstm",)
    assert values["lstm[2]"].shape == (2, 4)
    assert by["bi"].kind == "gru"
    assert by["bi"].config["bidirectional"] is True
    assert next(p.name for p in by["bi"].params) == "forward/kernel"
    assert by["bi"].config["reset_after"] is True


@BOTH
def test_state_is_as_before(library: Any) -> None:
    x = library.Input(batch_shape=(2, 5, 3), name="x")
    y = library.layers.LSTM(4, stateful=True, name="lstm")(x)
    model = library.Model(x, library.layers.BatchNormalization(name="bn")(y))
    weights = [w.copy() for w in model.get_weights()]
    states = [np.array(s) for s in model.get_layer("lstm").states]
    first, one = recorded(model, x=rand(2, 5, 3))
    _, two = recorded(model, x=rand(2, 5, 3))
    for name in ("lstm", "bn"):
        np.testing.assert_array_equal(one[name], two[name])
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert all(np.array_equal(a, np.array(b)) for a, b in zip(states, model.get_layer("lstm").states, strict=True))
    assert first.outputs == ("bn",)


@BOTH
def test_nothing_stays_patched(library: Any) -> None:
    before = library.layers.Layer.__call__
    model = small(library)
    activation = model.get_layer("conv").activation
    recorded(model, image=rand(2, 8, 8, 3))
    assert library.layers.Layer.__call__ is before
    assert model.get_layer("conv").activation is activation
    assert keras.ops.relu.__module__.startswith("keras.")


@BOTH
def test_a_layer_that_raises_keeps_the_prefix(library: Any) -> None:
    class Boom(library.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        armed = False

        def call(self, x: Any) -> Any:
            if Boom.armed:
                raise ValueError("no more\nsecond line")
            return x * 2

    before = library.layers.Layer.__call__
    x = library.Input((4,), name="x")
    y = library.layers.Dense(3, activation="relu", name="fc")(x)
    model = library.Model(x, library.layers.Dense(2, name="after")(Boom(name="boom")(y)))
    Boom.armed = True
    loaded = wrap(model)
    structure = loaded.structure({"x": rand(2, 4)})
    assert [node.name for node in structure] == ["x", "fc/preactivation", "fc"]
    sink = MemorySink()
    with pytest.raises(ModelError, match=r"layer 'boom' \(Boom\) raised ValueError: .*no more") as caught:
        loaded.capture({"x": rand(2, 4)}, sink)
    assert "\n" not in str(caught.value)
    assert list(sink.values) == ["x", "fc/preactivation", "fc"]
    assert library.layers.Layer.__call__ is before
    assert model.get_layer("fc").activation.__name__ == "relu"


@BOTH
def test_values_that_fail_only_at_run_time(library: Any) -> None:
    class Check(library.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_less(x, 100.0, message="too large")]):
                return tf.identity(x) + 1.0

    x = library.Input((4,), name="x")
    y = library.layers.Dense(3, name="fc", kernel_initializer="ones")(x)
    model = library.Model(x, Check(name="check")(y))
    loaded = wrap(model)
    big = {"x": np.full((2, 4), 1e4, "float32")}
    assert loaded.structure(big).outputs == ("check",)
    sink = MemorySink()
    with pytest.raises(ModelError, match="layer 'check'"):
        loaded.capture(big, sink)
    assert list(sink.values) == ["x", "fc"]


def test_control_flow_on_values_runs_eagerly() -> None:
    class Net(keras.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.a = keras.layers.Dense(3, name="a", activation="relu", kernel_initializer="ones")
            self.b = keras.layers.Dense(3, name="b")

        def call(self, x: Any) -> Any:
            x = self.a(x)
            while float(tf.reduce_max(x)) > 1.0:
                x = x / 2.0
            return self.b(x)

    model = Net()
    x = np.abs(rand(2, 4)) * 20  # so that the loop runs
    structure, values = recorded(model, x=x)
    assert structure.by_name["b"].parents[0].startswith("div")
    np.testing.assert_allclose(values["b"], model(x).numpy(), atol=1e-6)


def test_wrong_inputs_are_one_line() -> None:
    model = wrap(small(keras))
    for inputs, text in [
        ({"image": rand(2, 8, 9, 3)}, r"image \(\?, 8, 8, 3\) float32; given \(2, 8, 9, 3\)"),
        ({"image": rand(2, 8)}, "given"),
        ({"img": rand(2, 8, 8, 3)}, "inputs are image"),
        ({"image": np.array([["a"]])}, "given"),
    ]:
        with pytest.raises(InputError, match=text) as caught:
            model.structure(inputs)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="expects"):
        wrap(keras.Sequential([keras.layers.Conv2D(2, 3)])).structure({"inputs": rand(2, 3)})


@BOTH
def test_signature_of_embeddings_and_images(library: Any) -> None:
    tokens = library.Input((None,), name="tokens", dtype="int32")
    image = library.Input((8, 8, 3), name="image")
    x = library.layers.GlobalAveragePooling1D()(library.layers.Embedding(11, 4, name="emb")(tokens))
    y = library.layers.GlobalAveragePooling2D()(library.layers.Conv2D(4, 3)(image))
    model = wrap(library.Model([tokens, image], library.layers.Add()([x, y])))
    first, second = model.signature()
    assert (first.name, first.shape, first.dtype, first.maximum) == ("tokens", (None, None), "int32", 10)
    assert (second.name, second.layout) == ("image", "channels_last")
    inputs = {"tokens": np.array([[1, 2, 10]]), "image": rand(1, 8, 8, 3)}
    recorded(model, **inputs)
    with pytest.raises(InputError, match=r"takes 0…10"):
        model.structure({**inputs, "tokens": np.array([[11]])})


@BOTH
def test_float_input_of_an_embedding_is_whole(library: Any) -> None:
    x = library.Input((5,), name="x")
    model = wrap(library.Model(x, library.layers.Embedding(9, 2, name="emb")(x)))
    spec = model.signature()[0]
    assert (spec.dtype, spec.maximum) == ("int32", 8)
    structure, values = recorded(model, x=np.array([[1, 2, 3, 4, 8]], "int32"))
    assert structure.by_name["x"].dtype == "int32"
    assert values["emb"].shape == (1, 5, 2)


def test_bfloat16_and_strings() -> None:
    x = keras.Input((4,), name="x")
    layer = keras.layers.Dense(3, dtype="mixed_bfloat16", name="fc", activation="relu")
    structure, values = recorded(keras.Model(x, layer(x)), x=rand(2, 4))
    assert structure.by_name["fc"].dtype == "bfloat16"
    assert values["fc"].dtype.name == "bfloat16"

    class Texts(keras.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.fc = keras.layers.Dense(2, name="fc")

        def call(self, x: Any) -> Any:
            return tf.strings.as_string(self.fc(x))

    structure, values = recorded(Texts(), x=rand(2, 4))
    assert values["fc"].shape == (2, 2)
    [text] = [v for v in values.values() if isinstance(v, NotRecorded)]
    assert "string" in text.reason


@BOTH
def test_odd_layers(library: Any) -> None:
    layers = library.layers
    x = library.Input((6, 6, 4), name="x")
    y = layers.SeparableConv2D(4, 3, activation="relu", name="sep")(x)
    y = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="up")(y)
    y = layers.PReLU(shared_axes=[1, 2], name="prelu")(y)
    y = layers.ReLU(max_value=6, name="relu6")(y)
    y = layers.ZeroPadding2D(1, name="zp")(y)
    y = layers.Reshape((100, 4), name="rs")(y)
    y = layers.MultiHeadAttention(2, 3, name="mha")(y, y)
    y = layers.TimeDistributed(layers.Dense(3), name="td")(y)
    y = layers.Softmax(name="sm")(layers.Permute((2, 1), name="perm")(y))
    structure, _ = recorded(library.Model(x, y), x=rand(2, 6, 6, 4))
    kinds = {node.name: node.kind for node in structure}
    assert kinds["sep/preactivation"] == "separable_conv2d"
    assert kinds["up"] == "conv_transpose2d"
    assert kinds["prelu"] == "prelu"
    assert kinds["relu6"] == "relu6"
    assert kinds["zp"] == "pad"
    assert kinds["mha"] == "attention"
    assert kinds["td"] == "dense"
    assert kinds["perm"] == "permute"
    by = structure.by_name
    assert [p.name for p in by["mha"].params][:2] == ["query/kernel", "query/bias"]
    assert [p.name for p in by["td"].params] == ["kernel", "bias"]
    assert by["perm"].config["permutation"] == [2, 1]
    assert by["rs"].config["target_shape"] == [100, 4]


def test_spliceai_shows_every_layer() -> None:
    spec = importlib.util.find_spec("spliceai")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("spliceai is not installed")
    path = Path(spec.submodule_search_locations[0]) / "models" / "spliceai1.h5"
    model = KerasAdapter().load(LoadRequest(path))
    assert model.loader.startswith("tf_keras")
    assert "Keras 2.0.5" in model.loader
    [inputs] = model.signature()
    x = np.eye(4, dtype="float32")[np.random.default_rng(0).integers(0, 4, (1, 10100))]
    structure, values = recorded(model, **{inputs.name: x})
    assert len({node.owner for node in structure}) == 125
    assert values[structure.outputs[0]].shape == (1, 100, 3)
    np.testing.assert_allclose(values[structure.outputs[0]].sum(-1), 1, atol=1e-5)


def network(name: str) -> Any:
    """One of mtcnn's networks, without the rest of the package, which needs more than is installed."""
    spec = importlib.util.find_spec("mtcnn")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("mtcnn is not installed")
    path = Path(spec.submodule_search_locations[0]) / "network" / f"{name}.py"
    found = importlib.util.spec_from_file_location(f"mtcnn_{name}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "cls", "size", "prelus"), [("pnet", "PNet", 12, 3), ("onet", "ONet", 48, 5)])
def test_mtcnn_subclassed(name: str, cls: str, size: int, prelus: int) -> None:
    model = getattr(network(name), cls)()
    model.build()
    loaded = wrap(model)
    [spec] = loaded.signature()
    assert spec.shape is not None
    assert spec.shape[-1] == 3
    x = rand(2, size, size, 3)
    structure, values = recorded(loaded, **{spec.name: x})
    assert sum(node.kind == "prelu" for node in structure) == prelus
    for output, value in zip(structure.outputs, model(x), strict=True):
        np.testing.assert_allclose(values[output], value.numpy(), atol=1e-6)


@BOTH
def test_inputs_by_key_list_and_argument(library: Any) -> None:
    class ByKey(library.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.fc = library.layers.Dense(3, name="fc")

        def build(self, shape: Any) -> None:
            self.fc.build((None, 4))
            super().build(shape)

        def call(self, batch: Any) -> Any:
            left, right = (batch["left"], batch["right"]) if isinstance(batch, dict) else batch
            return {"a": self.fc(left), "b": self.fc(right)}

    class Two(library.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.fc = library.layers.Dense(3, name="fc")

        def call(self, left: Any, right: Any, training: bool = False) -> Any:
            return self.fc(left) - self.fc(right)

    two, _ = recorded(Two(), left=rand(2, 4), right=rand(2, 4))
    assert two.by_name["sub"].parents == ("fc#0", "fc#1")
    model = ByKey()
    model({"left": rand(2, 4), "right": rand(2, 4)})
    loaded = wrap(model)
    assert {spec.name for spec in loaded.signature()} == {"left", "right"}
    structure, _ = recorded(loaded, left=rand(2, 4), right=rand(2, 4))
    assert structure.by_name["fc#1"].parents == ("right",)


@BOTH
def test_deferred_sequential_and_single_layer(library: Any) -> None:
    model = wrap(library.Sequential([library.layers.Conv1D(3, 2, activation="relu", name="conv")]))
    [spec] = model.signature()
    assert spec.shape is None
    structure, _ = recorded(model, **{spec.name: rand(2, 5, 4)})
    assert [n.name for n in structure] == [spec.name, "conv/preactivation", "conv"]
    single = wrap(library.layers.Dense(2, name="fc"))
    structure, _ = recorded(single, **{single.signature()[0].name: rand(2, 5)})
    assert structure.outputs == ("fc",)


def test_layers_that_nothing_tracks() -> None:
    class Hidden:
        def __init__(self) -> None:
            self.fc = keras.layers.Dense(2, name="secret")

    class Net(keras.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.hidden = Hidden()

        def call(self, x: Any) -> Any:
            return self.hidden.fc(x)

    model = Net()
    model.hidden.fc.build((None, 4))
    structure, _ = recorded(model, x=rand(2, 4))
    assert structure.by_name["secret"].kind == "dense"


@BOTH
def test_masks_and_multiple_calls_keep_values(library: Any) -> None:
    x = library.Input((6,), name="x", dtype="int32")
    y = library.layers.Embedding(9, 4, mask_zero=True, name="emb")(x)
    model = library.Model(x, library.layers.GRU(3, name="gru")(y))
    tokens = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 0]], "int32")
    structure, values = recorded(model, x=tokens)
    np.testing.assert_allclose(values["gru"], model(tokens).numpy(), atol=1e-6)
    assert structure.by_name["gru"].parents == ("emb",)


def test_operations_say_their_numbers_indices_and_orders_of_axes() -> None:
    x = keras.Input((4, 5), name="x")
    ops = keras.ops
    made = {
        "maximum": (ops.maximum(x, 0.1), {"args": [0.1]}),
        "mul": (x * 3, {"args": [3]}),
        "sub": (1 - x, {"args": [1]}),
        "add": (x + np.ones((5,), "f4"), {}),
        "slice": (x[:, -1:, 2], {"index": [":", "-1:", 2]}),
        "expand_dims": (x[..., None], {"index": ["...", None]}),
        "permute": (ops.moveaxis(x, 1, -1), {"permutation": [0, 2, 1]}),
    }
    model = keras.Model(x, [tensor for tensor, _ in made.values()])
    structure, _ = recorded(model, x=np.ones((2, 4, 5), "f4"))
    found = {node.kind: dict(node.config) for node in structure if node.role == "op"}
    assert found == {kind: config for kind, (_, config) in made.items()}
