"""Rivers: how much water comes, from what has fallen upstream."""

from __future__ import annotations

import keras
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import (
    control,
    defect,
    neighbours,
    network,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten


class River(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.first, self.each = nn.Conv1d(3, 6, 3), nn.Conv1d(6, 12, 3, padding=1, groups=6)
        self.point, self.norm = nn.Conv1d(12, 6, 1), nn.LayerNorm(6, eps=1e-3)
        self.far, self.slope, self.level = nn.Conv1d(6, 6, 2, dilation=4, groups=2), nn.PReLU(6), nn.Linear(6, 2)

    def past(self, conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        if "far-not-dilated" in self.ways and conv is self.far:
            return F.conv1d(F.pad(x, (1, 0)), conv.weight, conv.bias, groups=2)
        before = conv.dilation[0] * (conv.kernel_size[0] - 1)
        if "cut-behind" in self.ways:
            return F.conv1d(x, conv.weight, conv.bias, 1, before, conv.dilation, conv.groups)[:, :, : x.shape[2]]
        around = (before // 2, before - before // 2) if "future-seen" in self.ways else (before, 0)
        return conv(F.pad(x, around))

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        if "normed-over-time-too" in self.ways:
            return F.group_norm(x, 1, self.norm.weight, self.norm.bias, self.norm.eps)
        return self.norm(x.mT).mT

    def halved(self, x: torch.Tensor) -> torch.Tensor:
        if "halved-by-sums" in self.ways:
            ones = F.pad(torch.ones(1, 1, 16), (0, 1))
            return F.avg_pool1d(F.pad(x, (0, 1)), 3, 2) / F.avg_pool1d(ones, 3, 2)
        if "zeros-averaged" in self.ways:
            return F.avg_pool1d(F.pad(x, (0, 1)), 3, 2)
        return F.avg_pool1d(x, 3, 2, ceil_mode=True)

    def forward(self, fallen: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.past(self.first, fallen))
        x = x + F.relu(self.normed(self.point(self.each(x))))
        x = self.halved(self.slope(self.past(self.far, x)))
        return self.level(x[:, :, -1])


@network
def river() -> Pair:
    """A temporal convolution for rivers: what is past alone, two maps for each feature, groups far apart, its end."""
    keras.backend.clear_session()
    fallen = layers.Input((16, 3), name="fallen")
    x = layers.Conv1D(6, 3, padding="causal", activation="relu", name="first")(fallen)
    y = layers.DepthwiseConv1D(3, padding="same", depth_multiplier=2, name="each")(x)
    y = layers.LayerNormalization(name="norm")(layers.Conv1D(6, 1, name="point")(y))
    x = layers.Add(name="skip")([x, layers.ReLU(name="bend")(y)])
    x = layers.Conv1D(6, 2, padding="causal", dilation_rate=4, groups=2, name="far")(x)
    x = layers.PReLU(shared_axes=[1], name="slope")(x)
    x = layers.AveragePooling1D(3, 2, padding="same", name="half")(x)
    model = keras.Model(fallen, layers.Dense(2, name="level")(x[:, -1]))
    fill(model)
    grown(model, 2, "first", "far")
    return Pair(model, fed(1498, 4, 16, 3), ported(model, River), "NHWC->NCHW")


slip("river/future-seen", "first far pad* conv1d*", "pad-asymmetry shift", "pad-mode")
slip("river/far-not-dilated", "far pad* conv1d*", "dilation", "pad-mode shift pad-asymmetry")
slip("river/normed-over-time-too", "norm group_norm* mT* layer_norm* bend", "norm-axis", "operation-kind groups")
slip("river/zeros-averaged", "half avg_pool1d* pad*", "pool-count-include-pad", "pad-mode")
defect("river/maps-outermost", "each", "depthwise-order", "weights-perturbed")(
    rewritten("each.*", lambda values: values.unflatten(0, (6, 2)).transpose(0, 1).flatten(0, 1))
)
defect("river/norm-eps-of-torch", "norm group_norm*", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("river/slopes-as-torch-begins", "slope", "activation-param weights-not-loaded weights-perturbed")(
    rewritten("slope.weight", lambda slopes: torch.full_like(slopes, 0.25))
)
ways("river", "cut-behind", "halved-by-sums")


@control("river/weights-normed-in-forward")
def _normed(port: River) -> River:
    for conv in (port.first, port.point):
        weight_norm(conv)
    return port


neighbours(
    "river",
    "maps-outermost+norm-eps-of-torch",
    "far-not-dilated+slopes-as-torch-begins",
    "slopes-as-torch-begins+zeros-averaged",
)
