"""Sounds: filters between two frequencies, who speaks, and two paths through a mixture."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.ninth.registry import both_ways, regated
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventeenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten
from benchmarks.corpus.mutations.twelfth.registry import folded_ahead

_TIMES = np.arange(-4, 5, dtype=np.float32)
_WINDOW = np.hamming(9).astype(np.float32)


class Sincs(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.sinc = nn.ParameterDict({"low": torch.zeros(4), "band": torch.zeros(4)})
        self.norm, self.conv = nn.LayerNorm(4, eps=1e-6), nn.Conv1d(4, 5, 3)
        self.label = nn.Linear(25, 3)

    def filters(self) -> torch.Tensor:
        low = 0.05 + self.sinc["low"].abs()[:, None]
        high = low + self.sinc["band"].abs()[:, None] / (2 if "half-the-band" in self.ways else 1)
        times = torch.from_numpy(_TIMES)
        window = torch.hamming_window(9) if "window-of-torch" in self.ways else torch.from_numpy(_WINDOW)
        if "filters-by-sines" in self.ways:
            own = torch.where(times == 0, torch.ones(()), times)
            wave = torch.sin(2 * np.pi * high * own) - torch.sin(2 * np.pi * low * own)
            return torch.where(times == 0, 2 * (high - low), wave / (np.pi * own)) * window
        return (2 * high * torch.sinc(2 * high * times) - 2 * low * torch.sinc(2 * low * times)) * window

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.2)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        x = F.conv1d(wave, self.filters()[:, None])
        x = x if "signs-kept" in self.ways else x.abs()
        x = F.avg_pool1d(x, 3) if "means-pooled" in self.ways else F.max_pool1d(x, 3)
        if "normed-over-time" in self.ways:
            wide = x.shape[2]
            x = F.layer_norm(x, (wide,), eps=1e-6) * self.norm.weight[:, None] + self.norm.bias[:, None]
        else:
            x = self.norm(x.mT).mT
        x = self.slope(F.max_pool1d(self.conv(self.slope(x)), 2))
        row = x.flatten(1) if "channel-by-channel" in self.ways else x.mT.flatten(1)
        x = self.label(row)
        return F.log_softmax(x, dim=1) if "logarithms-told" in self.ways else F.softmax(x, dim=1)


class _Sinc(layers.Layer):  # type: ignore[misc]
    """Kernels that let through what lies between two frequencies, each of which is learnt."""

    def build(self, _: tuple[int, ...]) -> None:
        self.low, self.band = (self.add_weight(name=name, shape=(4,)) for name in ("low", "band"))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        low = 0.05 + ops.abs(self.low)
        both = [self._within(high) for high in (low + ops.abs(self.band), low)]
        return ops.conv(x, ops.expand_dims((both[0] - both[1]) * _WINDOW[:, None], 1))

    def _within(self, high: keras.KerasTensor) -> keras.KerasTensor:
        angle = 2 * np.pi * high * (_TIMES + 1e-9 * (_TIMES == 0))[:, None]
        middle = (_TIMES == 0)[:, None]
        return 2 * high * ops.where(middle, 1.0, ops.sin(angle) / angle)


@network
def sincs() -> Pair:
    """SincNet: kernels from two frequencies each, sizes of what comes through, a norm of channels, a row of all."""
    keras.backend.clear_session()
    wave = layers.Input((45, 1), name="wave")
    x = layers.MaxPooling1D(3, name="pool1")(ops.abs(_Sinc(name="sinc")(wave)))
    x = layers.LeakyReLU(0.2, name="leaky1")(layers.LayerNormalization(epsilon=1e-6, name="norm")(x))
    x = layers.MaxPooling1D(2, name="pool2")(layers.Conv1D(5, 3, name="conv")(x))
    x = layers.Flatten(name="row")(layers.LeakyReLU(0.2, name="leaky2")(x))
    model = keras.Model(wave, layers.Dense(3, activation="softmax", name="label")(x))
    fill(model)
    sinc = model.get_layer("sinc")
    sinc.low.assign(np.abs(sinc.low) * 0.3)
    sinc.band.assign(np.abs(sinc.band) * 0.3 + 0.05)
    return Pair(model, fed(1721, 3, 45, 1) * 0.1, ported(model, Sincs), "NHWC->NCHW")


_FILTER = "sinc* unseen* mul* sub* conv1d* hamming_window* abs* pool1"
slip("sincs/window-of-torch", _FILTER, "weights-perturbed", "weights-not-loaded operation-kind")
slip("sincs/half-the-band", _FILTER, "weights-perturbed scale block-extra", "weights-not-loaded")
slip("sincs/slope-of-torch", "leaky? leaky_relu*", "activation-param", "activation-kind")
slip("sincs/signs-kept", "sinc* conv1d* abs* absolute* pool1 max_pool1d*", "activation-missing block-missing",
     "operation-kind")  # fmt: skip
slip("sincs/means-pooled", "pool1 max_pool1d* avg_pool1d* norm", "pool-kind")
slip("sincs/normed-over-time", "norm layer_norm* mul* add* mT* leaky1", "norm-axis", "wiring")
slip("sincs/channel-by-channel", "row flatten* mT* label", "flatten-order dense-row-order", "wiring")
slip("sincs/logarithms-told", "label softmax* log_softmax*", "logits", "activation-kind operation-kind block-extra")
defect("sincs/norm-eps-of-keras", "norm", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
ways("sincs", "filters-by-sines")
one_layer("sincs", "window-of-torch+half-the-band")
neighbours("sincs", "signs-kept+means-pooled", "channel-by-channel+logarithms-told")


# --- who speaks ---------------------------------------------------------------------------------------------

_FRAMES = (("frame1", 5, 6, 5, 1), ("frame2", 6, 6, 3, 2), ("frame3", 6, 6, 3, 3), ("frame4", 6, 8, 1, 1))


class Speaker(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, given, wide, size, rate in _FRAMES:
            rate = 2 if name == "frame3" and "third-not-wider" in ways else rate
            self.add_module(name, nn.Conv1d(given, wide, size, dilation=rate))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(wide, eps=1e-3))
        self.segment, self.segment_bn, self.speaker = nn.Linear(16, 6), nn.BatchNorm1d(6, eps=1e-3), nn.Linear(6, 4)

    def frames(self, name: str, x: torch.Tensor) -> torch.Tensor:
        conv, norm = self.get_submodule(name), self.get_submodule(f"{name}_bn")
        if "frames-by-products" in self.ways:
            size, rate = conv.kernel_size[0], conv.dilation[0]
            steps = x.shape[2] - (size - 1) * rate
            near = torch.stack([x[:, :, i * rate : i * rate + steps] for i in range(size)], dim=3)
            x = torch.einsum("bits,ois->bot", near, conv.weight) + conv.bias[:, None]
        else:
            x = conv(x)
        return F.relu(norm(x)) if name == "frame2" and "norm-before-the-bend" in self.ways else norm(F.relu(x))

    def told(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(2)
        if "spread-in-full" in self.ways:
            spread = x.var(2, correction=0)
        else:
            spread = torch.sqrt(x.var(2, correction=1 if "spread-of-torch" in self.ways else 0) + 1e-5)
        if "spread-by-squares" in self.ways:
            spread = torch.sqrt(((x - mean[..., None]) ** 2).mean(2) + 1e-5)
        return torch.cat([spread, mean] if "spread-first" in self.ways else [mean, spread], dim=1)

    def forward(self, mfcc: torch.Tensor) -> torch.Tensor:
        x = mfcc if "frames-not-centred" in self.ways else mfcc - mfcc.mean(2, keepdim=True)
        for name, *_ in _FRAMES:
            x = self.frames(name, x)
        x = self.segment(self.told(x))
        return self.speaker(self.segment_bn(x if "segment-not-bent" in self.ways else F.relu(x)))


@network
def speaker() -> Pair:
    """The x-vector's network: centred frames, wider and wider steps, bends before norms, mean and spread over time."""
    keras.backend.clear_session()
    mfcc = layers.Input((18, 5), name="mfcc")
    x = layers.Subtract(name="centred")([mfcc, ops.mean(mfcc, axis=1, keepdims=True)])
    for name, _, wide, size, rate in _FRAMES:
        x = layers.Conv1D(wide, size, dilation_rate=rate, activation="relu", name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
    spread = ops.sqrt(ops.var(x, axis=1) + 1e-5)
    x = layers.Concatenate(name="told")([layers.GlobalAveragePooling1D(name="mean_frame")(x), spread])
    x = layers.BatchNormalization(name="segment_bn")(layers.Dense(6, activation="relu", name="segment")(x))
    model = keras.Model(mfcc, layers.Dense(4, name="speaker")(x))
    fill(model)
    return Pair(model, fed(1722, 4, 18, 5), ported(model, Speaker), "NHWC->NCHW")


_TOLD = "mean* var* sqrt* add* told cat* segment"
slip("speaker/frames-not-centred", "mfcc centred mean* sub* frame1", "input-normalisation block-missing", "shift")
slip("speaker/norm-before-the-bend", "frame2* relu*", "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("speaker/third-not-wider", "frame3*", "dilation", "weights-perturbed")
slip("speaker/spread-in-full", _TOLD, "block-missing", "operation-kind activation-missing")
slip("speaker/spread-of-torch", _TOLD, "std-ddof")
slip("speaker/spread-first", _TOLD, "concat-order", "operand-order wiring")
slip("speaker/segment-not-bent", "segment segment_bn relu*", "activation-missing", "block-missing")
defect("speaker/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("speaker/deviation-for-variance", "frame1_bn", "bn-stats", "weights-perturbed")(
    rewritten("frame1_bn.running_var", torch.sqrt)
)
ways("speaker", "frames-by-products", "spread-by-squares")
control("speaker/norm-in-the-dense")(folded_ahead("segment_bn", "speaker"))
one_layer("speaker", "spread-of-torch+spread-first")
neighbours("speaker", "norm-before-the-bend+third-not-wider", "segment-not-bent+spread-in-full")


# --- two paths ----------------------------------------------------------------------------------------------


class Paths(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.inside = nn.LSTM(4, 5, batch_first=True, bidirectional=True)
        self.across = nn.LSTM(4, 5, batch_first=True)
        self.inside_out, self.across_out = nn.Linear(10, 4), nn.Linear(5, 4)
        self.inside_norm, self.across_norm = nn.LayerNorm(4, eps=1e-8), nn.LayerNorm(4, eps=1e-8)
        self.masks = nn.Linear(4, 8)

    def kept(self, name: str, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y, norm = self.get_submodule(f"{name}_out")(y), self.get_submodule(f"{name}_norm")
        if name == "across" and "norm-behind-the-sum" in self.ways:
            return norm(x + y)
        return norm(y) if name == "inside" and "chunks-not-kept" in self.ways else x + norm(y)

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        wide = len(mixture)
        if "chunks-by-step" in self.ways:
            x = mixture.reshape(wide, 4, 3, 4).transpose(1, 2)
        else:
            x = mixture.unflatten(1, (3, 4))
        y = x.reshape(-1, 4, 4)
        y = both_ways(self.inside, y) if "steps-by-hand" in self.ways else self.inside(y)[0]
        x = self.kept("inside", y.reshape(wide, 3, 4, 10), x)
        if "across-as-it-lies" in self.ways:
            y = self.across(x.reshape(-1, 3, 4))[0].reshape(wide, 3, 4, 5)
        else:
            y = self.across(x.transpose(1, 2).reshape(-1, 3, 4))[0].unflatten(0, (wide, 4)).transpose(1, 2)
        x = self.kept("across", y, x).reshape(wide, 12, 4)
        masks = self.masks(x)
        masks = masks if "masks-not-bent" in self.ways else torch.sigmoid(masks)
        masks = masks.unflatten(2, (4, 2)).mT if "voices-innermost" in self.ways else masks.unflatten(2, (2, 4))
        return (masks * mixture[:, :, None]).flatten(2)


@network
def paths() -> Pair:
    """A dual-path network: an LSTM both ways inside each chunk, one from chunk to chunk, a mask for each voice."""
    keras.backend.clear_session()
    mixture = layers.Input((12, 4), name="mixture")
    x = layers.Reshape((3, 4, 4), name="chunks")(mixture)
    y = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="inside")(ops.reshape(x, (-1, 4, 4)))
    y = layers.Dense(4, name="inside_out")(ops.reshape(y, (-1, 3, 4, 10)))
    x = layers.Add(name="inside_sum")([x, layers.LayerNormalization(epsilon=1e-8, name="inside_norm")(y)])
    y = layers.Permute((2, 1, 3), name="turned")(x)
    y = layers.LSTM(5, return_sequences=True, name="across")(ops.reshape(y, (-1, 3, 4)))
    y = layers.Permute((2, 1, 3), name="turned_back")(ops.reshape(y, (-1, 4, 3, 5)))
    y = layers.LayerNormalization(epsilon=1e-8, name="across_norm")(layers.Dense(4, name="across_out")(y))
    x = layers.Reshape((12, 4), name="joined")(layers.Add(name="across_sum")([x, y]))
    x = layers.Dense(8, activation="sigmoid", name="masks")(x)
    x = layers.Reshape((12, 2, 4), name="voices")(x) * ops.expand_dims(mixture, 2)
    model = keras.Model(mixture, layers.Reshape((12, 8), name="told")(x))
    fill(model)
    grown(model, 2, "masks")
    return Pair(model, fed(1723, 3, 12, 4), ported(model, Paths), "same")


_VOICES = "masks voices unflatten* mT* sigmoid* mul* multiply* told flatten*"
slip("paths/norm-behind-the-sum", "across_norm across_sum across_out add*", "residual-order", "wiring operand-order")
slip("paths/chunks-not-kept", "inside_norm inside_sum inside_out add* turned transpose*", "residual-missing",
     "block-missing wiring")  # fmt: skip
slip("paths/chunks-by-step", "chunks reshape* unflatten* transpose* inside*", "reshape-order axis-permutation",
     "wiring")  # fmt: skip
slip("paths/across-as-it-lies", "turned turned_back reshape* transpose* unflatten* across across.*",
     "reshape-order axis-permutation block-missing wiring")  # fmt: skip
slip("paths/masks-not-bent", _VOICES, "activation-missing", "block-missing logits")
slip("paths/voices-innermost", _VOICES, "reshape-order", "wiring channel-order")
defect("paths/gates-of-onnx", "across", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("across", 0, 3, 1, 2)
)
defect("paths/bias-twice", "across", "rnn-bias", "weights-perturbed")(doubled("across"))
defect("paths/norm-eps-of-keras", "*_norm", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
ways("paths", "steps-by-hand")
one_layer("paths", "gates-of-onnx+bias-twice", "masks-not-bent+voices-innermost")
neighbours("paths", "chunks-not-kept+across-as-it-lies")
