"""Recurrent layers, attention and resizing: every recorded layer read and computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.stepping import distance, failing, recorded, rerun
from tracer.causes import reading
from tracer.causes.step import Unknown

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
L, nn, F = keras.layers, torch.nn, torch.nn.functional
_BOUND = 2e-6


def _x(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _functional(shape: tuple[int, ...], make) -> keras.Model:
    given = keras.Input(shape)
    return keras.Model(given, make(given))


def _busy(model: keras.Model) -> keras.Model:
    """With biases that are not zero."""
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=weight.shape) * 0.4 for weight in model.get_weights()])
    return model


def test_keras_recurrent(tmp_path: Path) -> None:
    def layers(x):
        modes = ("concat", "sum", "mul", "ave")
        once, h, c = L.LSTM(3, return_state=True)(x)
        return [
            L.LSTM(3, return_sequences=True)(x), once, h, c, L.LSTM(3)(x, initial_state=[h, c]),
            L.LSTM(3, recurrent_activation="hard_sigmoid", activation="relu", use_bias=False)(x),
            L.GRU(3, return_sequences=True, go_backwards=True)(x), L.GRU(3, go_backwards=True)(x),
            L.GRU(3, reset_after=False, recurrent_activation="hard_sigmoid")(x),
            L.SimpleRNN(2, activation="softsign")(x),
            *(L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode=mode)(x) for mode in modes),
            L.Bidirectional(L.GRU(2, reset_after=False))(x), L.RNN(L.LSTMCell(3), return_sequences=True)(x),
            L.LSTM(3)(L.Masking(mask_value=0.0)(x)), L.GRU(3, return_sequences=True)(L.Masking(mask_value=0.0)(x)),
        ]  # fmt: skip

    x = _x(3, 5, 4)
    x[0, 3:] = x[2, 1:] = 0  # what Masking hides
    recording = recorded(_busy(_functional((5, 4), layers)), x, tmp_path)
    assert not failing(recording, _BOUND, "lstm gru rnn item")


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_torch_recurrent(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)
            self.small = nn.LSTM(6, 4, proj_size=2, num_layers=2)
            self.gated = nn.GRU(2, 3, num_layers=2)
            self.plain = nn.RNN(3, 3, nonlinearity="relu", bias=False, bidirectional=True)
            self.cell, self.gate, self.simple = nn.LSTMCell(6, 3), nn.GRUCell(3, 3), nn.RNNCell(3, 4)

        def forward(self, x):
            whole, (h, c) = self.stack(x)
            again, _ = self.stack(x, (h.flip(0), c))
            small, (last, _) = self.small(whole)
            gated, state = self.gated(small)
            plain, end = self.plain(gated)
            one, memory = self.cell(plain[0])
            one, memory = self.cell(plain[1], (one, memory))
            alone, _ = self.gated(small[:, 0])
            parts = (again, last, state, end, memory, self.simple(self.gate(one, memory)), alone, h)
            return [part * 1.0 for part in parts]

    recording = recorded(Model().eval(), _x(3, 5, 4), tmp_path)
    assert not failing(recording, _BOUND)
    first = reading.read(recording, "stack#0")
    assert first.settings["gates"] == "ifgo"
    assert first.weights["kernel_l1_reverse"].shape == (6, 4, 3)
    assert {node.kind for node in recording.structure} >= {"lstm", "gru", "rnn", "lstm_cell", "gru_cell", "rnn_cell"}


def test_both_frameworks_weights_are_in_one_convention(tmp_path: Path) -> None:
    """A GRU carried over by hand has the same step on both sides, but for the order of its gates."""
    model, x = _busy(_functional((5, 4), L.GRU(3, return_sequences=True, name="gru"))), _x(3, 5, 4)
    kernel, recurrent, bias = model.get_weights()
    twin = nn.GRU(4, 3, batch_first=True)
    order = np.r_[3:6, 0:3, 6:9]  # z, r, n to r, z, n
    values = (kernel.T[order], recurrent.T[order], bias[0][order], bias[1][order])
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    twin.load_state_dict({name: torch.tensor(value) for name, value in zip(names, values, strict=True)})
    ours, theirs = recorded(model, x, tmp_path, "keras"), recorded(nn.Sequential(twin).eval(), x, tmp_path, "torch")
    name = next(node.name for node in theirs.structure if node.kind == "gru")
    one, other = reading.read(ours, "gru"), reading.read(theirs, name)
    for role, value in one.weights.items():
        np.testing.assert_array_equal(other.weights[role], value)
    assert one.settings["reset_after"] is other.settings["reset_after"] is True
    assert distance(ours, "gru", one) < _BOUND < 0.05 < distance(ours, "gru", one.set(gates="rzn"))
    assert distance(ours, "gru", one.set(reset_after=False)) > 0.01
    assert distance(ours, "gru", one.set(reverse=True)) > 0.05


def test_unknown_functions_of_recurrent_layers_are_refused(tmp_path: Path) -> None:
    recording = recorded(_functional((5, 4), L.LSTM(3, activation="celu", name="lstm")), _x(3, 5, 4), tmp_path)
    with pytest.raises(Unknown, match="celu"):
        rerun(recording, "lstm")


def test_keras_attention(tmp_path: Path) -> None:
    def layers(x):
        other = x * 0.5 + 0.1
        return [
            L.MultiHeadAttention(2, 3, value_dim=5)(x, x), L.MultiHeadAttention(2, 3)(x, other, use_causal_mask=True),
            L.MultiHeadAttention(2, 3, use_bias=False, output_shape=7)(x, other, other * 2), L.Attention()([x, x]),
            L.Attention(use_scale=True)([x, other]), L.AdditiveAttention()([x, other, x]),
            L.GroupQueryAttention(3, 4, 2)(x, x),
            keras.ops.nn.dot_product_attention(*[x[:, :, None] * k for k in (1, 2, 3)]),
        ]  # fmt: skip

    recording = recorded(_busy(_functional((5, 4), layers)), _x(3, 5, 4), tmp_path)
    assert not failing(recording, _BOUND, "attention")
    masks = [reading.read(recording, n.name).settings["mask"] for n in recording.structure if n.kind == "attention"]
    assert masks.count("causal") == 1
    assert masks.count("none") == len(masks) - 1


def test_torch_attention(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.MultiheadAttention(4, 2, batch_first=True)
            self.other = nn.MultiheadAttention(4, 2, bias=False, kdim=3, vdim=6, add_zero_attn=False)
            self.grown = nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True)
            for part in self.modules():
                for name, parameter in part.named_parameters(recurse=False):
                    if name.endswith("bias"):
                        nn.init.normal_(parameter)

        def forward(self, x):
            plain, weights = self.one(x, x, x)
            causal = nn.Transformer.generate_square_subsequent_mask(5)
            masked, _ = self.one(x, x, x, attn_mask=causal, need_weights=False)
            time = x.transpose(0, 1)
            crossed, _ = self.other(time, time[..., :3] * 2, torch.cat([time, time[..., :2]], -1))
            grown, _ = self.grown(x, x * 0.5, x)
            heads = x.view(3, 5, 2, 2).transpose(1, 2)
            free = F.scaled_dot_product_attention(heads, heads * 2, heads, is_causal=True)
            scaled = F.scaled_dot_product_attention(heads, heads, heads, scale=0.3)
            given = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=x[:, None, :, :1] * 3)
            return [plain + masked, weights * 1.0, crossed * 1.0, grown, free, scaled, given]

    recording = recorded(Model().eval(), _x(3, 5, 4), tmp_path)
    assert not failing(recording, _BOUND)
    step = reading.read(recording, "one#0")
    assert step.settings["heads"] == 2
    assert distance(recording, "one#0", step.set(scale=1.0)) > 0.01
    assert distance(recording, "one#1", step) > 0.01
    assert distance(recording, "one#1", step.set(mask="causal")) < _BOUND


@pytest.mark.filterwarnings("ignore")  # of the tracing
def test_heads_of_exported_attention_are_found(tmp_path: Path) -> None:
    """A traced module keeps its weights, not its settings."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(12, 3)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    traced = torch.jit.trace(Model().eval(), torch.randn(3, 5, 12), check_trace=False)
    recording = recorded(traced, _x(3, 5, 12), tmp_path)
    name = next(node.name for node in recording.structure if node.kind == "attention")
    step = reading.read(recording, name)
    assert step.settings["heads"] == 3
    assert step.settings["time"] == 0
    assert distance(recording, name) < _BOUND


def test_torch_resizing(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x):
            resized = [
                F.interpolate(x, size, mode=mode, align_corners=corners, antialias=smooth)
                for size in ((10, 12), (7, 9), (3, 4))
                for mode, corners, smooth in (
                    ("nearest", None, False), ("nearest-exact", None, False), ("bilinear", False, False),
                    ("bilinear", True, False), ("bilinear", False, True), ("bicubic", False, False),
                    ("bicubic", True, False), ("bicubic", False, True), ("area", None, False),
                )
            ]  # fmt: skip
            scaled = [F.interpolate(x, scale_factor=1.7, mode=mode) for mode in ("nearest", "bilinear", "bicubic")]
            again = F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True)
            line = F.interpolate(x.flatten(2), scale_factor=2.0, mode="linear")
            volume = F.interpolate(x[:, :, None].repeat(1, 1, 3, 1, 1), size=(2, 6, 5), mode="trilinear")
            return [*resized, *scaled, again, line, volume]

    recording = recorded(Model(), _x(3, 4, 5, 6), tmp_path)
    assert sum(node.kind == "upsample" for node in recording.structure) == 33
    assert not failing(recording, _BOUND, "upsample")


def test_keras_and_tensorflow_resizing(tmp_path: Path) -> None:
    class Model(keras.Model):
        def call(self, x):
            one = tf.compat.v1.image
            return [
                tf.image.resize(x, (9, 9)), tf.image.resize(x, (4, 3), method="bicubic", antialias=True),
                tf.image.resize(x, (9, 4), method="lanczos3"), one.resize_bilinear(x, (9, 9), align_corners=True),
                one.resize_bicubic(x, (9, 9)), one.resize_nearest_neighbor(x, (5, 9)),
                tf.raw_ops.ResizeArea(images=x, size=(5, 5)),
            ]  # fmt: skip

    def layers(x):
        modes = ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5", "area")
        return [
            *(L.UpSampling2D((2, 3), interpolation=mode)(x) for mode in ("nearest", "bilinear", "bicubic")),
            *(L.Resizing(7, 4, interpolation=mode)(x) for mode in modes),
            *(L.Resizing(3, 4, interpolation=mode, antialias=True)(x) for mode in ("bilinear", "bicubic")),
            L.Resizing(4, 8, crop_to_aspect_ratio=True)(x), L.Resizing(4, 8, pad_to_aspect_ratio=True)(x),
            L.UpSampling1D(2)(L.Reshape((6, 32))(x)), L.UpSampling3D(2)(L.Reshape((6, 4, 2, 4))(x)),
            keras.ops.image.resize(x, (5, 5), interpolation="bicubic", antialias=True),
        ]  # fmt: skip

    x = _x(3, 6, 8, 4)
    recording = recorded(_functional((6, 8, 4), layers), x, tmp_path, "layers")
    assert sum(node.kind in ("upsample", "resize") for node in recording.structure) == 16
    assert not failing(recording, _BOUND, "upsample resize")
    model = Model()
    model(x)
    assert not failing(recorded(model, x, tmp_path, "operations"), _BOUND)


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_onnx(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = nn.LSTM(5, 3, 2, bidirectional=True, batch_first=True)
            self.gated, self.plain = nn.GRU(6, 4), nn.RNN(4, 4, bidirectional=True)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.token = nn.Parameter(torch.randn(1, 1, 8))

        def forward(self, x):
            h, _ = self.plain(self.gated(self.stack(x)[0])[0])
            y = torch.cat([self.token.expand(3, -1, -1), h / 3 + 1], 1)
            y = self.attention(y, y, y)[0]
            z = F.interpolate(x.view(3, 1, 7, 5), scale_factor=2.0, mode="bilinear")
            z = F.interpolate(F.interpolate(z, size=(9, 4)), size=(12, 8), mode="bicubic", align_corners=True)
            z = F.pixel_unshuffle(F.pixel_shuffle(z.view(3, 4, 6, 4), 2), 2)
            z = F.pad(F.pad(z, (1, 2, 0, 1), mode="reflect"), (1, 0), value=2.0)[:, 1:, ::2, -3:]
            first, second = z.split([1, 2], 1)
            z = torch.stack([first.squeeze(1), second[:, 0]], 1).repeat(1, 2, 1, 1).roll(1, 2).transpose(1, 3)
            w = torch.tril(torch.einsum("btc,bsc->bts", x, x) ** 2)
            return y, z.flatten(1).cumsum(1), w

    path = str(tmp_path / "model.onnx")
    torch.onnx.export(Model().eval(), (torch.randn(3, 7, 5),), path, dynamo=False, opset_version=17)
    recording = recorded(onnx.load(path), _x(3, 7, 5), tmp_path)
    assert len(recording.structure) > 30
    assert not failing(recording, 1e-5)
