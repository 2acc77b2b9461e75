"""Networks with one layer of every kind whose weights frameworks lay out differently, in Keras and in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

HEIGHT, WIDTH, WORDS = 6, 10, 4


def randomise(model: Any) -> Any:
    """Give every weight of a Keras model values that are no constants; variances positive."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        values = rng.standard_normal(weight.shape).astype(np.float32) * 0.4
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.name else values)
    return model


def keras_image() -> Any:
    import keras
    from keras import layers as kl

    x = inputs = keras.Input((HEIGHT, WIDTH, 3))
    x = kl.Conv2D(4, (1, 3), padding="same", name="wide")(x)
    x = kl.Conv2D(4, (3, 1), padding="same", name="tall")(x)
    x = kl.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="deep")(x)
    x = kl.BatchNormalization(epsilon=1e-3, name="norm")(x)
    x = kl.SeparableConv2D(6, 3, padding="same", name="separable")(x)
    x = kl.PReLU(shared_axes=[1, 2], name="prelu")(x)
    x = kl.Conv2DTranspose(6, 3, strides=2, padding="same", name="up")(x)
    x = kl.GroupNormalization(3, epsilon=1e-5, name="groups")(x)
    x = kl.LayerNormalization(epsilon=1e-5, name="layer")(x)
    x = kl.Conv2D(8, 1, groups=2, use_bias=False, name="grouped")(x)
    x = kl.MaxPooling2D(2, name="pool")(x)
    x = kl.Flatten(name="flatten")(x)
    x = kl.Dense(12, activation="relu", name="fc1")(x)
    x = kl.Dense(12, activation="relu", name="fc2")(x)
    x = kl.Dense(12, name="fc3")(x)
    return randomise(keras.Model(inputs, x))


IMAGE = {
    ("wide", "kernel"): [("a", "weight")],
    ("tall", "kernel"): [("b", "weight")],
    ("deep", "kernel"): [("c", "weight")],
    ("norm", "gamma"): [("d", "weight")],
    ("norm", "beta"): [("d", "bias")],
    ("norm", "moving_mean"): [("d", "running_mean")],
    ("norm", "moving_variance"): [("d", "running_var")],
    ("separable", "depthwise_kernel"): [("e", "weight")],
    ("separable", "pointwise_kernel"): [("f", "weight")],
    ("separable", "bias"): [("f", "bias")],
    ("prelu", "alpha"): [("g", "weight")],
    ("up", "kernel"): [("h", "weight")],
    ("groups", "gamma"): [("i", "weight")],
    ("groups", "beta"): [("i", "bias")],
    ("layer", "gamma"): [("j", "weight")],
    ("layer", "beta"): [("j", "bias")],
    ("grouped", "kernel"): [("k", "weight")],
    ("fc1", "kernel"): [("l", "weight")],
    ("fc2", "kernel"): [("m", "weight")],
    ("fc3", "kernel"): [("n", "weight")],
    **{(layer, "bias"): [(twin, "bias")] for layer, twin in zip(
        ("wide", "tall", "deep", "up", "fc1", "fc2", "fc3"), "abchlmn", strict=True
    )},
}  # fmt: skip
"""Which parameter of :func:`keras_image` is which of :func:`torch_image`, whose names say nothing."""


def torch_image() -> Any:
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, (1, 3), padding="same")
            self.b = nn.Conv2d(4, 4, (3, 1), padding="same")
            self.c = nn.Conv2d(4, 8, 3, groups=4, padding=1)
            self.d = nn.BatchNorm2d(8, eps=1e-3)
            self.e = nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False)
            self.f = nn.Conv2d(8, 6, 1)
            self.g = nn.PReLU(6)
            self.h = nn.ConvTranspose2d(6, 6, 3, stride=2)
            self.i = nn.GroupNorm(3, 6)
            self.j = nn.LayerNorm(6)
            self.k = nn.Conv2d(6, 8, 1, groups=2, bias=False)
            self.l = nn.Linear(8 * HEIGHT * WIDTH, 12)
            self.m = nn.Linear(12, 12)
            self.n = nn.Linear(12, 12)

        def forward(self, x: Any) -> Any:
            x = self.d(self.c(self.b(self.a(x))))
            x = self.h(self.g(self.f(self.e(x))))[:, :, : 2 * HEIGHT, : 2 * WIDTH]
            x = self.j(self.i(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            x = F.max_pool2d(self.k(x), 2)
            x = F.relu(self.l(torch.flatten(x, 1)))
            return self.n(F.relu(self.m(x)))

    return Image().eval()


def keras_sequence() -> Any:
    import keras
    from keras import layers as kl

    x = inputs = keras.Input((WORDS,), dtype="int32")
    x = kl.Embedding(30, 8, name="table")(x)
    for i in (1, 2, 3):
        x = kl.LSTM(8, return_sequences=True, name=f"lstm{i}")(x)
    x = kl.Bidirectional(kl.GRU(4, return_sequences=True), name="both")(x)
    x = kl.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = kl.RMSNormalization(epsilon=1e-5, name="rms")(x)
    x = kl.SimpleRNN(8, return_sequences=True, name="simple")(x)
    x = kl.Conv1D(8, 1, name="point")(x)
    x = kl.GRU(5, name="last")(x)
    return randomise(keras.Model(inputs, kl.Dense(3, name="head")(x)))


def torch_sequence(fused: bool = False) -> Any:
    """With ``fused`` the attention is written out, with one linear layer for queries, keys and values."""
    import torch.nn.functional as F
    from torch import nn

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Embedding(30, 8)
            self.b = nn.LSTM(8, 8, 3, batch_first=True)
            self.c = nn.GRU(8, 4, bidirectional=True, batch_first=True)
            if fused:
                self.d, self.d_ = nn.Linear(8, 24), nn.Linear(8, 8)
            else:
                self.d = nn.MultiheadAttention(8, 2, batch_first=True)
            self.e = nn.RMSNorm(8, eps=1e-5)
            self.f = nn.RNN(8, 8, batch_first=True)
            self.g = nn.Linear(8, 8)
            self.h = nn.GRU(8, 5, batch_first=True)
            self.i = nn.Linear(5, 3)

        def attend(self, x: Any) -> Any:
            if not fused:
                return self.d(x, x, x, need_weights=False)[0]
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.d(x).chunk(3, -1))
            return self.d_(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

        def forward(self, ids: Any) -> Any:
            x, _ = self.b(self.a(ids))
            x, _ = self.c(x)
            x, _ = self.f(self.e(self.attend(x)))
            x, _ = self.h(self.g(x))
            return self.i(x[:, -1])

    return Sequence().eval()


def keras_volume() -> Any:
    import keras
    from keras import layers as kl

    x = inputs = keras.Input((2, 3, 8, 3))
    x = kl.Conv3D(4, (1, 3, 5), padding="same", name="c3")(x)
    x = kl.Conv3DTranspose(5, 2, strides=2, name="t3")(x)
    x = kl.Reshape((4 * 6, 16 * 5), name="rows")(x)
    x = kl.DepthwiseConv1D(3, depth_multiplier=2, padding="same", name="d1")(x)
    x = kl.Conv1D(12, 3, padding="same", name="wn")(x)
    x = kl.SeparableConv1D(8, 3, padding="same", name="s1")(x)
    x = kl.Conv1DTranspose(6, 2, strides=2, name="t1")(x)
    x = kl.Bidirectional(kl.LSTM(4, return_sequences=True), name="b1")(x)
    x = kl.Bidirectional(kl.LSTM(4, return_sequences=True), name="b2")(x)
    x = kl.Bidirectional(kl.SimpleRNN(3, return_sequences=True), name="rnn")(x)
    x = kl.GlobalAveragePooling1D(name="pool")(x)
    return randomise(keras.Model(inputs, kl.Dense(4, name="head")(x)))


def torch_volume() -> Any:
    """The twin of :func:`keras_volume`; one convolution is weight-normalised, two LSTM layers are one module."""
    from torch import nn

    class Volume(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv3d(3, 4, (1, 3, 5), padding="same")
            self.b = nn.ConvTranspose3d(4, 5, 2, stride=2)
            self.c = nn.Conv1d(80, 160, 3, groups=80, padding=1)
            self.d = nn.utils.parametrizations.weight_norm(nn.Conv1d(160, 12, 3, padding=1))
            self.e = nn.Conv1d(12, 12, 3, groups=12, padding=1, bias=False)
            self.f = nn.Conv1d(12, 8, 1)
            self.g = nn.ConvTranspose1d(8, 6, 2, stride=2)
            self.h = nn.LSTM(6, 4, 2, bidirectional=True, batch_first=True)
            self.i = nn.RNN(8, 3, bidirectional=True, batch_first=True)
            self.j = nn.Linear(6, 4)

        def forward(self, x: Any) -> Any:
            x = self.b(self.a(x)).permute(0, 2, 3, 4, 1).flatten(3).flatten(1, 2).permute(0, 2, 1)
            x = self.g(self.f(self.e(self.d(self.c(x))))).permute(0, 2, 1)
            x, _ = self.h(x)
            x, _ = self.i(x)
            return self.j(x.mean(1))

    return Volume().eval()


def _recurrent(layer: str, twin: str, suffix: str = "_l0", prefix: str = "") -> dict[Any, Any]:
    return {
        (layer, f"{prefix}kernel"): [(twin, f"weight_ih{suffix}")],
        (layer, f"{prefix}recurrent_kernel"): [(twin, f"weight_hh{suffix}")],
        (layer, f"{prefix}bias"): [(twin, f"bias_ih{suffix}"), (twin, f"bias_hh{suffix}")],
    }


def _attention(fused: bool) -> dict[Any, Any]:
    names = (("d", "weight"), ("d", "bias")) if fused else (("d", "in_proj_weight"), ("d", "in_proj_bias"))
    found: dict[Any, Any] = {
        ("attention", f"{part}/{name}"): [twin]
        for part in ("query", "key", "value")
        for name, twin in zip(("kernel", "bias"), names, strict=True)
    }
    out = ("d_", "") if fused else ("d", "out_proj.")
    for name, twin_name in (("kernel", "weight"), ("bias", "bias")):
        found["attention", f"attention_output/{name}"] = [(out[0], f"{out[1]}{twin_name}")]
    return found


def sequence_truth(fused: bool) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Which parameters of :func:`torch_sequence` hold each of :func:`keras_sequence`'s."""
    return {
        ("table", "embeddings"): [("a", "weight")],
        **_recurrent("lstm1", "b", "_l0"), **_recurrent("lstm2", "b", "_l1"), **_recurrent("lstm3", "b", "_l2"),
        **_recurrent("both", "c", "_l0", "forward/"), **_recurrent("both", "c", "_l0_reverse", "backward/"),
        **_attention(fused),
        ("rms", "scale"): [("e", "weight")],
        **_recurrent("simple", "f"),
        ("point", "kernel"): [("g", "weight")], ("point", "bias"): [("g", "bias")],
        **_recurrent("last", "h"),
        ("head", "kernel"): [("i", "weight")], ("head", "bias"): [("i", "bias")],
    }  # fmt: skip
