"""Voices and sequences read by other means than recurrent layers: a bank of convolutions, a space of states."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import defect, grown, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported, rewritten


class Bank(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.bank = nn.ModuleList(nn.Conv1d(5, 4, size) for size in (1, 2, 3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(4, eps=1e-3) for _ in range(3))
        self.project, self.project_bn = nn.Conv1d(12, 5, 3, padding=1), nn.BatchNorm1d(5, eps=1e-3)
        self.gate, self.change = nn.Linear(5, 5), nn.Linear(5, 5)
        self.both = nn.GRU(5, 4, batch_first=True, bidirectional=True)

    def banked(self, x: torch.Tensor) -> list[torch.Tensor]:
        if "bank-in-one-kernel" in self.ways:
            kernels = [F.pad(self.bank[0].weight, (1, 1)), F.pad(self.bank[1].weight, (1, 0)), self.bank[2].weight]
            x = F.conv1d(F.pad(x, (1, 1)), torch.cat(kernels), torch.cat([conv.bias for conv in self.bank]))
            return [norm(F.relu(y)) for norm, y in zip(self.norms, x.chunk(3, dim=1), strict=True)]
        found = []
        for conv, norm in zip(self.bank, self.norms, strict=True):
            more = conv.kernel_size[0] - 1
            before = more - more // 2 if "odd-step-before" in self.ways else more // 2
            y = conv(F.pad(x, (before, more - before)))
            found.append(F.relu(norm(y)) if "normed-before-rectified" in self.ways else norm(F.relu(y)))
        return found

    def highway(self, x: torch.Tensor) -> torch.Tensor:
        share, y = torch.sigmoid(self.gate(x)), F.relu(self.change(x))
        if "share-of-the-old" in self.ways:
            return share * x + (1 - share) * y
        return share * y if "old-not-carried" in self.ways else share * y + (1 - share) * x

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        found = self.banked(mel)
        x = torch.cat(found[::-1] if "widest-first" in self.ways else found, dim=1)
        if "pooled-behind" in self.ways:
            x = F.max_pool1d(F.pad(x, (1, 0), value=float("-inf")), 2, 1)
        elif "mean-of-two" in self.ways:
            x = F.avg_pool1d(F.pad(x, (0, 1), mode="replicate"), 2, 1)
        else:
            behind = 0.0 if "pool-with-zeros" in self.ways else float("-inf")
            x = F.max_pool1d(F.pad(x, (0, 1), value=behind), 2, 1)
        x = self.project_bn(self.project(x))
        x = (x if "mel-not-added" in self.ways else x + mel).transpose(1, 2)
        return self.both(self.highway(x))[0]


@network
def bank() -> Pair:
    """Tacotron's CBHG: kernels of one, two and three steps, a pool that moves by one, a highway, a GRU both ways."""
    keras.backend.clear_session()
    mel = layers.Input((11, 5), name="mel")
    found = []
    for i in range(3):
        y = layers.Conv1D(4, i + 1, padding="same", activation="relu", name=f"bank.{i}")(mel)
        found.append(layers.BatchNormalization(name=f"norms.{i}")(y))
    x = layers.MaxPooling1D(2, 1, padding="same", name="pool")(layers.Concatenate(name="joined")(found))
    x = layers.BatchNormalization(name="project_bn")(layers.Conv1D(5, 3, padding="same", name="project")(x))
    x = layers.Add(name="sum")([x, mel])
    share, y = (
        layers.Dense(5, activation=name, name=layer)(x) for name, layer in (("sigmoid", "gate"), ("relu", "change"))
    )
    x = share * y + (1 - share) * x
    model = keras.Model(mel, layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both")(x))
    fill(model)
    return Pair(model, fed(121, 3, 11, 5), ported(model, Bank), "NHWC->NCHW")


_BANK = "bank bank.* norms norms.* pad pad_1 pad_2 relu relu_?"
_HIGHWAY = "gate change sigmoid relu_3 multiply* mul* add* subtract* sub* rsub* both"
slip("bank/odd-step-before", _BANK, "pad-asymmetry", "shift")
slip("bank/normed-before-rectified", _BANK, "residual-order wiring",
     "operation-kind activation-missing activation-extra block-missing block-extra operand-order")  # fmt: skip
slip("bank/widest-first", "joined cat pool", "concat-order", "operand-order channel-order")
slip("bank/pooled-behind", "pool pad_3 max_pool1d*", "pad-asymmetry shift", "pad-mode")
slip("bank/mean-of-two", "pool pad_3 max_pool1d* avg_pool1d*", "pool-kind", "pad-mode")
slip("bank/pool-with-zeros", "pool pad_3 max_pool1d*", "pad-mode", "activation-extra block-extra")
slip("bank/mel-not-added", "sum add project_bn transpose gate change", "residual-missing", "block-missing wiring")
slip("bank/share-of-the-old", _HIGHWAY, "operand-order residual-order wiring", "operation-kind scale residual-missing")
slip("bank/old-not-carried", _HIGHWAY, "residual-missing block-missing", "wiring")
defect("bank/gate-for-change", "gate change", "weights-swapped", "weights-perturbed wiring")(
    exchanged("gate", "change")
)
defect("bank/candidate-bias-joined", "both", "rnn-bias gru-reset-after", "weights-perturbed bias-missing")(
    lambda port: _joined(port.both)
)


def _joined(gru: nn.GRU) -> None:
    for end in ("", "_reverse"):
        given, kept = getattr(gru, f"bias_ih_l0{end}").data, getattr(gru, f"bias_hh_l0{end}").data
        given += kept
        kept.zero_()


defect("bank/norm-eps-of-torch", "norms.? project_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
ways("bank", "bank-in-one-kernel")
one_layer("bank", "share-of-the-old+gate-for-change", "odd-step-before+normed-before-rectified")
neighbours("bank", "widest-first+pool-with-zeros")


# --- a space of states --------------------------------------------------------------------------------------

_WIDE, _STATES = 8, 3


class States(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.norm, self.enter = nn.LayerNorm(6, eps=1e-3), nn.Linear(6, 2 * _WIDE, bias=False)
        self.conv = nn.Conv1d(_WIDE, _WIDE, 4, groups=_WIDE)
        self.told, self.pace = nn.Linear(_WIDE, 2 + 2 * _STATES, bias=False), nn.Linear(2, _WIDE)
        self.scan = nn.ParameterDict({"rates": torch.zeros(_WIDE, _STATES), "skip": torch.ones(_WIDE)})
        self.leave = nn.Linear(_WIDE, 6, bias=False)

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2)
        if "mixed-from-both-sides" in self.ways:
            x = self.conv(F.pad(x, (1, 2)))
        elif "cut-behind" in self.ways:
            x = F.conv1d(x, self.conv.weight, self.conv.bias, padding=3, groups=_WIDE)[..., : x.shape[2]]
        else:
            x = self.conv(F.pad(x, (3, 0)))
        x = x.transpose(1, 2)
        return x if "mixed-not-bent" in self.ways else F.silu(x)

    def scanned(self, x: torch.Tensor) -> torch.Tensor:
        pace, put, got = self.told(x).split([2, _STATES, _STATES], dim=-1)
        put, got = (got, put) if "output-before-input" in self.ways else (put, got)
        pace = self.pace(pace)
        pace = F.relu(pace) if "pace-rectified" in self.ways else F.softplus(pace)
        rates = self.scan["rates"]
        rates = -rates if "rates-not-raised" in self.ways else -torch.exp(rates)
        kept = torch.exp(pace[..., None] * rates)
        given = put[:, :, None] if "pace-of-the-input-lost" in self.ways else pace[..., None] * put[:, :, None]
        given = given * x[..., None]
        if "summed-at-once" in self.ways:
            logs = (pace[..., None] * rates).cumsum(1)
            past = torch.ones(9, 9, dtype=torch.bool).tril()[:, :, None, None]
            past = torch.exp((logs[:, :, None] - logs[:, None]).masked_fill(~past, -1e9))
            y = torch.einsum("btsdn,bsdn,btn->btd", past, given, got)
        else:
            state, found = torch.zeros_like(given[:, 0]), []
            for step in range(x.shape[1]):
                state = given[:, step] + (state if "nothing-fades" in self.ways else kept[:, step] * state)
                found.append((state * got[:, step, None]).sum(-1))
            y = torch.stack(found, dim=1)
        return y if "skip-lost" in self.ways else y + self.scan["skip"] * x

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        x, gate = self.enter(steps if "steps-not-normed" in self.ways else self.norm(steps)).chunk(2, dim=-1)
        x, gate = (gate, x) if "gate-first" in self.ways else (x, gate)
        y = self.scanned(self.mixed(x))
        y = y * (torch.sigmoid(gate) if "gate-by-sigmoid" in self.ways else F.silu(gate))
        return self.leave(y) if "steps-not-added" in self.ways else steps + self.leave(y)


class _Scan(layers.Layer):  # type: ignore[misc]
    def build(self, shapes: list[tuple[int, ...]]) -> None:
        self.rates = self.add_weight(name="rates", shape=(_WIDE, _STATES))
        self.skip = self.add_weight(name="skip", shape=(_WIDE,))

    def call(self, given: list[keras.KerasTensor]) -> keras.KerasTensor:
        x, pace, put, got = given
        kept = ops.exp(pace[..., None] * -ops.exp(self.rates))
        new = (pace * x)[..., None] * put[:, :, None]
        state, found = ops.zeros_like(new[:, 0]), []
        for step in range(x.shape[1]):
            state = kept[:, step] * state + new[:, step]
            found.append(ops.einsum("bdn,bn->bd", state, got[:, step]))
        return ops.stack(found, axis=1) + self.skip * x


@network
def states() -> Pair:
    """A block of Mamba: a short causal kernel, states whose fading depends on what is read, a gate."""
    keras.backend.clear_session()
    steps = layers.Input((9, 6), name="steps")
    x = layers.Dense(2 * _WIDE, use_bias=False, name="enter")(layers.LayerNormalization(name="norm")(steps))
    x, gate = ops.split(x, 2, axis=-1)
    x = layers.ZeroPadding1D((3, 0), name="past")(x)
    x = layers.DepthwiseConv1D(4, activation="silu", name="conv")(x)
    told = layers.Dense(2 + 2 * _STATES, use_bias=False, name="told")(x)
    pace = layers.Dense(_WIDE, activation="softplus", name="pace")(told[..., :2])
    y = _Scan(name="scan")([x, pace, told[..., 2 : 2 + _STATES], told[..., 2 + _STATES :]])
    y = layers.Multiply(name="gated")([y, layers.Activation("silu", name="gate")(gate)])
    model = keras.Model(steps, layers.Add(name="sum")([steps, layers.Dense(6, use_bias=False, name="leave")(y)]))
    fill(model)
    grown(model, 2, "conv", "enter", "told")
    model.get_layer("scan").rates.assign(np.log(np.abs(fed(122, _WIDE, _STATES)) + 0.3))
    return Pair(model, fed(123, 3, 9, 6), ported(model, States), "same")


_SCAN = "scan told split* exp* neg* mul mul_1 mul_2 mul_2? stack add_9 gated leave"
_CONV = "past conv pad silu transpose* told"
_GATE = "enter split* chunk* gate silu* sigmoid* gated mul* multiply*"
slip("states/mixed-from-both-sides", _CONV, "pad-asymmetry", "pad-mode shift")
slip("states/mixed-not-bent", _CONV, "activation-missing", "block-missing")
slip(
    "states/output-before-input",
    _SCAN + " sum sum_?",
    "concat-order operand-order wiring",
    "weights-swapped channel-order",
)
slip("states/pace-rectified", "pace softplus relu " + _SCAN, "activation-kind")
slip("states/rates-not-raised", _SCAN, "activation-missing block-missing", "weights-perturbed operation-kind")
slip("states/pace-of-the-input-lost", _SCAN, "block-missing", "scale wiring")
slip("states/nothing-fades", _SCAN + " add add_?", "block-missing", "wiring operation-kind")
slip("states/skip-lost", _SCAN + " mul_1?", "residual-missing block-missing", "bias-missing wiring")
slip("states/steps-not-normed", "norm enter", "block-missing", "wiring")
slip(
    "states/gate-first", _GATE + " past conv pad", "concat-order operand-order wiring", "channel-order weights-swapped"
)
slip("states/gate-by-sigmoid", _GATE, "activation-kind", "operation-kind")
slip("states/steps-not-added", "sum add* leave", "residual-missing", "block-missing wiring")
defect("states/taps-turned", "conv", "kernel-flip", "weights-perturbed")(
    rewritten("conv.weight", lambda weight: weight.flip(2))
)
defect("states/rates-as-begun", "scan scan.* exp*", "weights-not-loaded", "weights-perturbed")(
    rewritten("scan.rates", lambda rates: torch.arange(1.0, _STATES + 1).log().expand_as(rates))
)
ways("states", "cut-behind", "summed-at-once")
one_layer("states", "skip-lost+pace-of-the-input-lost", "taps-turned+mixed-not-bent")
neighbours("states", "mixed-from-both-sides+output-before-input", "gate-by-sigmoid+steps-not-added")
