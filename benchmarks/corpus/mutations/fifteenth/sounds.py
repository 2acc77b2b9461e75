"""Sounds: what a song is like, and the notes that are played in it."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fifteenth.registry import (
    control,
    defect,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.twelfth.registry import folded_ahead, left_on


class Music(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter_bn = nn.BatchNorm2d(1, eps=1e-3)
        self.timbre, self.timbre_bn = nn.Conv2d(1, 5, (7, 9)), nn.BatchNorm2d(5, eps=1e-3)
        self.rhythm, self.rhythm_bn = nn.Conv2d(1, 3, (8, 1)), nn.BatchNorm2d(3, eps=1e-3)
        for i in (1, 2):
            self.add_module(f"mid{i}", nn.Conv1d(8, 8, 7, padding=3))
            self.add_module(f"mid{i}_bn", nn.BatchNorm1d(8, eps=1e-3))
        self.row_bn, self.drop, self.dense = nn.BatchNorm1d(48, eps=1e-3), nn.Dropout(0.5), nn.Linear(48, 8)
        self.dense_bn, self.tags = nn.BatchNorm1d(8, eps=1e-3), nn.Linear(8, 5)

    def front(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if name == "timbre":
            x = F.pad(x, (0, 0, 3, 3))
        else:
            x = F.pad(x, (0, 0, 4, 3) if "even-kernel-padded-in-front" in self.ways else (0, 0, 3, 4))
        x, norm = self.get_submodule(name)(x), self.get_submodule(f"{name}_bn")
        x = F.relu(norm(x)) if "norm-before-the-bend" in self.ways else norm(F.relu(x))
        if "mean-over-bands" in self.ways:
            return x.mean(3)
        return F.max_pool2d(x, (1, x.shape[3]))[..., 0] if "bands-by-a-pool" in self.ways else x.amax(3)

    def mid(self, i: int, x: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(f"mid{i}_bn")(F.relu(self.get_submodule(f"mid{i}")(x)))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = 10000 * mel + 1
        x = torch.log(x) if "natural-logarithm" in self.ways else torch.log10(x)
        x = self.enter_bn(x)
        x = torch.cat([self.front("timbre", x), self.front("rhythm", x)], dim=1)
        y = self.mid(1, x)
        y = y if "first-skip-forgotten" in self.ways else x + y
        x = torch.cat([x, y, y + self.mid(2, y)], dim=1)
        both = [x.mean(2), x.amax(2)] if "mean-before-largest" in self.ways else [x.amax(2), x.mean(2)]
        x = torch.cat(both, dim=1) if "all-largest-first" in self.ways else torch.stack(both, dim=2).flatten(1)
        x = self.dense(self.drop(self.row_bn(x)))
        x = self.tags(self.dense_bn(x if "dense-left-linear" in self.ways else F.relu(x)))
        return F.softmax(x, dim=1) if "one-tag-alone" in self.ways else torch.sigmoid(x)


@network
def music() -> Pair:
    """musicnn: tall and long kernels, bends before norms, the largest and the mean of each feature in turn."""
    keras.backend.clear_session()
    mel = layers.Input((16, 12, 1), name="mel")
    x = layers.BatchNormalization(name="enter_bn")(ops.log10(10000 * mel + 1))
    found = []
    for name, wide, size in (("timbre", 5, (7, 9)), ("rhythm", 3, (8, 1))):
        around = ((3, 3), (0, 0)) if name == "timbre" else ((3, 4), (0, 0))
        y = layers.ZeroPadding2D(around, name=f"{name}_pad")(x)
        y = layers.Conv2D(wide, size, activation="relu", name=name)(y)
        y = layers.BatchNormalization(name=f"{name}_bn")(y)
        y = layers.MaxPooling2D((1, 4 if name == "timbre" else 12), name=f"{name}_pool")(y)
        found.append(layers.Reshape((16, wide), name=f"{name}_steps")(y))
    x = layers.Concatenate(name="front")(found)
    every = [x]
    for i in (1, 2):
        y = layers.Conv1D(8, 7, padding="same", activation="relu", name=f"mid{i}")(every[-1])
        every.append(layers.Add(name=f"sum{i}")([every[-1], layers.BatchNormalization(name=f"mid{i}_bn")(y)]))
    x = layers.Concatenate(name="every")(every)
    x = ops.stack([ops.max(x, axis=1), ops.mean(x, axis=1)], axis=2)
    x = layers.BatchNormalization(name="row_bn")(layers.Flatten(name="row")(x))
    x = layers.Dense(8, activation="relu", name="dense")(layers.Dropout(0.5, name="drop")(x))
    x = layers.Dense(5, activation="sigmoid", name="tags")(layers.BatchNormalization(name="dense_bn")(x))
    model = keras.Model(mel, x)
    fill(model)
    grown(model, 0.4, "dense", "tags")
    return Pair(model, np.abs(fed(1561, 3, 16, 12, 1)) * 0.1, ported(model, Music), "NHWC->NCHW")


_FRONT = "timbre timbre_* rhythm rhythm_* relu* batch_norm*"
_ROW = "row stack* cat* flatten* max* mean* amax* row_bn"
slip("music/natural-logarithm", "log* add* enter_bn", "scale operation-kind", "activation-kind input-normalisation")
slip("music/norm-before-the-bend", _FRONT, "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("music/even-kernel-padded-in-front", "rhythm rhythm_pad pad*", "pad-asymmetry", "shift")
slip("music/mean-over-bands", "timbre_pool rhythm_pool *_steps amax* mean* front cat*", "pool-kind", "operation-kind")
slip("music/first-skip-forgotten", "sum1 add* mid1 mid1_bn", "residual-missing", "block-missing wiring")
slip("music/mean-before-largest", _ROW, "concat-order", "operand-order wiring channel-order")
slip("music/all-largest-first", _ROW, "flatten-order concat-order dense-row-order", "wiring channel-order")
slip("music/dense-left-linear", "dense dense_bn relu*", "activation-missing", "block-missing")
slip("music/one-tag-alone", "tags sigmoid* softmax*", "activation-kind", "operation-kind")
defect("music/spread-for-variance", "timbre_bn", "bn-stats", "weights-perturbed")(
    rewritten("timbre_bn.running_var", lambda variance: variance.sqrt())
)
defect("music/dropout-still-on", "drop", "dropout-mode")(left_on("drop"))
ways("music", "bands-by-a-pool")
control("music/norm-in-the-dense")(folded_ahead("row_bn", "dense"))


@control("music/turn-in-the-weights")
def _turned(port: Music) -> None:
    """All that is largest first, and what reads it in that order as well."""
    order = torch.arange(48).unflatten(0, (24, 2)).T.flatten()
    port.ways = port.ways | {"all-largest-first"}
    port.dense.weight = nn.Parameter(port.dense.weight[:, order])
    for tensor in (port.row_bn.weight, port.row_bn.bias, port.row_bn.running_mean, port.row_bn.running_var):
        tensor.data = tensor.data[order]


one_layer("music", "norm-before-the-bend+spread-for-variance", "all-largest-first+mean-before-largest")
neighbours("music", "even-kernel-padded-in-front+mean-over-bands", "dropout-still-on+dense-left-linear")


# --- notes --------------------------------------------------------------------------------------------------


class Notes(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter_bn, self.contour1 = nn.BatchNorm2d(1, eps=1e-3), nn.Conv2d(3, 4, 5, padding=2)
        self.contour_bn, self.contour2 = nn.BatchNorm2d(4, eps=1e-3), nn.Conv2d(4, 1, 5, padding=2)
        self.note1, self.note2 = nn.Conv2d(1, 4, 7, (1, 2)), nn.Conv2d(4, 1, (7, 3), padding=(3, 1))
        self.onset1, self.onset_bn = nn.Conv2d(3, 4, 5, (1, 2)), nn.BatchNorm2d(4, eps=1e-3)
        self.onset2 = nn.Conv2d(5, 1, 3, padding=1)

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        x = (x * x + 1e-10).log() if "logarithm-to-e" in self.ways else 10 * torch.log10(x * x + 1e-10)
        if "levelled-over-the-batch" in self.ways:
            x = x - x.min()
            return x / x.max()
        x = x - x.amin((1, 2, 3), keepdim=True)
        return x / x.amax((1, 2, 3), keepdim=True)

    def moved(self, x: torch.Tensor, far: int) -> torch.Tensor:
        if "rolled-round" in self.ways:
            return x.roll(-far, 3)[..., :16]
        far = -far if "moved-the-other-way" in self.ways else far
        if "moved-by-slices" in self.ways:
            y = torch.zeros_like(x)
            y[..., max(-far, 0) : 24 - max(far, 0)] = x[..., max(far, 0) : 24 - max(-far, 0)]
            return y[..., :16]
        return F.pad(x, (-far, far))[..., :16]

    def strided(self, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        size = conv.kernel_size[0]
        more = size // 2 if "padded-evenly" in self.ways else size // 2 - 1
        return conv(F.pad(x, (more, size // 2, size // 2, size // 2)))

    def forward(self, pitches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.levelled(pitches)
        x = x if "norm-forgotten" in self.ways else self.enter_bn(x)
        far = (0, 4, -4) if "own-pitch-first" in self.ways else (-4, 0, 4)
        x = torch.cat([self.moved(x, each) for each in far], dim=1)
        y = self.contour2(self.contour_bn(F.relu(self.contour1(x))))
        contour = y if "contour-left-as-logits" in self.ways else torch.sigmoid(y)
        raw = self.note2(F.relu(self.strided(self.note1, contour)))
        note = torch.sigmoid(raw)
        y = F.relu(self.onset_bn(self.strided(self.onset1, x)))
        heard = raw if "onsets-hear-logits" in self.ways else note
        y = torch.cat([y, heard] if "notes-behind" in self.ways else [heard, y], dim=1)
        onset = torch.sigmoid(self.onset2(y))
        return contour[:, 0], note[:, 0], onset[:, 0]


class _Levelled(layers.Layer):  # type: ignore[misc]
    """Decibels between the least and the largest of a sample."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        x = 10 * ops.log10(x * x + 1e-10)
        x = x - ops.min(x, axis=(1, 2, 3), keepdims=True)
        return x / ops.max(x, axis=(1, 2, 3), keepdims=True)


class _Harmonics(layers.Layer):  # type: ignore[misc]
    """The same bands lower, as they are and higher, as channels."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        lower = ops.pad(x[:, :, :-4], ((0, 0), (0, 0), (4, 0), (0, 0)))
        higher = ops.pad(x[:, :, 4:], ((0, 0), (0, 0), (0, 4), (0, 0)))
        return ops.concatenate([lower, x, higher], axis=3)[:, :, :16]


@network
def notes() -> Pair:
    """Basic Pitch: levelled decibels, bands beside their harmonics, and onsets that hear what notes there are."""
    keras.backend.clear_session()
    pitches = layers.Input((8, 24, 1), name="pitches")
    x = layers.BatchNormalization(name="enter_bn")(_Levelled(name="levelled")(pitches))
    x = _Harmonics(name="harmonics")(x)
    y = layers.Conv2D(4, 5, padding="same", activation="relu", name="contour1")(x)
    y = layers.BatchNormalization(name="contour_bn")(y)
    contour = layers.Conv2D(1, 5, padding="same", activation="sigmoid", name="contour2")(y)
    y = layers.Conv2D(4, 7, (1, 2), padding="same", activation="relu", name="note1")(contour)
    note = layers.Conv2D(1, (7, 3), padding="same", activation="sigmoid", name="note2")(y)
    y = layers.Conv2D(4, 5, (1, 2), padding="same", name="onset1")(x)
    y = layers.ReLU(name="onset_relu")(layers.BatchNormalization(name="onset_bn")(y))
    y = layers.Concatenate(name="heard")([note, y])
    onset = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="onset2")(y)
    found = [layers.Reshape(shape, name=name) for shape, name in
             (((8, 16), "contour"), ((8, 8), "note"), ((8, 8), "onset"))]  # fmt: skip
    model = keras.Model(pitches, [one(y) for one, y in zip(found, (contour, note, onset), strict=True)])
    fill(model)
    grown(model, 2, "note1", "note2", "contour1")
    given = np.abs(fed(1562, 3, 8, 24, 1)) * np.float32([0.1, 1, 10])[:, None, None, None]
    return Pair(model, given, ported(model, Notes), "NHWC->NCHW")


_LEVEL = "levelled log* min* max* amin* amax* sub* div* truediv* mul* add* enter_bn"
_MOVED = "harmonics pad* cat* roll* get_item* getitem* slice* contour1 onset1"
slip("notes/levelled-over-the-batch", _LEVEL, "norm-axis input-normalisation", "operation-kind scale")
slip("notes/norm-forgotten", "enter_bn levelled harmonics", "block-missing", "scale")
slip("notes/rolled-round", _MOVED, "pad-mode", "operation-kind shift")
slip("notes/moved-the-other-way", _MOVED, "shift concat-order channel-order", "pad-asymmetry wiring")
slip("notes/own-pitch-first", _MOVED, "concat-order channel-order", "operand-order wiring")
slip("notes/padded-evenly", "note1 onset1 pad*", "pad-asymmetry", "shift")
slip("notes/contour-left-as-logits", "contour2 sigmoid* contour note1", "logits activation-missing", "block-missing")
slip(
    "notes/onsets-hear-logits",
    "heard note2 note sigmoid* cat* onset2",
    "wiring activation-missing logits",
    "block-missing",
)
slip("notes/notes-behind", "heard cat* onset2", "concat-order", "operand-order wiring channel-order")
defect("notes/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("notes/kernel-on-its-side", "contour2", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("contour2.weight", lambda weight: weight.transpose(2, 3))
)
defect("notes/note-not-biased", "note1", "bias-missing", "weights-not-loaded")(set_to("note1", bias=None))
ways("notes", "logarithm-to-e", "moved-by-slices")
one_layer("notes", "rolled-round+own-pitch-first")
neighbours("notes", "onsets-hear-logits+notes-behind", "contour-left-as-logits+note-not-biased")
