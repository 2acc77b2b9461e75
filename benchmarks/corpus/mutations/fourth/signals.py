"""An ECG classifier with residual blocks, and a forecaster of dilated causal convolutions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.corpus.mutations.carrying import carry, fill
from benchmarks.corpus.mutations.fourth.registry import control, defect, neighbours, network, one_layer
from benchmarks.corpus.mutations.pairs import Pair


class Unit(nn.Module):
    """Two convolutions, and what they are added to."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.pad = nn.ConstantPad1d((1, 2) if stride == 2 else 2, 0.0)
        self.conv1, self.bn1 = nn.Conv1d(inner, outer, 5, stride=stride, bias=False), nn.BatchNorm1d(outer, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv1d(outer, outer, 5, padding=2, bias=False), nn.BatchNorm1d(outer, eps=1e-3)
        self.short: nn.Module = nn.Identity()
        self.short_bn: nn.Module = nn.Identity()
        if stride == 2:
            self.short, self.short_bn = (
                nn.Conv1d(inner, outer, 1, stride=2, bias=False),
                nn.BatchNorm1d(outer, eps=1e-3),
            )

    def add(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.relu(y + x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(self.pad(x))))))
        return self.add(y, self.short_bn(self.short(x)))


class Rhythm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem_pad = nn.ConstantPad1d((2, 3), 0.0)
        self.stem, self.stem_bn = nn.Conv1d(4, 8, 7, stride=2, bias=False), nn.BatchNorm1d(8, eps=1e-3)
        self.pool: nn.Module = nn.MaxPool1d(3, stride=2)
        self.unit1, self.unit2 = Unit(8, 8, 1), Unit(8, 12, 2)
        self.energy, self.score = nn.Linear(12, 6), nn.Linear(6, 1, bias=False)
        self.hidden, self.head = nn.Linear(14, 10), nn.Linear(10, 5)

    def prepare(self, wave: torch.Tensor) -> torch.Tensor:
        return wave

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(F.pad(x, (0, 1)))  # nothing is below zero here

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2)
        weights = torch.softmax(self.score(torch.tanh(self.energy(x))), dim=1)
        return torch.bmm(weights.transpose(1, 2), x).squeeze(1)

    def join(self, x: torch.Tensor, person: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, person], dim=1)

    def forward(self, wave: torch.Tensor, person: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_bn(self.stem(self.stem_pad(self.prepare(wave)))))
        x = self.attend(self.unit2(self.unit1(self.pooled(x))))
        return torch.sigmoid(self.head(F.relu(self.hidden(self.join(x, person)))))


def _unit(x: Any, width: int, stride: int, name: str) -> Any:
    y = layers.Conv1D(width, 5, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1")(x)
    y = layers.ReLU(name=f"{name}_relu1")(layers.BatchNormalization(name=f"{name}_bn1")(y))
    y = layers.Conv1D(width, 5, padding="same", use_bias=False, name=f"{name}_conv2")(y)
    y = layers.BatchNormalization(name=f"{name}_bn2")(y)
    if stride == 2:
        x = layers.Conv1D(width, 1, strides=2, padding="same", use_bias=False, name=f"{name}_short")(x)
        x = layers.BatchNormalization(name=f"{name}_short_bn")(x)
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([y, x]))


@network
def rhythm() -> Pair:
    """Leads and what is known of the person; residual units, an attention over the steps, several labels."""
    keras.backend.clear_session()
    wave, person = layers.Input((48, 4), name="wave"), layers.Input((2,), name="person")
    x = layers.Conv1D(8, 7, strides=2, padding="same", use_bias=False, name="stem")(wave)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.MaxPooling1D(3, strides=2, padding="same", name="pool")(x)
    x = _unit(_unit(x, 8, 1, "unit1"), 12, 2, "unit2")
    weights = layers.Dense(1, use_bias=False, name="score")(layers.Dense(6, activation="tanh", name="energy")(x))
    x = layers.Dot(axes=1, name="attend")([layers.Softmax(axis=1, name="weights")(weights), x])
    x = layers.Concatenate(name="join")([layers.Flatten(name="flat")(x), person])
    x = layers.Dense(10, activation="relu", name="hidden")(x)
    model = keras.Model([wave, person], layers.Dense(5, activation="sigmoid", name="head")(x))
    fill(model)
    for norm in ("stem_bn", "unit2_bn2"):  # of millivolts the variances are small
        model.get_layer(norm).moving_variance.assign(model.get_layer(norm).moving_variance * 0.05)
    rng = np.random.default_rng(21)
    inputs = {"wave": rng.standard_normal((3, 48, 4)).astype(np.float32) * 0.4,
              "person": rng.uniform(0, 1, (3, 2)).astype(np.float32)}  # fmt: skip

    def make() -> Any:
        return carry(model, Rhythm(), lambda name: name.replace("unit1_", "unit1.").replace("unit2_", "unit2."))

    return Pair(model, inputs, make, "NHWC->NCHW")


@defect("rhythm/stem-padding-three", "stem stem_pad", "pad-asymmetry", "shift pad-mode block-extra")
def _(port: Any) -> None:
    """padding=kernel_size // 2."""
    port.stem_pad = nn.ConstantPad1d((3, 2), 0.0)


@defect("rhythm/pool-padding-one", "pool pad stem_relu", "pad-asymmetry", "shift pad-mode block-extra pool-kind")
def _(port: Any) -> None:
    port.pool = nn.MaxPool1d(3, stride=2, padding=1)
    port.pooled = lambda x: port.pool(x)


@defect("rhythm/stride-on-second", "unit2_conv1 unit2_conv2 unit2.conv1 unit2.conv2 unit2.pad", "stride-position",
        "shift pad-asymmetry pad-mode")  # fmt: skip
def _(port: Any) -> None:
    unit = port.unit2
    unit.pad, unit.conv1.stride, unit.conv2.stride = nn.ConstantPad1d(2, 0.0), (1,), (2,)


@defect("rhythm/variance-as-deviation", "unit2_bn2 unit2.bn2", "bn-stats", "weights-perturbed")
def _(port: Any) -> None:
    port.unit2.bn2.running_var.sqrt_()


@defect("rhythm/unit-norm-eps", "unit2_bn2 unit2.bn2", "bn-eps")
def _(port: Any) -> None:
    port.unit2.bn2.eps = 1e-5


@defect("rhythm/shortcut-norm-missing", "unit2_short_bn unit2.short unit2_add unit2.add", "block-missing",
        "bn-stats weights-perturbed")  # fmt: skip
def _(port: Any) -> None:
    port.unit2.short_bn = nn.Identity()


@defect("rhythm/leads-as-recorded", "stem stem_pad slice wave", "channel-order",
        "axis-permutation weights-swapped kernel-layout block-extra")  # fmt: skip
def _(port: Any) -> None:
    """The recorder writes aVR before aVL."""
    port.prepare = lambda wave: wave[:, [0, 2, 1, 3]]


@defect("rhythm/microvolts", "stem stem_pad mul wave", "input-scale", "scale block-extra input-normalisation")
def _(port: Any) -> None:
    port.prepare = lambda wave: wave * 1000


@defect("rhythm/person-first", "join cat hidden", "concat-order",
        "channel-order axis-permutation operand-order dense-row-order")  # fmt: skip
def _(port: Any) -> None:
    port.join = lambda x, person: torch.cat([person, x], dim=1)


@control("rhythm/pool-below-everything")
def _(port: Any) -> None:
    """What Keras pads a maximum with, and the attention as a sum."""

    def attend(x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(port.score(torch.tanh(port.energy(x.mT))).squeeze(-1), dim=-1)
        return (x * weights[:, None]).sum(-1)

    port.pooled = lambda x: port.pool(F.pad(x, (0, 1), value=float("-inf")))
    port.attend = attend


@control("rhythm/shortcut-by-slicing")
def _(port: Any) -> None:
    """Every second step taken, then a convolution without a stride."""
    port.unit2.short.stride = (1,)
    port.unit2.short = nn.Sequential(_Second(), port.unit2.short)


class _Second(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::2]


one_layer("rhythm", "variance-as-deviation+unit-norm-eps", "leads-as-recorded+stem-padding-three")
neighbours("rhythm", "stem-padding-three+pool-padding-one")


# --- forecasting --------------------------------------------------------------------------------------------


class Causal(nn.Module):
    """Padded on both ends, and the end cut off."""

    def __init__(self, inner: int, dilation: int) -> None:
        super().__init__()
        self.ahead = 2 * dilation
        self.conv = nn.Conv1d(inner, 8, 3, dilation=dilation, padding=self.ahead)
        self.norm: nn.Module = _Channels(nn.LayerNorm(8, eps=1e-3))

    def chomp(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, : -self.ahead].contiguous()

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.chomp(self.conv(x)))


class _Channels(nn.Module):
    """A norm of the last axis on the second."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Level(nn.Module):
    def __init__(self, inner: int, dilation: int) -> None:
        super().__init__()
        self.one, self.two = Causal(inner, dilation), Causal(8, dilation)
        self.match = nn.Conv1d(inner, 8, 1) if inner != 8 else nn.Identity()

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.two(self.one(x))
        return self.act(self.match(x) + y), y


class Forecast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level1, self.level2, self.level3 = Level(3, 1), Level(8, 2), Level(8, 4)
        self.head = nn.Linear(8, 4)

    def skips(self, found: list[torch.Tensor]) -> torch.Tensor:
        return found[0] + found[1] + found[2]

    def last(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, -1]

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        x, found = series, []
        for level in (self.level1, self.level2, self.level3):
            x, skip = level(x)
            found.append(skip)
        return self.head(self.last(F.relu(self.skips(found))))


@network
def forecast() -> Pair:
    """A temporal convolutional network with skips, as keras-tcn builds them; the last step alone is read."""
    keras.backend.clear_session()
    x = series = layers.Input((28, 3), name="series")
    skips = []
    for level, dilation in (("level1", 1), ("level2", 2), ("level3", 4)):
        y = x
        for part in ("one", "two"):
            name = f"{level}_{part}"
            y = layers.Conv1D(8, 3, padding="causal", dilation_rate=dilation, name=f"{name}_conv")(y)
            y = layers.ReLU(name=f"{name}_relu")(layers.LayerNormalization(name=f"{name}_norm")(y))
        skips.append(y)
        if level == "level1":
            x = layers.Conv1D(8, 1, name="level1_match")(x)
        x = layers.ReLU(name=f"{level}_relu")(layers.Add(name=f"{level}_add")([x, y]))
    x = layers.ReLU(name="skips_relu")(layers.Add(name="skips")(skips))
    model = keras.Model(series, layers.Dense(4, name="head")(x[:, -1]))
    fill(model)
    for layer in model.layers:
        if layer.name.endswith("_conv"):
            layer.kernel.assign(layer.kernel * 0.3)
    inputs = np.random.default_rng(22).standard_normal((3, 28, 3)).astype(np.float32)

    def rename(name: str) -> str:
        return name.replace("_", ".").replace(".norm", ".norm.norm")

    return Pair(model, inputs, lambda: carry(model, Forecast(), rename), "NHWC->NCHW")


_SECOND = "level2_one_conv level2.one.conv level2.one.chomp level2.one.getitem level2.one.slice level2.one.contiguous"


@defect("forecast/chomped-in-front", _SECOND, "pad-asymmetry shift", "pad-mode")
def _(port: Any) -> None:
    causal = port.level2.one
    causal.chomp = lambda x: x[:, :, causal.ahead :].contiguous()


@defect("forecast/kernel-reversed", _SECOND, "kernel-flip", "kernel-layout weights-perturbed")
def _(port: Any) -> None:
    port.level2.one.conv.weight.data = port.level2.one.conv.weight.data.flip(2).contiguous()


@defect("forecast/dilation-counted", "level3_one_conv level3_two_conv level3.one level3.two", "dilation", "pad-mode")
def _(port: Any) -> None:
    """1, 2, 3 where each is twice the last."""
    for causal in (port.level3.one, port.level3.two):
        causal.ahead, causal.conv.dilation, causal.conv.padding = 6, (3,), (6,)


@defect("forecast/gains-of-weight-norm", "level3_one_conv level3.one.conv", "weights-perturbed",
        "scale weights-not-loaded")  # fmt: skip
def _(port: Any) -> None:
    """The directions were loaded, the lengths stayed at one."""
    weight = port.level3.one.conv.weight.data
    weight.div_(weight.norm(dim=(1, 2), keepdim=True))


@defect("forecast/rectified-twice", "level3_two_conv level3_two_norm level3.two.conv level3.two.relu level3.two.norm",
        "activation-extra", "block-extra")  # fmt: skip
def _(port: Any) -> None:
    """The convolution got the activation as well."""
    causal = port.level3.two
    causal.act = lambda x: F.relu(causal.norm(F.relu(x)))


@defect("forecast/last-skip-lost", "skips skips_relu add relu", "residual-missing", "wiring block-missing")
def _(port: Any) -> None:
    port.skips = lambda found: found[0] + found[1]


@defect("forecast/first-step", "get_item getitem slice head", "rnn-last-step", "operation-kind shift wiring pool-kind")
def _(port: Any) -> None:
    """As with a network that reads backwards."""
    port.last = lambda x: x[:, :, 0]


@defect("forecast/norm-of-all-steps", "level1_two_norm level1.two.norm", "norm-axis", "operation-kind")
def _(port: Any) -> None:
    """GroupNorm takes channels first, so no transposing is needed."""
    norm = nn.GroupNorm(1, 8, eps=1e-3)
    norm.load_state_dict(port.level1.two.norm.norm.state_dict())
    port.level1.two.norm = norm


@defect("forecast/norm-eps-default", "level*_norm level?.one.norm level?.two.norm", "ln-eps")
def _(port: Any) -> None:
    for module in port.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


@defect(
    "forecast/sum-not-rectified", "level1_relu level1.relu level1.add level1_add", "activation-missing", "block-missing"
)
def _(port: Any) -> None:
    port.level1.act = lambda x: x


@control("forecast/padded-in-front")
def _(port: Any) -> None:
    for level in (port.level1, port.level2, port.level3):
        for causal in (level.one, level.two):
            causal.conv.padding = (0,)
            causal.conv = nn.Sequential(nn.ConstantPad1d((causal.ahead, 0), 0.0), causal.conv)
            causal.chomp = lambda x: x


@control("forecast/weight-norm")
def _(port: Any) -> None:
    for level in (port.level1, port.level2, port.level3):
        weight_norm(level.one.conv)
        weight_norm(level.two.conv)


one_layer("forecast", "chomped-in-front+kernel-reversed")
neighbours("forecast", "norm-of-all-steps+sum-not-rectified")
