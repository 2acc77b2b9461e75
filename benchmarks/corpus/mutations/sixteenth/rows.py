"""Rows of tables: trees that learn, shops with a row in each of many tables, and odd payments."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixteenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, set_to
from benchmarks.corpus.mutations.twelfth.registry import left_on

_USED = ((0, 2, 3, 5), (1, 2, 4, 5))


def gains_for_shifts(path: str) -> Any:
    """Exchanges a norm's gain and shift, as where four arrays are loaded in another order."""

    def apply(port: Any) -> None:
        norm = port.get_submodule(path)
        norm.weight, norm.bias = norm.bias, norm.weight

    return apply


class Forest(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.bn = nn.BatchNorm1d(6, eps=1e-3)
        for i in (0, 1):
            self.add_module(f"decide{i}", nn.Linear(4, 4))
            self.add_module(f"leaves{i}", nn.ParameterDict({"rows": torch.zeros(4, 3)}))

    def tree(self, i: int, x: torch.Tensor) -> torch.Tensor:
        x = self.get_submodule(f"decide{i}")(x[:, :4] if "first-columns-used" in self.ways else x[:, _USED[i]])
        left = torch.sigmoid(x)
        right = torch.sigmoid(-x) if "right-by-the-other-sign" in self.ways else 1 - left
        both = torch.stack([right, left] if "right-before-left" in self.ways else [left, right], dim=2)
        begin = 1 if "second-decision-first" in self.ways else 0
        x = both[:, begin]
        y = x[:, :, None] * both[:, begin + 1 : begin + 3]
        x = y.mT.flatten(1) if "leaves-by-side" in self.ways else y.flatten(1)
        rows = self.get_submodule(f"leaves{i}")["rows"]
        if "leaves-as-they-are" not in self.ways:
            rows = F.softmax(rows, dim=0 if "shared-among-leaves" in self.ways else 1)
        return torch.einsum("bl,lc->bc", x, rows) if "leaves-by-einsum" in self.ways else x @ rows

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        x = self.bn(row)
        both = torch.stack([self.tree(0, x), self.tree(1, x)])
        return both.sum(0) if "sum-of-trees" in self.ways else both.mean(0)


class _Leaves(layers.Layer):  # type: ignore[misc]
    """The shares of classes on each leaf, weighed by how likely it is to be reached."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.rows = self.add_weight(name="rows", shape=(shape[-1], 3))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.matmul(x, ops.softmax(self.rows, axis=1))


@network
def forest() -> Pair:
    """A neural decision forest as Keras' example has it: two trees on some columns each, two levels, four leaves."""
    keras.backend.clear_session()
    row = layers.Input((6,), name="row")
    x, trees = layers.BatchNormalization(name="bn")(row), []
    for i in (0, 1):
        used = np.eye(6, dtype=np.float32)[list(_USED[i])].T
        left = layers.Dense(4, activation="sigmoid", name=f"decide{i}")(ops.matmul(x, used))
        left = ops.expand_dims(left, 2)
        both = layers.Concatenate(axis=2, name=f"both{i}")([left, 1 - left])
        y = ops.expand_dims(both[:, 0], 2) * both[:, 1:3]
        trees.append(_Leaves(name=f"leaves{i}")(layers.Reshape((4,), name=f"reached{i}")(y)))
    model = keras.Model(row, layers.Average(name="all")(trees))
    fill(model)
    grown(model, 2, "decide0", "decide1")
    for i in (0, 1):
        rows = model.get_layer(f"leaves{i}").rows
        rows.assign(rows * 2)
    return Pair(model, fed(1651, 6, 6), ported(model, Forest), "same")


_TREE = "both? stack* sub* mul* multiply* get_item* slice* reached? flatten* mT* leaves? matmul*"
_LEAF = "leaves? softmax* matmul* all"
slip("forest/first-columns-used", "get_item* matmul* slice* decide?", "wiring channel-order", "shift block-extra")
slip("forest/right-before-left", _TREE, "concat-order operand-order", "wiring")
slip("forest/second-decision-first", _TREE, "wiring shift", "operand-order channel-order")
slip("forest/leaves-by-side", _TREE, "reshape-order", "wiring")
slip("forest/leaves-as-they-are", _LEAF, "activation-missing logits block-missing weights-perturbed", "wiring")
slip("forest/shared-among-leaves", _LEAF, "softmax-axis weights-perturbed", "operation-kind")
slip("forest/sum-of-trees", "all mean* sum* stack*", "scale pool-kind", "operation-kind block-missing")
defect("forest/statistics-not-loaded", "bn", "bn-stats weights-not-loaded", "weights-perturbed")(
    set_to("bn", running_mean=torch.zeros(6), running_var=torch.ones(6))
)
defect("forest/bn-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("forest/second-tree-first", "decide?", "weights-swapped", "weights-perturbed wiring")(
    exchanged("decide0", "decide1")
)
ways("forest", "right-by-the-other-sign", "leaves-by-einsum")
one_layer("forest", "right-before-left+second-decision-first", "statistics-not-loaded+bn-eps-of-torch")
neighbours("forest", "leaves-by-side+shared-among-leaves")


# --- shops --------------------------------------------------------------------------------------------------


class Shops(Port):
    MEANS, VARIANCES = np.array([40.0, 3.0, 0.5], np.float32), np.array([90.0, 4.0, 0.04], np.float32)

    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.shop, self.day, self.state = nn.Embedding(9, 3), nn.Embedding(7, 2), nn.Embedding(7, 2)
        self.dense1, self.bn1 = nn.Linear(12, 10, bias=False), nn.BatchNorm1d(10, eps=1e-3)
        self.dense2, self.bn2 = nn.Linear(10, 6, bias=False), nn.BatchNorm1d(6, eps=1e-3)
        self.sold = nn.Linear(6, 1)

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        mean, variance = torch.from_numpy(self.MEANS), torch.from_numpy(self.VARIANCES)
        if "levelled-by-torch" in self.ways:
            return F.batch_norm(x, mean, variance, eps=0.0)
        if "numbers-not-levelled" in self.ways:
            return x
        return (x - mean) / (variance if "numbers-by-variance" in self.ways else variance.sqrt())

    def waves(self, month: torch.Tensor) -> list[torch.Tensor]:
        angle = (np.pi if "half-a-year" in self.ways else 2 * np.pi) * month / 12
        both = [torch.sin(angle), torch.cos(angle)]
        return both[::-1] if "cosine-before-sine" in self.ways else both

    def forward(self, shop: torch.Tensor, day: torch.Tensor, state: torch.Tensor, month: torch.Tensor,
                numbers: torch.Tensor) -> torch.Tensor:  # fmt: skip
        shop = shop - 1 if "shops-from-zero" in self.ways else shop
        own = (self.shop, shop), (self.day, day), (self.state, state)
        if "rows-by-products" in self.ways:
            rows = [F.one_hot(ids[:, 0].long(), len(table.weight)).float() @ table.weight for table, ids in own]
        else:
            rows = [table(ids)[:, 0] for table, ids in own]
        x = torch.cat([*rows, *self.waves(month), self.levelled(numbers)], dim=1)
        x = F.relu(self.bn1(self.dense1(x)))
        x = F.dropout(x, 0.2) if "dropout-still-on" in self.ways else x
        x = self.sold(F.relu(self.bn2(self.dense2(x))))
        return x if "logarithm-of-sales" in self.ways else torch.exp(x)


@network
def shops() -> Pair:
    """Entity embeddings for shops: a row in each of three tables, the month as a wave, levelled numbers, sales."""
    keras.backend.clear_session()
    given = {name: layers.Input((1,), dtype="int32", name=name) for name in ("shop", "day", "state")}
    month, numbers = layers.Input((1,), name="month"), layers.Input((3,), name="numbers")
    parts = [layers.Flatten(name=f"{name}_row")(layers.Embedding(size, wide, name=f"{name}_table")(given[name]))
             for name, size, wide in (("shop", 9, 3), ("day", 7, 2), ("state", 7, 2))]  # fmt: skip
    angle = 2 * np.pi * month / 12
    numbers_ = layers.Normalization(mean=Shops.MEANS, variance=Shops.VARIANCES, name="levels")(numbers)
    x = layers.Concatenate(name="known")([*parts, ops.sin(angle), ops.cos(angle), numbers_])
    x = layers.BatchNormalization(name="bn1")(layers.Dense(10, use_bias=False, name="dense1")(x))
    x = layers.Dropout(0.2, name="dropout")(layers.ReLU(name="bend1")(x))
    x = layers.BatchNormalization(name="bn2")(layers.Dense(6, use_bias=False, name="dense2")(x))
    x = layers.Dense(1, activation="exponential", name="sold")(layers.ReLU(name="bend2")(x))
    model = keras.Model([*given.values(), month, numbers], x)
    fill(model)
    drawn = np.random.default_rng(1655)
    inputs = {"shop": counted(1652, 9, 6, 1, least=1), "day": counted(1653, 7, 6, 1), "state": counted(1654, 7, 6, 1),
              "month": drawn.integers(1, 13, (6, 1)).astype(np.float32),
              "numbers": drawn.normal(Shops.MEANS, Shops.VARIANCES**0.5, (6, 3)).astype(np.float32)}  # fmt: skip
    return Pair(model, inputs, ported(model, Shops, rename=lambda name: name.removesuffix("_table")), "same")


_WAVE = "sin* cos* mul* multiply* div* true_divide* known cat*"
_NUMBERS = "levels sub* div* true_divide* known cat* numbers dense1"
slip("shops/numbers-by-variance", _NUMBERS, "input-normalisation input-scale block-missing", "scale wiring")
slip("shops/numbers-not-levelled", _NUMBERS, "input-normalisation input-scale block-missing", "scale wiring")
slip("shops/half-a-year", _WAVE, "scale input-scale", "weights-perturbed block-missing")
slip("shops/cosine-before-sine", _WAVE, "concat-order", "operand-order wiring operation-kind")
slip("shops/shops-from-zero", "shop shop_table shop_row sub* known cat* dense1", "embedding-offset",
     "shift weights-perturbed block-extra")  # fmt: skip
slip("shops/dropout-still-on", "bend1 dropout* relu* dense2", "dropout-mode", "block-extra")
slip("shops/logarithm-of-sales", "sold exp*", "activation-missing block-missing logits")
defect("shops/gains-for-shifts", "bn1", "bn-stats weights-swapped", "weights-perturbed")(gains_for_shifts("bn1"))
defect("shops/norm-still-training", "bn2", "bn-mode", "bn-stats")(left_on("bn2"))
defect("shops/day-for-state", "day* state* known cat*", "weights-swapped", "weights-perturbed wiring concat-order")(
    exchanged("day", "state")
)
ways("shops", "levelled-by-torch", "rows-by-products")
control("shops/norms-folded")(lambda port: [folded(f"dense{i}", f"bn{i}")(port) for i in (1, 2)] and port)
one_layer("shops", "half-a-year+cosine-before-sine")
neighbours("shops", "shops-from-zero+gains-for-shifts", "norm-still-training+logarithm-of-sales")


# --- payments -----------------------------------------------------------------------------------------------


class Payments(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.levels = nn.BatchNorm1d(7, eps=1e-3, affine=False)
        self.enter, self.code = nn.Linear(7, 5), nn.Linear(5, 5)
        self.back, self.out = (nn.ParameterDict({"shift": torch.zeros(n)}) for n in (5, 7))

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        if "bent-by-hand" in self.ways:
            return torch.where(x > 0, x, 0.5 * torch.expm1(x))
        return F.elu(x, 1.0 if "bend-of-torch" in self.ways else 0.5)

    def tied(self, name: str, x: torch.Tensor, to: nn.Linear) -> torch.Tensor:
        weight = to.weight if name == "back" and "code-not-turned-back" in self.ways else to.weight.T
        return F.linear(x, weight, self.get_submodule(name)["shift"])

    def forward(self, payment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.levels(payment)
        y = self.code(self.bent(self.enter(x)))
        y = self.bent(y) if "code-bent" in self.ways else y
        y = self.tied("back", y, self.code)
        y = self.tied("out", y if "back-not-bent" in self.ways else self.bent(y), self.enter)
        if "far-from-the-payment" in self.ways:
            x = payment
        far = (y - x).abs() if "absolute-for-squared" in self.ways else (y - x) ** 2
        if "spread-by-torch" in self.ways:
            spread, mean = torch.std_mean(far, dim=1, correction=0, keepdim=True)
        else:
            mean = far.mean(1, keepdim=True)
            spread = far.std(1, keepdim=True, correction=int("spread-of-a-sample" in self.ways))
        return y, (far - mean) / spread


class _Tied(layers.Layer):  # type: ignore[misc]
    """The way back through a dense layer's own kernel, with a bias of its own."""

    def __init__(self, dense: layers.Dense, **own: str) -> None:
        super().__init__(**own)
        self.kernel = lambda: dense.kernel

    def build(self, _: tuple[int, ...]) -> None:
        self.shift = self.add_weight(name="shift", shape=(self.kernel().shape[0],))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.matmul(x, ops.transpose(self.kernel())) + self.shift


@network
def payments() -> Pair:
    """An autoencoder with tied kernels: levelled payments, a code, the way back, and which numbers are odd."""
    keras.backend.clear_session()
    payment = layers.Input((7,), name="payment")
    x = layers.BatchNormalization(center=False, scale=False, name="levels")(payment)
    enter, code = layers.Dense(5, name="enter"), layers.Dense(5, name="code")
    y = _Tied(code, name="back")(code(layers.ELU(0.5, name="bend")(enter(x))))
    y = _Tied(enter, name="out")(layers.ELU(0.5, name="back_bend")(y))
    far = ops.square(layers.Subtract(name="apart")([y, x]))
    score = (far - ops.mean(far, axis=1, keepdims=True)) / ops.std(far, axis=1, keepdims=True)
    model = keras.Model(payment, [y, score])
    fill(model)
    return Pair(model, fed(1656, 5, 7), ported(model, Payments), "same")


_ODD = "apart sub* pow* square* abs* mean* std* div* true_divide*"
_BACK = "back back_bend elu* out linear* code"
slip("payments/bend-of-torch", "bend back_bend elu* code out linear*", "activation-param", "activation-kind")
slip("payments/code-bent", "code elu* back linear*", "activation-extra block-extra", "wiring")
slip("payments/back-not-bent", _BACK, "activation-missing", "block-missing")
slip("payments/code-not-turned-back", _BACK, "dense-transpose",
     "kernel-layout weights-perturbed axis-permutation block-missing")  # fmt: skip
slip("payments/far-from-the-payment", _ODD, "wiring block-missing", "operand-order residual-missing")
slip("payments/absolute-for-squared", _ODD, "operation-kind", "activation-kind")
slip("payments/spread-of-a-sample", _ODD, "std-ddof scale")
defect("payments/levels-still-training", "levels", "bn-mode", "bn-stats")(left_on("levels"))
defect("payments/bn-eps-of-torch", "levels", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
ways("payments", "bent-by-hand", "spread-by-torch")
one_layer("payments", "absolute-for-squared+spread-of-a-sample", "code-not-turned-back+back-not-bent")
neighbours("payments", "bn-eps-of-torch+bend-of-torch")
