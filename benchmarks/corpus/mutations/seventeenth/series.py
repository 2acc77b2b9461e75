"""Series: segments that are read one by one, and periods that are laid side by side."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventeenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten


class Segments(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.segment, self.read = nn.Linear(4, 6), nn.GRU(6, 6, batch_first=True)
        self.place, self.sensor, self.ahead = nn.Embedding(3, 3), nn.Embedding(2, 3), nn.Linear(6, 4)

    def state(self, x: torch.Tensor) -> torch.Tensor:
        if "steps-by-hand" in self.ways or "reset-before" in self.ways:
            return unrolled(self.read, x, reset_before="reset-before" in self.ways)[:, -1]
        found, last = self.read(x)
        return found[:, 0] if "first-step-read" in self.ways else last[0]

    def asked(self, h: torch.Tensor, wide: int) -> torch.Tensor:
        place, sensor = self.place.weight, self.sensor.weight
        place = (place.roll(1, 0) if "places-from-one" in self.ways else place).expand(2, 3, 3)
        sensor = sensor[:, None].expand(2, 3, 3)
        both = torch.cat([sensor, place] if "sensor-first" in self.ways else [place, sensor], dim=2)
        x = both.expand(wide, 2, 3, 6).reshape(-1, 1, 6)
        h = h.repeat(3, 1) if "states-in-turn" in self.ways else h.repeat_interleave(3, dim=0)
        if "asked-by-hand" in self.ways:
            own = self.read
            given = F.linear(x[:, 0], own.weight_ih_l0, own.bias_ih_l0)
            kept = F.linear(h, own.weight_hh_l0, own.bias_hh_l0)
            reset, keep = torch.sigmoid(given[:, :12] + kept[:, :12]).chunk(2, dim=1)
            return (1 - keep) * torch.tanh(given[:, 12:] + reset * kept[:, 12:]) + keep * h
        return self.read(x, h[None])[0][:, 0]

    def forward(self, sensors: torch.Tensor) -> torch.Tensor:
        wide, last = len(sensors), sensors[:, -1:]
        x = sensors if "last-not-taken-off" in self.ways else sensors - last
        x = x.mT.reshape(-1, 4, 4)
        x = x.mT if "segments-of-every-fourth" in self.ways else x
        x = self.segment(x)
        x = x if "segment-not-bent" in self.ways else F.relu(x)
        x = self.ahead(self.asked(self.state(x), wide))
        x = x.reshape(wide, 2, 12).mT
        return x if "last-not-put-back" in self.ways else x + last


@network
def segments() -> Pair:
    """SegRNN: what was last is taken off, segments are a GRU's steps, and it is asked for each place at once."""
    keras.backend.clear_session()
    sensors = layers.Input((16, 2), name="sensors")
    last = sensors[:, -1:]
    x = layers.Permute((2, 1), name="turned")(layers.Subtract(name="level")([sensors, last]))
    x = layers.Dense(6, activation="relu", name="segment")(ops.reshape(x, (-1, 4, 4)))
    read = layers.GRU(6, name="read")
    h = ops.repeat(read(x), 3, axis=0)
    ids = ops.zeros_like(ops.cast(ops.reshape(sensors[:, 0], (-1, 2, 1)), "int32"))
    place = layers.Embedding(3, 3, name="place")(ids + np.arange(3, dtype=np.int32))
    sensor = layers.Embedding(2, 3, name="sensor")(ids + np.array([[0, 0, 0], [1, 1, 1]], np.int32))
    asked = ops.reshape(layers.Concatenate(name="asked")([place, sensor]), (-1, 1, 6))
    x = layers.Dense(4, name="ahead")(read(asked, initial_state=h))
    x = layers.Permute((2, 1), name="turned_back")(ops.reshape(x, (-1, 2, 12)))
    model = keras.Model(sensors, layers.Add(name="told")([x, last]))
    fill(model)
    grown(model, 2, "segment", "ahead")
    return Pair(model, fed(1751, 4, 16, 2), ported(model, Segments), "same")


_CUT = "sensors level sub* turned reshape* mT* segment"
_ASK = "read* asked cat* place* sensor sensor.* repeat* expand* reshape* ahead"
slip("segments/last-not-taken-off", _CUT, "input-normalisation block-missing", "shift wiring")
slip("segments/segments-of-every-fourth", _CUT, "reshape-order axis-permutation", "wiring")
slip("segments/segment-not-bent", "segment relu* read*", "activation-missing", "block-missing")
slip("segments/first-step-read", "read* get_item* getitem* repeat*", "rnn-last-step", "shift wiring rnn-direction")
slip("segments/reset-before", f"{_ASK} unbind* linear* chunk* sigmoid* tanh* mul* add* sub* stack*", "gru-reset-after",
     "gru-gate-order wiring")  # fmt: skip
slip("segments/places-from-one", _ASK, "embedding-offset", "shift weights-perturbed axis-permutation")
slip("segments/sensor-first", _ASK, "concat-order", "operand-order wiring")
slip("segments/states-in-turn", _ASK, "reshape-order axis-permutation wiring", "operand-order operation-kind")
slip("segments/last-not-put-back", "told add* turned_back mT*", "residual-missing", "block-missing wiring")
defect("segments/gates-as-keras-has-them", "read*", "gru-gate-order", "weights-perturbed weights-swapped")(
    regated("read", 1, 0, 2)
)
defect("segments/second-bias-dropped", "read*", "rnn-bias weights-perturbed weights-not-loaded", "bias-missing")(
    rewritten("read.bias_hh_l0", torch.zeros_like)
)
ways("segments", "steps-by-hand", "asked-by-hand")
one_layer("segments", "gates-as-keras-has-them+second-bias-dropped", "places-from-one+sensor-first")
neighbours("segments", "segment-not-bent+first-step-read")


# --- periods ------------------------------------------------------------------------------------------------


class Periods(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.norm, self.out = nn.Linear(3, 5), nn.LayerNorm(5, eps=1e-5), nn.Linear(5, 3)
        self.small, self.large = nn.Conv2d(5, 5, 1), nn.Conv2d(5, 5, 3, padding=1)
        self.later = nn.Linear(12, 16)

    def folded(self, x: torch.Tensor, period: int) -> torch.Tensor:
        x = x.mT
        x = x.unflatten(2, (period, -1)).mT if "period-down" in self.ways else x.unflatten(2, (-1, period))
        if "one-kernel-for-both" in self.ways:
            weight = (self.large.weight + F.pad(self.small.weight, (1, 1, 1, 1))) / 2
            y = F.conv2d(x, weight, (self.large.bias + self.small.bias) / 2, padding=1)
        else:
            both = torch.stack([self.small(x), self.large(x)])
            y = both.sum(0) if "sum-of-kernels" in self.ways else both.mean(0)
        y = F.gelu(y, approximate="tanh" if "gelu-by-tanh" in self.ways else "none")
        y = y.mT if "period-down" in self.ways else y
        return y.flatten(2).mT

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        mean = series.mean(1, keepdim=True)
        correction = 1 if "spread-of-torch" in self.ways else 0
        spread = torch.sqrt(series.var(1, correction=correction, keepdim=True) + 1e-5)
        x = (series - mean) / spread
        x = self.later(self.enter(x).mT).mT
        found = torch.stack([self.folded(x, period) for period in (8, 4)], dim=3)
        shares = torch.tensor([0.3, 0.7] if "shares-turned" in self.ways else [0.7, 0.3])
        y = (found * shares).sum(3)
        y = y if "series-not-kept" in self.ways else y + x
        x = self.out(y if "not-normed" in self.ways else self.norm(y))
        if "put-back-in-parts" in self.ways:
            return torch.addcmul(mean, x, spread)
        x = x if "spread-not-put-back" in self.ways else x * spread
        return x if "mean-not-put-back" in self.ways else x + mean


@network
def periods() -> Pair:
    """TimesNet: a series levelled and set back, two periods laid as pictures, two kernels' mean, shares of periods."""
    keras.backend.clear_session()
    series = layers.Input((12, 3), name="series")
    mean = ops.mean(series, axis=1, keepdims=True)
    spread = ops.sqrt(ops.var(series, axis=1, keepdims=True) + 1e-5)
    x = layers.Permute((2, 1), name="turned")(layers.Dense(5, name="enter")((series - mean) / spread))
    x = layers.Permute((2, 1), name="turned_back")(layers.Dense(16, name="later")(x))
    small, large = layers.Conv2D(5, 1, name="small"), layers.Conv2D(5, 3, padding="same", name="large")
    found = []
    for period, share in ((8, 0.7), (4, 0.3)):
        y = layers.Reshape((16 // period, period, 5), name=f"laid{period}")(x)
        y = ops.gelu(layers.Average(name=f"mean{period}")([small(y), large(y)]), approximate=False)
        found.append(layers.Rescaling(share, name=f"share{period}")(layers.Reshape((16, 5), name=f"row{period}")(y)))
    x = layers.Add(name="kept")([*found, x])
    x = layers.Dense(3, name="out")(layers.LayerNormalization(epsilon=1e-5, name="norm")(x))
    model = keras.Model(series, x * spread + mean)
    fill(model)
    grown(model, 2, "small", "large")
    return Pair(model, 2 * fed(1752, 3, 12, 3) + 1, ported(model, Periods), "same")


_LAID = "laid? row? unflatten* flatten* mT* small* large*"
_BACK = "out mul* multiply* add*"
slip("periods/spread-of-torch", "var* sqrt* add* sub* subtract* truediv* true_divide* divide* div* enter", "std-ddof")
slip("periods/period-down", _LAID, "reshape-order", "wiring")
slip("periods/sum-of-kernels", "mean8 mean4 stack* sum* mean* gelu*", "scale pool-kind", "operation-kind")
slip("periods/gelu-by-tanh", "gelu* mean8 mean4 row?", "gelu-approx")
slip("periods/shares-turned", "share? mul* sum* stack* kept",
     "operand-order wiring scale weights-perturbed weights-swapped", "concat-order")  # fmt: skip
slip("periods/series-not-kept", "kept add* norm", "residual-missing", "block-missing wiring")
slip("periods/not-normed", "norm out kept", "block-missing")
slip("periods/spread-not-put-back", _BACK, "block-missing scale", "wiring")
slip("periods/mean-not-put-back", _BACK, "block-missing residual-missing bias-missing", "wiring shift")
defect("periods/kernel-on-its-side", "large", "kernel-layout", "weights-perturbed axis-permutation dense-transpose")(
    rewritten("large.weight", lambda weight: weight.transpose(2, 3))
)
defect("periods/norm-eps-of-keras", "norm", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
ways("periods", "one-kernel-for-both", "put-back-in-parts")


@control("periods/dense-by-einsum")
def _by_einsum(port: Periods) -> Periods:
    for dense in (port.enter, port.later, port.out):
        dense.forward = lambda x, own=dense: torch.einsum("...i,oi->...o", x, own.weight) + own.bias
    return port


one_layer("periods", "spread-not-put-back+mean-not-put-back", "period-down+kernel-on-its-side")
neighbours("periods", "sum-of-kernels+gelu-by-tanh", "series-not-kept+norm-eps-of-keras")
