"""Chances: who lives how long, a hand that grips with some luck, and a code whose density flows."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixteenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, exchanged, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.twelfth.registry import folded_ahead


class Lives(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.dense1, self.bn, self.dense2 = nn.Linear(5, 8), nn.BatchNorm1d(8, eps=1e-3), nn.Linear(8, 5)
        self.risk, self.base = nn.Linear(5, 1, bias=False), nn.ParameterDict({"line": torch.zeros(6)})

    def chances(self, risk: torch.Tensor) -> torch.Tensor:
        line = self.base["line"]
        if "chances-by-logarithms" in self.ways:
            return torch.exp(torch.exp(risk) * F.logsigmoid(line))
        base = 1 - torch.sigmoid(line) if "death-for-life" in self.ways else torch.sigmoid(line)
        return base ** (F.softplus(risk) if "softplus-for-exponential" in self.ways else torch.exp(risk))

    def forward(self, person: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if "person-not-levelled" in self.ways:
            x = person
        else:
            x = person / 50 if "levelled-around-one" in self.ways else person / 50 - 1
        x = self.bn(F.relu(self.dense1(x)))
        x = self.dense2(x)
        x = torch.tanh(x) if "tanh-for-relu" in self.ways else F.relu(x)
        x = self.chances(self.risk(x))
        if "lives-by-logarithms" in self.ways:
            alive = torch.exp(torch.cumsum(torch.log(x), dim=1))
        else:
            alive = torch.cumsum(x, dim=1) if "sums-for-products" in self.ways else torch.cumprod(x, dim=1)
        if "first-year-certain" in self.ways:
            alive = F.pad(alive[:, :-1], (1, 0), value=1.0)
        return alive, alive.mean(1) if "mean-of-years" in self.ways else alive.sum(1)


class _Base(layers.Layer):  # type: ignore[misc]
    """How likely each year is to be outlived, to the power of a risk's exponential."""

    def build(self, _: tuple[int, ...]) -> None:
        self.line = self.add_weight(name="line", shape=(6,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.power(ops.sigmoid(self.line), ops.exp(x))


@network
def lives() -> Pair:
    """Nnet-survival with proportional hazards: a risk, how likely each year is outlived, and who still lives."""
    keras.backend.clear_session()
    person = layers.Input((5,), name="person")
    x = layers.Rescaling(1 / 50, -1.0, name="levels")(person)
    x = layers.BatchNormalization(name="bn")(layers.Dense(8, activation="relu", name="dense1")(x))
    x = layers.Dense(5, activation="relu", name="dense2")(x)
    x = _Base(name="base")(layers.Dense(1, use_bias=False, name="risk")(x))
    alive = ops.cumprod(x, axis=1)
    model = keras.Model(person, [alive, ops.sum(alive, axis=1)])
    fill(model)
    given = np.random.default_rng(1657).uniform(10, 90, (6, 5)).astype(np.float32)
    return Pair(model, given, ported(model, Lives), "same")


_LEVEL = "person levels div* sub* dense1"
_CHANCE = "base sigmoid* exp* pow* softplus* rsub* cumprod* risk"
_ALIVE = "cumprod* sum* mean* pad* base pow*"
slip("lives/person-not-levelled", _LEVEL, "input-normalisation input-scale block-missing", "scale")
slip("lives/levelled-around-one", _LEVEL, "input-normalisation block-missing bias-missing", "shift input-scale")
slip("lives/death-for-life", _CHANCE, "block-extra operation-kind operand-order weights-perturbed", "scale")
slip("lives/softplus-for-exponential", _CHANCE, "activation-kind")
slip("lives/tanh-for-relu", "dense2 relu* tanh* risk", "activation-kind")
slip("lives/sums-for-products", _ALIVE, "operation-kind")
slip("lives/first-year-certain", _ALIVE, "shift block-extra", "wiring pad-asymmetry")
slip("lives/mean-of-years", _ALIVE, "pool-kind scale", "operation-kind")
defect("lives/deviation-for-variance", "bn", "bn-stats", "weights-perturbed")(
    rewritten("bn.running_var", lambda variance: variance.sqrt())
)
ways("lives", "chances-by-logarithms", "lives-by-logarithms")
control("lives/norm-in-the-dense")(folded_ahead("bn", "dense2"))
one_layer("lives", "death-for-life+softplus-for-exponential")
neighbours("lives", "levelled-around-one+deviation-for-variance", "tanh-for-relu+softplus-for-exponential")


# --- a hand -------------------------------------------------------------------------------------------------


class Grip(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.see, self.norm = nn.Linear(6, 8), nn.LayerNorm(8, eps=1e-5)
        self.mean, self.spread = nn.Linear(8, 3), nn.Linear(8, 3)
        for i in (1, 2):
            self.add_module(f"judge{i}", nn.Linear(9, 7))
            self.add_module(f"worth{i}", nn.Linear(7, 1))

    def judged(self, i: int, x: torch.Tensor) -> torch.Tensor:
        i = 1 if "first-judge-twice" in self.ways else i
        return self.get_submodule(f"worth{i}")(F.relu(self.get_submodule(f"judge{i}")(x)))

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        if "spread-cut" in self.ways:
            return x.clamp(-5, 2)
        return -5 + 3.5 * (torch.tanh(x) + 1)

    def forward(self, seen: torch.Tensor, luck: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.see(seen)
        x = torch.tanh(x if "seen-not-normed" in self.ways else self.norm(x))
        mean, spread = self.mean(x), self.levelled(self.spread(x))
        raw = mean + torch.exp(spread) * luck
        act = torch.tanh(raw)
        if "likely-by-torch" in self.ways:
            likely = torch.distributions.Normal(mean, torch.exp(spread)).log_prob(raw)
        else:
            likely = -(luck**2) / 2 - spread - 0.5 * np.log(2 * np.pi)
        if "change-forgotten" not in self.ways:
            likely = likely - torch.log(1 - act**2 + 1e-6)
        likely = likely.mean(1) if "mean-of-joints" in self.ways else likely.sum(1)
        given = raw if "raw-act-judged" in self.ways else act
        both = torch.cat([given, seen] if "act-first" in self.ways else [seen, given], dim=1)
        one, two = self.judged(1, both), self.judged(2, both)
        worth = torch.maximum(one, two) if "best-for-worst" in self.ways else torch.minimum(one, two)
        return act, likely, worth


@network
def grip() -> Pair:
    """SAC: an act drawn and squashed, how likely it was, and the worse of what two judges say."""
    keras.backend.clear_session()
    seen, luck = layers.Input((6,), name="seen"), layers.Input((3,), name="luck")
    x = layers.LayerNormalization(epsilon=1e-5, name="norm")(layers.Dense(8, name="see")(seen))
    x = layers.Activation("tanh", name="bend")(x)
    mean, spread = layers.Dense(3, name="mean")(x), layers.Dense(3, activation="tanh", name="spread")(x)
    spread = layers.Rescaling(3.5, -1.5, name="level")(spread)
    raw = layers.Add(name="drawn")([mean, layers.Multiply(name="lucky")([ops.exp(spread), luck])])
    act = layers.Activation("tanh", name="act")(raw)
    likely = -ops.square(luck) / 2 - spread - 0.5 * np.log(2 * np.pi)
    likely = ops.sum(likely - ops.log(1 - ops.square(act) + 1e-6), axis=1)
    both = layers.Concatenate(name="both")([seen, act])
    worth = [layers.Dense(1, name=f"worth{i}")(layers.Dense(7, activation="relu", name=f"judge{i}")(both))
             for i in (1, 2)]  # fmt: skip
    model = keras.Model([seen, luck], [act, likely, layers.Minimum(name="worse")(worth)])
    fill(model)
    grown(model, 0.4, "spread")
    grown(model, 0.2, "mean")
    return Pair(model, {"seen": fed(1681, 6, 6), "luck": fed(1682, 6, 3) * 0.4}, ported(model, Grip), "same")


_LIKELY = "sum* mean_* sub* subtract* log* square* pow* div* true_divide* neg* rsub* add*"
_JUDGE = "both cat* judge? worth? worse min* max*"
slip("grip/spread-cut", "spread level tanh* clamp* exp* mul* add* lucky", "activation-kind",
     "operation-kind block-missing")  # fmt: skip
slip("grip/seen-not-normed", "see norm bend tanh*", "block-missing", "scale")
slip("grip/change-forgotten", _LIKELY, "residual-missing block-missing", "wiring")
slip("grip/mean-of-joints", _LIKELY, "pool-kind scale", "operation-kind")
slip("grip/raw-act-judged", _JUDGE + " act tanh*", "wiring activation-missing block-missing")
slip("grip/act-first", _JUDGE, "concat-order", "operand-order wiring")
slip("grip/best-for-worst", _JUDGE, "operation-kind", "pool-kind")
slip("grip/first-judge-twice", _JUDGE, "weights-swapped wiring weights-not-loaded weights-perturbed",
     "block-missing block-extra")  # fmt: skip
defect("grip/mean-for-spread", "mean spread", "weights-swapped wiring", "weights-perturbed")(
    exchanged("mean", "spread")
)
defect("grip/norm-eps-of-keras", "norm", "ln-eps")(set_to("norm", eps=1e-3))
ways("grip", "likely-by-torch")
one_layer("grip", "act-first+raw-act-judged")
neighbours("grip", "change-forgotten+mean-of-joints", "act-first+best-for-worst")


# --- a density ----------------------------------------------------------------------------------------------


class Planar(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.mean, self.spread = nn.Linear(7, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        for i in (1, 2):
            own = {"aim": torch.zeros(3, 1), "push": torch.zeros(1, 3), "level": torch.zeros(1)}
            self.add_module(f"flow{i}", nn.ParameterDict(own))
        self.back, self.made = nn.Linear(3, 6), nn.Linear(6, 7)

    def flow(self, i: int, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own = self.get_submodule(f"flow{i}")
        raw = z @ own["aim"] if "flows-not-moved" in self.ways else z @ own["aim"] + own["level"]
        bent = torch.tanh(raw)
        if "slope-by-hyperbolas" in self.ways:
            slope = 1 / torch.cosh(raw) ** 2
        else:
            slope = 1 - (bent if "slope-without-square" in self.ways else bent**2)
        change = torch.log((1 + slope * (own["push"] @ own["aim"])).abs())
        return z + bent * own["push"], change[:, 0]

    def forward(self, given: torch.Tensor, luck: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.leaky_relu(self.enter(given), 0.01 if "slope-of-torch" in self.ways else 0.2)
        mean, spread = self.mean(x), self.spread(x)
        z = mean + torch.exp(spread if "variance-for-deviation" in self.ways else spread / 2) * luck
        y, one = self.flow(1, z)
        y, two = self.flow(2, y)
        lost = -0.5 * (1 + spread - mean**2 - torch.exp(spread))
        lost = lost.mean(1) if "mean-of-codes" in self.ways else lost.sum(1)
        lost = lost - (one if "first-change-alone" in self.ways else one + two)
        x = F.leaky_relu(self.back(z if "code-before-its-flow" in self.ways else y), 0.2)
        x = self.made(x)
        return x if "logits-told" in self.ways else torch.sigmoid(x), lost


class _Flow(layers.Layer):  # type: ignore[misc]
    """Pushes along one direction, by how far along another a code is, and the logarithm of how volume changes."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.aim = self.add_weight(name="aim", shape=(shape[-1], 1))
        self.push = self.add_weight(name="push", shape=(1, shape[-1]))
        self.level = self.add_weight(name="level", shape=(1,))

    def call(self, z: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        bent = ops.tanh(ops.matmul(z, self.aim) + self.level)
        change = ops.log(ops.abs(1 + (1 - ops.square(bent)) * ops.matmul(self.push, self.aim)))
        return z + bent * self.push, change[:, 0]


@network
def planar() -> Pair:
    """A variational autoencoder whose code flows: two planar steps, how volume changes, and what that costs."""
    keras.backend.clear_session()
    given, luck = layers.Input((7,), name="given"), layers.Input((3,), name="luck")
    x = layers.LeakyReLU(0.2, name="bend")(layers.Dense(6, name="enter")(given))
    mean, spread = layers.Dense(3, name="mean")(x), layers.Dense(3, name="spread")(x)
    z = layers.Add(name="code")([mean, ops.exp(spread / 2) * luck])
    y, one = _Flow(name="flow1")(z)
    y, two = _Flow(name="flow2")(y)
    lost = ops.sum(-0.5 * (1 + spread - ops.square(mean) - ops.exp(spread)), axis=1)
    lost = layers.Subtract(name="lost")([lost, layers.Add(name="changes")([one, two])])
    x = layers.LeakyReLU(0.2, name="back_bend")(layers.Dense(6, name="back")(y))
    model = keras.Model([given, luck], [layers.Dense(7, activation="sigmoid", name="made")(x), lost])
    fill(model)
    grown(model, 0.5, "mean", "spread")
    for i in (1, 2):
        push = model.get_layer(f"flow{i}").push
        push.assign(push * 0.6)
    return Pair(model, {"given": fed(1683, 5, 7), "luck": fed(1684, 5, 3)}, ported(model, Planar), "same")


_FLOW = "flow? matmul* tanh* add* pow* sub* rsub* log* abs* mul* code back"
_LOST = "lost changes sum* mean_1 sub* add* mul* multiply* log*"
slip("planar/slope-of-torch", "bend leaky_relu* mean spread", "activation-param", "activation-kind")
slip("planar/variance-for-deviation", "spread div* true_divide* exp* mul* multiply* code add*", "block-missing scale",
     "wiring")  # fmt: skip
slip("planar/flows-not-moved", _FLOW, "bias-missing block-missing", "weights-not-loaded residual-missing")
slip("planar/slope-without-square", _FLOW + " lost changes", "block-missing operation-kind",
     "activation-missing wiring")  # fmt: skip
slip("planar/mean-of-codes", _LOST + " mean*", "pool-kind scale", "operation-kind")
slip("planar/first-change-alone", _LOST, "residual-missing block-missing", "wiring")
slip("planar/code-before-its-flow", "flow? back add* mul* linear*", "wiring block-missing", "residual-missing")
slip("planar/logits-told", "made sigmoid*", "logits activation-missing", "block-missing")
defect("planar/second-flow-first", "flow? matmul* mul* tanh* add*", "weights-swapped", "weights-perturbed wiring")(
    exchanged("flow1", "flow2")
)
ways("planar", "slope-by-hyperbolas")
one_layer("planar", "mean-of-codes+first-change-alone")
neighbours("planar", "slope-of-torch+variance-for-deviation", "code-before-its-flow+logits-told")
