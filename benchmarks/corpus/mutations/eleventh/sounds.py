"""Sounds: noise taken off in two domains, what is heard and when, and a wave from noise."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eleventh.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.ninth.registry import both_ways, folded, regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten


class Quiet(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.lstm1, self.mask1 = nn.LSTM(9, 6, batch_first=True), nn.Linear(6, 9)
        self.encode = nn.Conv1d(16, 8, 1, bias=False)
        self.level = nn.ParameterDict({"gain": torch.ones(8), "shift": torch.zeros(8)})
        self.lstm2, self.mask2 = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 8)
        self.decode = nn.Conv1d(8, 16, 1, bias=False)

    def read(self, lstm: nn.LSTM, x: torch.Tensor) -> torch.Tensor:
        return unrolled(lstm, x) if "loops-by-hand" in self.ways else lstm(x)[0]

    def spectral(self, frames: torch.Tensor) -> torch.Tensor:
        waves = torch.fft.rfft(frames, norm="ortho" if "spectrum-of-length-one" in self.ways else "backward")
        size = waves.abs() ** 2 if "power-heard" in self.ways else waves.abs()
        x = self.read(self.lstm1, size)
        x = waves * torch.sigmoid(self.mask1(x))
        return torch.fft.irfft(x, norm="ortho" if "spectrum-of-length-one" in self.ways else "backward")

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        if "level-by-torch" in self.ways:
            return F.layer_norm(x, (8,), self.level["gain"], self.level["shift"], 1e-7)
        over = (1, 2) if "level-over-time-as-well" in self.ways else (2,)
        y = x - x.mean(over, keepdim=True)
        if "std-of-torch" in self.ways:
            return y / (x.std(2, keepdim=True) + 1e-7) * self.level["gain"] + self.level["shift"]
        y = y * torch.rsqrt(y.square().mean(over, keepdim=True) + 1e-7)
        return y * self.level["gain"] + self.level["shift"]

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = self.spectral(frames)
        if "points-as-products" in self.ways:
            coded = x @ self.encode.weight[:, :, 0].T
        else:
            coded = self.encode(x.transpose(1, 2)).transpose(1, 2)
        mask = self.mask2(self.read(self.lstm2, self.levelled(coded)))
        mask = torch.tanh(mask) if "mask-may-turn" in self.ways else torch.sigmoid(mask)
        x = mask * (self.levelled(coded) if "level-masked" in self.ways else coded)
        return self.decode(x.transpose(1, 2)).transpose(1, 2)


class _Level(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.gain = self.add_weight(name="gain", shape=shape[-1:], initializer="ones")
        self.shift = self.add_weight(name="shift", shape=shape[-1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        x = x - ops.mean(x, axis=-1, keepdims=True)
        return x / ops.sqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-7) * self.gain + self.shift


@network
def quiet() -> Pair:
    """DTLN: a mask on each frame's spectrum, then one on features that are learnt."""
    keras.backend.clear_session()
    frames = layers.Input((5, 16), name="frames")
    real, imaginary = ops.rfft(frames)
    x = layers.LSTM(6, return_sequences=True, name="lstm1")(ops.sqrt(real * real + imaginary * imaginary))
    mask = layers.Dense(9, activation="sigmoid", name="mask1")(x)
    x = ops.irfft((real * mask, imaginary * mask))
    coded = layers.Conv1D(8, 1, use_bias=False, name="encode")(x)
    x = layers.LSTM(6, return_sequences=True, name="lstm2")(_Level(name="level")(coded))
    x = layers.Multiply(name="masked")([coded, layers.Dense(8, activation="sigmoid", name="mask2")(x)])
    model = keras.Model(frames, layers.Conv1D(16, 1, padding="causal", use_bias=False, name="decode")(x))
    fill(model)
    grown(model, 3, "mask1", "mask2")
    return Pair(model, fed(1111, 3, 5, 16), ported(model, Quiet), "same")


_SPECTRUM = "rfft* irfft* fft* abs* sqrt* mul* multiply* pow* add* lstm1 mask1"
_LEVEL = "level level.* level/* sub* std* mean* mul* div* truediv* square* pow* rsqrt* add*"
slip("quiet/power-heard", _SPECTRUM, "block-extra block-missing", "operation-kind scale input-scale")
slip("quiet/spectrum-of-length-one", _SPECTRUM, "scale", "input-scale")
slip("quiet/level-over-time-as-well", _LEVEL, "norm-axis", "operation-kind")
slip("quiet/std-of-torch", _LEVEL, "std-ddof", "scale")
slip("quiet/mask-may-turn", "mask2 sigmoid* tanh*", "activation-kind", "operation-kind")
slip("quiet/level-masked", "masked mul* level level.* " + _LEVEL, "wiring operand-order", "block-extra")
defect("quiet/gates-of-tensorflow", "lstm2", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm2", 0, 2, 1, 3)
)
ways("quiet", "loops-by-hand", "level-by-torch", "points-as-products")
one_layer("quiet", "level-over-time-as-well+level-masked", "mask-may-turn+level-masked")
neighbours("quiet", "std-of-torch+gates-of-tensorflow")


# --- what is heard and when ---------------------------------------------------------------------------------


class Heard(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.level = nn.BatchNorm2d(1, eps=1e-3)
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, eps=1e-3)
        self.gru = nn.GRU(8, 5, batch_first=True, bidirectional=True)
        self.strong, self.look = nn.Linear(10, 3), nn.Linear(10, 3)

    def halved(self, x: torch.Tensor, by: int) -> torch.Tensor:
        return F.max_pool2d(x, (by, 1) if "time-pooled" in self.ways else (1, by))

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
        if "swish-for-relu" in self.ways:
            return x * torch.sigmoid(x)
        return F.relu(x)

    def forward(self, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.block(1, self.level(mel))
        x = self.halved(x, 2)
        x = self.halved(self.block(2, x), 2)
        if "time-pooled" in self.ways:
            x = x.transpose(2, 3)
        x = x.transpose(1, 2)  # time before the maps
        x = x.flatten(2) if "maps-outermost" in self.ways else x.transpose(2, 3).flatten(2)
        y = both_ways(self.gru, x) if "loops-by-hand" in self.ways else self.gru(x)[0]
        y = torch.cat([y[..., 5:], y[..., :5]], dim=2) if "backward-first" in self.ways else y
        strong = self.strong(y)
        strong = torch.tanh(strong) if "tanh-of-the-events" in self.ways else torch.sigmoid(strong)
        look = self.look(y)
        look = F.softmax(look, dim=1 if "softmax-over-time" in self.ways else 2).clamp(1e-7, 1)
        if "mean-for-the-clip" in self.ways:
            return strong, strong.mean(1)
        if "looked-by-einsum" in self.ways:
            return strong, torch.einsum("btc,btc->bc", strong, look) / torch.einsum("btc->bc", look)
        return strong, (strong * look).sum(1) / look.sum(1)


@network
def heard() -> Pair:
    """DCASE's CRNN: bands are pooled and time is not, a GRU both ways, each event over time and in the clip."""
    keras.backend.clear_session()
    mel = layers.Input((6, 8, 1), name="mel")
    x = layers.BatchNormalization(name="level")(mel)
    for i in (1, 2):
        x = layers.Conv2D(4, 3, padding="same", name=f"conv{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(layers.BatchNormalization(name=f"bn{i}")(x))
        x = layers.MaxPooling2D((1, 2), name=f"pool{i}")(x)
    x = layers.Reshape((6, 8), name="steps")(x)
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True), name="gru")(x)
    strong = layers.Dense(3, activation="sigmoid", name="strong")(x)
    look = ops.clip(layers.Dense(3, activation="softmax", name="look")(x), 1e-7, 1)
    weak = ops.sum(strong * look, axis=1) / ops.sum(look, axis=1)
    model = keras.Model(mel, [strong, weak])
    fill(model)
    grown(model, 2, "strong", "look")
    return Pair(model, fed(1112, 3, 6, 8, 1), ported(model, Heard), "NHWC->NCHW")


_CLIP = "strong look softmax* clip* clamp* mul* multiply* sum* div* truediv* true_divide* divide* mean*"
slip("heard/swish-for-relu", "relu? relu* bn1 bn2 mul* sigmoid*", "activation-kind", "operation-kind")
slip("heard/maps-outermost", "steps transpose* flatten* gru", "flatten-order reshape-order", "wiring")
slip("heard/backward-first", "gru cat* get_item* slice* strong look", "concat-order", "operand-order channel-order")
slip("heard/tanh-of-the-events", _CLIP + " sigmoid* tanh*", "activation-kind", "operation-kind")
slip("heard/softmax-over-time", _CLIP, "softmax-axis", "operation-kind")
slip("heard/mean-for-the-clip", _CLIP, "pool-kind block-missing", "operation-kind wiring")
defect("heard/bn-eps-of-torch", "bn? level", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("heard/updates-first", "gru", "gru-gate-order", "weights-perturbed weights-swapped")(regated("gru", 1, 0, 2))
defect("heard/level-never-loaded", "level", "bn-stats weights-not-loaded", "weights-perturbed")(
    lambda port: port.level.reset_running_stats()
)
ways("heard", "loops-by-hand", "looked-by-einsum")
control("heard/second-folded")(folded("conv2", "bn2"))
one_layer("heard", "backward-first+updates-first", "tanh-of-the-events+softmax-over-time")
neighbours("heard", "level-never-loaded+swish-for-relu", "maps-outermost+updates-first")


# --- a wave from noise --------------------------------------------------------------------------------------


class Roar(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.bn0 = nn.Linear(6, 32), nn.BatchNorm1d(8, eps=1e-3)
        self.up1, self.bn1 = nn.ConvTranspose1d(8, 6, 9, stride=4), nn.BatchNorm1d(6, eps=1e-3)
        self.up2, self.bn2 = nn.ConvTranspose1d(6, 4, 9, stride=4), nn.BatchNorm1d(4, eps=1e-3)
        self.up3 = nn.ConvTranspose1d(4, 1, 4, stride=2)

    def raised(self, i: int, x: torch.Tensor) -> torch.Tensor:
        up = self.get_submodule(f"up{i}")
        stride, width = up.stride[0], up.kernel_size[0]
        over = width - stride
        start = over - over // 2 if "cropped-in-front" in self.ways and over % 2 else over // 2
        if "zeros-put-between" in self.ways:
            wide = F.pad(x[..., None], (0, stride - 1)).flatten(2)[..., : 1 - stride]
            y = F.conv1d(F.pad(wide, (width - 1, width - 1)), up.weight.flip(2).transpose(0, 1), up.bias)
        else:
            y = up(x)
        return y[..., start : start + stride * x.shape[2]]

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        x = self.enter(noise)
        x = x.unflatten(1, (8, 4)) if "maps-outermost" in self.ways else x.unflatten(1, (4, 8)).transpose(1, 2)
        x = F.relu(self.bn0(x))
        x = self.raised(1, x)
        if "norm-by-hand" in self.ways:
            share = self.bn1.weight / torch.sqrt(self.bn1.running_var + self.bn1.eps)
            x = x * share[:, None] + (self.bn1.bias - self.bn1.running_mean * share)[:, None]
        else:
            x = self.bn1(x)
        x = F.leaky_relu(x, 0.2) if "bent-as-the-judge" in self.ways else F.relu(x)
        x = self.raised(2, x)
        x = F.relu(x if "last-norm-left-out" in self.ways else self.bn2(x))
        x = self.raised(3, x)
        return (x if "wave-unbounded" in self.ways else torch.tanh(x)).transpose(1, 2)


@network
def roar() -> Pair:
    """WaveGAN's generator: a dense layer, then transposed kernels of which one is wider than its stride by five."""
    keras.backend.clear_session()
    noise = layers.Input((6,), name="noise")
    x = layers.Reshape((4, 8), name="shaped")(layers.Dense(32, name="enter")(noise))
    x = layers.ReLU(name="relu0")(layers.BatchNormalization(name="bn0")(x))
    for i, width in ((1, 6), (2, 4)):
        x = layers.Conv1DTranspose(width, 9, 4, padding="same", name=f"up{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(layers.BatchNormalization(name=f"bn{i}")(x))
    wave = layers.Conv1DTranspose(1, 4, 2, padding="same", activation="tanh", name="up3")(x)
    model = keras.Model(noise, wave)
    fill(model)
    return Pair(model, fed(1113, 4, 6).astype(np.float32), ported(model, Roar), "same")


slip("roar/cropped-in-front", "up? conv_transpose1d* get_item* slice*", "transposed-conv-shift", "pad-asymmetry")
slip("roar/maps-outermost", "shaped reshape* unflatten* transpose* enter bn0", "reshape-order", "wiring")
slip("roar/bent-as-the-judge", "relu1 relu* leaky_relu* bn1", "activation-param activation-kind", "operation-kind")
slip("roar/last-norm-left-out", "bn2 relu2 relu* up2", "block-missing", "wiring bn-stats")
slip("roar/wave-unbounded", "up3 tanh*", "activation-missing", "block-missing")
defect("roar/kernel-as-in-common-layers", "up2", "kernel-flip", "weights-perturbed axis-permutation")(
    rewritten("up2.weight", lambda weight: weight.flip(2))
)
defect("roar/gains-for-shifts", "bn1", "bn-stats", "weights-swapped weights-perturbed")(
    lambda port: _exchange(port.bn1)
)
defect("roar/rows-in-the-other-order", "enter", "dense-row-order reshape-order weights-perturbed", "channel-order")(
    rewritten("enter.*", lambda tensor: tensor.unflatten(0, (4, 8)).transpose(0, 1).flatten(0, 1))
)


def _exchange(bn: nn.BatchNorm1d) -> None:
    bn.weight, bn.bias = bn.bias, bn.weight


ways("roar", "zeros-put-between", "norm-by-hand")
one_layer("roar", "cropped-in-front+kernel-as-in-common-layers")
neighbours("roar", "kernel-as-in-common-layers+last-norm-left-out", "gains-for-shifts+wave-unbounded")
