"""Items: products of fields, what is taken next, and crosses of a row that are made of a few."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import Plus, zeroed_row
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventeenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten, set_to

_FIELDS = ("device", "site", "age")
_ONE, _OTHER = np.triu_indices(3, 1)


class Products(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for i, name in enumerate(_FIELDS):
            self.add_module(f"{name}_table", nn.Embedding(5 + i, 4))
        self.plain, self.inner = nn.Linear(12, 6, bias=False), nn.Linear(3, 6, bias=False)
        self.norm, self.dense, self.click = nn.BatchNorm1d(6, eps=1e-3), nn.Linear(6, 5), nn.Linear(5, 1)

    def products(self, x: torch.Tensor) -> torch.Tensor:
        if "products-by-matrix" in self.ways:
            return (x @ x.mT)[:, _ONE, _OTHER]
        y = x[:, _ONE] * x[:, _OTHER]
        return y.mean(2) if "means-for-sums" in self.ways else y.sum(2)

    def forward(self, device: torch.Tensor, site: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        given = (device, site, age - 1 if "ages-from-one" in self.ways else age)
        rows = [self.get_submodule(f"{name}_table")(ids)[:, 0] for name, ids in zip(_FIELDS, given, strict=True)]
        x = torch.stack(rows, dim=1)
        if "feature-by-feature" in self.ways:
            row = x.mT.flatten(1)
        else:
            row = torch.cat([rows[1], rows[0], rows[2]] if "site-first" in self.ways else rows, dim=1)
        x = self.plain(row) if "products-forgotten" in self.ways else self.plain(row) + self.inner(self.products(x))
        x = F.relu(self.norm(x))
        x = self.dense(x)
        return torch.sigmoid(self.click(x if "dense-not-bent" in self.ways else F.relu(x)))


@network
def products() -> Pair:
    """PNN: a table for each field, products of each two beside the rows themselves, one norm before the bend."""
    keras.backend.clear_session()
    given = [layers.Input((1,), dtype="int32", name=name) for name in _FIELDS]
    rows = [layers.Flatten(name=f"{name}_row")(layers.Embedding(5 + i, 4, name=f"{name}_table")(ids))
            for i, (name, ids) in enumerate(zip(_FIELDS, given, strict=True))]  # fmt: skip
    inner = [layers.Dot(axes=1, name=f"dot{i}{j}")([rows[i], rows[j]]) for i, j in zip(_ONE, _OTHER, strict=True)]
    x = layers.Dense(6, use_bias=False, name="plain")(layers.Concatenate(name="all")(rows))
    y = layers.Dense(6, use_bias=False, name="inner")(layers.Concatenate(name="dots")(inner))
    x = layers.ReLU(name="bend")(layers.BatchNormalization(name="norm")(layers.Add(name="both")([x, y])))
    x = layers.Dense(5, activation="relu", name="dense")(x)
    model = keras.Model(given, layers.Dense(1, activation="sigmoid", name="click")(x))
    fill(model)
    norm = model.get_layer("norm").moving_variance
    norm.assign(norm * 0.05)
    grown(model, 0.3, "plain", "inner")
    grown(model, 3, "click")
    ids = {name: counted(1741 + i, 5 + i, 7, 1, least=1) for i, name in enumerate(_FIELDS)}
    return Pair(model, ids, ported(model, Products), "same")


_DOTS = "dot?? dots slice* get_item* getitem* mul* sum* mean* inner both add*"
slip("products/means-for-sums", _DOTS, "pool-kind scale", "operation-kind")
slip("products/products-forgotten", f"{_DOTS} plain", "block-missing residual-missing", "wiring")
slip("products/ages-from-one", "age* sub*", "embedding-offset", "shift block-extra")
slip("products/feature-by-feature", "all stack* cat* mT* flatten* plain", "flatten-order dense-row-order",
     "wiring concat-order")  # fmt: skip
slip("products/site-first", "all stack* cat* plain", "concat-order", "operand-order wiring")
slip("products/dense-not-bent", "dense relu* click", "activation-missing", "block-missing")
defect("products/statistics-not-loaded", "norm", "bn-stats weights-not-loaded", "weights-perturbed")(
    set_to("norm", running_mean=torch.zeros(6), running_var=torch.ones(6))
)
defect("products/norm-eps-of-torch", "norm", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect(
    "products/devices-from-one",
    "device*",
    "embedding-offset",
    "weights-perturbed weights-swapped weights-not-loaded axis-permutation shift",
)(rewritten("device_table.weight", lambda weight: weight.roll(1, 0)))
ways("products", "products-by-matrix")
neighbours(
    "products", "products-forgotten+norm-eps-of-torch", "means-for-sums+site-first", "ages-from-one+feature-by-feature"
)


# --- what is next -------------------------------------------------------------------------------------------


class Nextup(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.items, self.scores = nn.Embedding(14, 8), nn.Linear(8, 14)
        for i, rate in enumerate((1, 2, 4)):
            rate = 2 if i == 2 and "third-not-wider" in ways else rate
            self.add_module(f"past{i}", nn.Conv1d(8, 8, 3, dilation=rate))
            self.add_module(f"norm{i}", nn.LayerNorm(8, eps=1e-3))

    def past(self, i: int, x: torch.Tensor) -> torch.Tensor:
        conv = self.get_submodule(f"past{i}")
        reach = 2 * conv.dilation[0]
        if "padded-and-cut" in self.ways:
            return F.conv1d(x.mT, conv.weight, conv.bias, padding=reach, dilation=reach // 2)[..., : x.shape[1]].mT
        return conv(F.pad(x.mT, (reach // 2, reach // 2) if "what-comes-seen" in self.ways else (reach, 0))).mT

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        norm = self.get_submodule(f"norm{i}")
        if i == 1 and "normed-over-steps" in self.ways:
            y = F.layer_norm(self.past(i, x).mT, (x.shape[1],), eps=1e-3).mT * norm.weight + norm.bias
        else:
            y = norm(self.past(i, x))
        if i == 0 and "first-bent-after-the-sum" in self.ways:
            return F.relu(x + y)
        y = F.gelu(y) if "gelu-for-relu" in self.ways else F.relu(y)
        return y if i == 2 and "third-not-kept" in self.ways else x + y

    def forward(self, basket: torch.Tensor) -> torch.Tensor:
        x = self.items(basket)
        x = x if "padding-told" in self.ways else x * (basket != 0)[..., None]
        for i in range(3):
            x = self.block(i, x)
        x = x.mean(1) if "mean-of-steps" in self.ways else x[:, -1]
        return F.softmax(self.scores(x), dim=0 if "shared-among-people" in self.ways else 1)


@network
def nextup() -> Pair:
    """NextItNet: rows of none for padding, three widths of what is past, norms before bends, the last step's shares."""
    keras.backend.clear_session()
    basket = layers.Input((10,), dtype="int32", name="basket")
    x = layers.Embedding(14, 8, name="items")(basket)
    there = ops.cast(ops.not_equal(basket, 0), "float32")
    x = layers.Multiply(name="there")([x, ops.expand_dims(there, 2)])
    for i, rate in enumerate((1, 2, 4)):
        y = layers.Conv1D(8, 3, dilation_rate=rate, padding="causal", name=f"past{i}")(x)
        y = layers.ReLU(name=f"relu{i}")(layers.LayerNormalization(name=f"norm{i}")(y))
        x = layers.Add(name=f"sum{i}")([x, y])
    model = keras.Model(basket, layers.Dense(14, activation="softmax", name="scores")(x[:, -1]))
    fill(model)
    given = counted(1745, 14, 5, 10, least=1)
    given[0, :4] = given[2, :2] = given[3, :6] = 0
    return Pair(model, given, ported(model, Nextup), "same")


slip("nextup/padding-told", "items there mul* ne* past0 pad*", "attention-mask block-missing embedding-offset",
     "weights-perturbed wiring")  # fmt: skip
slip("nextup/what-comes-seen", "past? pad*", "pad-asymmetry shift attention-mask", "pad-mode")
slip("nextup/third-not-wider", "past2 pad*", "dilation", "weights-perturbed shift pad-asymmetry pad-mode")
slip("nextup/normed-over-steps", "norm1 layer_norm* mT* mul* add* relu1", "norm-axis", "wiring")
slip("nextup/first-bent-after-the-sum", "sum0 relu0 relu* add* norm0", "residual-order", "wiring operand-order")
slip("nextup/gelu-for-relu", "relu? relu* gelu* norm?", "activation-kind")
slip("nextup/third-not-kept", "sum2 add* relu2 relu*", "residual-missing", "block-missing wiring")
slip("nextup/mean-of-steps", "get_item* getitem* slice* mean* scores", "pool-kind rnn-last-step block-extra wiring",
     "operation-kind")  # fmt: skip
slip("nextup/shared-among-people", "scores softmax*", "softmax-axis")
defect("nextup/norm-eps-of-torch", "norm?", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("nextup/kernel-turned-round", "past0", "kernel-flip", "kernel-layout weights-perturbed")(
    rewritten("past0.weight", lambda weight: weight.flip(2))
)
control("nextup/first-row-of-none")(zeroed_row("items"))
ways("nextup", "padded-and-cut")
one_layer("nextup", "what-comes-seen+kernel-turned-round", "third-not-wider+third-not-kept")
neighbours("nextup", "gelu-for-relu+norm-eps-of-torch", "mean-of-steps+shared-among-people")


# --- crosses ------------------------------------------------------------------------------------------------


class Crosses(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.norm = nn.BatchNorm1d(7, eps=1e-3)
        for i in (0, 1):
            for name, given, wide in (("gate", 7, 1), ("down", 7, 3), ("core", 3, 3), ("up", 3, 7)):
                self.add_module(f"{name}{i}", nn.Linear(given, wide, bias=name == "gate"))
        self.shift = nn.ParameterDict({"shift": torch.zeros(7)})
        self.deep, self.price = nn.Linear(7, 6), nn.Linear(13, 1)

    def expert(self, i: int, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.get_submodule(f"down{i}")(x))
        y = self.get_submodule(f"core{i}")(y)
        y = y if i == 0 and "core-not-bent" in self.ways else torch.tanh(y)
        y = self.get_submodule(f"up{i}")(y)
        y = y if "shift-forgotten" in self.ways else y + self.shift["shift"]
        return y if "not-crossed" in self.ways else first * y

    def cross(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.stack([self.expert(i, x, x) for i in (0, 1)], dim=2)
        shares = torch.cat([self.gate0(x), self.gate1(x)], dim=1)
        if "shares-by-sigmoids" in self.ways:
            shares = torch.sigmoid(shares)
        elif "shares-as-they-are" not in self.ways:
            shares = F.softmax(shares, dim=1)
        y = (both @ shares[:, :, None])[..., 0]
        if "shared-by-einsum" in self.ways:
            y = torch.einsum("bfe,be->bf", both, shares)
        return y if "row-not-kept" in self.ways else x + y

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        x = self.norm(row)
        crossed, deep = self.cross(x), F.relu(self.deep(x))
        return self.price(torch.cat([deep, crossed] if "deep-first" in self.ways else [crossed, deep], dim=1))


@network
def crosses() -> Pair:
    """DCN-mix: crosses through a few features, two experts with shares, the row kept, a deep network beside."""
    keras.backend.clear_session()
    row = layers.Input((7,), name="row")
    x = layers.BatchNormalization(name="norm")(row)
    shift, found = Plus(name="shift"), []
    for i in (0, 1):
        y = layers.Dense(3, use_bias=False, activation="tanh", name=f"down{i}")(x)
        y = layers.Dense(3, use_bias=False, activation="tanh", name=f"core{i}")(y)
        y = shift(layers.Dense(7, use_bias=False, name=f"up{i}")(y))
        found.append(ops.expand_dims(layers.Multiply(name=f"crossed{i}")([x, y]), 2))
    gates = layers.Concatenate(name="gates")([layers.Dense(1, name=f"gate{i}")(x) for i in (0, 1)])
    shares = ops.expand_dims(layers.Softmax(name="shares")(gates), 2)
    y = ops.matmul(layers.Concatenate(axis=2, name="experts")(found), shares)
    crossed = layers.Add(name="kept")([x, layers.Reshape((7,), name="mixed")(y)])
    deep = layers.Dense(6, activation="relu", name="deep")(x)
    model = keras.Model(row, layers.Dense(1, name="price")(layers.Concatenate(name="both")([crossed, deep])))
    fill(model)
    grown(model, 2, "up0", "up1", "gate0", "gate1")
    return Pair(model, fed(1748, 6, 7), ported(model, Crosses), "same")


_SHARES = "gates gate? shares softmax* sigmoid* cat* stack* matmul* experts"
slip("crosses/core-not-bent", "core0 tanh* up0", "activation-missing", "block-missing")
slip("crosses/shift-forgotten", "shift* add* up? crossed?", "bias-missing block-missing", "weights-not-loaded")
slip("crosses/not-crossed", "crossed? mul* up? shift* stack* experts", "block-missing", "wiring scale")
slip("crosses/shares-by-sigmoids", _SHARES, "activation-kind")
slip("crosses/shares-as-they-are", _SHARES, "activation-missing logits", "block-missing")
slip("crosses/row-not-kept", "kept add* mixed both cat* matmul*", "residual-missing", "block-missing wiring")
slip("crosses/deep-first", "both cat* price", "concat-order", "operand-order wiring")
defect("crosses/experts-exchanged", "up0 up1", "weights-swapped", "weights-perturbed wiring")(exchanged("up0", "up1"))
defect("crosses/core-as-it-lies", "core1", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("core1.weight", lambda weight: weight.T)
)
ways("crosses", "shared-by-einsum")
one_layer("crosses", "shift-forgotten+not-crossed")
neighbours("crosses", "experts-exchanged+core-not-bent", "row-not-kept+deep-first")
