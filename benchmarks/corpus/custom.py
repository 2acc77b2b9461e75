"""Small networks as people write them for one task: recurrent ones for text and signals, a segmenter, a classifier.

Written for the benches of defects, which have no recurrent and no encoder-decoder ports else; kept aside, so that
nothing is tuned on them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.corpus.port import Built, Parameter, Port

WORDS, STEPS, SAMPLES = 40, 9, 3
_Moved = Iterator[tuple[str, str, np.ndarray]]
"""A weight's name in Keras, its name in PyTorch, its values there."""


def _ids() -> np.ndarray:
    return np.random.default_rng(5).integers(0, WORDS, (SAMPLES, STEPS)).astype(np.int32)


def _image(size: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(6).standard_normal((SAMPLES, size, size, channels), dtype=np.float32)


def _fill(model: Any) -> None:
    """Weights that a trained network might have, by their names alone."""
    for layer in model._flatten_layers(include_self=False, recursive=True):
        for weight in layer._trainable_variables + layer._non_trainable_variables:
            name, shape = weight.name, tuple(weight.shape)
            if weight.dtype != "float32":
                continue
            rng = np.random.default_rng(zlib.crc32(weight.path.encode()))
            if name in ("gamma", "moving_variance"):
                values = rng.uniform(0.5, 1.5, shape)
            elif name.endswith(("bias", "beta", "mean")) or len(shape) == 1:
                values = rng.normal(0, 0.3, shape)
            elif name == "embeddings":
                values = rng.normal(0, 1, shape)
            else:
                values = rng.normal(0, 1.2 / max(np.prod(shape[:-1]), 1) ** 0.5, shape)
            weight.assign(values.astype(np.float32))


# --- weights ------------------------------------------------------------------------------------------------


def _torch_weights(layer: Any) -> _Moved:
    kind = type(layer).__name__
    if kind == "Bidirectional":
        for side, end in (("forward", ""), ("backward", "_reverse")):
            for ours, theirs, values in _recurrent(getattr(layer, f"{side}_layer")):
                yield f"{side}/{ours}", theirs + end, values
        return
    if kind in ("LSTM", "GRU"):
        yield from _recurrent(layer)
        return
    if kind == "MultiHeadAttention":
        yield from _attention(layer)
        return
    arrays = {weight.name: np.asarray(weight) for weight in layer.weights}
    names = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "alpha": "weight", "beta": "bias",
             "moving_mean": "running_mean", "moving_variance": "running_var"}  # fmt: skip
    for name, values in arrays.items():
        if name == "kernel":
            # Dense (in, out), convolutions (k…, in, out), transposed ones (k…, out, in): the last two first, turned.
            values = values.transpose(-1, -2, *range(values.ndim - 2))
        yield name, names.get(name, name), values.reshape(-1) if name == "alpha" else values


def _recurrent(layer: Any) -> _Moved:
    kernel, recurrent, bias = (np.asarray(weight) for weight in layer.weights)
    if type(layer).__name__ == "LSTM":
        yield "kernel", "weight_ih_l0", kernel.T
        yield "recurrent_kernel", "weight_hh_l0", recurrent.T
        part = np.float32(0.25) if layer.name.endswith("inner_2") else np.float32(0)
        yield "bias", "bias_ih_l0", bias * (1 - part)
        yield "", "bias_hh_l0", bias * part  # PyTorch has two, of which training makes whatever it likes
        return
    width = recurrent.shape[0]
    order = np.r_[width : 2 * width, :width, 2 * width : 3 * width]  # Keras has z, r, h; PyTorch r, z, n
    yield "kernel", "weight_ih_l0", kernel.T[order]
    yield "recurrent_kernel", "weight_hh_l0", recurrent.T[order]
    yield "bias", "bias_ih_l0", bias[0][order]
    yield "", "bias_hh_l0", bias[1][order]


def _attention(layer: Any) -> _Moved:
    arrays = [np.asarray(weight) for weight in layer.weights]  # query, key, value, output: kernel and bias each
    width = arrays[0].shape[0]
    projections = [kernel.reshape(width, -1).T for kernel in arrays[0:6:2]]
    yield "query/kernel", "in_proj_weight", np.concatenate(projections)
    yield "query/bias", "in_proj_bias", np.concatenate([bias.reshape(-1) for bias in arrays[1:6:2]])
    yield "attention_output/kernel", "out_proj.weight", arrays[6].reshape(-1, width).T
    yield "attention_output/bias", "out_proj.bias", arrays[7]


def _carried(
    reference: Any, candidate: Any, twins: Mapping[str, str], rows: Mapping[str, Any]
) -> dict[Parameter, Parameter]:
    """Fill the module with the Keras model's weights; which parameter went where."""
    import torch

    state = {n: t for n, t in candidate.state_dict(keep_vars=True).items() if not n.endswith("num_batches_tracked")}
    found: dict[Parameter, Parameter] = {}
    layers = {layer.name: layer for layer in reference.layers if layer.weights}
    assert layers.keys() == twins.keys(), layers.keys() ^ twins.keys()
    with torch.no_grad():
        for name, layer in layers.items():
            for ours, theirs, values in _torch_weights(layer):
                if ours == "kernel" and name in rows:  # rows behind a flatten of (height, width, channels)
                    values = values.reshape(-1, *rows[name]).transpose(0, 3, 1, 2).reshape(values.shape)
                tensor = state.pop(f"{twins[name]}.{theirs}")
                assert tuple(tensor.shape) == values.shape, (name, ours, tensor.shape, values.shape)
                tensor.copy_(torch.from_numpy(np.array(values)))
                owner, _, last = f"{twins[name]}.{theirs}".rpartition(".")
                if ours:
                    found[name, ours] = (owner, last)
        assert not state, f"nothing goes to {sorted(state)}"
    return found


def _built(reference: Any, candidate: Any, inputs: Any, twins: Mapping[str, str], **rows: Any) -> Built:
    """Raises AssertionError where a weight is left over or the outputs differ."""
    import torch

    _fill(reference)
    parameters = _carried(reference, candidate.eval(), twins, rows)
    ours = np.asarray(reference(inputs, training=False))
    moved = np.ascontiguousarray(np.moveaxis(inputs, -1, 1)) if inputs.ndim > 2 else inputs.astype(np.int64)
    with torch.inference_mode():
        theirs = candidate(torch.from_numpy(moved)).numpy()
    theirs = np.moveaxis(theirs, 1, -1) if theirs.ndim == 4 else theirs
    apart = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    assert apart < 1e-4, apart
    return Built(reference, candidate, inputs, None, parameters)


# --- text ---------------------------------------------------------------------------------------------------


def lstm_text() -> Built:
    """A classifier of sentences: two LSTM layers, the last step, two dense layers."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(WORDS, 10)
            self.rnn1 = nn.LSTM(10, 10, batch_first=True)
            self.rnn2 = nn.LSTM(10, 10, batch_first=True)
            self.hidden, self.drop, self.head = nn.Linear(10, 10), nn.Dropout(0.4), nn.Linear(10, 4)

        def forward(self, ids: Any) -> Any:
            x, _ = self.rnn1(self.words(ids))
            x, _ = self.rnn2(x)
            x = torch.relu(self.hidden(x[:, -1]))
            return torch.softmax(self.head(self.drop(x)), dim=1)

    ids = keras.Input((STEPS,), dtype="int32", name="ids")
    x = layers.Embedding(WORDS, 10, name="words")(ids)
    x = layers.LSTM(10, return_sequences=True, name="lstm_1")(x)
    x = layers.LSTM(10, name="lstm_2")(x)
    x = layers.Dense(10, activation="relu", name="hidden")(x)
    x = layers.Dropout(0.4, name="drop")(x)
    model = keras.Model(ids, layers.Dense(4, activation="softmax", name="head")(x))
    twins = {"words": "words", "lstm_1": "rnn1", "lstm_2": "rnn2", "hidden": "hidden", "head": "head"}
    return _built(model, Text(), _ids(), twins)


def gru_text() -> Built:
    """A regressor on sentences: GRU over all steps, their mean, LayerNorm."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(WORDS, 12)
            self.rnn = nn.GRU(12, 11, batch_first=True)
            self.norm, self.hidden, self.head = nn.LayerNorm(11, eps=1e-3), nn.Linear(11, 11), nn.Linear(11, 3)

        def forward(self, ids: Any) -> Any:
            x, _ = self.rnn(self.words(ids))
            x = self.norm(x.mean(1))
            return self.head(torch.tanh(self.hidden(x)))

    ids = keras.Input((STEPS,), dtype="int32", name="ids")
    x = layers.Embedding(WORDS, 12, name="words")(ids)
    x = layers.GRU(11, return_sequences=True, name="gru")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Dense(11, activation="tanh", name="hidden")(x)
    model = keras.Model(ids, layers.Dense(3, name="head")(x))
    return _built(model, Text(), _ids(), {n: n if n != "gru" else "rnn" for n in
                                          ("words", "gru", "norm", "hidden", "head")})  # fmt: skip


def bilstm_text() -> Built:
    """A tagger's encoder with a head for the sentence: LSTM in both directions, all steps and then the last ones."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(WORDS, 12)
            self.rnn1 = nn.LSTM(12, 6, batch_first=True, bidirectional=True)
            self.rnn2 = nn.LSTM(12, 6, batch_first=True, bidirectional=True)
            self.head = nn.Linear(12, 5)

        def forward(self, ids: Any) -> Any:
            x, _ = self.rnn1(self.words(ids))
            _, (last, _) = self.rnn2(x)
            return torch.sigmoid(self.head(torch.cat([last[0], last[1]], 1)))

    ids = keras.Input((STEPS,), dtype="int32", name="ids")
    x = layers.Embedding(WORDS, 12, name="words")(ids)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True, name="inner_1"), name="both_1")(x)
    x = layers.Bidirectional(layers.LSTM(6, name="inner_2"), name="both_2")(x)
    model = keras.Model(ids, layers.Dense(5, activation="sigmoid", name="head")(x))
    return _built(model, Text(), _ids(), {"words": "words", "both_1": "rnn1", "both_2": "rnn2", "head": "head"})


def attention_text() -> Built:
    """A small encoder: words and places, nn.MultiheadAttention, feed-forward, both with a norm behind the sum."""
    import keras
    import torch
    from keras import layers, ops
    from torch import nn

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(WORDS, 16), nn.Embedding(STEPS, 16)
            self.mix = nn.MultiheadAttention(16, 4, batch_first=True)
            self.norm1, self.norm2 = nn.LayerNorm(16, eps=1e-6), nn.LayerNorm(16, eps=1e-6)
            self.wide, self.narrow, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 3)
            self.gelu = nn.GELU()

        def forward(self, ids: Any) -> Any:
            x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
            x = self.norm1(x + self.mix(x, x, x, need_weights=False)[0])
            x = self.norm2(x + self.narrow(self.gelu(self.wide(x))))
            return self.head(x.mean(1))

    ids = keras.Input((STEPS,), dtype="int32", name="ids")
    counted = ops.cumsum(ops.ones_like(ids), axis=1) - 1  # a constant would be no part of the model
    places = layers.Embedding(STEPS, 16, name="places")(counted)
    x = layers.Embedding(WORDS, 16, name="words")(ids) + places
    x = layers.LayerNormalization(epsilon=1e-6, name="norm1")(
        layers.Add(name="add1")([x, layers.MultiHeadAttention(4, 4, name="mix")(x, x)])
    )
    wide = layers.Dense(24, activation="gelu", name="wide")(x)
    x = layers.LayerNormalization(epsilon=1e-6, name="norm2")(
        layers.Add(name="add2")([x, layers.Dense(16, name="narrow")(wide)])
    )
    model = keras.Model(ids, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D(name="mean")(x)))
    names = ("words", "places", "mix", "norm1", "norm2", "wide", "narrow", "head")
    return _built(model, Text(), _ids(), {name: name for name in names})


# --- signals and images -------------------------------------------------------------------------------------


def crnn() -> Built:
    """A classifier of signals: convolutions with norm and pool, a GRU over what is left, its last step."""
    import keras
    from keras import layers
    from torch import nn

    class Signal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv1d(2, 8, 5, padding=2), nn.BatchNorm1d(8, eps=1e-3)
            self.conv2, self.bn2 = nn.Conv1d(8, 8, 5, padding=2), nn.BatchNorm1d(8, eps=1e-3)
            self.act, self.pool = nn.LeakyReLU(0.1), nn.MaxPool1d(2)
            self.rnn = nn.GRU(8, 8, batch_first=True)
            self.head = nn.Linear(8, 4)

        def forward(self, signal: Any) -> Any:
            x = self.pool(self.act(self.bn1(self.conv1(signal))))
            x = self.pool(self.act(self.bn2(self.conv2(x))))
            x, _ = self.rnn(x.permute(0, 2, 1))
            return self.head(x[:, -1, :])

    signal = keras.Input((44, 2), name="signal")
    x = signal
    for i in (1, 2):
        x = layers.Conv1D(8, 5, padding="same", name=f"conv{i}")(x)
        x = layers.BatchNormalization(name=f"bn{i}")(x)
        x = layers.MaxPooling1D(2, name=f"pool{i}")(layers.LeakyReLU(negative_slope=0.1, name=f"act{i}")(x))
    x = layers.GRU(8, name="gru")(x)
    model = keras.Model(signal, layers.Dense(4, name="head")(x))
    values = np.random.default_rng(7).standard_normal((SAMPLES, 44, 2), dtype=np.float32)
    twins = {name: name for name in ("conv1", "bn1", "conv2", "bn2", "head")} | {"gru": "rnn"}
    return _built(model, Signal(), values, twins)


def unet() -> Built:
    """A segmenter: one level up by repeating, one by a bilinear resize, one by a transposed convolution."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    class Unit(nn.Module):
        def __init__(self, wide: int, out: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(wide, out, 3, padding=1)
            self.bn, self.act = nn.BatchNorm2d(out, eps=1e-3), nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.act(self.bn(self.conv(x)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down1, self.down2, self.down3 = Unit(3, 6), Unit(6, 8), Unit(8, 10)
            self.floor = Unit(10, 10)
            self.pool = nn.MaxPool2d(2)
            self.up3 = nn.Upsample(scale_factor=2, mode="nearest")
            self.up2 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            self.up1 = nn.ConvTranspose2d(8, 8, 2, stride=2)
            self.wide3, self.wide2, self.wide1 = Unit(20, 10), Unit(18, 8), Unit(14, 6)
            self.head = nn.Conv2d(6, 2, 1)

        def forward(self, image: Any) -> Any:
            one = self.down1(image)
            two = self.down2(self.pool(one))
            three = self.down3(self.pool(two))
            x = self.floor(self.pool(three))
            x = self.wide3(torch.cat([self.up3(x), three], 1))
            x = self.wide2(torch.cat([self.up2(x), two], 1))
            x = self.wide1(torch.cat([self.up1(x), one], 1))
            return torch.sigmoid(self.head(x))

    twins: dict[str, str] = {"up1": "up1", "head": "head"}

    def unit(x: Any, out: int, name: str) -> Any:
        twins.update({f"{name}_conv": f"{name}.conv", f"{name}_bn": f"{name}.bn"})
        x = layers.Conv2D(out, 3, padding="same", name=f"{name}_conv")(x)
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))

    image = keras.Input((48, 48, 3), name="image")
    one = unit(image, 6, "down1")
    two = unit(layers.MaxPooling2D(2, name="pool1")(one), 8, "down2")
    three = unit(layers.MaxPooling2D(2, name="pool2")(two), 10, "down3")
    x = unit(layers.MaxPooling2D(2, name="pool3")(three), 10, "floor")
    x = unit(layers.Concatenate(name="join3")([layers.UpSampling2D(2, name="up3")(x), three]), 10, "wide3")
    up2 = layers.UpSampling2D(2, interpolation="bilinear", name="up2")(x)
    x = unit(layers.Concatenate(name="join2")([up2, two]), 8, "wide2")
    up1 = layers.Conv2DTranspose(8, 2, strides=2, name="up1")(x)
    x = unit(layers.Concatenate(name="join1")([up1, one]), 6, "wide1")
    model = keras.Model(image, layers.Conv2D(2, 1, activation="sigmoid", name="head")(x))
    return _built(model, Net(), _image(48), twins)


def classifier() -> Built:
    """What a first tutorial shows: convolutions, pools, a flatten, dense layers; one convolution strided, SAME."""
    import keras
    import torch
    from keras import layers
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2)
            self.prelu, self.pool, self.elu = nn.PReLU(8), nn.AvgPool2d(2), nn.ELU(0.7)
            self.fc1, self.drop, self.fc2 = nn.Linear(8 * 6 * 6, 20), nn.Dropout(0.3), nn.Linear(20, 20)
            self.head = nn.Linear(20, 5)

        def forward(self, image: Any) -> Any:
            x = self.pool(self.prelu(self.conv1(image)))
            x = self.elu(self.conv2(nn.functional.pad(x, (0, 1, 0, 1))))
            x = torch.relu(self.fc1(torch.flatten(x, 1)))
            x = torch.tanh(self.fc2(self.drop(x)))
            return torch.log_softmax(self.head(x), dim=1)

    image = keras.Input((24, 24, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="conv1")(image)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(x)
    x = layers.AveragePooling2D(2, name="pool")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="conv2")(x)
    x = layers.Flatten(name="flatten")(layers.ELU(alpha=0.7, name="elu")(x))
    x = layers.Dropout(0.3, name="drop")(layers.Dense(20, activation="relu", name="fc1")(x))
    x = layers.Dense(20, activation="tanh", name="fc2")(x)
    model = keras.Model(image, layers.Dense(5, activation="log_softmax", name="head")(x))
    names = ("conv1", "prelu", "conv2", "fc1", "fc2", "head")
    return _built(model, Net(), _image(24), {name: name for name in names}, fc1=(6, 6, 8))


_BUILDERS: tuple[Callable[[], Built], ...] = (
    lstm_text, gru_text, bilstm_text, attention_text, crnn, unet, classifier,
)  # fmt: skip


def _alone(build: Callable[[], Built]) -> Callable[[], Built]:
    def built() -> Built:
        from benchmarks.corpus.vision_tuned import name_layers_anew

        name_layers_anew()
        return build()

    return built


PORTS: tuple[Port, ...] = tuple(
    Port(f"custom/{build.__name__}", _alone(build), "written for this bench, weights carried over by name", True)
    for build in _BUILDERS
)
