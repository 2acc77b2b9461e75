"""Running a Keras model again with tensors exchanged on the way, in its own arithmetic and in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracer.adapter import Array, LoadedModel, LoadRequest, Run
from tracer.errors import ModelError, ReplayError

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")

from tests.exchanging import Exchanger, Inputs, captured, replayed, same  # noqa: E402
from tests.test_keras_adapter import BOTH, rand, wrap  # noqa: E402
from tracer_keras import KerasAdapter  # noqa: E402


@functools.cache
def prepared(library: Any, make: Callable[..., tuple[Any, Inputs]]) -> tuple[Any, LoadedModel, Inputs, Inputs]:
    """A model, itself behind the contract, its inputs and what is recorded on them: traced once for all tests."""
    library.utils.set_random_seed(1)
    built, inputs = make(library)
    model = wrap(built)
    return built, model, inputs, captured(model, inputs)


# -- models --------------------------------------------------------------------------------------------------------


def cnn(library: Any) -> tuple[Any, Inputs]:
    layers = library.layers
    x = library.Input((8, 8, 3), name="x")
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(x)
    y = layers.BatchNormalization(name="bn")(y)
    y = layers.Add(name="join")([y, layers.DepthwiseConv2D(3, padding="same", name="depth")(y)])
    y = layers.MaxPooling2D(name="pool")(y)
    y = layers.GlobalAveragePooling2D(name="gap")(y)
    model = library.Model(x, [layers.Dense(3, activation="softmax", name="a")(y), layers.Dense(2, name="b")(y)])
    rng = np.random.default_rng(0)
    model.get_layer("bn").set_weights([rng.uniform(0.5, 1.5, 4).astype("f4") for _ in range(4)])
    return model, {"x": rand(2, 8, 8, 3)}


def recurrent(library: Any) -> tuple[Any, Inputs]:
    layers = library.layers
    x = library.Input((4,), dtype="int32", name="x")
    y = layers.Embedding(9, 6, mask_zero=True, name="words")(x)
    y = layers.LSTM(4, return_sequences=True, name="lstm")(y)
    y = layers.GRU(4, return_sequences=True, name="gru")(y)
    y = layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True), name="both")(y)
    y, state = layers.SimpleRNN(6, return_sequences=True, return_state=True, name="rnn")(y)
    y = layers.MultiHeadAttention(2, 3, name="heads")(y, y)
    y = layers.Dropout(0.5, name="drop")(y)
    return library.Model(x, [layers.TimeDistributed(layers.Dense(2), name="steps")(y), state]), {
        "x": np.array([[1, 2, 3, 4], [8, 7, 6, 0]], dtype=np.int32)
    }


def nested(library: Any) -> tuple[Any, Inputs]:
    layers = library.layers
    i = library.Input((6,), name="i")
    inner = library.Model(i, layers.Dense(6, activation="tanh", name="fc")(i), name="inner")
    x = library.Input((6,), name="x")
    shared = layers.Dense(4, name="shared")
    y = inner(inner(x))
    return library.Model(x, layers.Concatenate(name="cat")([shared(y), shared(x)])), {"x": rand(3, 6)}


def written(library: Any) -> tuple[Any, Inputs]:
    class Net(library.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.first = library.layers.Dense(4, name="first")
            self.second = library.layers.Dense(4, name="second")

        def call(self, x: Any) -> Any:
            y = self.first(x)
            gate = tf.nn.gelu(y) * tf.sigmoid(self.second(x)) + tf.stop_gradient(y)
            return {"gate": gate, "mean": tf.reduce_mean(tf.identity(gate), axis=1), "rows": tf.shape(x)[0]}

    model = Net()
    x = rand(2, 5)
    model(x)
    return model, {"x": x}


MODELS = pytest.mark.parametrize("make", [cnn, recurrent, nested, written])


# -- exchanges -----------------------------------------------------------------------------------------------------


@BOTH
@MODELS
def test_values_that_are_left_or_given_back_are_those_of_a_recording(library: Any, make: Callable[..., Any]) -> None:
    _, model, inputs, values = prepared(library, make)
    same(replayed(model, inputs), values)
    same(replayed(model, inputs, values), values)
    same(captured(model, inputs), values)
    only = Exchanger(only=frozenset(list(values)[1:3]))
    model.replay(inputs, only)
    assert list(only.seen) == list(values)[1:3]


@BOTH
@pytest.mark.parametrize("make", [cnn, nested, written])
def test_each_node_alone_reads_what_was_exchanged(library: Any, make: Callable[..., Any]) -> None:
    """Each tensor in turn is exchanged: just what depends on it changes."""
    _, model, inputs, values = prepared(library, make)
    structure = model.structure(inputs)
    readers: dict[str, set[str]] = {}
    for node in structure.nodes:
        above = {structure.by_name[parent].alias_of or parent for parent in node.parents}
        readers[node.name] = above.union(*(readers.get(parent, set()) for parent in above))
    for name, value in values.items():
        if value.dtype != np.float32 or structure.by_name[name].role == "input":
            continue
        found = replayed(model, inputs, {name: value + np.float32(0.5)})
        for other, before in values.items():
            changed = not np.array_equal(found[other], before)
            assert changed <= (name in readers[other]), (name, other)
        same({name: found[name]}, {name: value})


@BOTH
def test_a_join_reads_the_exchanged_tensors_of_both_sides(library: Any) -> None:
    built, model, inputs, _ = prepared(library, cnn)
    rng = np.random.default_rng(1)
    bn, depth = (rng.standard_normal((2, 8, 8, 4)).astype("f4") for _ in range(2))
    found = replayed(model, inputs, {"bn": bn, "depth": depth})
    np.testing.assert_array_equal(found["join"], bn + depth)
    kernel = np.array(built.get_layer("depth").get_weights()[0])
    alone = tf.nn.depthwise_conv2d(bn, kernel, [1, 1, 1, 1], "SAME").numpy()
    np.testing.assert_allclose(found["depth"], alone, atol=1e-6)


@BOTH
def test_the_input_can_be_exchanged_too(library: Any) -> None:
    _, model, inputs, _ = prepared(library, nested)
    other = rand(3, 6) + 1
    found = replayed(model, inputs, {"x": other})
    expected = captured(model, {"x": other})
    same({**found, "x": other}, expected)
    np.testing.assert_array_equal(found["x"], inputs["x"])


@BOTH
def test_another_shape_passes_on(library: Any) -> None:
    _, model, inputs, _ = prepared(library, cnn)
    smaller = np.ones((2, 6, 5, 4), dtype=np.float64)
    found = replayed(model, inputs, {"join": smaller, "x": rand(1, 8, 8, 3)})
    assert found["conv"].shape == (1, 8, 8, 4)
    assert found["pool"].shape == (2, 3, 2, 4)
    np.testing.assert_array_equal(found["gap"], np.ones((2, 4), np.float32))


@BOTH
def test_what_cannot_be_computed_from_an_exchanged_tensor_is_said(library: Any) -> None:
    _, model, inputs, _ = prepared(library, cnn)
    with pytest.raises(ModelError, match=r"node '.*'.* after bn was given the shape \(2, 3, 3, 5\)"):
        replayed(model, inputs, {"bn": np.ones((2, 3, 3, 5), np.float32)})
    with pytest.raises(ReplayError, match="on this input"):
        replayed(model, inputs, {"x": rand(2, 9, 8, 3)})

    class Raises(Exchanger):
        def __call__(self, name: str, value: Array) -> Array | None:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.replay(inputs, Raises())
    same(replayed(model, inputs), captured(model, inputs))


@BOTH
def test_training_draws_what_a_recording_draws(library: Any) -> None:
    built, inputs = cnn(library)
    x = library.Input((8, 8, 3), name="x")
    y = library.layers.Dropout(0.5, name="drop")(x)
    model = wrap(library.Model(x, [*built(y), y]))
    model.run = Run(mode="train", loss="sum")
    before = [np.array(weight) for weight in built.get_weights()]
    values = captured(model, inputs)
    assert (values["drop"] == 0).any()
    for _ in range(2):
        same(replayed(model, inputs), values)
    wide = replayed(model, inputs, double=True)
    np.testing.assert_array_equal(wide["drop"] == 0, values["drop"] == 0)
    for name, value in values.items():
        np.testing.assert_allclose(wide[name], value, atol=1e-5)
    for weight, now in zip(before, built.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, now)


# -- float64 -------------------------------------------------------------------------------------------------------


@BOTH
@MODELS
def test_float64_all_the_way(library: Any, make: Callable[..., Any]) -> None:
    built, model, inputs, values = prepared(library, make)
    before = [np.array(weight) for weight in built.get_weights()]
    wide = replayed(model, inputs, double=True)
    assert set(wide) == set(values)
    for name, value in values.items():
        assert wide[name].dtype == (np.float64 if value.dtype == np.float32 else value.dtype), name
        np.testing.assert_allclose(wide[name], value, rtol=1e-5, atol=2e-6, err_msg=name)
    same(captured(model, inputs), values)
    for weight, now in zip(before, built.get_weights(), strict=True):
        assert weight.dtype == now.dtype
        np.testing.assert_array_equal(weight, now)


@BOTH
def test_float64_is_that_of_numpy(library: Any) -> None:
    built, model, inputs, values = prepared(library, cnn)
    layers = {layer.name: [np.array(w, np.float64) for w in layer.get_weights()] for layer in built.layers}
    wide = replayed(model, inputs, double=True)

    def convolved(x: Array, kernel: Array) -> Array:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        out: Array = np.einsum("bhwikl,klio->bhwo", windows, kernel)
        return out

    expected = {"conv/preactivation": convolved(wide["x"], layers["conv"][0]) + layers["conv"][1]}
    gamma, beta, mean, variance = layers["bn"]
    epsilon = np.float64(np.float32(built.get_layer("bn").epsilon))
    expected["bn"] = (wide["conv"] - mean) / np.sqrt(variance + epsilon) * gamma + beta
    kernel = layers["depth"][0]
    expected["depth"] = np.concatenate(
        [convolved(wide["bn"][..., [c]], kernel[:, :, [c]]) for c in range(4)], axis=-1
    ) + layers["depth"][1]  # fmt: skip
    expected["gap"] = wide["pool"].mean((1, 2))
    logits = np.exp(wide["a/preactivation"])
    expected["a"] = logits / logits.sum(-1, keepdims=True)
    for name, value in expected.items():
        assert np.abs(wide[name] - value).max() <= 1e-12, name
        assert np.abs(values[name] - value).max() > 1e-9, name


@BOTH
def test_float64_of_recurrent_layers_is_that_of_numpy(library: Any) -> None:
    built, model, inputs, _ = prepared(library, recurrent)
    kernel, recurrence, bias = (np.array(w, np.float64) for w in built.get_layer("lstm").get_weights())
    wide = replayed(model, inputs, double=True)
    words, h, c = wide["words"], np.zeros((2, 4)), np.zeros((2, 4))
    for step in range(3):  # no padding yet
        i, f, g, o = np.split(words[:, step] @ kernel + h @ recurrence + bias, 4, axis=-1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        assert np.abs(wide["lstm"][:, step] - h).max() < 1e-14


@BOTH
def test_float64_with_exchanged_tensors(library: Any) -> None:
    built, model, inputs, _ = prepared(library, nested)
    tiny = np.full((3, 6), 1 + 1e-12)
    found = replayed(model, inputs, {"inner/fc#1": tiny, "x": tiny}, double=True)
    kernel, bias = (np.array(w, np.float64) for w in built.get_layer("shared").get_weights())
    for name in ("shared#0", "shared#1"):
        np.testing.assert_allclose(found[name], tiny @ kernel + bias, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(found["cat"], np.concatenate([found["shared#0"], found["shared#1"]], -1))


@BOTH
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_float64_of_mixed_precision(library: Any, policy: str) -> None:
    before = library.mixed_precision.global_policy() if library is tf_keras else library.config.dtype_policy()
    change = library.mixed_precision.set_global_policy if library is tf_keras else library.config.set_dtype_policy
    change(policy)
    try:
        built, inputs = cnn(library)
    finally:
        change(before)
    values = captured(wrap(built), inputs)
    assert values["conv"].dtype == policy.removeprefix("mixed_")
    wide = replayed(wrap(built), inputs, double=True)
    plain, _ = cnn(library)
    plain.set_weights(built.get_weights())
    for name, value in replayed(wrap(plain), inputs, double=True).items():
        assert wide[name].dtype == np.float64
        np.testing.assert_allclose(wide[name], value, rtol=0, atol=1e-14, err_msg=name)


def test_operations_that_there_are_in_float32_alone() -> None:
    """Those that can be written out are float64 throughout; the others run in float32 between casts."""

    class Net(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            x = x / 3.0
            cube = tf.reshape(x, (2, 5, 7, 3, 4))
            flat = tf.reshape(x, (2, 5, 21, 4))
            both = [{"ksize": [1, 2, 3, 2, 1], "strides": [1, 2, 2, 1, 1], "padding": way} for way in ("SAME", "VALID")]
            written = [
                *(pool(cube, **more) for pool in (tf.nn.avg_pool3d, tf.nn.max_pool3d) for more in both),
                *(
                    tf.raw_ops.ResizeBilinear(images=flat, size=size, align_corners=a, half_pixel_centers=b)
                    for size in ([8, 11], [3, 40])
                    for a, b in ((True, False), (False, True), (False, False))
                ),
                tf.nn.local_response_normalization(flat, depth_radius=1, bias=0.7, alpha=0.3, beta=0.6),
            ]
            kept = [
                tf.image.crop_and_resize(flat, [[0.0, 0.0, 0.5, 0.5]], [1], (2, 2)),
                tf.image.non_max_suppression(tf.reshape(x, (-1, 4)), tf.reshape(x, (-1, 4))[:, 0], 3),
                tf.bitcast(flat, tf.int32),
                tf.image.adjust_saturation(flat[..., :3], 0.5),
            ]
            return {"written": written, "kept": kept}

    inputs = {"x": rand(2, 420)}
    model = wrap(Net())
    model.model(inputs["x"])
    structure, values = model.structure(inputs), captured(model, inputs)
    wide = replayed(model, inputs, double=True)
    for place, name in structure.returned:
        value = values[name]
        assert wide[name].dtype == (np.float64 if value.dtype == np.float32 else value.dtype), name
        if value.dtype == np.float32:
            narrow = np.array_equal(wide[name], wide[name].astype(np.float32))
            assert narrow == place.startswith("[kept]"), place
        if name != "bitcast":  # bits of other numbers; resizing rounds its positions, too
            np.testing.assert_allclose(wide[name], value, rtol=1e-6, atol=5e-6, err_msg=name)


# -- models that choose their way, other backends ------------------------------------------------------------------


def test_a_model_that_chooses_its_way_by_values() -> None:
    class Net(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first = keras.layers.Dense(3, name="first", activation="relu", kernel_initializer="ones")

        def call(self, x: Any) -> Any:
            y = self.first(x)
            if tf.reduce_sum(y) < 0:
                y = -y
            while float(tf.reduce_max(y)) > 1.0:
                y = y / 2.0
            return y * 3.0

    class Looks(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * x.numpy().max()

    inputs = {"x": np.abs(rand(2, 4)) * 20}
    model = wrap(Net())
    values = captured(model, inputs)
    same(replayed(model, inputs), values)
    assert "div" in values
    found = replayed(model, inputs, {"div": np.ones((2, 3), np.float32)})
    divisions = sum(name.startswith("div") for name in values)
    np.testing.assert_array_equal(found["mul"], np.full((2, 3), 3 / 2.0 ** (divisions - 1), np.float32))
    wide = replayed(model, inputs, double=True)
    assert wide["mul"].dtype == np.float64
    np.testing.assert_allclose(wide["mul"], values["mul"], rtol=1e-6)
    assert not hasattr(tf.Tensor, "__int__")
    looks = wrap(Looks())
    captured(looks, inputs)
    with pytest.raises(ReplayError, match="cannot be traced into one function") as caught:
        replayed(looks, inputs)
    assert "\n" not in str(caught.value)


# -- graphs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "frozen"])
def test_a_saved_graph(kind: str, tmp_path: Path) -> None:
    built, inputs = cnn(tf_keras)
    path = tmp_path / "saved"
    built.save(path)
    if kind == "frozen":
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        function = tf.function(lambda x: built(x)).get_concrete_function(tf.TensorSpec((None, 8, 8, 3), name="x"))
        path = tmp_path / "frozen.pb"
        path.write_bytes(convert_variables_to_constants_v2(function).graph.as_graph_def().SerializeToString())
    model = KerasAdapter().load(LoadRequest(path))
    [name] = [spec.name for spec in model.signature()]
    given = {name: inputs["x"]}
    values = captured(model, given)
    same(replayed(model, given), values)
    same(replayed(model, given, values), values)
    bn = np.full((2, 8, 8, 4), 2, np.float32)
    [normalised] = [node.name for node in model.structure(given).stored() if node.kind == "batchnorm"]
    [join] = [node.name for node in model.structure(given).stored() if node.kind == "add" and node.role == "op"]
    found = replayed(model, given, {normalised: bn})
    [depth] = [name for name in model.structure(given).by_name[join].parents if name != normalised]
    np.testing.assert_array_equal(found[join], bn + found[depth])
    assert not np.array_equal(found[depth], values[depth])
    wide = replayed(model, given, double=True)
    expected = replayed(wrap(built), inputs, double=True)
    outputs = model.structure(given).outputs
    for end, twin in zip(outputs, ("a", "b"), strict=True):
        assert np.abs(wide[end] - expected[twin]).max() < 1e-14
        assert np.abs(values[end] - expected[twin]).max() > 1e-10
    with pytest.raises(ModelError, match="was given the shape"):
        replayed(model, given, {normalised: np.ones((2, 3, 3, 5), np.float32)})
