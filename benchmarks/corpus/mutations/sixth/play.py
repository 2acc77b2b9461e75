"""Players: what each move is worth, and how a body moves."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    counted,
    defect,
    epsilon,
    exchanged,
    fed,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    slip,
    way,
)


class Duel(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2 = nn.Conv2d(4, 8, 6, stride=3), nn.Conv2d(8, 8, 3, stride=2)
        self.value1, self.value2 = nn.Linear(72, 10), nn.Linear(10, 1)
        self.gain1, self.gain2 = nn.Linear(72, 10), nn.Linear(10, 5)

    def flat(self, x: torch.Tensor) -> torch.Tensor:
        if "maps-outermost" in self.ways:
            return x.flatten(1)
        if "columns-before-rows" in self.ways:
            return x.permute(0, 3, 2, 1).flatten(1)
        return x.permute(0, 2, 3, 1).flatten(1)

    def hidden(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if "rows-of-the-layers-turned" in self.ways:  # the layers' rows in the order of channels first
            x = x.flatten(1)
            own = (self.value1, self.gain1)
            weights = [w.weight.unflatten(1, (3, 3, 8)).permute(0, 3, 1, 2).flatten(1) for w in own]
            y, z = (F.linear(x, weight, layer.bias) for weight, layer in zip(weights, own, strict=True))
        else:
            x = self.flat(x)
            y, z = self.value1(x), self.gain1(x)
        return F.relu(y), z if "gain-not-rectified" in self.ways else F.relu(z)

    def forward(self, screens: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(screens, (24, 24), mode="bilinear", antialias="screens-smoothed" in self.ways)
        x = x if "screens-as-bytes" in self.ways else x / 255
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        value, gain = self.hidden(x)
        value, gain = self.value2(value), self.gain2(gain)
        if "gain-less-the-largest" in self.ways:
            return value + gain - gain.amax(1, keepdim=True)
        if "gain-less-the-mean-of-all" in self.ways:
            return value + gain - gain.mean()
        return value + gain if "gain-as-it-is" in self.ways else value + (gain - gain.mean(1, keepdim=True))


@network
def duel() -> Pair:
    """A duelling Q-network on four screens: a value, and what each move gains beyond the mean."""
    keras.backend.clear_session()
    screens = layers.Input((40, 36, 4), name="screens")
    x = layers.Resizing(24, 24, name="resizing")(screens)
    x = layers.Rescaling(1 / 255, name="rescaling")(x)
    x = layers.Conv2D(8, 6, strides=3, activation="relu", name="conv1")(x)
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="conv2")(x)
    x = layers.Flatten(name="flatten")(x)
    value, gain = (layers.Dense(10, activation="relu", name=f"{name}1")(x) for name in ("value", "gain"))
    value, gain = layers.Dense(1, name="value2")(value), layers.Dense(5, name="gain2")(gain)
    mean = ops.mean(gain, axis=1, keepdims=True)
    model = keras.Model(screens, layers.Add(name="worth")([value, layers.Subtract(name="beyond")([gain, mean])]))
    fill(model)
    inputs = counted(68, 256, 3, 40, 36, 4).astype("float32")
    return Pair(model, inputs, ported(model, Duel), "NHWC->NCHW")


_BEYOND = "beyond worth mean sub add add_* amax gain2"
slip("duel/maps-outermost", "flatten permute value1 gain1", "flatten-order dense-row-order", "wiring")
slip(
    "duel/columns-before-rows", "flatten permute value1 gain1", "flatten-order dense-row-order", "kernel-layout wiring"
)
slip("duel/gain-not-rectified", "gain1 gain2 relu_2 relu_3", "activation-missing", "block-missing")
slip("duel/screens-as-bytes", "rescaling div conv1", "input-scale", "weights-perturbed block-missing")
slip("duel/screens-smoothed", "resizing interpolate", "resize-antialias", "resize-mode")
slip("duel/gain-less-the-largest", _BEYOND, "pool-kind", "operation-kind bias-missing")
slip("duel/gain-less-the-mean-of-all", _BEYOND, "norm-axis pool-kind", "operation-kind")
slip("duel/gain-as-it-is", _BEYOND, "block-missing", "residual-missing wiring bias-missing")
defect("duel/kernel-turned", "conv1", "kernel-layout", "weights-perturbed axis-permutation")(
    rewritten("conv1.weight", lambda weight: weight.transpose(2, 3))
)
defect(
    "duel/screens-from-the-newest",
    "screens flip conv1 rescaling div",
    "channel-order weights-swapped",
    "axis-permutation kernel-layout weights-perturbed",
)(rewritten("conv1.weight", lambda weight: weight.flip(1)))
defect("duel/value-for-gain", "value1 gain1", "weights-swapped", "weights-perturbed wiring")(
    exchanged("value1", "gain1")
)
way("duel/rows-of-the-layers-turned")
one_layer("duel", "kernel-turned+screens-from-the-newest", "maps-outermost+value-for-gain")
neighbours("duel", "gain-not-rectified+gain-as-it-is", "screens-as-bytes+kernel-turned")


# --- a body that moves --------------------------------------------------------------------------------------


class Actor(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.register_buffer("mean", torch.zeros(11))
        self.register_buffer("var", torch.ones(11))
        self.fc1, self.norm, self.fc2 = nn.Linear(11, 12), nn.LayerNorm(12, eps=1e-3), nn.Linear(12, 12)
        self.mu, self.log_std = nn.Linear(12, 4), nn.Linear(12, 4)

    def levelled(self, body: torch.Tensor) -> torch.Tensor:
        if "over-the-variance" in self.ways:
            body = (body - self.mean) / (self.var + 1e-6)
        elif "mean-left-in" in self.ways:
            body = body / (self.var + 1e-6).sqrt()
        else:
            body = (body - self.mean) * (self.var + 1e-6).rsqrt()
        return body if "unclipped" in self.ways else body.clamp(-1.5, 1.5)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        if "norm-behind-tanh" in self.ways:
            return self.norm(torch.tanh(self.fc1(x)))
        if "norm-by-hand" in self.ways:
            x = self.fc1(x)
            variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
            x = (x - mean) / torch.sqrt(variance + 1e-3) * self.norm.weight + self.norm.bias
            return 2 * torch.sigmoid(2 * x) - 1
        return torch.tanh(self.norm(self.fc1(x)))

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        if "deviation-by-softplus" in self.ways:
            return F.softplus(x)
        if "logarithm-squeezed" in self.ways:
            return torch.exp(-2 + 0.5 * 2.5 * (torch.tanh(x) + 1))
        if "variance-for-deviation" in self.ways:
            return torch.exp(0.5 * x.clamp(-2, 0.5))
        return torch.exp(x.clamp(-2, 0.5))

    def forward(self, body: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.silu(self.fc2(self.first(self.levelled(body))))
        move = self.mu(x) if "moves-unbounded" in self.ways else torch.tanh(self.mu(x))
        return move if "moves-to-one" in self.ways else 2 * move, self.spread(self.log_std(x))


@network
def actor() -> Pair:
    """A policy with a normal distribution for each joint, on observations levelled by their running statistics."""
    keras.backend.clear_session()
    body = layers.Input((11,), name="body")
    mean, var = fed(70, 11), fed(71, 11) ** 2 + 0.3
    x = ops.clip((body - mean) / ops.sqrt(var + 1e-6), -1.5, 1.5)
    x = layers.Activation("tanh", name="tanh")(layers.LayerNormalization(name="norm")(layers.Dense(12, name="fc1")(x)))
    x = layers.Dense(12, activation="silu", name="fc2")(x)
    move = layers.Rescaling(2.0, name="moves")(layers.Dense(4, activation="tanh", name="mu")(x))
    spread = ops.exp(ops.clip(layers.Dense(4, name="log_std")(x), -2, 0.5))
    model = keras.Model(body, [move, spread])
    fill(model)
    model.get_layer("fc1").kernel.assign(model.get_layer("fc1").kernel * 0.5)
    return Pair(model, fed(69, 5, 11) * 2, ported(model, Actor, {"mean": mean, "var": var}), "same")


_LEVELLED = "subtract true_divide sub* div* add mul rsqrt sqrt clip clamp fc1"
slip("actor/over-the-variance", _LEVELLED, "input-normalisation block-missing", "scale operation-kind input-scale")
slip("actor/mean-left-in", _LEVELLED, "input-normalisation block-missing", "bias-missing")
slip("actor/unclipped", "clip clamp fc1 true_divide mul", "activation-missing block-missing", "input-normalisation")
slip("actor/norm-behind-tanh", "fc1 norm tanh", "residual-order wiring",
     "operation-kind activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("actor/deviation-by-softplus", "log_std clip* exp* clamp* softplus", "activation-kind",
     "block-missing operation-kind activation-missing")  # fmt: skip
slip("actor/logarithm-squeezed", "log_std clip* exp* clamp* tanh* mul* add*", "activation-kind", "operation-kind")
slip(
    "actor/variance-for-deviation",
    "log_std clip* exp* clamp* mul*",
    "scale block-extra",
    "activation-kind operation-kind",
)
slip("actor/moves-unbounded", "mu moves tanh_1 mul_*", "activation-missing", "block-missing")
slip("actor/moves-to-one", "moves tanh_1 mul_* mu", "scale block-missing")
defect("actor/norm-eps-default", "norm", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("actor/second-unturned", "fc2", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("fc2.weight", lambda weight: weight.T)
)
way("actor/norm-by-hand")
one_layer("actor", "norm-eps-default+norm-behind-tanh", "moves-unbounded+moves-to-one")
neighbours("actor", "mean-left-in+unclipped", "second-unturned+deviation-by-softplus")
