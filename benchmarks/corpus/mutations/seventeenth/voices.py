"""Voices: a wave made of mel bands, and letters heard in them."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventeenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.twelfth.registry import left_on


class Melgan(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.first, self.last = nn.Conv1d(5, 6, 7), nn.Conv1d(4, 1, 7)
        self.raised = nn.ConvTranspose1d(6, 4, 4, 2)
        for i, rate in enumerate((1, 3)):
            rate = 1 if "second-not-wider" in ways else rate
            self.add_module(f"wide{i}", nn.Conv1d(4, 4, 3, dilation=rate))
            self.add_module(f"point{i}", nn.Conv1d(4, 4, 1))
            self.add_module(f"short{i}", nn.Conv1d(4, 4, 1))

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.2)

    def mirrored(self, x: torch.Tensor, rim: int) -> torch.Tensor:
        if "mirrored-by-flips" in self.ways:
            return torch.cat([x[..., 1 : rim + 1].flip(2), x, x[..., -rim - 1 : -1].flip(2)], dim=2)
        modes = {"zeros-for-mirrors": "constant", "ends-repeated": "replicate"}
        mode = next((mode for way, mode in modes.items() if way in self.ways), "reflect")
        return F.pad(x, (rim, rim), mode=mode)

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        wide = self.get_submodule(f"wide{i}")
        y = x if i == 0 and "first-not-bent-ahead" in self.ways else self.bend(x)
        y = wide(self.mirrored(y, wide.dilation[0]))
        y = self.get_submodule(f"point{i}")(self.bend(y))
        return y + (x if i == 1 and "shortcut-without-its-kernel" in self.ways else self.get_submodule(f"short{i}")(x))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = self.raised(self.bend(self.first(self.mirrored(mel, 3))))
        x = x[:, :, 2:] if "cut-at-the-start" in self.ways else x[:, :, 1:-1]
        for i in (0, 1):
            x = self.block(i, x)
        x = self.last(self.mirrored(self.bend(x), 3))
        return (x if "wave-not-bounded" in self.ways else torch.tanh(x)).mT


@network
def melgan() -> Pair:
    """MelGAN of one level: mirrored ends, a transposed kernel of twice its stride, two residual blocks, a bound."""
    keras.backend.clear_session()
    mel = layers.Input((8, 5), name="mel")

    def conv(x: keras.KerasTensor, wide: int, size: int, name: str, rate: int = 1) -> keras.KerasTensor:
        rim = (size - 1) * rate // 2
        x = ops.pad(x, ((0, 0), (rim, rim), (0, 0)), mode="reflect")
        return layers.Conv1D(wide, size, dilation_rate=rate, name=name)(x)

    x = layers.LeakyReLU(0.2, name="first_leaky")(conv(mel, 6, 7, "first"))
    x = layers.Conv1DTranspose(4, 4, strides=2, padding="same", name="raised")(x)
    for i, rate in enumerate((1, 3)):
        y = conv(layers.LeakyReLU(0.2, name=f"leaky{i}")(x), 4, 3, f"wide{i}", rate)
        y = layers.Conv1D(4, 1, name=f"point{i}")(layers.LeakyReLU(0.2, name=f"wide{i}_leaky")(y))
        x = layers.Add(name=f"sum{i}")([y, layers.Conv1D(4, 1, name=f"short{i}")(x)])
    x = conv(layers.LeakyReLU(0.2, name="last_leaky")(x), 1, 7, "last")
    model = keras.Model(mel, layers.Activation("tanh", name="wave")(x))
    fill(model)
    return Pair(model, fed(1771, 3, 8, 5), ported(model, Melgan), "NHWC->NCHW")


_RIM = "pad* first wide? last"
slip("melgan/zeros-for-mirrors", _RIM, "pad-mode")
slip("melgan/ends-repeated", _RIM, "pad-mode")
slip("melgan/slope-of-torch", "*leaky* leaky_relu*", "activation-param", "activation-kind")
slip("melgan/second-not-wider", "wide1* pad*", "dilation", "weights-perturbed pad-mode shift")
slip("melgan/first-not-bent-ahead", "leaky0 leaky_relu* wide0 pad*", "activation-missing", "block-missing")
slip("melgan/shortcut-without-its-kernel", "short1 sum1 add* point1", "block-missing", "wiring residual-missing")
slip("melgan/cut-at-the-start", "raised* get_item* getitem* slice*", "transposed-conv-shift shift", "pad-asymmetry")
slip("melgan/wave-not-bounded", "last wave tanh*", "activation-missing", "block-missing")
defect("melgan/kernel-turned-round", "raised", "kernel-flip", "kernel-layout weights-perturbed")(
    rewritten("raised.weight", lambda weight: weight.flip(2))
)
defect("melgan/gain-of-one", "wide0", "weights-perturbed weights-not-loaded scale")(
    rewritten("wide0.weight", lambda weight: weight / weight.norm(dim=(1, 2), keepdim=True))
)
ways("melgan", "mirrored-by-flips")


@control("melgan/weights-normed-in-use")
def _normed(port: Melgan) -> Melgan:
    for name in ("first", "wide0", "wide1", "last"):
        weight_norm(port.get_submodule(name))
    return port


one_layer("melgan", "zeros-for-mirrors+slope-of-torch", "cut-at-the-start+kernel-turned-round")
neighbours("melgan", "first-not-bent-ahead+second-not-wider")


# --- letters ------------------------------------------------------------------------------------------------


class Jasper(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, given, wide, size in (("enter", 6, 6, 5), ("one", 6, 8, 3), ("two", 8, 8, 3), ("skip", 6, 8, 1),
                                        ("end", 8, 8, 3)):  # fmt: skip
            rate = 2 if name == "end" and "end-not-wider" not in ways else 1
            step, padding = (2, 0) if name == "enter" else (1, (size - 1) * rate // 2)
            self.add_module(name, nn.Conv1d(given, wide, size, step, padding, rate, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(wide, eps=1e-3))
        self.letters = nn.Conv1d(8, 5, 1)

    def normed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))

    def clipped(self, x: torch.Tensor) -> torch.Tensor:
        if "clipped-by-hand" in self.ways:
            return F.relu(x) - F.relu(x - 2)
        return F.relu(x) if "never-clipped" in self.ways else F.hardtanh(x, 0, 2)

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        if "bands-never-levelled" in self.ways:
            return x
        if "levelled-over-all" in self.ways:
            return (x - x.mean((1, 2), keepdim=True)) / (x.std((1, 2), correction=0, keepdim=True) + 1e-5)
        spread = x.std(2, correction=1 if "spread-of-torch" in self.ways else 0, keepdim=True)
        return (x - x.mean(2, keepdim=True)) / (spread + 1e-5)

    def forward(self, bands: torch.Tensor) -> torch.Tensor:
        x = F.pad(self.levelled(bands), (2, 2) if "padded-evenly" in self.ways else (1, 2))
        x = self.clipped(self.normed("enter", x))
        y = self.normed("two", self.clipped(self.normed("one", x)))
        x = self.skip(x) if "skip-not-normed" in self.ways else self.normed("skip", x)
        x = self.clipped(y) + x if "skip-behind-the-bend" in self.ways else self.clipped(y + x)
        x = self.letters(self.clipped(self.normed("end", x))).mT
        return F.softmax(x, dim=2) if "shares-told" in self.ways else F.log_softmax(x, dim=2)


@network
def jasper() -> Pair:
    """Jasper of one block: levelled bands, clipped bends, a normed skip before the last of them, logarithms for CTC."""
    keras.backend.clear_session()
    bands = layers.Input((16, 6), name="bands")
    x = (bands - ops.mean(bands, axis=1, keepdims=True)) / (ops.std(bands, axis=1, keepdims=True) + 1e-5)

    def normed(x: keras.KerasTensor, name: str, size: int = 3, step: int = 1, rate: int = 1) -> keras.KerasTensor:
        wide = 6 if name == "enter" else 8
        x = layers.Conv1D(wide, size, step, padding="same", dilation_rate=rate, use_bias=False, name=name)(x)
        return layers.BatchNormalization(name=f"{name}_bn")(x)

    x = layers.ReLU(max_value=2.0, name="enter_clip")(normed(x, "enter", 5, 2))
    y = normed(layers.ReLU(max_value=2.0, name="one_clip")(normed(x, "one")), "two")
    x = layers.Add(name="sum")([y, normed(x, "skip", 1)])
    x = normed(layers.ReLU(max_value=2.0, name="sum_clip")(x), "end", rate=2)
    x = layers.Conv1D(5, 1, name="letters")(layers.ReLU(max_value=2.0, name="end_clip")(x))
    model = keras.Model(bands, ops.log_softmax(x, axis=2))
    fill(model)
    grown(model, 2, "one", "two", "letters")
    return Pair(model, 3 * fed(1772, 3, 16, 6) + 2, ported(model, Jasper), "NHWC->NCHW")


_LEVEL = "bands mean* std* add* sub* subtract* truediv* true_divide* divide* div* enter pad*"
slip("jasper/spread-of-torch", _LEVEL, "std-ddof")
slip("jasper/levelled-over-all", _LEVEL, "norm-axis input-normalisation", "operation-kind")
slip("jasper/bands-never-levelled", _LEVEL, "input-normalisation block-missing", "input-scale scale shift")
slip("jasper/padded-evenly", "enter pad* enter_bn", "pad-asymmetry shift")
slip("jasper/never-clipped", "*_clip hardtanh* relu* clamp*", "activation-kind activation-param", "block-missing")
slip("jasper/end-not-wider", "end end_bn", "dilation", "weights-perturbed")
slip("jasper/skip-behind-the-bend", "sum sum_clip add* hardtanh* two_bn skip_bn", "residual-order",
     "wiring operand-order")  # fmt: skip
slip("jasper/skip-not-normed", "skip skip_bn sum add*", "block-missing", "bn-stats")
slip("jasper/shares-told", "letters log_softmax* softmax*", "logits", "activation-kind operation-kind block-missing")
defect("jasper/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("jasper/norm-in-training", "one_bn", "bn-mode", "bn-stats")(left_on("one_bn"))
defect("jasper/letters-not-biased", "letters", "bias-missing", "weights-not-loaded")(set_to("letters", bias=None))
ways("jasper", "clipped-by-hand")
control("jasper/norm-in-the-kernel")(folded("skip", "skip_bn"))
one_layer("jasper", "skip-behind-the-bend+skip-not-normed", "letters-not-biased+shares-told")
neighbours("jasper", "never-clipped+end-not-wider", "spread-of-torch+padded-evenly")
