"""Clinics: vessels at the back of an eye, visits read backwards, and currents of a brain."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded, regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventeenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to


class Vessels(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        parts = (("enter1", 2, 4, 1), ("round1", 4, 4, 3), ("enter2", 4, 6, 1), ("round2", 6, 6, 3), ("up", 6, 4, 3))
        for name, given, wide, size in parts:
            self.add_module(name, nn.Conv2d(given, wide, size, padding=size // 2))
        for name, wide in (("round1", 4), ("round2", 6)):
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.out = nn.Conv2d(8, 1, 1)

    def unit(self, i: int, x: torch.Tensor) -> torch.Tensor:
        y = self.get_submodule(f"round{i}")(x)
        if i == 2 and "bent-before-the-norm" in self.ways:
            return self.round2_bn(F.relu(y))
        return F.relu(self.get_submodule(f"round{i}_bn")(y))

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        x = self.get_submodule(f"enter{i}")(x)
        y = self.unit(i, x)
        for _ in range(1 if i == 2 and "one-round-too-few" in self.ways else 2):
            y = self.unit(i, y if i == 1 and "rounds-without-what-came-in" in self.ways else x + y)
        return y if i == 1 and "block-not-kept" in self.ways else x + y

    def forward(self, eye: torch.Tensor) -> torch.Tensor:
        skip = self.block(1, eye)
        x = F.avg_pool2d(skip, 2) if "means-pooled" in self.ways else F.max_pool2d(skip, 2)
        x = self.block(2, x)
        if "repeated-by-hand" in self.ways:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        else:
            x = F.interpolate(x, scale_factor=2, mode="bilinear" if "raised-by-lines" in self.ways else "nearest")
        x = self.up(x)
        x = F.relu(x)
        x = torch.cat([x, skip] if "raised-first" in self.ways else [skip, x], dim=1)
        if "chances-by-tanh" in self.ways:
            return 0.5 + 0.5 * torch.tanh(self.out(x) / 2)
        return torch.sigmoid(self.out(x))


@network
def vessels() -> Pair:
    """R2U-Net of one level: one kernel goes over a map three times beside what came in, blocks are kept."""
    keras.backend.clear_session()
    eye = layers.Input((8, 8, 2), name="eye")

    def block(x: keras.KerasTensor, i: int, wide: int) -> keras.KerasTensor:
        x = layers.Conv2D(wide, 1, name=f"enter{i}")(x)
        conv = layers.Conv2D(wide, 3, padding="same", name=f"round{i}")
        norm, bend = layers.BatchNormalization(name=f"round{i}_bn"), layers.ReLU(name=f"round{i}_relu")
        y = bend(norm(conv(x)))
        for t in range(2):
            y = bend(norm(conv(layers.Add(name=f"again{i}_{t}")([x, y]))))
        return layers.Add(name=f"kept{i}")([x, y])

    skip = block(eye, 1, 4)
    x = block(layers.MaxPooling2D(2, name="pool")(skip), 2, 6)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="up")(layers.UpSampling2D(2, name="raised")(x))
    x = layers.Conv2D(1, 1, activation="sigmoid", name="out")(layers.Concatenate(name="both")([skip, x]))
    model = keras.Model(eye, x)
    fill(model)
    grown(model, 0.6, "round1", "round2")
    return Pair(model, fed(1711, 2, 8, 8, 2), ported(model, Vessels), "NHWC->NCHW")


slip("vessels/bent-before-the-norm", "round2* relu*", "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("vessels/one-round-too-few", "round2* again2* kept2 add* relu*", "block-missing", "wiring residual-missing")
slip("vessels/rounds-without-what-came-in", "again1* round1* add* relu*", "residual-missing", "wiring block-missing")
slip("vessels/block-not-kept", "kept1 add* round1* pool both cat* max_pool2d*", "residual-missing",
     "block-missing wiring")  # fmt: skip
slip("vessels/means-pooled", "pool max_pool2d* avg_pool2d* enter2", "pool-kind")
slip("vessels/raised-by-lines", "raised interpolate* up", "resize-mode", "operation-kind")
slip("vessels/raised-first", "both cat* out", "concat-order", "operand-order wiring")
defect("vessels/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("vessels", "repeated-by-hand", "chances-by-tanh")
control("vessels/norm-in-the-kernel")(folded("round1", "round1_bn"))
one_layer("vessels", "bent-before-the-norm+one-round-too-few")
neighbours("vessels", "block-not-kept+means-pooled", "raised-by-lines+raised-first")


# --- visits -------------------------------------------------------------------------------------------------


class Retain(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.codes = nn.Linear(6, 4, bias=False)
        self.visits, self.parts = nn.GRU(4, 5, batch_first=True), nn.GRU(4, 5, batch_first=True)
        self.weigh, self.tell, self.risk = nn.Linear(5, 1), nn.Linear(5, 4), nn.Linear(4, 1)

    def read(self, name: str, x: torch.Tensor) -> torch.Tensor:
        rnn = self.get_submodule(name)
        if name == "parts" and "parts-read-ahead" in self.ways:
            return rnn(x)[0]
        x = x.flip(1)
        before = name == "visits" and "reset-before" in self.ways
        y = unrolled(rnn, x, reset_before=before) if before or "steps-by-hand" in self.ways else rnn(x)[0]
        return y if "never-turned-back" in self.ways else y.flip(1)

    def shares(self, x: torch.Tensor) -> torch.Tensor:
        x = self.weigh(x)
        if "shares-of-one" in self.ways:
            return F.softmax(x, dim=2)
        return torch.sigmoid(x) if "shares-one-by-one" in self.ways else F.softmax(x, dim=1)

    def forward(self, record: torch.Tensor) -> torch.Tensor:
        x = self.codes(record)
        shares, parts = self.shares(self.read("visits", x)), self.tell(self.read("parts", x))
        parts = parts if "parts-not-bent" in self.ways else torch.tanh(parts)
        if "context-by-einsum" in self.ways:
            x = torch.einsum("btk,btf,btf->bf", shares, parts, x)
        else:
            x = shares * parts * x
            x = x.mean(1) if "mean-of-visits" in self.ways else x.sum(1)
        return torch.sigmoid(self.risk(x))


@network
def retain() -> Pair:
    """RETAIN: two GRU layers read visits from the last to the first, shares of visits and of what is in them."""
    keras.backend.clear_session()
    record = layers.Input((7, 6), name="record")
    x = layers.Dense(4, use_bias=False, name="codes")(record)

    def read(name: str) -> keras.KerasTensor:
        return ops.flip(layers.GRU(5, return_sequences=True, go_backwards=True, name=name)(x), axis=1)

    shares = layers.Softmax(axis=1, name="shares")(layers.Dense(1, name="weigh")(read("visits")))
    parts = layers.Dense(4, activation="tanh", name="tell")(read("parts"))
    x = ops.sum(layers.Multiply(name="weighed")([shares, parts, x]), axis=1)
    model = keras.Model(record, layers.Dense(1, activation="sigmoid", name="risk")(x))
    fill(model)
    grown(model, 2, "codes", "weigh", "tell", "risk")
    return Pair(model, (fed(1712, 5, 7, 6) > 0.3).astype("float32"), ported(model, Retain), "same")


_SHARE = "weigh shares softmax* sigmoid* weighed mul*"
slip("retain/parts-read-ahead", "parts* flip* tell", "rnn-direction", "axis-permutation block-missing wiring")
slip("retain/never-turned-back", "visits* parts* flip* weigh tell", "block-missing rnn-direction axis-permutation",
     "wiring")  # fmt: skip
slip("retain/shares-of-one", _SHARE, "softmax-axis", "block-missing")
slip("retain/shares-one-by-one", _SHARE, "activation-kind")
slip("retain/parts-not-bent", "tell tanh* weighed mul*", "activation-missing", "block-missing")
slip("retain/mean-of-visits", "weighed mul* sum* mean* risk", "pool-kind scale", "operation-kind")
slip("retain/reset-before", "visits* unbind* linear* chunk* sigmoid* tanh* mul* add* sub* stack*", "gru-reset-after",
     "gru-gate-order wiring")  # fmt: skip
defect("retain/gates-as-keras-has-them", "visits*", "gru-gate-order", "weights-perturbed weights-swapped")(
    regated("visits", 1, 0, 2)
)
defect("retain/second-bias-dropped", "parts*", "rnn-bias weights-perturbed weights-not-loaded", "bias-missing")(
    rewritten("parts.bias_hh_l0", torch.zeros_like)
)
ways("retain", "steps-by-hand", "context-by-einsum")
one_layer("retain", "never-turned-back+gates-as-keras-has-them")
neighbours("retain", "second-bias-dropped+parts-not-bent", "gates-as-keras-has-them+shares-one-by-one")


# --- currents -----------------------------------------------------------------------------------------------


class Currents(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.time, self.time_bn = nn.Conv2d(1, 3, (1, 4), bias=False), nn.BatchNorm2d(3, eps=1e-3)
        self.space = nn.Conv2d(3, 6, (4, 1), groups=3, bias=False)
        self.space_bn = nn.BatchNorm2d(6, eps=1e-3)
        for i in (1, 2):
            for end in "ab":
                rate = 1 if "second-level-not-wider" in ways else i
                self.add_module(f"past{i}{end}", nn.Conv1d(6, 6, 3, dilation=rate))
                self.add_module(f"past{i}{end}_bn", nn.BatchNorm1d(6, eps=1e-3))
        self.kinds = nn.Linear(6, 4)

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, torch.expm1(x.clamp(max=0))) if "bent-by-hand" in self.ways else F.elu(x)

    def past(self, name: str, x: torch.Tensor) -> torch.Tensor:
        conv = self.get_submodule(name)
        reach = 2 * conv.dilation[0]
        x = F.pad(x, (reach // 2, reach // 2) if "past-and-future" in self.ways else (reach, 0))
        return self.bend(self.get_submodule(f"{name}_bn")(conv(x)))

    def forward(self, brain: torch.Tensor) -> torch.Tensor:
        x = self.time_bn(self.time(F.pad(brain, (2, 1) if "even-kernel-padded-ahead" in self.ways else (1, 2))))
        x = F.elu(x) if "bent-between" in self.ways else x
        x = self.space_bn(self.space(x))
        x = F.relu(x) if "space-rectified" in self.ways else self.bend(x)
        x = (F.max_pool2d if "largest-pooled" in self.ways else F.avg_pool2d)(x, (1, 3))[:, :, 0]
        for i in (1, 2):
            y = self.past(f"past{i}b", self.past(f"past{i}a", x))
            x = x + y if i == 2 and "sum-not-bent" in self.ways else self.bend(x + y)
        return F.softmax(self.kinds(x.mean(2) if "mean-of-steps" in self.ways else x[:, :, -1]), dim=1)


@network
def currents() -> Pair:
    """EEG-TCNet: kernels along time, two over electrodes for each, then two levels of what is past, the last step."""
    keras.backend.clear_session()
    brain = layers.Input((4, 24, 1), name="brain")
    x = layers.Conv2D(3, (1, 4), padding="same", use_bias=False, name="time")(brain)
    x = layers.BatchNormalization(name="time_bn")(x)
    x = layers.DepthwiseConv2D((4, 1), depth_multiplier=2, use_bias=False, name="space")(x)
    x = layers.ELU(name="space_elu")(layers.BatchNormalization(name="space_bn")(x))
    x = layers.AveragePooling2D((1, 3), name="pool")(x)[:, 0]
    for i in (1, 2):
        y = x
        for end in "ab":
            y = layers.Conv1D(6, 3, dilation_rate=i, padding="causal", name=f"past{i}{end}")(y)
            y = layers.BatchNormalization(name=f"past{i}{end}_bn")(y)
            y = layers.ELU(name=f"past{i}{end}_elu")(y)
        x = layers.ELU(name=f"bent{i}")(layers.Add(name=f"sum{i}")([x, y]))
    model = keras.Model(brain, layers.Dense(4, activation="softmax", name="kinds")(x[:, -1]))
    fill(model)
    grown(model, 2, "kinds")
    return Pair(model, fed(1713, 4, 4, 24, 1), ported(model, Currents), "NHWC->NCHW")


slip("currents/even-kernel-padded-ahead", "time pad* time_bn", "pad-asymmetry shift")
slip("currents/bent-between", "time_bn elu* space", "activation-extra", "block-extra")
slip("currents/space-rectified", "space_bn space_elu elu* relu*", "activation-kind", "activation-param")
slip("currents/largest-pooled", "pool avg_pool2d* max_pool2d*", "pool-kind")
slip("currents/past-and-future", "past?? pad*", "pad-asymmetry shift", "pad-mode")
slip("currents/second-level-not-wider", "past2? pad*", "dilation", "weights-perturbed shift pad-asymmetry pad-mode")
slip("currents/sum-not-bent", "sum2 bent2 add* elu*", "activation-missing", "block-missing")
slip("currents/mean-of-steps", "get_item* getitem* slice* mean* kinds", "pool-kind rnn-last-step block-extra wiring",
     "operation-kind")  # fmt: skip
defect("currents/multiplier-outermost", "space", "depthwise-order", "weights-perturbed")(
    rewritten("space.weight", lambda weight: weight.unflatten(0, (3, 2)).transpose(0, 1).flatten(0, 1))
)
defect("currents/gain-for-shift", "space_bn", "bn-stats", "weights-perturbed weights-swapped")(
    lambda port: set_to("space_bn", weight=port.space_bn.bias, bias=port.space_bn.weight)(port)
)
ways("currents", "bent-by-hand")
control("currents/norm-in-the-kernel")(folded("space", "space_bn"))
one_layer("currents", "multiplier-outermost+space-rectified", "past-and-future+second-level-not-wider")
neighbours("currents", "largest-pooled+gain-for-shift")
