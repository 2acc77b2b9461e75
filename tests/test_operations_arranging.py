"""Arithmetic, arrangements and look-ups: every recorded operation read and computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.stepping import distance, failing, recorded, rerun
from tracer.causes import reading
from tracer.causes.reading import arithmetic
from tracer.causes.step import Unknown

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
L, nn, F = keras.layers, torch.nn, torch.nn.functional
_BOUND = 1e-6


def _x(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


class _Module(nn.Module):
    """A module around a function of itself and its input."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


class _Keras(keras.Model):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.scale = self.add_weight(shape=(4,), name="scale", initializer="normal")
        self.table = self.add_weight(shape=(9, 4), name="table", initializer="normal")

    def call(self, x):
        return self.function(self, x)


def _torch_arithmetic(own, x):
    return [
        x + 2.5, 1 - x, 2 / (x.abs() + 1), x / 3, x**3, 2**x, torch.pow(x.abs(), 0.3), torch.add(x, x.flip(1), alpha=3),
        torch.maximum(x, torch.tensor(0.1)), torch.minimum(x, x * x), x - torch.arange(5.0), x * own.gain,
        x * torch.linspace(1, 2, 7)[:, None], torch.floor_divide(x, 0.5), torch.remainder(x, 0.7),
        x[:, :1].expand(3, 4, 5) + 0, torch.zeros_like(x) + x.mean(), x.expand(2, 3, 7, 5) + x,
        torch.einsum("btc,bsc->bts", x, x),
        torch.bmm(x, x.transpose(1, 2)), torch.tensordot(x, x, dims=([0, 1], [0, 1])), torch.matmul(x.mT, x),
        torch.addmm(x[0, 0], x[0], x[1, :5]), torch.baddbmm(x[:, :, :1], x, x.mT, beta=2.0, alpha=0.5),
        torch.dot(x[0, 0], x[0, 1]),
    ]  # fmt: skip


def _torch_arranging(own, x):
    first, second, third = x.split([2, 3, 2], 1)
    unbound = x.unbind(1)
    return [
        x.reshape(3, -1), x.view(3, 5, 7), x.permute(2, 0, 1), x[:, None], x[:, :1].squeeze(1), x.unsqueeze(-1),
        x[:, 1:5:2], x[..., -1], x[:, [3, 1]], x.narrow(1, 2, 3), x.select(1, 4), first * 1, second * 1, third * 1,
        *(part * 1 for part in x.chunk(2, 1)), unbound[0] * 1, unbound[6] * 1,
        torch.cat([own.token.expand(3, -1, -1), x], 1), torch.cat([x, x], -1), torch.stack([x, x * 2], 0),
        F.pad(x, (1, 2)), F.pad(x, (1, 1), mode="reflect"), F.pad(x, (2, 1), mode="circular"),
        F.pad(x, (2, 1), mode="replicate"), F.pad(x, (-1, 2, 0, -2), value=3.0), x.roll(2, 1),
        torch.roll(x, (1, -1), (0, 2)), x.flip((1, 2)), x.repeat(1, 2, 3), x.repeat(2, 1, 1, 1),
        x.repeat_interleave(2, 1), torch.repeat_interleave(x, torch.tensor([1, 2, 0, 1, 1, 1, 1]), 1),
        x[:, :, :1].expand(-1, -1, 4).reshape(3, -1), x.flatten(0, 1), torch.unflatten(x, 2, (5, 1)),
        torch.movedim(x, 0, 1), F.unfold(x[:, None], (2, 3), padding=1), torch.tril(x), torch.triu(x, 1), x.cumsum(1),
        x.cumprod(-1), F.pixel_shuffle(x.repeat(1, 4, 1)[:, :8, :, None], 2), F.pixel_unshuffle(x[:, None, :6, :4], 2),
    ]  # fmt: skip


def _torch_picking(own, x):
    large, ids = x > 0.2, (x[..., 0].abs() * 3).long().clamp(0, 6)
    return [
        torch.where(large, x, torch.zeros(())), x.masked_fill(large, -1e9), torch.where(large, x, x * 2),
        x.masked_fill(torch.tril(torch.ones(7, 5)) == 0, float("-inf")), own.words(ids), own.places(own.order),
        x + own.places(own.order), F.one_hot(ids, 7), torch.gather(x, 1, ids[:, :, None].expand(-1, -1, 5)),
        x.index_select(1, torch.tensor([0, 6])), x[torch.arange(3), ids[:, 0]],
        torch.take_along_dim(x, ids[:, :, None], 1),
    ]  # fmt: skip


@pytest.mark.parametrize("function", [_torch_arithmetic, _torch_arranging, _torch_picking])
def test_torch(function, tmp_path: Path) -> None:
    parts = {
        "gain": nn.Parameter(torch.randn(5)),
        "token": nn.Parameter(torch.randn(1, 1, 5)),
        "words": nn.Embedding(11, 5, padding_idx=0),
        "places": nn.Embedding(7, 5),
        "order": nn.Buffer(torch.arange(7)),
    }
    recording = recorded(_Module(function, **parts).eval(), _x(3, 7, 5), tmp_path)
    assert len(recording.structure) > 10
    assert not failing(recording, _BOUND)


def _tensorflow_arithmetic(own, x):
    return [
        x * own.scale, x + own.scale * 2.0, x * x, x - 1.5, 1.0 / (tf.abs(x) + 1.0),
        tf.einsum("bhwc,bhvc->bhwv", x, x * 2),
        tf.matmul(x, x, transpose_b=True), tf.math.squared_difference(x, x * 2), tf.math.floormod(x, 0.7), x // 0.5,
        2.0**x, tf.abs(x) ** 2.5, tf.maximum(x, 0.25),
        tf.matmul(tf.reshape(x, (3, 6, -1)), tf.reshape(x, (3, 6, -1)), transpose_a=True),
    ]  # fmt: skip


def _tensorflow_arranging(own, x):
    ids = tf.cast(tf.abs(x[..., 0]) * 2, tf.int32)
    return [
        tf.gather(own.table, ids), tf.gather(own.table, tf.range(8)), tf.transpose(x), tf.reshape(x, (3, -1)),
        x[:, 1:3], x[:, ::-1], tf.concat([x, tf.zeros((3, 6, 8, 1))], -1),
        tf.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]], "SYMMETRIC"),
        tf.pad(x, [[0, 0], [1, 1], [2, 0], [0, 0]], constant_values=2.0), tf.nn.depth_to_space(x, 2),
        tf.nn.space_to_depth(x, 2), tf.tile(x, (1, 1, 2, 1)), tf.repeat(x, 2, 1), tf.roll(x, 1, 2), tf.reverse(x, [1]),
        tf.cumsum(x, 1, exclusive=True), tf.linalg.band_part(x, -1, 0), tf.one_hot(ids, 5), tf.where(x > 0, x, 0.0),
        tf.stack([x, x * 2], 2), tf.unstack(x, axis=1)[2], tf.split(x, [2, 4], 1)[1], tf.gather_nd(x, [[0, 1], [2, 3]]),
        tf.gather(x, [1, 1, 0], axis=2), tf.expand_dims(x, -1), tf.broadcast_to(x[:, :1], (3, 5, 8, 4)),
        tf.boolean_mask(x, [True, False, True]),
    ]  # fmt: skip


@pytest.mark.parametrize("function", [_tensorflow_arithmetic, _tensorflow_arranging])
def test_tensorflow_says_nothing_but_values(function, tmp_path: Path) -> None:
    """Of operations outside layers neither constants nor indices are recorded."""
    model, x = _Keras(function), _x(3, 6, 8, 4)
    model(x)
    assert not failing(recorded(model, x, tmp_path), _BOUND)


def test_keras_layers(tmp_path: Path) -> None:
    x = _x(3, 6, 8, 4)
    given, ops = keras.Input((6, 8, 4)), keras.ops
    flat, volume = L.Reshape((6, 32))(given), L.Reshape((6, 4, 2, 4))(given)
    adapted, inverse = L.Normalization(), L.Normalization(axis=(1, 3), invert=True)
    adapted.adapt(x)
    inverse.adapt(x)
    outputs = [
        L.Add()([given, given]), L.Average()([given, given * 2, given * 3]), L.Subtract()([given, given * 2]),
        L.Multiply()([given, given * 2, given]), L.Rescaling(1 / 127.5, -1)(given),
        L.Rescaling([1.0, 2, 3, 4], [0.0, 1, 2, 3])(given), adapted(given), inverse(given),
        L.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 2, 1, 2])(given), L.Dot(2)([flat, flat * 2]),
        L.Dot((1, 2), normalize=True)([flat, L.Permute((2, 1))(flat)]), L.Flatten()(given),
        L.Flatten(data_format="channels_first")(given), L.Permute((3, 1, 2))(given),
        L.RepeatVector(3)(L.Flatten()(given)),
        L.ZeroPadding2D(((1, 2), (0, 3)))(given), L.Cropping2D(((1, 2), (0, 3)))(given),
        L.ZeroPadding2D((1, 2), data_format="channels_first")(given), L.Concatenate(1)([given, given * 2]),
        L.Concatenate()([given, given]), L.ZeroPadding1D((1, 2))(flat), L.Cropping1D((1, 2))(flat),
        L.ZeroPadding3D(((1, 0), (0, 2), (1, 1)))(volume), L.Cropping3D(((1, 0), (0, 2), (1, 0)))(volume),
        L.Embedding(9, 3)(ops.cast(ops.abs(given[..., 0, 0]) * 2, "int32")), *ops.split(given, [1, 3], 3),
        *ops.split(given, 2, 2), ops.take(given, [2, 0], 1), ops.power(ops.abs(given) + 1, 0.3),
        ops.moveaxis(given, 3, 1),
    ]  # fmt: skip
    assert not failing(recorded(keras.Model(given, outputs), x, tmp_path), _BOUND)


def test_what_is_inferred_is_written_as_a_person_would(tmp_path: Path) -> None:
    model, x = _Keras(lambda own, x: [x * 0.1, x + own.scale, x - tf.range(8.0)[:, None]]), _x(3, 6, 8, 4)
    model(x)
    recording = recorded(model, x, tmp_path)
    by_kind = {node.kind: reading.read(recording, node.name) for node in recording.structure if node.parents}
    assert by_kind["mul"].settings["operand"] == 0.1
    assert by_kind["add"].weights["operand"].shape == (4,)
    assert by_kind["sub"].settings["operand"].shape == (1, 1, 8, 1)
    np.testing.assert_allclose(by_kind["sub"].settings["operand"].ravel(), np.arange(8), atol=1e-5)


def test_an_operand_as_large_as_the_result_is_not_made_up(tmp_path: Path) -> None:
    """What fills the whole tensor would explain any defect."""
    noise = np.random.default_rng(1).normal(size=(3, 6, 8, 4)).astype("float32")
    model, x = _Keras(lambda own, x: [x + noise, x * noise]), _x(3, 6, 8, 4)
    model(x)
    recording = recorded(model, x, tmp_path)
    names = [node.name for node in recording.structure if node.kind in ("add", "mul")]
    assert len(names) == 2
    for name in names:
        with pytest.raises(Unknown, match="operand"):
            reading.read(recording, name)


def test_a_hidden_defect_is_not_explained_away(tmp_path: Path) -> None:
    """A layer that does something else than it says is read as what it says."""

    class Leaky(L.Add):
        def call(self, inputs):
            return super().call(inputs) * 1.25

    given = keras.Input((6, 4))
    model = keras.Model(given, L.Concatenate(name="joined")([given, Leaky(name="sum")([given, keras.ops.sin(given)])]))
    recording = recorded(model, _x(3, 6, 4), tmp_path)
    step = reading.read(recording, "sum")
    assert step.kind == "add"
    assert "operand" not in step.settings
    assert len(step.inputs) == 2
    assert distance(recording, "sum") > 0.1


def test_shuffles_of_both_frameworks_differ(tmp_path: Path) -> None:
    recording = recorded(_Module(lambda own, x: F.pixel_shuffle(x, 2)), _x(3, 8, 4, 5), tmp_path)
    name = next(node.name for node in recording.structure if node.kind == "pixel_shuffle")
    step = reading.read(recording, name)
    assert step.settings["order"] == "crd"
    x = recording.read(step.inputs[0])
    wanted = tf.transpose(tf.nn.depth_to_space(tf.transpose(x, (0, 2, 3, 1)), 2), (0, 3, 1, 2))
    np.testing.assert_array_equal(rerun(recording, name, step.set(order="dcr")), wanted)


def test_ids_that_are_not_recorded_are_told_by_the_rows(tmp_path: Path) -> None:
    model, x = _Keras(lambda own, x: x + tf.gather(own.table, tf.range(2, 8))[:, None]), _x(3, 6, 8, 4)
    model(x)
    recording = recorded(model, x, tmp_path)
    name = next(node.name for node in recording.structure if node.kind == "embedding")
    step = reading.read(recording, name)
    np.testing.assert_array_equal(step.settings["ids"], np.arange(2, 8))
    shifted = rerun(recording, name, step.set(offset=-1))
    np.testing.assert_array_equal(shifted, step.weights["kernel"][1:7])
    with pytest.raises(Unknown, match="beyond the table"):
        rerun(recording, name, step.set(offset=5))


def test_layers_that_somebody_wrote_are_tried(tmp_path: Path) -> None:
    class Scale(L.Layer):
        def build(self, shape):
            self.weight = self.add_weight(shape=(shape[-1],), name="weight", initializer="normal")
            self.bias = self.add_weight(shape=(shape[-1],), name="bias", initializer="normal")

        def call(self, x):
            return x * self.weight + self.bias

    class Opaque(L.Layer):
        def call(self, x):
            return tf.sin(x) * tf.cos(x * 3)

    given = keras.Input((6, 4))
    recording = recorded(keras.Model(given, Opaque(name="opaque")(Scale(name="affine")(given))), _x(3, 6, 4), tmp_path)
    assert reading.read(recording, "affine").kind == "rescaling"
    with pytest.raises(Unknown, match="no single operation"):
        reading.read(recording, "opaque")


def test_equations_are_those_that_fit_the_shapes() -> None:
    found = list(arithmetic.equations((2, 3, 5), (2, 4, 5), (2, 3, 4)))
    assert "abc,ade->abd" not in found
    assert "abc,adc->abd" in found
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 4, 5))
    for equation in found:
        assert np.einsum(equation, left, right).shape == (2, 3, 4)
