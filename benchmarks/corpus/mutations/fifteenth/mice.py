"""A mouse: where its paws are in a frame."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fifteenth.registry import (
    defect,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, ported, rewritten

_MICE = {"stem": (3, 6, 3), "enter1": (6, 4, 1), "middle1": (4, 4, 3), "leave1": (4, 6, 1),
         "enter2": (6, 4, 1), "middle2": (4, 4, 3), "leave2": (4, 6, 1)}  # fmt: skip
_PHOTOS = np.float32([123.68, 116.779, 103.939])


class Paws(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        first = "stride-on-the-first" in ways
        for name, (given, wide, size) in _MICE.items():
            step = 2 if name == "stem" or name == ("enter1" if first else "middle1") else 1
            far = 2 if name == "middle2" and "not-far-apart" not in ways else 1
            self.add_module(name, nn.Conv2d(given, wide, size, step, size // 2 * far, far, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-5))
        self.parts, self.shifts = nn.ConvTranspose2d(6, 2, 3, 2), nn.ConvTranspose2d(6, 4, 3, 2)

    def block(self, name: str, x: torch.Tensor, bent: bool = True) -> torch.Tensor:
        x = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
        return F.relu(x) if bent else x

    def unit(self, i: int, x: torch.Tensor) -> torch.Tensor:
        y = self.block(f"leave{i}", self.block(f"middle{i}", self.block(f"enter{i}", x)), bent=False)
        if i == 1 and "mean-on-the-shortcut" in self.ways:
            x = F.avg_pool2d(x, 2)
        elif i == 1:
            x = F.max_pool2d(x, 1, 2) if "shortcut-by-a-pool" in self.ways else x[:, :, ::2, ::2]
        return F.relu(y) + x if "bent-before-the-sum" in self.ways else F.relu(x + y)

    def raised(self, up: nn.ConvTranspose2d, x: torch.Tensor) -> torch.Tensor:
        if "raised-as-torch-would" in self.ways:
            return F.conv_transpose2d(x, up.weight, up.bias, 2, padding=1, output_padding=1)
        if "raised-by-zeros" in self.ways:
            wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
            wide[:, :, ::2, ::2] = x
            return F.conv2d(F.pad(wide, (2, 0, 2, 0)), up.weight.transpose(0, 1).flip(2, 3), up.bias)
        return up(x)[:, :, :-1, :-1]

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = torch.from_numpy(_PHOTOS)
        means = means.flip(0) if "means-of-blue-first" in self.ways else means
        x = self.unit(2, self.unit(1, self.block("stem", frame - means[:, None, None])))
        parts, shifts = self.raised(self.parts, x), self.raised(self.shifts, x)
        parts = parts if "parts-as-they-are" in self.ways else torch.sigmoid(parts)
        return parts, shifts if "shifts-not-widened" in self.ways else shifts * 7.2801


@network
def paws() -> Pair:
    """DeepLabCut on a small network of slim: zeros on both sides, a shortcut that skips, parts and shifts raised."""
    keras.backend.clear_session()
    frame = layers.Input((16, 16, 3), name="frame")

    def block(x: keras.KerasTensor, name: str, step: int = 1, far: int = 1, bent: bool = True) -> keras.KerasTensor:
        _, wide, size = _MICE[name]
        if step > 1:
            x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        padding = "valid" if step > 1 else "same"
        x = layers.Conv2D(wide, size, step, padding=padding, dilation_rate=far, use_bias=False, name=name)(x)
        x = layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if bent else x

    x = block(frame - _PHOTOS, "stem", 2)
    y = block(block(block(x, "enter1"), "middle1", 2), "leave1", bent=False)
    x = layers.Add(name="sum1")([layers.MaxPooling2D(1, 2, name="shortcut")(x), y])
    x = layers.ReLU(name="sum1_relu")(x)
    y = block(block(block(x, "enter2"), "middle2", far=2), "leave2", bent=False)
    x = layers.ReLU(name="sum2_relu")(layers.Add(name="sum2")([x, y]))
    parts = layers.Conv2DTranspose(2, 3, 2, padding="same", name="parts")(x)
    shifts = layers.Conv2DTranspose(4, 3, 2, padding="same", name="shifts")(x)
    model = keras.Model(frame, [layers.Activation("sigmoid", name="chances")(parts), shifts * 7.2801])
    fill(model)
    grown(model, 0.05, "stem")
    grown(model, 0.3, "parts")
    return Pair(model, counted(1534, 256, 2, 16, 16, 3).astype("float32"), ported(model, Paws), "NHWC->NCHW")


_UNIT = "sum? add* sum?_relu relu* leave?_bn"
slip("paws/means-of-blue-first", "frame sub* stem stem_pad", "input-normalisation", "shift channel-order")
slip("paws/stride-on-the-first", "enter1 middle1 enter1_* middle1_*", "stride-position")
slip("paws/not-far-apart", "middle2", "dilation", "pad-mode")
slip("paws/mean-on-the-shortcut", "shortcut sum1 add* get_item* getitem* slice* avg_pool2d*", "pool-kind",
     "operation-kind block-missing block-extra")  # fmt: skip
slip("paws/bent-before-the-sum", _UNIT, "residual-order wiring", "operand-order activation-missing activation-extra")
slip("paws/raised-as-torch-would", "parts shifts get_item* getitem* slice*", "transposed-conv-shift", "pad-asymmetry")
slip(
    "paws/parts-as-they-are",
    "chances parts sigmoid* get_item* getitem* slice*",
    "logits activation-missing",
    "block-missing",
)
slip(
    "paws/shifts-not-widened",
    "shifts mul* multiply* get_item* getitem* slice*",
    "scale block-missing",
    "activation-missing",
)
defect("paws/parts-turned-round", "parts", "kernel-flip", "kernel-layout weights-perturbed axis-permutation")(
    rewritten("parts.weight", lambda weight: weight.flip(2, 3))
)
defect("paws/bn-eps-of-keras", "*_bn", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
ways("paws", "shortcut-by-a-pool", "raised-by-zeros")
one_layer("paws", "parts-as-they-are+parts-turned-round", "mean-on-the-shortcut+bent-before-the-sum")
neighbours("paws", "not-far-apart+raised-as-torch-would")
