"""Files of Keras 2: each kind of layer that Keras 3 refuses or reads otherwise, through every format it is kept in."""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracer.adapter import LoadRequest, MemorySink
from tracer.errors import InputError

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")
h5py = pytest.importorskip("h5py")

from tracer_keras import KerasAdapter, era  # noqa: E402
from tracer_keras.model import KerasModel  # noqa: E402

layers = tf_keras.layers
IMAGE, SERIES, VECTOR, TOKENS = (6, 6, 4), (3, 4), (4,), (3,)


def chain(shape: tuple[int, ...], *parts: Callable[[Any], Any], dtype: str = "float32") -> Callable[[], Any]:
    """A functional model of one input whose layers are applied in turn."""

    def build() -> Any:
        x = y = tf_keras.Input(shape, name="x", dtype=dtype)
        for part in parts:
            y = part(y)
        return tf_keras.Model(x, y)

    return build


def one(shape: tuple[int, ...], make: Callable[[], Any], *more: Callable[[], Any]) -> Callable[[], Any]:
    """The same with layers made when the model is."""
    return lambda: chain(shape, *(part() for part in (make, *more)))()


def nested() -> Any:
    inner = tf_keras.Sequential([layers.Dense(4, activation="elu"), layers.Dense(4)], name="inner")
    middle_in = tf_keras.Input(VECTOR, name="middle_in")
    middle = tf_keras.Model(middle_in, inner(inner(middle_in)), name="middle")
    x = tf_keras.Input(VECTOR, name="x")
    return tf_keras.Model(x, layers.Add()([middle(x), middle(middle(x))]))


def two_inputs() -> Any:
    a, b = tf_keras.Input(VECTOR, name="a"), tf_keras.Input(VECTOR, name="b")
    y = layers.Concatenate()([layers.Dense(3)(a), layers.Subtract()([a, b]), layers.Dot(1)([a, b])])
    return tf_keras.Model([a, b], [y, layers.Maximum()([a, b])])


def attention() -> Any:
    x = tf_keras.Input(SERIES, name="x")
    y = layers.MultiHeadAttention(2, 3, value_dim=2)(x, x)
    return tf_keras.Model(x, layers.Attention(use_scale=True)([y, x]) + layers.AdditiveAttention()([y, x]))


def encoder() -> Any:
    x = tf_keras.Input(SERIES, name="x")
    _, h, c = layers.LSTM(3, return_state=True)(x)
    return tf_keras.Model(x, layers.LSTM(3, return_sequences=True)(x, initial_state=[h, c]))


def sequential_without_input() -> Any:
    model = tf_keras.Sequential([layers.Dense(4, activation="swish"), layers.Dense(2, activation="softmax")])
    model.build((None, *VECTOR))
    return model


def normalised() -> Any:
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3, 2, (20, *VECTOR)).astype("float32"))
    return chain(VECTOR, layer)()


def scaled(x: Any) -> Any:
    return tf.nn.relu6(tf.math.multiply(x, 2.0) - 1.0) / 3.0 + tf.reduce_mean(x, axis=-1, keepdims=True) ** 2


def sliced(x: Any) -> Any:
    return tf.concat([x[:, 1:, ::2], -x[..., :1][:, 1:]], axis=-1)


KINDS: dict[str, Callable[[], Any]] = {
    "dense": one(VECTOR, lambda: layers.Dense(3, activation="selu")),
    "hard_sigmoid": one(VECTOR, lambda: layers.Dense(3, activation="hard_sigmoid")),
    "hard_sigmoid_layer": one(VECTOR, lambda: layers.Activation("hard_sigmoid")),
    "swish": one(VECTOR, lambda: layers.Dense(3, activation="swish")),
    "gelu": one(VECTOR, lambda: layers.Dense(3, activation="gelu")),
    "leaky_relu": one(VECTOR, lambda: layers.LeakyReLU(alpha=0.2)),
    "leaky_relu_default": one(VECTOR, layers.LeakyReLU),
    "leaky_relu_function": one(VECTOR, lambda: layers.Dense(3, activation="leaky_relu")),
    "relu": one(VECTOR, lambda: layers.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.2)),
    "thresholded_relu": one(VECTOR, lambda: layers.ThresholdedReLU(0.4)),
    "elu": one(VECTOR, lambda: layers.ELU(0.5)),
    "prelu": one(IMAGE, lambda: layers.PReLU(shared_axes=[1, 2])),
    "softmax": one(SERIES, lambda: layers.Softmax(axis=1)),
    "conv1d": one(SERIES, lambda: layers.Conv1D(3, 2, padding="causal", dilation_rate=2)),
    "conv2d": one(IMAGE, lambda: layers.Conv2D(4, 3, strides=2, padding="same", groups=2, activation="relu")),
    "conv3d": one((4, 4, 4, 2), lambda: layers.Conv3D(2, 2)),
    "conv1d_transpose": one(SERIES, lambda: layers.Conv1DTranspose(3, 2, strides=2)),
    "conv2d_transpose": one(IMAGE, lambda: layers.Conv2DTranspose(3, 3, strides=2, padding="same")),
    "conv3d_transpose": one((3, 3, 3, 2), lambda: layers.Conv3DTranspose(2, 2, strides=2)),
    "depthwise1d": one(SERIES, lambda: layers.DepthwiseConv1D(2, depth_multiplier=2)),
    "depthwise2d": one(IMAGE, lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu6")),
    "separable1d": one(SERIES, lambda: layers.SeparableConv1D(3, 2)),
    "separable2d": one(IMAGE, lambda: layers.SeparableConv2D(3, 3, activation="relu")),
    "locally_connected": one(SERIES, lambda: layers.LocallyConnected1D(3, 2)),
    "lstm": one(SERIES, lambda: layers.LSTM(3, return_sequences=True)),
    "lstm_hard_sigmoid": one(SERIES, lambda: layers.LSTM(3, recurrent_activation="hard_sigmoid")),
    "lstm_time_major": one(SERIES, lambda: layers.LSTM(3, time_major=True, return_sequences=True)),
    "lstm_backwards": one(SERIES, lambda: layers.LSTM(3, go_backwards=True, unit_forget_bias=False)),
    "lstm_states": encoder,
    "gru": one(SERIES, lambda: layers.GRU(3)),
    "gru_reset_before": one(SERIES, lambda: layers.GRU(3, reset_after=False, return_sequences=True)),
    "simple_rnn": one(SERIES, lambda: layers.SimpleRNN(3)),
    "rnn_cells": one(SERIES, lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)])),
    "bidirectional": one(SERIES, lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True))),
    "bidirectional_sum": one(SERIES, lambda: layers.Bidirectional(layers.SimpleRNN(3), merge_mode="sum")),
    "conv_lstm": one((3, 5, 5, 2), lambda: layers.ConvLSTM2D(2, 2, return_sequences=True)),
    "time_distributed": one((3, 5, 5, 2), lambda: layers.TimeDistributed(layers.Conv2D(2, 2))),
    "embedding": lambda: chain(TOKENS, layers.Embedding(11, 3, mask_zero=True), layers.SimpleRNN(2), dtype="int32")(),
    "masking": one(SERIES, lambda: layers.Masking(0.0), lambda: layers.GRU(2)),
    "batch_norm": one(IMAGE, lambda: layers.BatchNormalization(momentum=0.9, epsilon=1e-2)),
    "batch_norm_renorm": one(VECTOR, lambda: layers.BatchNormalization(renorm=True)),
    "sync_batch_norm": one(VECTOR, lambda: layers.BatchNormalization(synchronized=True)),
    "layer_norm": one(SERIES, lambda: layers.LayerNormalization(axis=[1, 2])),
    "group_norm": one(IMAGE, lambda: layers.GroupNormalization(2)),
    "unit_norm": one(VECTOR, layers.UnitNormalization),
    "normalization": normalised,
    "spatial_dropout1d": one(SERIES, lambda: layers.SpatialDropout1D(0.3)),
    "dropouts": one(
        IMAGE, lambda: layers.Dropout(0.5), lambda: layers.GaussianNoise(1.0), lambda: layers.SpatialDropout2D(0.2)
    ),
    "attention": attention,
    "upsampling": one(IMAGE, lambda: layers.UpSampling2D(2, interpolation="bilinear")),
    "upsampling_nearest": one(IMAGE, layers.UpSampling2D, lambda: layers.ZeroPadding2D(1)),
    "resizing": one(IMAGE, lambda: layers.Resizing(5, 7, interpolation="bicubic"), lambda: layers.Rescaling(0.5, 1.0)),
    "pools": one(IMAGE, lambda: layers.MaxPooling2D(3, 2, "same"), lambda: layers.AveragePooling2D(2, 1, "same")),
    "global_pool": one(IMAGE, lambda: layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten),
    "channels_first": one(IMAGE, lambda: layers.Permute((3, 1, 2)), lambda: layers.Flatten("channels_first")),
    "reshape": one(IMAGE, lambda: layers.Reshape((12, -1)), lambda: layers.Cropping1D(1)),
    "repeat": one(VECTOR, lambda: layers.RepeatVector(3)),
    "operators": chain(SERIES, scaled),
    "slices": chain(SERIES, sliced),
    "nested": nested,
    "two_inputs": two_inputs,
    "sequential_without_input": sequential_without_input,
    "einsum_dense": one(SERIES, lambda: layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d")),
    "float64": one(VECTOR, lambda: layers.Dense(3, dtype="float64")),
}
# Recurrent layers take tf_keras a second to make: LSTM stands for them in the formats other than .h5.
SLOW = frozenset(
    [kind for kind in KINDS if kind.startswith(("gru", "bidirectional", "lstm_", "rnn", "masking", "embedding"))]
)
NETWORKS: dict[str, Callable[..., Any]] = {
    "mobilenet_v3": partial(tf_keras.applications.MobileNetV3Small, minimalistic=True),
    # One block of each stage.
    "efficientnet": partial(
        importlib.import_module("tf_keras.src.applications.efficientnet").EfficientNet, 0.5, 0.2, 32
    ),
}


def filled(model: Any) -> Any:
    """``model`` with weights that leave no two paths equal."""
    numbers = np.random.default_rng(3)
    model.set_weights(
        [numbers.uniform(0.05, 0.5, w.shape).astype(w.dtype) if w.dtype.kind == "f" else w for w in model.get_weights()]
    )
    return model


def inputs_of(model: Any) -> dict[str, Any]:
    numbers = np.random.default_rng(4)
    out: dict[str, Any] = {}
    for tensor in model.inputs:
        shape = (2, *tensor.shape[1:])
        values = numbers.integers(0, 11, shape) if tensor.dtype.is_integer else numbers.normal(0, 2, shape)
        out[tensor.name.split(":")[0]] = values.astype(tensor.dtype.as_numpy_dtype)
    return out


def load(path: Path, weights: Path | None = None, **more: Any) -> KerasModel:
    loaded = KerasAdapter().load(LoadRequest(path, weights, **more))
    assert isinstance(loaded, KerasModel)
    return loaded


def outputs(model: Any, inputs: dict[str, Any]) -> list[Any]:
    given = list(inputs.values())
    out = model(given if len(given) > 1 else given[0], training=False)
    return [np.asarray(v) for v in (out if isinstance(out, (list, tuple)) else [out])]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_what_tf_keras_says(kind: str, tmp_path: Path) -> None:
    model = filled(KINDS[kind]())
    inputs = inputs_of(model)
    wanted = outputs(model, inputs)
    weights = tmp_path / "weights.h5"
    model.save(tmp_path / "model.h5")
    assert_recorded(load(tmp_path / "model.h5"), inputs, wanted)
    if kind in SLOW:
        return
    if kind != "slices":  # tf_keras itself cannot put an Ellipsis into this format
        model.save(tmp_path / "model.keras")
    (tmp_path / "model.json").write_text(model.to_json())
    model.save_weights(weights)
    for path in tmp_path.glob("model.*"):
        loaded = load(path, weights if path.suffix == ".json" and model.weights else None)
        assert loaded.loader == f"tf_keras {tf_keras.__version__} (file made by Keras {tf_keras.__version__})"
        for have, want in zip(outputs(loaded.model, inputs), wanted, strict=True):
            np.testing.assert_array_equal(have, want)


def assert_recorded(loaded: KerasModel, inputs: dict[str, Any], wanted: list[Any]) -> None:
    structure = loaded.structure(inputs)
    sink = MemorySink()
    loaded.capture(inputs, sink)
    for have, want in zip((sink.values[name] for name in structure.outputs), wanted, strict=True):
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("name", NETWORKS)
def test_applications_of_keras_2(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name](input_shape=(32, 32, 3), weights=None, classes=3)
    model.save(tmp_path / "model.h5")
    loaded = load(tmp_path / "model.h5")
    inputs = inputs_of(model)
    assert_recorded(loaded, inputs, outputs(model, inputs))


def test_weights_of_cudnn_layers(tmp_path: Path) -> None:
    """Their files hold two biases and kernels in another order, which tf_keras turns."""
    cudnn = importlib.import_module("tf_keras.src.layers.rnn.cudnn_lstm")
    numbers = np.random.default_rng(5)
    fast = tf_keras.Sequential([tf_keras.Input(SERIES), cudnn.CuDNNLSTM(3, name="lstm")])
    fast.set_weights([numbers.normal(size=w.shape) for w in fast.get_weights()])
    fast.save_weights(tmp_path / "weights.hdf5")
    model = tf_keras.Sequential([tf_keras.Input(SERIES, name="x"), layers.LSTM(3, name="lstm")])
    (tmp_path / "model.json").write_text(model.to_json())
    loaded = load(tmp_path / "model.json", tmp_path / "weights.hdf5")
    bias = fast.get_weights()[2]
    np.testing.assert_allclose(loaded.model.get_weights()[2], bias[:12] + bias[12:], rtol=1e-6)
    model.load_weights(tmp_path / "weights.hdf5")
    inputs = {"x": np.ones((2, *SERIES), "float32")}
    assert_recorded(loaded, inputs, outputs(model, inputs))


def without_version(path: Path) -> Path:
    """``path`` as a Keras that wrote no version would have left it."""
    if path.suffix == ".h5":
        with h5py.File(path, "a") as file:
            for group in (file, file["model_weights"]):
                group.attrs.pop("keras_version", None)
    elif path.suffix == ".json":
        text = json.loads(path.read_text())
        text.pop("keras_version", None)
        path.write_text(json.dumps(text))
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist() if name != "metadata.json"}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    return path


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".json"])
@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_without_a_version_the_architecture_decides(library: Any, suffix: str, tmp_path: Path) -> None:
    x = library.Input(VECTOR, name="x")
    model = filled(library.Model(x, library.layers.Dense(3, activation="hard_sigmoid", name="fc")(x)))
    path, weights = tmp_path / f"model{suffix}", tmp_path / "model.weights.h5"
    if suffix == ".json":
        path.write_text(model.to_json())
        model.save_weights(weights)
    else:
        model.save(path)
    loaded = load(without_version(path), weights if suffix == ".json" else None)
    major = "3" if library is keras else "2"
    assert loaded.loader.startswith(f"{library.__name__} {library.__version__} (file names no Keras version; it")
    assert loaded.loader.endswith(f", as in Keras {major})")
    inputs = {"x": np.linspace(-3, 3, 8, dtype="float32").reshape(2, 4)}
    assert_recorded(loaded, inputs, outputs(model, inputs))


def test_keras_1_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    conv = {"name": "c", "nb_filter": 3, "nb_row": 2, "border_mode": "same", "batch_input_shape": [None, 8, 8, 3]}
    path.write_text(
        json.dumps({"class_name": "Sequential", "config": [{"class_name": "Convolution2D", "config": conv}]})
    )
    with pytest.raises(InputError, match=r"made by Keras 1.*--arch pkg.mod:callable and load the file with --weights"):
        load(path)


def test_an_archive_with_its_weights_at_a_round_offset(tmp_path: Path) -> None:
    """Where an HDF5 file with a user block would have its signature."""
    x = tf_keras.Input(VECTOR, name="x")
    tf_keras.Model(x, layers.Dense(3)(x)).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = members.pop("model.weights.h5")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        end = archive.fp.tell()
        name = "model.weights.h5"
        padding = zipfile.ZipInfo("padding")
        archive.writestr(padding, b" " * (8192 - end - 2 * 30 - len("padding") - len(name)))
        archive.writestr(zipfile.ZipInfo(name), weights)
    assert (tmp_path / "model.keras").read_bytes()[8192:8196] == b"\x89HDF"
    assert load(tmp_path / "model.keras").flavour.legacy


# -- Keras 3's own .h5 ------------------------------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "constants": lambda x: 1.0 - x * 2.0,
    "array": lambda x: keras.ops.multiply(x, np.arange(4, dtype="float32")),
    "reshape": lambda x: keras.ops.reshape(x, (-1, 2, 2)),
    "cast": lambda x: keras.ops.cast(x, "float16"),
    "where": lambda x: keras.ops.where(x > 0.0, x, 0.1 * x),
    "softmax": lambda x: keras.ops.softmax(keras.ops.stack([x, -x], 1), axis=1),
    "mean": lambda x: keras.ops.mean(x, axis=-1, keepdims=True) ** 2,
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_operations_in_an_h5_of_keras_3(kind: str, tmp_path: Path) -> None:
    x = keras.Input(VECTOR, name="x")
    model = keras.Model(x, OPERATIONS[kind](keras.layers.Dense(4, name="fc")(x)))
    model.save(tmp_path / "model.h5")
    loaded = load(tmp_path / "model.h5")
    assert not loaded.flavour.legacy
    inputs = {"x": np.linspace(-3, 3, 8, dtype="float32").reshape(2, 4)}
    assert_recorded(loaded, inputs, outputs(model, inputs))


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_an_operation_as_activation(suffix: str, tmp_path: Path) -> None:
    x = keras.Input(VECTOR, name="x")
    model = keras.Model(x, keras.layers.Dense(3, activation=keras.ops.sin, name="fc")(x))
    model.save(tmp_path / f"model{suffix}")
    inputs = {"x": np.linspace(-3, 3, 8, dtype="float32").reshape(2, 4)}
    loaded = load(tmp_path / f"model{suffix}")
    assert loaded.notes == ("the file's function 'sin' is taken for keras.ops.sin; --import your own",)
    assert_recorded(loaded, inputs, outputs(model, inputs))
    (tmp_path / "own.py").write_text("def sin(x):\n    return 2 * x\n")
    mine = load(tmp_path / f"model{suffix}", imports=(str(tmp_path / "own.py"),))
    assert not mine.notes
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(outputs(mine.model, inputs)[0], 2 * (inputs["x"] @ kernel + bias), rtol=1e-5)


# -- the user's own code of Keras 2 -----------------------------------------------------------------------------------

OWN = """
import {keras} as k
from {keras}.layers import Layer
from {keras} import backend as K

class Twice(Layer):
    def call(self, x):
        return K.sum(x, axis=-1, keepdims=True) + k.activations.hard_sigmoid(x)
"""


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_keras_in_the_users_code_means_keras_2(suffix: str, tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "own"}
    exec(OWN.format(keras="tf_keras"), space)
    x = tf_keras.Input(VECTOR, name="x")
    model = tf_keras.Model(x, space["Twice"](name="twice")(x))
    model.save(tmp_path / f"model{suffix}")
    (tmp_path / "own_layers.py").write_text(OWN.format(keras="keras"))
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "keras"}
    loaded = load(tmp_path / f"model{suffix}", imports=(str(tmp_path / "own_layers.py"),))
    assert {name: module for name, module in sys.modules.items() if name.split(".")[0] == "keras"} == before
    assert tf_keras.layers.__spec__ is None or tf_keras.layers.__spec__.name.startswith("tf_keras")
    assert any("keras" in note and "meant tf_keras in the imported code" in note for note in loaded.notes)
    inputs = {"x": np.linspace(-3, 3, 8, dtype="float32").reshape(2, 4)}
    assert_recorded(loaded, inputs, outputs(model, inputs))


def test_a_cheap_look_tells_the_version(tmp_path: Path) -> None:
    """So that TensorFlow can be imported with the tf.keras that the file was made with."""
    for library in (keras, tf_keras):
        model = library.Sequential([library.Input(VECTOR), library.layers.Dense(2)])
        for name in ("model.h5", "model.keras"):
            model.save(tmp_path / name)
            assert era.peek(tmp_path / name) == library.__version__
            wanted = {} if library is keras else {"TF_USE_LEGACY_KERAS": "1"}
            request = LoadRequest(tmp_path / name, imports=("own.py",))
            assert KerasAdapter().environment(request) == wanted
            assert KerasAdapter().environment(LoadRequest(tmp_path / name)) == {}
    (tmp_path / "model.json").write_text(model.to_json())
    assert era.peek(tmp_path / "model.json") == tf_keras.__version__
    for libver in ("earliest", "latest"):
        with h5py.File(tmp_path / "old.h5", "w", libver=libver) as file:
            file.attrs["padding"] = np.zeros(900)
            file.attrs.create("keras_version", b"2.2.4", dtype="S5")
        assert era.peek(tmp_path / "old.h5") == "2.2.4"
        raw = (tmp_path / "old.h5").read_bytes()
        at = raw.index(b"2.2.4", raw.index(b"keras_version")) + len("2.2.4")
        (tmp_path / "old.h5").write_bytes(raw[:at] + b"1" + raw[at + 1 :])  # what follows may be a digit
        assert era.peek(tmp_path / "old.h5") == "2.2.4"
    whole = (tmp_path / "model.h5").read_bytes()
    numbers = np.random.default_rng(6)
    at = whole.index(b"keras_version")
    for _ in range(200):  # damage near what it reads: anything but an exception
        damaged = bytearray(whole)
        for place in numbers.integers(at, at + 120, 4):
            damaged[place] = numbers.integers(256)
        (tmp_path / "bad.h5").write_bytes(damaged)
        era.peek(tmp_path / "bad.h5")
    assert era.peek(tmp_path / "none.h5") is None
