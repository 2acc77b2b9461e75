"""Texts: a pyramid of kernels, labels that follow one another, and whether one sentence says what another does."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import (
    Plus,
    defect,
    drawn_bias,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
    zeroed_row,
)
from benchmarks.corpus.mutations.ninth.registry import both_ways, regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, ported, rewritten, set_to


class Pyramid(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.region = nn.Embedding(30, 6), nn.Conv1d(6, 8, 3, padding=1)
        for i in (1, 2):
            self.add_module(f"first{i}", nn.Conv1d(8, 8, 3, padding=1))
            self.add_module(f"second{i}", nn.Conv1d(8, 8, 3, padding=1))
        self.label = nn.Linear(8, 4)

    def regions(self, x: torch.Tensor) -> torch.Tensor:
        if "regions-by-products" in self.ways:
            near = F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1)
            return torch.einsum("btck,ock->bot", near, self.region.weight) + self.region.bias[:, None]
        return self.region(x.transpose(1, 2))

    def halved(self, x: torch.Tensor) -> torch.Tensor:
        if "halved-by-ceiling" in self.ways:
            return F.max_pool1d(x, 3, 2, ceil_mode=True)
        if "halved-with-even-padding" in self.ways:
            return F.max_pool1d(x, 3, 2, padding=1)
        if "halved-without-the-rest" in self.ways:
            return F.max_pool1d(x, 3, 2)
        edge = 0.0 if "zeros-behind-the-last" in self.ways else -torch.inf
        return F.max_pool1d(F.pad(x, (0, 1), value=edge), 3, 2)

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        first, second = self.get_submodule(f"first{i}"), self.get_submodule(f"second{i}")
        if "bent-in-place" in self.ways:
            y = second(F.relu(first(F.relu_(x))))
        else:
            y = first(x if "first-bend-forgotten" in self.ways else F.relu(x))
            y = second(F.relu(y))
        return x + y

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.block(1, self.regions(self.words(words)))
        x = self.block(2, self.halved(x))
        x = self.halved(x)
        return self.label(x.mean(2) if "mean-over-regions" in self.ways else x.amax(2))


@network
def pyramid() -> Pair:
    """DPCNN: regions of three words, bends before kernels, pools of three that halve, the largest of what is left."""
    keras.backend.clear_session()
    words = layers.Input((20,), dtype="int32", name="tokens")
    x = layers.Conv1D(8, 3, padding="same", name="region")(layers.Embedding(30, 6, name="words")(words))
    for i in (1, 2):
        y = layers.Conv1D(8, 3, padding="same", name=f"first{i}")(layers.ReLU(name=f"bend{i}")(x))
        y = layers.Conv1D(8, 3, padding="same", name=f"second{i}")(layers.ReLU(name=f"inner{i}")(y))
        x = layers.Add(name=f"sum{i}")([x, y])
        x = layers.MaxPooling1D(3, 2, padding="same", name=f"half{i}")(x)
    x = layers.GlobalMaxPooling1D(name="largest")(x)
    model = keras.Model(words, layers.Dense(4, name="label")(x))
    fill(model)
    grown(model, 2, "region", "label")
    for i in (1, 2):
        bias = model.get_layer(f"second{i}").bias
        bias.assign(bias - 2)
    tokens = counted(1401, 30, 4, 20, least=1)
    tokens[0, 12:] = tokens[2, 17:] = tokens[3, 6:] = 0
    return Pair(model, tokens, ported(model, Pyramid), "same")


_HALF = "half? pad* max_pool1d* first2 bend2 relu* largest amax*"
slip("pyramid/halved-with-even-padding", _HALF, "pad-asymmetry", "shift")
slip("pyramid/halved-without-the-rest", _HALF, "pad-mode pool-ceil-mode", "pad-asymmetry")
slip("pyramid/zeros-behind-the-last", _HALF, "pad-mode", "pool-kind activation-extra")
slip("pyramid/bent-in-place", "bend? relu* sum? add* first? inner?", "residual-order activation-extra wiring")
slip("pyramid/first-bend-forgotten", "bend? relu* first?", "activation-missing", "block-missing")
slip("pyramid/mean-over-regions", "largest amax* mean* label", "pool-kind")
defect("pyramid/padding-row-of-zeros", "words region", "weights-perturbed weights-not-loaded embedding-offset",
       "attention-mask")(zeroed_row("words"))  # fmt: skip
defect("pyramid/second-not-biased", "second1", "bias-missing", "weights-not-loaded")(set_to("second1", bias=None))
ways("pyramid", "halved-by-ceiling", "regions-by-products")
one_layer("pyramid", "first-bend-forgotten+second-not-biased")
neighbours(
    "pyramid",
    "halved-with-even-padding+mean-over-regions",
    "padding-row-of-zeros+first-bend-forgotten",
    "zeros-behind-the-last+second-not-biased",
)


# --- labels -------------------------------------------------------------------------------------------------


class Chunker(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words = nn.Embedding(18, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.emit = nn.Linear(10, 4)
        self.follow = nn.ParameterDict({"table": torch.zeros(4, 4)})
        self.begin, self.end = (nn.ParameterDict({"shift": torch.zeros(4)}) for _ in range(2))

    def read(self, x: torch.Tensor) -> torch.Tensor:
        if "both-read-forwards" in self.ways:
            return torch.cat([unrolled(self.lstm, x), unrolled(self.lstm, x.flip(1), "_reverse").flip(1)], dim=2)
        return both_ways(self.lstm, x) if "loops-by-hand" in self.ways else self.lstm(x)[0]

    def summed(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        if "best-for-sum" in self.ways:
            return x.amax(dim)
        if "sums-by-hand" in self.ways:
            top = x.amax(dim, keepdim=True)
            return (x - top).exp().sum(dim).log() + top.squeeze(dim)
        return torch.logsumexp(x, dim)

    def forward(self, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        emitted = self.emit(self.read(self.words(words)))
        first = emitted[:, 0]
        sums = first if "begin-forgotten" in self.ways else first + self.begin["shift"]
        table = self.follow["table"]
        for t in range(1, emitted.shape[1]):
            sums = self.summed(sums[:, :, None] + table, 1) + emitted[:, t]
        return emitted, self.summed(sums + self.end["shift"], 1)


class _Follow(layers.Layer):  # type: ignore[misc]
    """What each label may come from, weighed by how they follow one another."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="table", shape=(shape[-1], shape[-1]))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.logsumexp(ops.expand_dims(x, 2) + self.table, axis=1)


@network
def chunker() -> Pair:
    """BiLSTM-CRF: two directions, scores of labels, and the logarithm of the sum over all ways through them."""
    keras.backend.clear_session()
    words = layers.Input((6,), dtype="int32", name="tokens")
    x = layers.Embedding(18, 6, name="words")(words)
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="lstm")(x)
    emitted = layers.Dense(4, name="emit")(x)
    follow, sums = _Follow(name="follow"), Plus(name="begin")(emitted[:, 0])
    for t in range(1, 6):
        sums = layers.Add(name=f"step{t}")([follow(sums), emitted[:, t]])
    model = keras.Model(words, [emitted, ops.logsumexp(Plus(name="end")(sums), axis=1)])
    fill(model)
    grown(model, 2, "emit")
    return Pair(model, counted(1402, 18, 4, 6), ported(model, Chunker), "same")


_READ = "lstm emit flip* stack* cat* linear* sigmoid* tanh* mul* chunk*"
_SUMS = "follow logsumexp* add* step? amax* begin get_item* end"
slip(
    "chunker/both-read-forwards",
    _READ,
    "rnn-direction",
    "block-extra",
)
slip("chunker/best-for-sum", _SUMS, "operation-kind pool-kind")
slip("chunker/begin-forgotten", _SUMS, "bias-missing block-missing", "wiring residual-missing")
defect("chunker/follow-turned", _SUMS, "dense-transpose kernel-layout axis-permutation", "weights-perturbed")(
    rewritten("follow.table", lambda table: table.T)
)
defect("chunker/second-bias-as-drawn", _READ, "rnn-bias weights-not-loaded weights-perturbed")(drawn_bias("lstm"))
defect("chunker/forget-bias-added-again", "lstm", "rnn-bias weights-perturbed")(
    rewritten("lstm.bias_ih_l0*", lambda bias: bias + torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(5))
)
defect("chunker/gates-of-onnx", "lstm", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm", 0, 3, 1, 2)
)
ways("chunker", "loops-by-hand", "sums-by-hand")
one_layer("chunker", "follow-turned+begin-forgotten", "second-bias-as-drawn+both-read-forwards")
neighbours("chunker", "gates-of-onnx+follow-turned")


# --- two sentences ------------------------------------------------------------------------------------------


class Entails(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.project = nn.Embedding(16, 6), nn.Linear(24, 5)
        self.read = nn.LSTM(6, 3, batch_first=True, bidirectional=True)
        self.compose = nn.LSTM(5, 2, batch_first=True, bidirectional=True)
        self.dense, self.label = nn.Linear(16, 6), nn.Linear(6, 3)

    def enhanced(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        apart = y - x if "difference-turned-round" in self.ways else x - y
        parts = [x, y, x * y, apart] if "product-first" in self.ways else [x, y, apart, x * y]
        if "projected-by-parts" in self.ways:
            shares = self.project.weight.chunk(4, dim=1)
            return F.relu(sum(part @ share.T for part, share in zip(parts, shares, strict=True)) + self.project.bias)
        return F.relu(self.project(torch.cat(parts, dim=2)))

    def pooled(self, x: torch.Tensor, there: torch.Tensor) -> list[torch.Tensor]:
        if "mean-with-padding" in self.ways:
            mean = x.mean(1)
        else:
            mean = (x * there[:, :, None]).sum(1) / there.sum(1, keepdim=True)
        if "largest-beside-zeros" in self.ways:
            most = (x * there[:, :, None]).amax(1)
        else:
            most = x.masked_fill(there[:, :, None] == 0, -1e9).amax(1)
        return [mean, most]

    def forward(self, premise: torch.Tensor, claim: torch.Tensor) -> torch.Tensor:
        here, there = (premise != 0).float(), (claim != 0).float()
        x, y = self.read(self.words(premise))[0], self.read(self.words(claim))[0]
        scores = torch.einsum("bif,bjf->bij", x, y) if "scores-by-einsum" in self.ways else x @ y.mT
        none = -torch.inf if "hidden-by-infinity" in self.ways else -1e9
        left, right = scores, scores
        if "padding-aligned" not in self.ways:
            left = scores.masked_fill(there[:, None] == 0, none)
            right = scores.masked_fill(here[:, :, None] == 0, none)
        dims = (1, 2) if "aligned-along-the-other" in self.ways else (2, 1)
        aligned = F.softmax(left, dim=dims[0]) @ y
        other = F.softmax(right, dim=dims[1]).mT @ x
        x, y = self.compose(self.enhanced(x, aligned))[0], self.compose(self.enhanced(y, other))[0]
        x = self.dense(torch.cat([*self.pooled(x, here), *self.pooled(y, there)], dim=1))
        return self.label(F.relu(x) if "relu-for-tanh" in self.ways else torch.tanh(x))


@network
def entails() -> Pair:
    """ESIM: two sentences read both ways and aligned with one another, compared, read again, mean and largest."""
    keras.backend.clear_session()
    premise, claim = (layers.Input((n,), dtype="int32", name=name) for n, name in ((6, "premise"), (5, "claim")))
    here, there = (ops.cast(ops.not_equal(words, 0), "float32") for words in (premise, claim))
    words, project = layers.Embedding(16, 6, name="words"), layers.Dense(5, activation="relu", name="project")
    read = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="read")
    compose = layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="compose")
    x, y = read(words(premise)), read(words(claim))
    scores = ops.matmul(x, ops.transpose(y, (0, 2, 1)))
    left = layers.Softmax(axis=2, name="left")(scores - 1e9 * (1 - ops.expand_dims(there, 1)))
    right = layers.Softmax(axis=1, name="right")(scores - 1e9 * (1 - ops.expand_dims(here, 2)))
    aligned, other = ops.matmul(left, y), ops.matmul(ops.transpose(right, (0, 2, 1)), x)
    found = []
    for own, its, mask, i in ((x, aligned, here, 1), (y, other, there, 2)):
        apart = layers.Subtract(name=f"apart{i}")([own, its])
        product = layers.Multiply(name=f"product{i}")([own, its])
        z = compose(project(layers.Concatenate(name=f"enhanced{i}")([own, its, apart, product])))
        mask = ops.expand_dims(mask, 2)
        found += [ops.sum(z * mask, axis=1) / ops.sum(mask, axis=1), ops.max(z - 1e9 * (1 - mask), axis=1)]
    x = layers.Dense(6, activation="tanh", name="dense")(layers.Concatenate(name="pooled")(found))
    model = keras.Model([premise, claim], layers.Dense(3, name="label")(x))
    fill(model)
    for one in (read, compose):
        for part in (one.forward_layer, one.backward_layer):
            part.cell.kernel.assign(part.cell.kernel * 2)
    grown(model, 2, "dense")
    first, second = counted(1403, 16, 4, 6, least=1), counted(1404, 16, 4, 5, least=1)
    first[0, 3:] = first[2, 4:] = second[1, 3:] = second[2, 2:] = 0
    return Pair(model, {"premise": first, "claim": second}, ported(model, Entails), "same")


_ALIGN = "left right softmax* sub* masked_fill* matmul* ne* eq* __eq__* __ne__* mul* expand_dims* transpose*"
_ENHANCE = "apart? product? enhanced? project sub* mul* cat*"
_POOL = "sum* mul* div* truediv* true_divide* divide* mean* amax* max* masked_fill* sub* pooled dense multiply* ne* eq*"
slip("entails/padding-aligned", _ALIGN, "attention-mask", "wiring")
slip("entails/aligned-along-the-other", _ALIGN, "softmax-axis", "axis-permutation operation-kind")
slip("entails/difference-turned-round", _ENHANCE, "operand-order", "scale wiring operation-kind")
slip("entails/product-first", _ENHANCE, "concat-order", "operand-order wiring")
slip("entails/mean-with-padding", _POOL, "attention-mask pool-count-include-pad block-missing",
     "pool-kind scale operation-kind wiring")  # fmt: skip
slip("entails/largest-beside-zeros", _POOL, "attention-mask pad-mode", "operation-kind activation-extra wiring")
slip("entails/relu-for-tanh", "dense tanh* relu* label", "activation-kind")
ways("entails", "projected-by-parts", "scores-by-einsum", "hidden-by-infinity")
one_layer("entails", "difference-turned-round+product-first", "mean-with-padding+largest-beside-zeros")
neighbours("entails", "padding-aligned+product-first", "mean-with-padding+relu-for-tanh")
