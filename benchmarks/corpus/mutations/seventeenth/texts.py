"""Texts: words that hear the one before, and letters without words."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventeenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, ported, rewritten, set_to

_STEPS = 6


class Shifted(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.scores = nn.Embedding(16, 6), nn.Linear(6, 16, bias=False)
        for name in ("begin", "before", "between", "last"):
            self.add_module(name, nn.LayerNorm(6))
        for name in ("key", "value", "gate", "wide", "open"):
            self.add_module(f"mix_{name}", nn.ParameterDict({"share": torch.zeros(6)}))
        self.fade = nn.ParameterDict({"decay": torch.zeros(6), "bonus": torch.zeros(6)})
        for name, given, wide in (("key", 6, 6), ("value", 6, 6), ("gate", 6, 6), ("out", 6, 6), ("wide", 6, 9),
                                  ("narrow", 9, 6), ("open", 6, 6)):  # fmt: skip
            self.add_module(name, nn.Linear(given, wide, bias=False))

    def mixed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        share = self.get_submodule(f"mix_{name}")["share"]
        if "word-before-forgotten" in self.ways:
            return self.get_submodule(name)(x)
        if "shifted-by-joining" in self.ways:
            before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        elif "shifted-the-other-way" in self.ways:
            before = F.pad(x[:, 1:], (0, 0, 0, 1))
        else:
            before = F.pad(x[:, :-1], (0, 0, 1, 0))
        x = x * (1 - share) + before * share if "shares-turned" in self.ways else x * share + before * (1 - share)
        return self.get_submodule(name)(x)

    def faded(self, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        decay, bonus = self.fade["decay"], self.fade["bonus"]
        rate = decay if "decay-without-its-exponential" in self.ways else torch.exp(decay)
        if "all-steps-at-once" in self.ways:
            past = torch.arange(_STEPS)[:, None] - torch.arange(_STEPS) - 1
            power = key[:, None] - past[:, :, None].clamp(min=0) * rate
            share = torch.exp(torch.where(past[:, :, None] < 0, key[:, None] + bonus, power))
            share = share * (past >= -1)[:, :, None]
            return (share * value[:, None]).sum(2) / share.sum(2)
        up = down = torch.zeros_like(key[:, 0])
        found = []
        for k, v in zip(key.unbind(1), value.unbind(1), strict=True):
            own = torch.exp(k if "bonus-forgotten" in self.ways else k + bonus)
            found.append((up + own * v) / (down + own))
            up, down = torch.exp(-rate) * up + torch.exp(k) * v, torch.exp(-rate) * down + torch.exp(k)
        return torch.stack(found, dim=1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens)
        x = x if "words-not-normed" in self.ways else self.begin(x)
        y = self.before(x)
        gate = self.mixed("gate", y)
        gate = gate if "gate-not-squashed" in self.ways else torch.sigmoid(gate)
        x = x + self.out(gate * self.faded(self.mixed("key", y), self.mixed("value", y)))
        y = self.between(x)
        wide = F.relu(self.mixed("wide", y))
        wide = self.narrow(wide if "bend-not-squared" in self.ways else wide**2)
        wide = torch.sigmoid(self.mixed("open", y)) * wide
        return self.scores(self.last(wide if "words-not-kept" in self.ways else x + wide))


class _Share(layers.Layer):  # type: ignore[misc]
    """A learnt share of each feature, and the rest from the word before."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.share = self.add_weight(name="share", shape=(shape[-1],))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        before = ops.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
        return x * self.share + before * (1 - self.share)


class _Fade(layers.Layer):  # type: ignore[misc]
    """The mean of values by the exponentials of keys, of which past ones fade and the own one has a bonus."""

    def build(self, shape: list[tuple[int, ...]]) -> None:
        self.decay, self.bonus = (self.add_weight(name=name, shape=(6,)) for name in ("decay", "bonus"))

    def call(self, both: list[keras.KerasTensor]) -> keras.KerasTensor:
        key, value = both
        kept = ops.exp(-ops.exp(self.decay))
        up = down = ops.zeros_like(key[:, 0])
        found = []
        for t in range(_STEPS):
            own = ops.exp(key[:, t] + self.bonus)
            found.append((up + own * value[:, t]) / (down + own))
            up, down = kept * up + ops.exp(key[:, t]) * value[:, t], kept * down + ops.exp(key[:, t])
        return ops.stack(found, axis=1)


@network
def shifted() -> Pair:
    """RWKV of one block: shares of the word before, a mean that fades, gates, and a squared ReLU."""
    keras.backend.clear_session()
    tokens = layers.Input((_STEPS,), dtype="int32", name="tokens")

    def norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.LayerNormalization(epsilon=1e-5, name=name)(x)

    def mixed(x: keras.KerasTensor, name: str, wide: int = 6) -> keras.KerasTensor:
        return layers.Dense(wide, use_bias=False, name=name)(_Share(name=f"mix_{name}")(x))

    x = norm(layers.Embedding(16, 6, name="words")(tokens), "begin")
    y = norm(x, "before")
    gate = layers.Activation("sigmoid", name="gate_bend")(mixed(y, "gate"))
    y = layers.Multiply(name="gated")([gate, _Fade(name="fade")([mixed(y, "key"), mixed(y, "value")])])
    x = layers.Add(name="sum1")([x, layers.Dense(6, use_bias=False, name="out")(y)])
    y = norm(x, "between")
    wide = ops.square(layers.ReLU(name="wide_bend")(mixed(y, "wide", 9)))
    wide = layers.Dense(6, use_bias=False, name="narrow")(wide)
    gate = layers.Activation("sigmoid", name="open_bend")(mixed(y, "open"))
    x = layers.Add(name="sum2")([x, layers.Multiply(name="opened")([gate, wide])])
    model = keras.Model(tokens, layers.Dense(16, use_bias=False, name="scores")(norm(x, "last")))
    fill(model)
    for name in ("key", "value", "gate", "wide", "open"):
        share = model.get_layer(f"mix_{name}").share
        share.assign(ops.sigmoid(3 * share))
    table = model.get_layer("words").embeddings
    table.assign(table * 0.3)
    grown(model, 2, "out", "gate")
    return Pair(model, counted(1731, 16, 4, _STEPS), ported(model, Shifted), "same")


_MIX = "mix_* key* value* gate* wide* open* pad* mul* multiply* add* sub* subtract* rsub* slice* get_item* getitem*"
_FADE = "fade* exp* mul* add* neg* truediv* div* stack* gated key* value*"
slip("shifted/shifted-the-other-way", _MIX, "shift pad-asymmetry wiring", "pad-mode attention-mask")
slip("shifted/word-before-forgotten", _MIX, "block-missing wiring", "scale residual-missing shift")
slip("shifted/shares-turned", _MIX, "operand-order wiring", "weights-perturbed shift")
slip("shifted/decay-without-its-exponential", _FADE, "block-missing activation-missing weights-perturbed", "scale")
slip("shifted/bonus-forgotten", _FADE, "bias-missing block-missing", "weights-not-loaded wiring")
slip("shifted/words-not-normed", "begin words before sum1 add*", "block-missing", "scale")
slip("shifted/gate-not-squashed", "gate gate_bend sigmoid* gated mul*", "activation-missing", "block-missing")
slip("shifted/bend-not-squared", "wide wide_bend relu* square* pow* narrow", "block-missing activation-kind",
     "operation-kind activation-missing")  # fmt: skip
slip("shifted/words-not-kept", "sum2 add* opened mul* last", "residual-missing", "block-missing wiring")
defect("shifted/norm-eps-of-keras", "begin before between last", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
defect("shifted/key-for-value", "key value", "weights-swapped", "weights-perturbed operand-order wiring")(
    exchanged("key", "value")
)
defect("shifted/out-as-it-lies", "out", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("out.weight", lambda weight: weight.T)
)
ways("shifted", "shifted-by-joining", "all-steps-at-once")
one_layer("shifted", "decay-without-its-exponential+bonus-forgotten")
neighbours("shifted", "key-for-value+gate-not-squashed", "bend-not-squared+words-not-kept")


# --- letters ------------------------------------------------------------------------------------------------


class Letters(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.near, self.far = nn.Conv1d(9, 6, 5), nn.Conv1d(6, 4, 3)
        self.dense1, self.dense2, self.topic = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def marks(self, text: torch.Tensor) -> torch.Tensor:
        if "letters-from-one" in self.ways:
            return F.one_hot((text - 1).clamp(min=0).long(), 9).float()
        found = F.one_hot(text.long(), 9).float()
        return found * (text != 0)[..., None] if "gap-marked-as-nothing" in self.ways else found

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        if "marks-looked-up" in self.ways:
            x = F.embedding(text.flip(1), torch.eye(9)).mT
        else:
            x = self.marks(text if "read-forward" in self.ways else text.flip(1)).mT
        x = F.relu(self.near(x))
        x = self.far(F.avg_pool1d(x, 3) if "means-pooled" in self.ways else F.max_pool1d(x, 3))
        x = torch.tanh(x) if "far-by-tanh" in self.ways else F.relu(x)
        row = x.flatten(1) if "channel-by-channel" in self.ways else x.mT.flatten(1)
        x = F.threshold(self.dense1(row), 1.0 if "threshold-of-one" in self.ways else 1e-6, 0.0)
        x = self.dense2(x)
        x = F.relu(x)
        return self.topic(x) if "scores-told" in self.ways else F.softmax(self.topic(x), dim=1)


@network
def letters() -> Pair:
    """Zhang's network on letters: marks read backwards, pools of three, a row of all, thresholds, a topic."""
    keras.backend.clear_session()
    text = layers.Input((22,), dtype="int32", name="text")
    x = ops.one_hot(ops.flip(text, axis=1), 9)
    x = layers.MaxPooling1D(3, name="pool")(layers.Conv1D(6, 5, activation="relu", name="near")(x))
    x = layers.Flatten(name="row")(layers.Conv1D(4, 3, activation="relu", name="far")(x))
    x = ops.threshold(layers.Dense(8, name="dense1")(x), 1e-6, 0.0)
    x = layers.Dropout(0.5, name="drop")(layers.Dense(8, activation="relu", name="dense2")(x))
    model = keras.Model(text, layers.Dense(3, activation="softmax", name="topic")(x))
    fill(model)
    grown(model, 2, "near", "far", "topic")
    return Pair(model, counted(1732, 9, 5, 22), ported(model, Letters), "same")


_MARKS = "text flip* one_hot* sub* clamp* float* mT* near ne* mul* get_item* getitem*"
slip("letters/letters-from-one", _MARKS, "embedding-offset", "shift block-extra")
slip("letters/gap-marked-as-nothing", _MARKS, "embedding-offset block-extra attention-mask",
     "wiring weights-perturbed")  # fmt: skip
slip("letters/read-forward", _MARKS, "block-missing axis-permutation rnn-direction", "wiring")
slip("letters/means-pooled", "pool max_pool1d* avg_pool1d* far", "pool-kind")
slip("letters/far-by-tanh", "far relu* tanh* row", "activation-kind")
slip("letters/channel-by-channel", "row flatten* mT* dense1", "flatten-order dense-row-order", "wiring")
slip("letters/threshold-of-one", "dense1 threshold*", "activation-param", "activation-kind")
slip("letters/scores-told", "topic softmax*", "logits activation-missing", "block-missing")
defect("letters/first-not-biased", "near", "bias-missing", "weights-not-loaded")(set_to("near", bias=None))
ways("letters", "marks-looked-up")


@control("letters/kernels-by-products")
def _by_products(port: Letters) -> Letters:
    for conv in (port.near, port.far):
        size = conv.kernel_size[0]
        conv.forward = lambda x, own=conv, size=size: (
            torch.einsum("bits,ois->bot", x.unfold(2, size, 1), own.weight) + own.bias[:, None]
        )
    return port


neighbours("letters", "first-not-biased+means-pooled", "far-by-tanh+channel-by-channel")
