"""What is given back as it should have been: a page without its stains, and the next note of a tune."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, ported, rewritten


class Page(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        later = "stride-at-the-points" in ways
        self.enter = nn.Conv2d(3, 6, 3, stride=2)
        self.deep = nn.Conv2d(6, 6, 3, stride=1 if later else 2, groups=6, bias=False)
        self.point = nn.Conv2d(6, 8, 1, stride=2 if later else 1)
        self.up, self.fine = nn.ConvTranspose2d(8, 12, 3, stride=2), nn.Conv2d(3, 12, 3, padding=1)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-as-torch-pads" in self.ways:
            return F.conv_transpose2d(x, self.up.weight, self.up.bias, stride=2, padding=1, output_padding=1)
        return self.up(x)[:, :, :-1, :-1]

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        if "spread-as-torch-does" in self.ways:
            return F.pixel_shuffle(x, 2)
        if "spread-by-index" in self.ways:
            y = x.new_zeros(len(x), 3, 16, 16)
            for i in range(4):
                y[:, :, i // 2 :: 2, i % 2 :: 2] = x[:, 3 * i : 3 * i + 3]
            return y
        return x.unflatten(1, (2, 2, 3)).permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)

    def forward(self, page: torch.Tensor) -> torch.Tensor:
        x = page / 255 if "bytes-as-shares" in self.ways else page / 127.5 - 1
        small = F.interpolate(x, (8, 8), mode="bilinear", antialias="smoothed-for-the-thumbnail" in self.ways)
        y = self.enter(F.pad(x, (0, 1, 0, 1)))
        y = F.relu6(y) if "rectified-up-to-six" in self.ways else F.relu(y)
        y = F.relu(
            self.point(self.deep(F.pad(y, (1, 1, 1, 1) if "stride-at-the-points" in self.ways else (0, 1, 0, 1))))
        )
        y = self.raised(y) + self.fine(small)
        y = self.spread(y)
        small = F.interpolate(small, (16, 16), mode="bilinear", align_corners="corners-aligned" in self.ways)
        y = y if "thumbnail-not-added" in self.ways else y + small
        return y if "shares-given-back" in self.ways else (y + 1) * 127.5


@network
def page() -> Pair:
    """A page without its stains: bytes, a thumbnail, a separable kernel with a stride, and two ways back up."""
    keras.backend.clear_session()
    page = layers.Input((16, 16, 3), name="page")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="bytes")(page)
    small = ops.image.resize(x, (8, 8), interpolation="bilinear", antialias=False)
    y = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="enter")(x)
    y = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False, name="deep")(y)
    y = layers.Conv2D(8, 1, activation="relu", name="point")(y)
    y = layers.Conv2DTranspose(12, 3, strides=2, padding="same", name="up")(y)
    y = layers.Add(name="levels")([y, layers.Conv2D(12, 3, padding="same", name="fine")(small)])
    y = ops.reshape(ops.transpose(ops.reshape(y, (-1, 8, 8, 2, 2, 3)), (0, 1, 3, 2, 4, 5)), (-1, 16, 16, 3))
    y = layers.Add(name="sum")([y, layers.UpSampling2D(2, interpolation="bilinear", name="raise")(small)])
    model = keras.Model(page, layers.Rescaling(127.5, offset=127.5, name="bytes_again")(y))
    fill(model)
    grown(model, 5, "enter")
    return Pair(model, counted(891, 256, 3, 16, 16, 3).astype("float32"), ported(model, Page), "NHWC->NCHW")


_BYTES = "bytes bytes_again div* true_divide* sub* add* mul* enter resize* interpolate*"
_SPREAD = "reshape* transpose* unflatten* permute* flatten* pixel_shuffle* levels sum"
slip("page/bytes-as-shares", _BYTES, "input-scale input-normalisation", "bias-missing block-missing")
slip("page/smoothed-for-the-thumbnail", "resize* interpolate* fine", "resize-antialias", "resize-mode")
slip("page/rectified-up-to-six", "enter relu*", "activation-kind")
slip("page/stride-at-the-points", "deep point pad*", "stride-position", "shift pad-asymmetry pad-mode")
slip(
    "page/raised-as-torch-pads",
    "up slice* get_item* conv_transpose2d* levels",
    "transposed-conv-shift",
    "pad-asymmetry",
)
slip("page/spread-as-torch-does", _SPREAD, "depth-to-space-order", "wiring")
slip("page/corners-aligned", "raise interpolate* sum", "resize-align-corners", "resize-mode")
slip("page/thumbnail-not-added", "sum add* raise interpolate*", "residual-missing", "block-missing wiring")
slip("page/shares-given-back", _BYTES, "block-missing scale", "input-scale input-normalisation")
defect("page/taps-of-the-depth-turned", "deep", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("deep.weight", lambda weight: weight.transpose(2, 3))
)
ways("page", "spread-by-index")
one_layer("page", "stride-at-the-points+taps-of-the-depth-turned")
neighbours("page", "raised-as-torch-pads+spread-as-torch-does", "corners-aligned+smoothed-for-the-thumbnail")


# --- a tune -------------------------------------------------------------------------------------------------


class _Cells(Port):
    """A GRU that resets its state before it multiplies, with the weights as Keras keeps them."""

    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.kernel, self.recurrent = nn.Parameter(torch.zeros(6, 21)), nn.Parameter(torch.zeros(7, 21))
        self.bias = nn.Parameter(torch.zeros(21))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, found = x.new_zeros(len(x), 7), []
        told = (x @ self.kernel + self.bias).unbind(1)
        gate = F.hardsigmoid if "gates-of-old-keras" in self.ways else torch.sigmoid
        for step in told:
            update, reset, new = step.chunk(3, dim=1)
            of_update, of_reset, of_new = self.recurrent.chunk(3, dim=1)
            update, reset = gate(update + h @ of_update), gate(reset + h @ of_reset)
            if "update-for-reset" in self.ways:
                update, reset = reset, update
            if "reset-behind-the-product" in self.ways:
                new = torch.tanh(new + reset * (h @ of_new))
            else:
                new = torch.tanh(new + (reset * h) @ of_new)
            if "new-where-old-is-kept" in self.ways:
                h = update * new + (1 - update) * h
            elif "mixed-by-lerp" in self.ways:
                h = torch.lerp(new, h, update)
            else:
                h = update * h + (1 - update) * new
            found.append(h)
        return torch.stack(found, dim=1)


class Tune(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.notes, self.read, self.norm = nn.Embedding(15, 6), _Cells(ways), nn.LayerNorm(7, eps=1e-3)
        self.head = nn.Linear(7, 15)

    def forward(self, notes: torch.Tensor) -> torch.Tensor:
        x = self.notes(notes)
        x = self.read(x if "notes-not-scaled" in self.ways else x * 6**0.5)
        x = self.head(x if "states-not-normed" in self.ways else self.norm(x))
        x = x if "heat-forgotten" in self.ways else x / 0.7
        return F.softmax(x, dim=1 if "shared-over-time" in self.ways else 2)


@network
def tune() -> Pair:
    """The next note of a tune: scaled rows, a GRU of the older kind, and chances at a lower heat."""
    keras.backend.clear_session()
    notes = layers.Input((6,), dtype="int32", name="notes")
    x = layers.Rescaling(6**0.5, name="scaled")(layers.Embedding(15, 6, name="notes_table")(notes))
    x = layers.GRU(7, reset_after=False, return_sequences=True, name="read")(x)
    x = layers.Dense(15, name="head")(layers.LayerNormalization(name="norm")(x))
    model = keras.Model(notes, layers.Softmax(name="softmax")(x / 0.7))
    fill(model)
    table = model.get_layer("notes_table").embeddings
    table.assign(table * 2)
    make = ported(model, Tune, rename=lambda name: name.removesuffix("_table"))
    return Pair(model, {"notes": counted(892, 15, 4, 6)}, make, "same")


_READ, _HEAT = "read read.*", "div* true_divide* divide* head softmax"
slip("tune/notes-not-scaled", "scaled mul* notes notes_table", "embedding-scale scale block-missing")
slip("tune/gates-of-old-keras", _READ, "rnn-activation activation-kind", "operation-kind")
slip("tune/update-for-reset", _READ, "gru-gate-order operand-order wiring", "weights-swapped")
slip("tune/reset-behind-the-product", _READ, "gru-reset-after", "operand-order wiring")
slip("tune/new-where-old-is-kept", _READ, "operand-order wiring gru-gate-order", "scale")
slip("tune/states-not-normed", "norm head", "block-missing", "wiring")
slip("tune/heat-forgotten", _HEAT, "scale block-missing", "attention-scale")
slip("tune/shared-over-time", _HEAT, "softmax-axis", "operation-kind")
defect("tune/bias-of-the-cells-lost", _READ, "rnn-bias bias-missing", "weights-not-loaded weights-perturbed")(
    rewritten("read.bias", torch.zeros_like)
)
defect(
    "tune/rows-of-the-notes-shifted",
    "notes notes_table",
    "embedding-offset",
    "shift weights-perturbed axis-permutation",
)(rewritten("notes.weight", lambda weight: weight.roll(1, 0)))
ways("tune", "mixed-by-lerp")
one_layer("tune", "reset-behind-the-product+gates-of-old-keras", "heat-forgotten+shared-over-time")
neighbours("tune", "notes-not-scaled+update-for-reset", "states-not-normed+heat-forgotten")
