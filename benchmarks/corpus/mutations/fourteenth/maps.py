"""Maps: weather on a coarse grid and how high the land is, and rain on a fine one."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import (
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
from benchmarks.corpus.mutations.sixth.registry import Port, fed, ported, rewritten

_MEANS, _VARIANCES = np.float32([285.0, 4.0, 0.7]), np.float32([64.0, 9.0, 0.04])


class Rain(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.finer, self.near = nn.ConvTranspose2d(4, 4, 3, stride=2), nn.Conv2d(8, 6, 3)
        self.norm, self.rain = nn.GroupNorm(2, 6, eps=1e-3), nn.Conv2d(6, 1, 1)

    def levelled(self, fields: torch.Tensor) -> torch.Tensor:
        means, deviations = (torch.from_numpy(v)[:, None, None] for v in (_MEANS, np.sqrt(_VARIANCES)))
        return (
            fields / deviations - means / deviations
            if "levelled-by-parts" in self.ways
            else (fields - means) / deviations
        )

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-repeats" in self.ways:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        corners = "raised-between-corners" in self.ways
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=corners)

    def opened(self, x: torch.Tensor) -> torch.Tensor:
        if "cropped-in-front" in self.ways:
            return F.conv_transpose2d(x, self.finer.weight, self.finer.bias, 2, padding=1, output_padding=1)
        return self.finer(x)[:, :, :12, :12]

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        if "normed-for-each-map" in self.ways:
            return F.group_norm(x, 6, self.norm.weight, self.norm.bias, self.norm.eps)
        if "normed-by-hand" in self.ways:
            y = x.unflatten(1, (2, 3)).flatten(2)
            y = (y - y.mean(2, keepdim=True)) * torch.rsqrt(y.var(2, correction=0, keepdim=True) + 1e-3)
            return y.reshape(x.shape) * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]
        return self.norm(x)

    def forward(self, fields: torch.Tensor, height: torch.Tensor) -> torch.Tensor:
        x = self.levelled(fields)
        low = F.interpolate(height, (6, 6), mode="bilinear", antialias="height-not-smoothed" not in self.ways)
        coarse = self.raised(x)
        y = torch.cat([coarse, height, self.opened(torch.cat([x, low], dim=1))], dim=1)
        if "height-in-front" in self.ways:
            y = torch.cat([height, coarse, y[:, 4:]], dim=1)
        y = F.pad(y, (1, 1, 1, 1), mode="constant" if "edges-of-zeros" in self.ways else "reflect")
        y = self.rain(F.relu(self.normed(self.near(y))))
        y = y if "coarse-rain-not-added" in self.ways else y + coarse[:, 1:2]
        return y if "rain-may-be-negative" in self.ways else F.relu(y)


@network
def rain() -> Pair:
    """DeepSD with a thumbnail: levelled fields raised twice, the land's height, mirrored edges, and rain on top."""
    keras.backend.clear_session()
    fields, height = layers.Input((6, 6, 3), name="fields"), layers.Input((12, 12, 1), name="height")
    x = layers.Normalization(mean=_MEANS, variance=_VARIANCES, name="normalization")(fields)
    low = ops.image.resize(height, (6, 6), interpolation="bilinear", antialias=True)
    coarse = layers.UpSampling2D(2, interpolation="bilinear", name="raised")(x)
    y = layers.Concatenate(name="beside")([x, low])
    y = layers.Conv2DTranspose(4, 3, 2, padding="same", name="finer")(y)
    y = layers.Concatenate(name="all")([coarse, height, y])
    y = layers.Conv2D(6, 3, name="near")(ops.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"))
    y = layers.ReLU(name="bend")(layers.GroupNormalization(2, name="norm")(y))
    y = layers.Add(name="sum_of_rain")([layers.Conv2D(1, 1, name="rain")(y), coarse[..., 1:2]])
    model = keras.Model([fields, height], layers.ReLU(name="above")(y))
    fill(model)
    grown(model, 2, "finer", "near")
    given = fed(1495, 2, 6, 6, 3) * np.sqrt(_VARIANCES) + _MEANS
    return Pair(model, {"fields": given, "height": fed(1496, 2, 12, 12, 1)}, ported(model, Rain), "NHWC->NCHW")


slip("rain/raised-between-corners", "raised interpolate* upsample*", "resize-align-corners")
slip("rain/raised-by-repeats", "raised interpolate* upsample*", "resize-mode")
slip("rain/height-not-smoothed", "resize* interpolate* beside cat* height", "resize-antialias")
slip("rain/cropped-in-front", "finer slice* get_item* conv_transpose2d*", "transposed-conv-shift")
slip("rain/height-in-front", "all cat* near", "concat-order", "operand-order channel-order wiring")
slip("rain/edges-of-zeros", "pad* near", "pad-mode")
slip("rain/normed-for-each-map", "norm group_norm*", "norm-axis groups")
slip("rain/coarse-rain-not-added", "sum_of_rain add* rain slice* get_item*", "residual-missing", "wiring block-missing")
slip("rain/rain-may-be-negative", "above relu* sum_of_rain", "activation-missing", "block-missing")
defect(
    "rain/kernel-in-for-out",
    "finer conv_transpose2d*",
    "kernel-layout",
    "weights-perturbed dense-transpose axis-permutation",
)(rewritten("finer.weight", lambda weight: weight.transpose(0, 1)))
ways("rain", "levelled-by-parts", "normed-by-hand")
control("rain/channels-last")(lambda port: port.to(memory_format=torch.channels_last))
one_layer("rain", "cropped-in-front+kernel-in-for-out", "height-in-front+edges-of-zeros")
neighbours("rain", "raised-between-corners+height-in-front", "normed-for-each-map+coarse-rain-not-added")
