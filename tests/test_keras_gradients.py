"""Gradients and training mode of Keras models, against a plain GradientTape and against PyTorch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tracer.adapter import Array, MemorySink, NotRecorded, Run
from tracer.errors import InputError, ModelError

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")

from tests.test_keras_adapter import BOTH, blocks, rand, wrap  # noqa: E402
from tracer_keras import runner  # noqa: E402
from tracer_keras.losses import UNCONNECTED  # noqa: E402
from tracer_keras.model import KerasModel  # noqa: E402


def run(model: Any, inputs: dict[str, Array], loss: str | None = "sum", mode: str = "eval") -> MemorySink:
    loaded = model if isinstance(model, KerasModel) else wrap(model)
    loaded.run = Run(mode, loss)  # type: ignore[arg-type]
    structure = loaded.structure(inputs)
    sink = MemorySink()
    loaded.capture(inputs, sink)
    stored = {node.name: node for node in structure.stored()}
    assert set(sink.values) == set(stored)
    if loss is not None:
        assert set(sink.gradients) == set(stored)
        weights = {(owner, param.name): param for owner, param, _ in loaded.parameters()}
        assert set(sink.weight_gradients) == {key for key, param in weights.items() if param.trainable}
        for name, gradient in sink.gradients.items():
            if isinstance(gradient, np.ndarray):
                assert gradient.shape == stored[name].shape, name
        for key, gradient in sink.weight_gradients.items():
            if isinstance(gradient, np.ndarray):
                assert gradient.shape == weights[key].shape, key
    return sink


@pytest.fixture
def no_eager_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where the traced function did not do: a fallback would hide it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("ran eagerly")

    monkeypatch.setattr(runner, "run_eagerly", refuse)


def net(library: Any) -> Any:
    layers = library.layers
    image = library.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    y = layers.Conv2D(4, 1, use_bias=False, name="side")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Flatten(name="flat")(x)
    return library.Model(image, layers.Dense(3, activation="sigmoid", name="probs")(x))


def trainable(model: Any) -> list[tuple[str, str]]:
    return [(owner, param.name) for owner, param, _ in wrap(model).parameters() if param.trainable]


def variables(model: Any) -> list[Any]:
    return [getattr(weight, "_value", weight) for weight in model.trainable_weights]


LOSSES = {"sum": tf.reduce_sum, "mean": tf.reduce_mean, "square": lambda y: tf.reduce_sum(y * y) / 2}


@BOTH
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.usefixtures("no_eager_run")
def test_gradients_equal_a_plain_tape(library: Any, loss: str) -> None:
    model = net(library)
    x = rand(2, 8, 8, 3)
    sink = run(model, {"image": x}, loss)
    names = ["conv", "bn", "side", "add", "flat", "probs"]
    inner = library.Model(model.inputs, [model.get_layer(name).output for name in names])
    with tf.GradientTape() as tape:
        given = tf.constant(x)
        tape.watch(given)
        values = inner(given, training=False)
        value = LOSSES[loss](values[-1])
    wanted = tape.gradient(value, [given, *values, *variables(model)])
    assert any(np.abs(gradient).max() > 1e-3 for gradient in wanted)
    for name, gradient in zip(["image", *names], wanted, strict=False):
        np.testing.assert_allclose(sink.gradients[name], gradient, rtol=1e-4, atol=1e-7, err_msg=name)
    for key, gradient in zip(trainable(model), wanted[len(names) + 1 :], strict=True):
        np.testing.assert_allclose(sink.weight_gradients[key], gradient, rtol=1e-4, atol=1e-6, err_msg=str(key))
    # Through the activation by hand: the gradient before a ReLU is the one behind it where it is open.
    behind, before = sink.gradients["conv"], sink.values["conv/preactivation"]
    assert isinstance(behind, np.ndarray)
    np.testing.assert_array_equal(sink.gradients["conv/preactivation"], np.where(np.array(before) > 0, behind, 0))


@BOTH
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_tape_and_function_agree(library: Any, mode: str) -> None:
    """A model that cannot be traced gives the same gradients under the same names."""
    model = blocks(library)
    x = rand(3, 5)
    traced = run(model, {"x": x}, "square", mode)

    loaded = wrap(model)
    loaded._traced = None  # type: ignore[method-assign, assignment]
    eager = run(loaded, {"x": x}, "square", mode)
    assert any("layer by layer" in note for note in loaded.structure({"x": x}).notes)
    assert set(traced.gradients) == set(eager.gradients)
    for name, value in traced.values.items():
        np.testing.assert_array_equal(eager.values[name], value, err_msg=name)
    for name, gradient in traced.gradients.items():
        np.testing.assert_allclose(eager.gradients[name], gradient, rtol=1e-5, atol=1e-6, err_msg=name)
    for key, gradient in traced.weight_gradients.items():
        np.testing.assert_allclose(eager.weight_gradients[key], gradient, rtol=1e-5, atol=1e-6, err_msg=str(key))


@BOTH
@pytest.mark.usefixtures("no_eager_run")
def test_what_has_no_gradient_says_why(library: Any) -> None:
    layers = library.layers
    tokens = library.Input((3,), dtype="int32", name="tokens")
    x = layers.Embedding(9, 4, mask_zero=True, name="emb")(tokens)
    shared = layers.Dense(4, activation="tanh", name="shared")
    x = shared(shared(x))
    seen = layers.LSTM(3, return_sequences=True, name="lstm")(x)
    out, hidden, _ = layers.LSTM(3, return_state=True, name="last")(seen)
    frozen = layers.Dense(2, name="frozen", trainable=False)
    model = library.Model(tokens, [layers.Concatenate(name="cat")([out, hidden]), frozen(out)])
    ids = np.array([[1, 2, 0], [4, 5, 6]], "int32")
    sink = run(model, {"tokens": ids})
    assert sink.gradients["tokens"] == NotRecorded("int32 tensor: no gradient")
    # The last cell state leads nowhere.
    np.testing.assert_array_equal(sink.gradients["last[2]"], np.zeros((2, 3)))
    assert np.any(np.array(sink.gradients["shared#0"]))
    assert ("frozen", "kernel") not in sink.weight_gradients
    with tf.GradientTape() as tape:
        value = tf.add_n([tf.reduce_sum(y) for y in model(ids, training=False)])
    wanted = tape.gradient(value, variables(model))
    for key, gradient in zip(trainable(model), wanted, strict=True):
        gradient = tf.convert_to_tensor(gradient)  # of the embedding: the rows that were read
        np.testing.assert_allclose(sink.weight_gradients[key], gradient, rtol=1e-4, atol=1e-6, err_msg=str(key))


def test_mixed_precision_and_custom_gradients() -> None:
    @tf.custom_gradient
    def doubled(x: Any) -> Any:
        return tf.identity(x), lambda upstream: 2 * upstream

    class Double(keras.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, x: Any) -> Any:
            return doubled(x)

    class Loop(keras.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, x: Any) -> Any:
            return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2), (0, x))[1]

    x = keras.Input((4,), name="x")
    y = keras.layers.Dense(3, dtype="mixed_bfloat16", name="half")(x)
    y = Double(name="double", dtype="float32")(y)
    y = keras.layers.Dense(2, name="fc", kernel_initializer="ones")(Loop(name="loop")(y))
    sink = run(keras.Model(x, y), {"x": rand(5, 4)})
    half, kernel = sink.gradients["half"], sink.weight_gradients["half", "kernel"]
    assert isinstance(half, np.ndarray)
    assert isinstance(kernel, np.ndarray)
    assert (half.dtype.name, kernel.dtype) == ("bfloat16", np.dtype("float32"))
    np.testing.assert_array_equal(sink.gradients["loop"], np.full((5, 3), 2.0))
    np.testing.assert_array_equal(half.astype("float32"), np.full((5, 3), 2.0 * 8 * 2))


def test_a_loss_of_the_users(tmp_path: Any) -> None:
    file = tmp_path / "own_losses.py"
    file.write_text(
        "import tensorflow as tf\n"
        "def both(outputs):\n    return tf.reduce_sum(outputs['a']) - tf.reduce_mean(outputs['b'])\n"
        "def first(outputs):\n    return tf.reduce_sum(outputs['a'])\n"
        "def rows(outputs):\n    return outputs['a']\n"
        "def python(outputs):\n    return tf.reduce_sum(outputs['a']) * float(tf.reduce_sum(outputs['b']) > -1e9)\n"
        "def broken(outputs):\n    return outputs['c']\n"
        "word = 3\n"
    )
    x = keras.Input((4,), name="x")
    y = keras.layers.Dense(2, name="fc")(x)
    model = keras.Model(x, {"a": y, "b": keras.layers.ReLU(name="relu")(y)})
    inputs = {"x": rand(2, 4)}
    sink = run(model, inputs, f"{file}:both")
    np.testing.assert_allclose(sink.gradients["relu"], np.full((2, 2), -0.25))
    np.testing.assert_allclose(sink.gradients["fc"], 1 - 0.25 * (np.array(sink.values["fc"]) > 0))
    assert run(model, inputs, f"{file}:first").gradients["relu"] == NotRecorded(UNCONNECTED)
    # One that looks at values cannot be traced.
    np.testing.assert_array_equal(run(model, inputs, f"{file}:python").gradients["fc"], np.ones((2, 2)))
    for name, text in [
        ("rows", "not a floating scalar"),
        ("broken", r"broken raised KeyError: 'c'"),
        ("word", "can be called"),
        ("none", "has no 'none'"),
    ]:
        with pytest.raises(InputError, match=text) as caught:
            run(model, inputs, f"{file}:{name}")
        assert "--grad" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no floating output"):
        run(keras.Model(x, keras.ops.argmax(y, -1)), inputs)


def test_an_operation_without_derivative_ends_the_gradients() -> None:
    class Net(keras.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.fc = keras.layers.Dense(3, name="fc")

        def call(self, x: Any) -> Any:
            y = self.fc(x)
            return y + tf.raw_ops.RandomGammaGrad(alpha=tf.abs(y) + 1.0, sample=tf.abs(y) + 1.0)

    sink = run(Net(), {"x": rand(2, 4)})
    assert isinstance(sink.values["fc"], np.ndarray)
    np.testing.assert_array_equal(sink.gradients["fc"], np.ones((2, 3)))
    assert sink.gradients["random_gamma_grad"] is not None
    loaded = wrap(Net())
    loaded._traced = None  # type: ignore[method-assign, assignment]
    reason = run(loaded, {"x": rand(2, 4)}).gradients["fc"]
    assert isinstance(reason, NotRecorded)
    assert "RandomGammaGrad" in reason.reason


def test_a_model_that_raises_gives_no_gradients() -> None:
    class Boom(keras.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_less(x, 100.0, message="too large")]):
                return tf.identity(x) + 1.0

    x = keras.Input((4,), name="x")
    y = keras.layers.Dense(3, name="fc", kernel_initializer="ones")(x)
    loaded = wrap(keras.Model(x, Boom(name="boom")(y)))
    loaded.run = Run("eval", "sum")
    big = {"x": np.full((2, 4), 1e4, "float32")}
    loaded.structure(big)
    sink = MemorySink()
    with pytest.raises(ModelError, match="layer 'boom'"):
        loaded.capture(big, sink)
    assert list(sink.values) == ["x", "fc"]
    assert not sink.gradients


def test_a_ported_pair_has_the_same_gradients() -> None:
    torch = pytest.importorskip("torch")
    from tests.zoo import PAIRS
    from tracer_torch import TorchAdapter

    pair = PAIRS["ecg_generic"]
    x = pair.inputs()
    keras_model, torch_model = wrap(pair.keras()), TorchAdapter().wrap(pair.torch())
    if not TorchAdapter.gradients:
        pytest.skip("the PyTorch adapter gives no gradients")
    [name] = [spec.name for spec in keras_model.signature()]
    ours = run(keras_model, {name: x}, "square")
    torch_model.run = Run("eval", "square")
    [other] = [spec.name for spec in torch_model.signature()]
    moved = {other: np.moveaxis(x, -1, 1).copy()}
    torch_model.structure(moved)
    theirs = MemorySink()
    torch_model.capture(moved, theirs)
    del torch
    compared = 0
    for node, twin in pair.nodes.items():
        a, b = ours.gradients.get(node), theirs.gradients.get(twin)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            b = np.moveaxis(b, 1, -1) if a.shape != b.shape else b
            if a.shape == b.shape:
                assert np.abs(a - b).max() <= 1e-4 * max(np.abs(a).max(), 1e-12), node
                compared += 1
    assert compared >= 5


# -- training mode ---------------------------------------------------------------------------------------------


def held(model: Any) -> list[Array]:
    return [np.array(weight) for weight in [*model.weights, *getattr(model, "non_trainable_variables", [])]]


@BOTH
@pytest.mark.usefixtures("no_eager_run")
def test_training_mode_draws_the_same_and_changes_nothing(library: Any) -> None:
    model = net(library)
    frozen = library.layers.BatchNormalization(name="frozen", trainable=False)
    model = library.Model(model.inputs, frozen(model.outputs[0]))
    x = rand(4, 8, 8, 3)
    before, numbers = held(model), (random.getstate(), np.random.get_state()[1].tolist())
    loaded = wrap(model)
    first, again = run(loaded, {"image": x}, None, "train"), run(loaded, {"image": x}, None, "train")
    other = run(model, {"image": x}, None, "train")
    for name, value in first.values.items():
        np.testing.assert_array_equal(value, again.values[name])
        np.testing.assert_array_equal(value, other.values[name])
    structure = loaded.structure({"image": x})
    assert structure.by_name["drop"].alias_of is None
    assert any(note.startswith("drop: drawn at random") for note in structure.notes)
    dropped, full = np.array(first.values["drop"]), np.array(first.values["add"])
    assert 0.2 < np.mean(dropped == 0) < 0.9
    np.testing.assert_allclose(dropped[dropped != 0], 2 * full[dropped != 0], rtol=1e-6)
    conv = np.array(first.values["conv"], "float64")
    normal = (conv - conv.mean((0, 1, 2))) / np.sqrt(conv.var((0, 1, 2)) + 1e-3)
    np.testing.assert_allclose(first.values["bn"], normal, atol=1e-4)
    # A frozen batch normalisation uses what it has learnt: Keras's own rule.
    np.testing.assert_allclose(first.values["frozen"], np.array(first.values["probs"]) / np.sqrt(1 + 1e-3), rtol=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(before, held(model), strict=True))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == numbers
    statistics = {(owner, param.name): value for owner, param, value in loaded.parameters()}
    np.testing.assert_array_equal(statistics["bn", "moving_mean"], np.zeros(4))
    evaluated = run(loaded, {"image": x}, None)
    np.testing.assert_allclose(evaluated.values["frozen"], model(x, training=False), atol=1e-6)


@BOTH
def test_statistics_of_untracked_layers_are_put_back(library: Any) -> None:
    class Box:
        def __init__(self) -> None:
            self.norm = library.layers.BatchNormalization(name="norm")
            self.norm.build((None, 4))

    class Net(library.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.box = Box()
            self.fc = library.layers.Dense(4, name="fc")

        def call(self, x: Any, training: bool = False) -> Any:
            return self.box.norm(self.fc(x), training=training)

    for eagerly in (False, True):
        model = Net()
        model(rand(2, 4))
        loaded = wrap(model)
        if eagerly:
            loaded._traced = None  # type: ignore[method-assign, assignment]
        run(loaded, {"x": rand(3, 4) * 5}, None, "train")
        np.testing.assert_array_equal(np.array(model.box.norm.moving_mean), np.zeros(4))


@pytest.mark.parametrize("eagerly", [False, True])
def test_weights_that_training_writes_are_put_back(eagerly: bool) -> None:
    x = keras.Input((6, 6, 3), name="x")
    y = keras.layers.SpectralNormalization(keras.layers.Conv2D(2, 3, name="conv"), name="spectral")(x)
    model = keras.Model(x, y)
    before = held(model)
    loaded = wrap(model)
    if eagerly:
        loaded._traced = None  # type: ignore[method-assign, assignment]
    first, second = (run(loaded, {"x": rand(2, 6, 6, 3)}, "square", "train") for _ in range(2))
    np.testing.assert_array_equal(first.values["spectral"], second.values["spectral"])
    assert all(np.array_equal(a, b) for a, b in zip(before, held(model), strict=True))


@BOTH
def test_recurrent_dropout_and_unseeded_draws(library: Any) -> None:
    class Noise(library.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, x: Any, training: bool = False) -> Any:
            if not training:
                return x
            return x + (tf.random.normal(tf.shape(x)) if library is tf_keras else keras.random.normal(x.shape))

    x = library.Input(batch_shape=(2, 3, 3), name="x")
    y = library.layers.LSTM(4, dropout=0.5, recurrent_dropout=0.3, stateful=True, name="lstm")(x)
    model = library.Model(x, Noise(name="noise")(y))
    inputs = {"x": rand(2, 3, 3)}
    loaded = wrap(model)
    first, second = run(loaded, inputs, "sum", "train"), run(loaded, inputs, "sum", "train")
    noise = [np.array(sink.values["noise"]) - np.array(sink.values["lstm"]) for sink in (first, second)]
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-6)
    if library is keras:
        np.testing.assert_array_equal(first.values["lstm"], second.values["lstm"])
    assert any("lstm" in note and "random" in note for note in loaded.structure(inputs).notes)
    assert not np.array_equal(np.array(first.values["lstm"]), np.array(first.values["noise"]))
    for state in model.get_layer("lstm").states:
        np.testing.assert_array_equal(np.array(state), np.zeros((2, 4)))
    np.testing.assert_array_equal(run(loaded, inputs).values["lstm"], model(inputs["x"]))
