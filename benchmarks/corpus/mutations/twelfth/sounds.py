"""Sounds: a mobile network that names them, and two that write down what is said."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.ninth.registry import both_ways, folded, regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten
from benchmarks.corpus.mutations.twelfth.registry import control, defect, neighbours, network, one_layer, slip, ways


class Yard(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv2d(1, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4, eps=1e-4)
        for i, (given, wide, step) in enumerate(((4, 8, 1), (8, 8, 2)), 1):
            self.add_module(f"deep{i}", nn.Conv2d(given, given, 3, stride=step, groups=given, bias=False))
            self.add_module(f"deep_bn{i}", nn.BatchNorm2d(given, eps=1e-4))
            self.add_module(f"point{i}", nn.Conv2d(given, wide, 1, bias=False))
            self.add_module(f"point_bn{i}", nn.BatchNorm2d(wide, eps=1e-4))
        self.head = nn.Linear(8, 6)

    def pointed(self, point: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if "points-as-products" in self.ways:
            return torch.einsum("bchw,oc->bohw", x, point.weight[:, :, 0, 0])
        return point(x)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = torch.log10(mel + 0.001) if "decimal-logarithm" in self.ways else torch.log(mel + 0.001)
        x = x.transpose(2, 3) if "bands-before-frames" in self.ways else x
        bend = F.relu6 if "relu6-as-in-mobile-nets" in self.ways else F.relu
        strided = (1, 1, 1, 1) if "padded-evenly" in self.ways else (0, 1, 0, 1)
        x = bend(self.stem_bn(self.stem(F.pad(x, strided))))
        for i, around in ((1, (1, 1, 1, 1)), (2, strided)):
            deep, point = self.get_submodule(f"deep{i}"), self.get_submodule(f"point{i}")
            x = deep(F.pad(x, around))
            if i != 2 or "norm-between-forgotten" not in self.ways:
                x = self.get_submodule(f"deep_bn{i}")(x)
            x = bend(self.get_submodule(f"point_bn{i}")(self.pointed(point, bend(x))))
        return torch.sigmoid(self.head(x.mean((2, 3))))


@network
def yard() -> Pair:
    """YAMNet: logarithms of mel bands, depthwise kernels and points, norms that shift and never scale."""
    keras.backend.clear_session()
    mel = layers.Input((16, 8, 1), name="mel")

    def normed(x: keras.KerasTensor, name: str, i: str = "") -> keras.KerasTensor:
        x = layers.BatchNormalization(scale=False, epsilon=1e-4, name=f"{name}_bn{i}")(x)
        return layers.ReLU(name=f"{name}_relu{i}")(x)

    x = ops.log(mel + 0.001)
    x = normed(layers.Conv2D(4, 3, 2, padding="same", use_bias=False, name="stem")(x), "stem")
    for i, wide, step in (("1", 8, 1), ("2", 8, 2)):
        x = layers.DepthwiseConv2D(3, step, padding="same", use_bias=False, name=f"deep{i}")(x)
        x = layers.Conv2D(wide, 1, use_bias=False, name=f"point{i}")(normed(x, "deep", i))
        x = normed(x, "point", i)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(mel, layers.Dense(6, activation="sigmoid", name="head")(x))
    fill(model)
    grown(model, 4, "stem")
    names = {"stem_bn": 4, "deep_bn1": 4, "point_bn1": 8, "deep_bn2": 8, "point_bn2": 8}
    own = {f"{name}.weight": np.ones(wide, np.float32) for name, wide in names.items()}
    return Pair(model, np.abs(fed(1212, 3, 16, 8, 1)), ported(model, Yard, own), "NHWC->NCHW")


slip("yard/decimal-logarithm", "mel log* add*", "scale input-scale operation-kind")
slip("yard/bands-before-frames", "mel log* add* transpose* stem", "axis-permutation", "block-extra kernel-layout")
slip("yard/relu6-as-in-mobile-nets", "*_relu* relu* stem_bn deep_bn? point_bn?", "activation-kind activation-param",
     "operation-kind")  # fmt: skip
slip("yard/padded-evenly", "stem deep? pad*", "pad-asymmetry", "shift")
slip("yard/norm-between-forgotten", "deep2 deep_bn2 *relu*", "block-missing", "wiring bn-stats")
defect("yard/bn-eps-of-keras", "*_bn *_bn?", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
defect("yard/statistics-not-loaded", "point_bn1", "bn-stats weights-not-loaded", "weights-perturbed")(
    lambda port: port.point_bn1.reset_running_stats()
)
ways("yard", "points-as-products")
control("yard/deep-folded")(folded("deep1", "deep_bn1"))
one_layer("yard", "bn-eps-of-keras+statistics-not-loaded")
neighbours("yard", "norm-between-forgotten+padded-evenly")


# --- speech -------------------------------------------------------------------------------------------------


class Dictation(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv, self.bn = nn.Conv2d(1, 4, (5, 3), stride=2, bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.gru1, self.gru2 = (nn.GRU(n, 6, batch_first=True, bidirectional=True) for n in (16, 6))
        self.between, self.out = nn.BatchNorm1d(6, eps=1e-3), nn.Linear(6, 7)

    def read(self, gru: nn.GRU, x: torch.Tensor) -> torch.Tensor:
        if "second-reader-not-turned-back" in self.ways and gru is self.gru2:
            return unrolled(gru, x) + unrolled(gru, x, "_reverse").flip(1)
        x = both_ways(gru, x) if "loops-by-hand" in self.ways else gru(x)[0]
        one, two = x.chunk(2, dim=2)
        return (one + two) / 2 if "readers-averaged" in self.ways else one + two

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        even = "padded-evenly" in self.ways
        x = self.bn(self.conv(F.pad(frames, (1, 1, 2, 2) if even else (0, 1, 1, 2))))
        x = F.relu(x) if "clip-forgotten" in self.ways else F.hardtanh(x, 0, 1)
        x = x.permute(0, 2, 1, 3) if "channels-before-bands" in self.ways else x.permute(0, 2, 3, 1)
        x = self.read(self.gru1, x.flatten(2))
        if "steps-normed" in self.ways:
            x = self.between(x)
        elif "normed-as-rows" in self.ways:
            x = self.between(x.flatten(0, 1)).view_as(x)
        else:
            x = self.between(x.transpose(1, 2)).transpose(1, 2)
        return F.softmax(self.out(self.read(self.gru2, x)), dim=2)


@network
def dictation() -> Pair:
    """DeepSpeech 2: a strided kernel over time and bands, a clipped ReLU, two layers both ways that are summed."""
    keras.backend.clear_session()
    frames = layers.Input((12, 8, 1), name="frames")

    def read(x: keras.KerasTensor, i: int) -> keras.KerasTensor:
        return layers.Bidirectional(layers.GRU(6, return_sequences=True), merge_mode="sum", name=f"gru{i}")(x)

    x = layers.Conv2D(4, (5, 3), 2, padding="same", use_bias=False, name="conv")(frames)
    x = layers.ReLU(max_value=1.0, name="clipped")(layers.BatchNormalization(name="bn")(x))
    x = layers.BatchNormalization(name="between")(read(layers.Reshape((6, 16), name="steps")(x), 1))
    model = keras.Model(frames, layers.Dense(7, activation="softmax", name="out")(read(x, 2)))
    fill(model)
    grown(model, 2, "out")
    return Pair(model, fed(1213, 3, 12, 8, 1), ported(model, Dictation), "NHWC->NCHW")


def _one_bias(port: Dictation) -> None:
    """Both biases as one, as where what Keras holds in two rows is summed."""
    for name, tensor in port.gru1.named_parameters():
        if name.startswith("bias_hh"):
            port.gru1.get_parameter(name.replace("hh", "ih")).data += tensor
            tensor.data.zero_()


slip("dictation/padded-evenly", "conv pad*", "pad-asymmetry", "shift")
slip("dictation/clip-forgotten", "clipped hardtanh* relu* bn", "activation-kind activation-param", "operation-kind")
slip("dictation/channels-before-bands", "steps permute* flatten* gru1", "flatten-order", "wiring axis-permutation")
slip("dictation/second-reader-not-turned-back", "gru2 flip* add*", "rnn-direction", "block-extra axis-permutation")
slip(
    "dictation/readers-averaged",
    "gru? chunk* add* div* truediv* between out",
    "scale",
    "block-extra pool-kind operation-kind",
)
slip("dictation/steps-normed", "between transpose*", "norm-axis bn-stats", "axis-permutation wiring")
defect("dictation/gates-of-keras", "gru2", "gru-gate-order", "weights-perturbed weights-swapped")(
    regated("gru2", 1, 0, 2)
)
defect("dictation/biases-as-one", "gru1", "rnn-bias", "weights-perturbed gru-reset-after")(_one_bias)
ways("dictation", "loops-by-hand", "normed-as-rows")
control("dictation/norm-folded")(folded("conv", "bn"))
one_layer("dictation", "second-reader-not-turned-back+gates-of-keras", "channels-before-bands+biases-as-one")
neighbours("dictation", "clip-forgotten+padded-evenly")


# --- letters ------------------------------------------------------------------------------------------------


class Spell(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.listen1, self.listen2 = (nn.LSTM(n, 4, batch_first=True, bidirectional=True) for n in (4, 16))
        self.letters, self.told, self.out = nn.Embedding(10, 6), nn.Linear(16, 8), nn.Linear(8, 9)
        own = {"kernel": (6, 24), "recurrent": (8, 24), "bias": (24,)}
        self.tell = nn.ParameterDict({part: torch.zeros(shape) for part, shape in own.items()})

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        if "gates-of-old-keras" in self.ways:
            return (0.2 * x + 0.5).clamp(0, 1)
        return torch.sigmoid(x) if "gates-of-torch" in self.ways else F.hardsigmoid(x)

    def spelt(self, x: torch.Tensor) -> torch.Tensor:
        kernel, recurrent, bias = (self.tell[part] for part in ("kernel", "recurrent", "bias"))
        h, found = x.new_zeros(len(x), 8), []
        for step in x.unbind(1):
            gates, given = (step @ kernel + bias).split([16, 8], dim=1)
            z, r = self.gate(gates + h @ recurrent[:, :16]).chunk(2, dim=1)
            last = recurrent[:, 16:]
            new = torch.tanh(given + (r * (h @ last) if "reset-after-the-product" in self.ways else (r * h) @ last))
            h = z * h + (1 - z) * new
            found.append(h)
        return torch.stack(found, dim=1)

    def paired(self, x: torch.Tensor) -> torch.Tensor:
        if "pairs-by-slices" in self.ways:
            return torch.cat([x[:, ::2], x[:, 1::2]], dim=2)
        if "later-frame-first" in self.ways:
            return torch.cat([x[:, 1::2], x[:, ::2]], dim=2)
        return x.reshape(len(x), 4, 16)

    def forward(self, frames: torch.Tensor, letters: torch.Tensor) -> torch.Tensor:
        by_hand = "loops-by-hand" in self.ways
        x = both_ways(self.listen1, frames) if by_hand else self.listen1(frames)[0]
        x = self.paired(x)
        x = both_ways(self.listen2, x) if by_hand else self.listen2(x)[0]
        q = self.spelt(self.letters(letters + 1 if "letters-from-one" in self.ways else letters))
        scores = q @ x.mT / 8**0.5 if "scores-scaled" in self.ways else q @ x.mT
        y = F.softmax(scores, dim=2) @ x
        return self.out(torch.tanh(self.told(torch.cat([q, y], dim=2))))


@network
def spell() -> Pair:
    """Listen, attend and spell: two frames become one between two layers, an older GRU with hard gates looks at all."""
    keras.backend.clear_session()
    frames, letters = layers.Input((8, 4), name="frames"), layers.Input((5,), dtype="int32", name="letters")

    def listen(x: keras.KerasTensor, i: int) -> keras.KerasTensor:
        return layers.Bidirectional(layers.LSTM(4, return_sequences=True), name=f"listen{i}")(x)

    x = listen(layers.Reshape((4, 16), name="pairs")(listen(frames, 1)), 2)
    q = layers.Embedding(10, 6, name="letters_table")(letters)
    own = {"recurrent_activation": "hard_sigmoid", "reset_after": False, "return_sequences": True}
    q = layers.GRU(8, name="tell", **own)(q)
    y = layers.Attention(name="look")([q, x])
    y = layers.Dense(8, activation="tanh", name="told")(layers.Concatenate(name="both")([q, y]))
    model = keras.Model([frames, letters], layers.Dense(9, name="out")(y))
    fill(model)
    for kernel in (model.get_layer("tell").cell.kernel, model.get_layer("tell").cell.recurrent_kernel):
        kernel.assign(2 * kernel)
    grown(model, 2, "told")
    inputs = {"frames": 2 * fed(1214, 3, 8, 4), "letters": counted(1215, 9, 3, 5)}
    return Pair(model, inputs, ported(model, Spell, rename=lambda name: name.removesuffix("_table")), "same")


_CELL = "tell* mul* add* sub* rsub* matmul* hardsigmoid* sigmoid* tanh* clamp* chunk* split* unbind*"
_LOOK = "look* matmul* softmax* div* truediv* transpose* mT* both cat*"
slip("spell/reset-after-the-product", _CELL, "gru-reset-after", "wiring operand-order")
slip("spell/gates-of-old-keras", _CELL, "rnn-activation activation-kind activation-param", "operation-kind")
slip("spell/gates-of-torch", _CELL, "rnn-activation activation-kind", "operation-kind")
slip("spell/later-frame-first", "pairs reshape* cat* listen2", "concat-order", "operand-order channel-order wiring")
slip("spell/letters-from-one", "letters letters_table add*", "embedding-offset", "shift weights-perturbed")
slip("spell/scores-scaled", _LOOK, "attention-scale scale", "block-extra")
defect("spell/reset-first", "tell* matmul*", "gru-gate-order", "weights-perturbed weights-swapped")(
    rewritten("tell.*", lambda w: torch.cat([w[..., 8:16], w[..., :8], w[..., 16:]], dim=-1))
)
defect("spell/bias-on-both-sides", "listen2", "rnn-bias", "weights-perturbed scale")(doubled("listen2"))
ways("spell", "loops-by-hand", "pairs-by-slices")
one_layer("spell", "gates-of-torch+reset-after-the-product")
neighbours("spell", "later-frame-first+bias-on-both-sides", "letters-from-one+reset-first")
