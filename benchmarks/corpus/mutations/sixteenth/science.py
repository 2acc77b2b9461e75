"""Science: spectra without their noise, and a field that sines tell."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixteenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, fed, ported, rewritten, set_to


class Spectra(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down, self.deep = nn.Conv1d(2, 4, 5, stride=2), nn.Conv1d(4, 6, 3, dilation=2)
        self.up, self.raised = nn.Conv1d(6, 4, 4), nn.ConvTranspose1d(8, 3, 3, stride=2)
        self.clean = nn.Conv1d(3, 2, 1)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        if "pooled-with-zeros" in self.ways:
            return F.avg_pool1d(F.pad(x, (0, 1)), 3, 2)
        if "largest-for-mean" in self.ways:
            return F.max_pool1d(x, 3, 2, ceil_mode=True)
        if "pooled-by-hand" in self.ways:
            near = F.pad(x, (0, 1)).unfold(2, 3, 2).sum(3)
            return near / torch.tensor([3.0, 3.0, 3.0, 2.0])
        return F.avg_pool1d(x, 3, 2, ceil_mode=True)

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        if "lines-for-repeats" in self.ways:
            x = F.interpolate(x, scale_factor=2, mode="linear")
        elif "repeated-by-hand" in self.ways:
            x = x.repeat_interleave(2, dim=2)
        else:
            x = F.interpolate(x, scale_factor=2)
        return F.relu(self.up(F.pad(x, (2, 1) if "even-kernel-padded-ahead" in self.ways else (1, 2))))

    def forward(self, spectrum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.down(F.pad(spectrum, (2, 2) if "padded-evenly" in self.ways else (1, 2)))
        skip = x = x if "down-not-bent" in self.ways else F.relu(x)
        x = self.pooled(x)
        x = F.relu(self.deep(F.pad(x, (2, 2) if "past-and-future" in self.ways else (4, 0))))
        x = self.twice(x)
        x = torch.cat([skip, x] if "skip-first" in self.ways else [x, skip], dim=1)
        x = self.raised(x)
        x = F.relu(x[:, :, 1:] if "cut-at-the-start" in self.ways else x[:, :, :16])
        x = self.clean(x)
        x = x if "spectrum-not-added" in self.ways else x + spectrum
        if "thumbnail-by-a-product" in self.ways:
            at = ((torch.arange(24, dtype=torch.float64) + 0.5) * 16 / 24 - 0.5).clamp(0, 15)
            return x, x @ (1 - (at[None] - torch.arange(16)[:, None]).abs()).clamp(min=0).float()
        return x, F.interpolate(x, 24, mode="linear", align_corners="ends-on-ends" in self.ways)


@network
def spectra() -> Pair:
    """An autoencoder for spectra: kernels that halve, means at the edge, what is past, repeats, a finer grid."""
    keras.backend.clear_session()
    spectrum = layers.Input((16, 2), name="spectrum")
    skip = layers.Conv1D(4, 5, strides=2, padding="same", activation="relu", name="down")(spectrum)
    x = layers.AveragePooling1D(3, 2, padding="same", name="pool")(skip)
    x = layers.Conv1D(6, 3, dilation_rate=2, padding="causal", activation="relu", name="deep")(x)
    x = layers.UpSampling1D(2, name="twice")(x)
    x = layers.Conv1D(4, 4, padding="same", activation="relu", name="up")(x)
    x = layers.Concatenate(name="both")([x, skip])
    x = layers.Conv1DTranspose(3, 3, strides=2, padding="same", activation="relu", name="raised")(x)
    x = layers.Add(name="mended")([layers.Conv1D(2, 1, name="clean")(x), spectrum])
    fine = ops.image.resize(layers.Reshape((1, 16, 2), name="line")(x), (1, 24))
    fine = layers.Permute((2, 1), name="fine_turned")(layers.Reshape((24, 2), name="fine")(fine))
    model = keras.Model(spectrum, [layers.Permute((2, 1), name="turned")(x), fine])
    fill(model)
    grown(model, 1.5, "deep", "up", "raised", "clean")
    return Pair(model, fed(1671, 3, 16, 2), ported(model, Spectra), "NHWC->NCHW")


_FINE = "line fine* resize* interpolate*"
slip("spectra/padded-evenly", "down pad* relu", "pad-asymmetry shift")
slip("spectra/down-not-bent", "down relu", "activation-missing", "block-missing")
slip("spectra/pooled-with-zeros", "pool avg_pool1d* pad* deep", "pool-count-include-pad", "pad-mode scale")
slip("spectra/largest-for-mean", "pool avg_pool1d* max_pool1d* deep", "pool-kind")
slip("spectra/past-and-future", "deep pad*", "pad-asymmetry shift", "pad-mode")
slip("spectra/lines-for-repeats", "twice interpolate* up", "resize-mode")
slip("spectra/even-kernel-padded-ahead", "up pad* relu*", "pad-asymmetry shift")
slip("spectra/skip-first", "both cat* raised", "concat-order", "operand-order wiring")
slip("spectra/cut-at-the-start", "raised slice* get_item* relu*", "transposed-conv-shift shift", "pad-asymmetry")
slip("spectra/spectrum-not-added", "mended add* clean", "residual-missing", "block-missing wiring")
slip("spectra/ends-on-ends", _FINE, "resize-align-corners")
defect("spectra/kernel-turned-round", "deep", "kernel-flip", "kernel-layout weights-perturbed")(
    rewritten("deep.weight", lambda weight: weight.flip(2))
)
ways("spectra", "pooled-by-hand", "repeated-by-hand", "thumbnail-by-a-product")
one_layer("spectra", "padded-evenly+down-not-bent", "past-and-future+kernel-turned-round")
neighbours("spectra", "pooled-with-zeros+past-and-future", "lines-for-repeats+even-kernel-padded-ahead",
           "skip-first+cut-at-the-start")  # fmt: skip


# --- sines --------------------------------------------------------------------------------------------------

_HEAT = 4.0


class Sines(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.dense1, self.dense2 = nn.Linear(2, 7), nn.Linear(7, 7)
        self.dense3, self.out = nn.Linear(7, 7), nn.Linear(7, 2)

    def sine(self, i: int, x: torch.Tensor) -> torch.Tensor:
        dense = self.get_submodule(f"dense{i}")
        if "frequency-in-the-weights" in self.ways:
            return torch.sin(F.linear(x, _HEAT * dense.weight, _HEAT * dense.bias))
        x = dense(x.bfloat16()).float() if dense.weight.dtype is torch.bfloat16 else dense(x)
        x = x if i == 2 and "second-without-frequency" in self.ways else _HEAT * x
        if i == 3 and "third-not-bent" in self.ways:
            return x
        return torch.cos(x) if i == 1 and "cosine-for-sine" in self.ways else torch.sin(x)

    def forward(self, at: torch.Tensor) -> torch.Tensor:
        x = at if "places-not-levelled" in self.ways else 2 * at - 1
        place, time = at[:, :1], at[:, 1:]
        for i in (1, 2, 3):
            x = self.sine(i, x)
        x = self.out(x)
        edge = place * (1 if "one-wall-alone" in self.ways else 1 - place)
        x = x * edge if "time-forgotten" in self.ways else x * edge * time
        begin = torch.sin((1 if "half-turn-forgotten" in self.ways else np.pi) * place)
        if "begin-by-torch" in self.ways:
            begin = torch.sinc(place) * np.pi * place
        return x if "begin-forgotten" in self.ways else x + begin


@network
def sines() -> Pair:
    """SIREN for a field between two walls: sines of a frequency, a product that is nought at the walls, a beginning."""
    keras.backend.clear_session()
    at = layers.Input((2,), name="at")
    place, time = at[:, :1], at[:, 1:]
    x = layers.Rescaling(2.0, -1.0, name="levels")(at)
    for i in (1, 2, 3):
        x = ops.sin(layers.Rescaling(_HEAT, name=f"frequency{i}")(layers.Dense(7, name=f"dense{i}")(x)))
    x = layers.Multiply(name="walls")([layers.Dense(2, name="out")(x), place * (1 - place)])
    x = layers.Add(name="field")([layers.Multiply(name="begun")([x, time]), ops.sin(np.pi * place)])
    model = keras.Model(at, x)
    fill(model)
    grown(model, 0.6, "dense1", "dense2", "dense3")
    grown(model, 4, "out")
    given = np.random.default_rng(1672).uniform(0.1, 0.9, (9, 2)).astype(np.float32)
    return Pair(model, given, ported(model, Sines), "same")


_WALL = "walls begun mul* multiply* sub* subtract* rsub* field add* sin*"
slip("sines/places-not-levelled", "levels at mul* sub* dense1", "input-normalisation input-scale block-missing",
     "scale")  # fmt: skip
slip("sines/second-without-frequency", "dense2 frequency2 mul* sin*", "scale block-missing", "weights-perturbed")
slip("sines/cosine-for-sine", "dense1 frequency1 sin* cos* mul*", "activation-kind operation-kind")
slip("sines/third-not-bent", "dense3 frequency3 sin* mul* out", "activation-missing", "block-missing")
slip("sines/one-wall-alone", _WALL, "block-missing", "wiring scale operation-kind")
slip("sines/time-forgotten", _WALL, "block-missing", "wiring scale")
slip("sines/half-turn-forgotten", _WALL, "scale block-missing", "input-scale")
slip("sines/begin-forgotten", _WALL, "residual-missing block-missing", "wiring bias-missing")
defect("sines/third-in-half", "dense3 frequency3 sin* mul* float* bfloat16*", "dtype", "block-extra")(
    lambda port: port.dense3.bfloat16() and None
)
defect("sines/second-as-it-lies", "dense2", "dense-transpose", "kernel-layout weights-perturbed axis-permutation")(
    rewritten("dense2.weight", lambda weight: weight.T)
)
defect("sines/out-not-biased", "out", "bias-missing", "weights-not-loaded")(set_to("out", bias=None))
defect("sines/first-kept-in-half", "dense1", "dtype weights-perturbed")(
    rewritten("dense1.weight", lambda weight: weight.bfloat16().float())
)
ways("sines", "frequency-in-the-weights", "begin-by-torch")


@control("sines/dense-by-einsum")
def _by_einsum(port: Sines) -> Sines:
    for dense in (port.dense1, port.dense2, port.dense3):
        dense.forward = lambda x, own=dense: torch.einsum("bi,oi->bo", x, own.weight) + own.bias
    return port


one_layer("sines", "one-wall-alone+time-forgotten")
neighbours("sines", "second-without-frequency+third-not-bent", "out-not-biased+time-forgotten")
