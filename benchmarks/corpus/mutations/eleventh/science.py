"""Pictures of other kinds: a short film, a scan from half of its waves, and a finer picture."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eleventh.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import Port, counted, exchanged, fed, ported, rewritten

_COLOURS = np.float32([90.0, 98.0, 102.0])


class Clips(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2 = nn.Conv3d(3, 6, 3, padding=1), nn.Conv3d(6, 8, 3, padding=1)
        self.fc1, self.fc2, self.head = nn.Linear(32, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def along(self, conv: nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
        if "time-as-a-sum" in self.ways:
            x = F.pad(x, (1, 1, 1, 1, 1, 1))
            parts = (F.conv2d(x[:, :, k : k + 4].transpose(1, 2).flatten(0, 1), conv.weight[:, :, k]) for k in range(3))
            y = sum(parts).unflatten(0, (-1, 4)).transpose(1, 2)
            return F.relu(y + conv.bias[:, None, None, None])
        return F.relu(conv(x))

    def forward(self, film: torch.Tensor) -> torch.Tensor:
        x = film if "mean-frame-kept" in self.ways else film - torch.from_numpy(_COLOURS)[:, None, None, None]
        x = x.flip(2) if "last-frame-first" in self.ways else x
        first, second = ((2, 2, 2), (1, 2, 2)) if "time-halved-at-first" in self.ways else ((1, 2, 2), (2, 2, 2))
        x = self.along(self.conv1, x)
        if "time-halved-at-first" in self.ways:
            x = F.max_pool3d(F.relu(self.conv2(F.max_pool3d(x, first))), second)
        else:
            x = F.max_pool3d(self.along(self.conv2, F.max_pool3d(x, first)), second)
        x = F.max_pool3d(F.pad(x, (1, 0, 1, 0) if "padded-in-front" in self.ways else (0, 1, 0, 1)), 2)
        x = x.flatten(1) if "maps-outermost" in self.ways else x.permute(0, 2, 3, 4, 1).flatten(1)
        x = self.fc1(x)
        x = F.relu(self.fc2(x if "first-dense-linear" in self.ways else F.relu(x)))
        return self.head(x) if "logits-given" in self.ways else F.softmax(self.head(x), dim=1)


@network
def clips() -> Pair:
    """C3D: kernels over time and space, a first pool that leaves time alone, zeros behind, then dense layers."""
    keras.backend.clear_session()
    film = layers.Input((4, 12, 12, 3), name="film")
    x = layers.Conv3D(6, 3, padding="same", activation="relu", name="conv1")(film - _COLOURS)
    x = layers.MaxPooling3D((1, 2, 2), name="pool1")(x)
    x = layers.Conv3D(8, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling3D(2, name="pool2")(x)
    x = layers.MaxPooling3D(2, name="pool3")(layers.ZeroPadding3D(((0, 0), (0, 1), (0, 1)), name="zeros")(x))
    x = layers.Dense(8, activation="relu", name="fc1")(layers.Flatten(name="flatten")(x))
    x = layers.Dropout(0.5, name="drop")(layers.Dense(8, activation="relu", name="fc2")(x))
    model = keras.Model(film, layers.Dense(4, activation="softmax", name="head")(x))
    fill(model)
    kernel = model.get_layer("conv1").kernel
    kernel.assign(kernel / 80)
    return Pair(model, counted(1141, 256, 3, 4, 12, 12, 3).astype(np.float32), ported(model, Clips), "NHWC->NCHW")


slip("clips/mean-frame-kept", "sub* film conv1", "input-normalisation block-missing", "input-scale bias-missing")
slip("clips/last-frame-first", "sub* film conv1 flip*", "axis-permutation rnn-direction kernel-flip", "block-extra")
slip("clips/time-halved-at-first", "pool1 pool2 max_pool3d* conv2", "stride-position", "pool-kind operation-kind")
slip("clips/padded-in-front", "zeros pad* pool3", "pad-asymmetry", "shift")
slip("clips/maps-outermost", "flatten* permute* fc1", "flatten-order dense-row-order", "wiring")
slip("clips/first-dense-linear", "fc1 relu* fc2", "activation-missing", "block-missing")
slip("clips/logits-given", "head softmax*", "logits activation-missing", "block-missing")
defect("clips/time-for-rows", "conv2 conv2d*", "kernel-layout", "weights-perturbed axis-permutation")(
    rewritten("conv2.weight", lambda weight: weight.transpose(2, 3))
)
defect("clips/second-as-it-lies", "fc2", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("fc2.weight", lambda weight: weight.T)
)
ways("clips", "time-as-a-sum")
one_layer("clips", "padded-in-front+maps-outermost", "mean-frame-kept+last-frame-first")
neighbours("clips", "first-dense-linear+second-as-it-lies")


# --- a scan from half of its waves --------------------------------------------------------------------------


class Scanner(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for i in (1, 2):
            self.add_module(f"see{i}", nn.Conv2d(2, 6, 3, padding=1))
            self.add_module(f"mend{i}", nn.Conv2d(6, 2, 3, padding=1))

    def waves(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.complex(x[:, 0], x[:, 1])
        return torch.fft.fft2(y, norm="ortho" if "waves-of-length-one" in self.ways else None)

    def image(self, waves: torch.Tensor) -> torch.Tensor:
        waves = torch.fft.ifftshift(waves, dim=(1, 2)) if "waves-shifted" in self.ways else waves
        if "back-by-conjugates" in self.ways:
            x = torch.fft.fft2(waves.conj()).conj() / 64
        else:
            x = torch.fft.ifft2(waves, norm="ortho" if "waves-of-length-one" in self.ways else None)
        return torch.stack([x.imag, x.real] if "imaginary-first" in self.ways else [x.real, x.imag], dim=1)

    def round(self, i: int, x: torch.Tensor, waves: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y = self.get_submodule(f"see{i}")(x)
        y = F.leaky_relu(y, 0.01) if "bent-with-a-leak" in self.ways else F.relu(y)
        y = self.get_submodule(f"mend{i}")(y)
        x = y if "mended-alone" in self.ways else x + y
        if "last-round-unchecked" in self.ways and i == 2:
            return x
        seen = self.waves(x.flip(1) if "imaginary-first" in self.ways else x)
        if "measured-where-not" in self.ways:
            return self.image(torch.where(mask > 0, seen, waves))
        return self.image(mask * waves + (1 - mask) * seen)

    def forward(self, waves: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        measured, mask = torch.complex(waves[:, 0], waves[:, 1]), mask[:, 0]
        x = self.image(measured)
        for i in (1, 2):
            x = self.round(i, x, measured, mask)
        return x.square().sum(1) if "power-given" in self.ways else x.square().sum(1).sqrt()


@network
def scanner() -> Pair:
    """A cascade for magnetic resonance: what kernels mend, then what was measured again, twice."""
    keras.backend.clear_session()
    waves, mask = layers.Input((8, 8, 2), name="waves"), layers.Input((8, 8, 1), name="mask")

    def image(real: keras.KerasTensor, imaginary: keras.KerasTensor) -> keras.KerasTensor:
        return ops.stack(ops.ifft2((real, imaginary)), axis=-1)

    x, there = image(waves[..., 0], waves[..., 1]), mask[..., 0]
    for i in (1, 2):
        y = layers.Conv2D(6, 3, padding="same", activation="relu", name=f"see{i}")(x)
        x = layers.Add(name=f"sum{i}")([x, layers.Conv2D(2, 3, padding="same", name=f"mend{i}")(y)])
        seen = ops.fft2((x[..., 0], x[..., 1]))
        x = image(*(there * waves[..., k] + (1 - there) * seen[k] for k in (0, 1)))
    model = keras.Model([waves, mask], ops.sqrt(ops.sum(ops.square(x), axis=-1)))
    fill(model)
    measured = np.random.default_rng(1142).random((3, 8, 1, 1)) < 0.6
    there = np.broadcast_to(measured, (3, 8, 8, 1)).astype(np.float32)
    inputs = {"waves": 8 * fed(1143, 3, 8, 8, 2) * there, "mask": np.ascontiguousarray(there)}
    return Pair(model, inputs, ported(model, Scanner), "NHWC->NCHW")


_WAVES = "ifft* fft* stack* complex* get_item* slice* select* see? div* conj* ifftshift*"
_CHECK = "mul* add* sub* rsub* subtract* where* sum? fft* ifft* stack* div* " + _WAVES
slip("scanner/waves-of-length-one", _WAVES, "scale")
slip("scanner/waves-shifted", _WAVES, "block-extra shift axis-permutation", "scale")
slip("scanner/imaginary-first", _WAVES, "concat-order channel-order", "operand-order axis-permutation")
slip("scanner/bent-with-a-leak", "see? relu* leaky_relu* mend?", "activation-kind activation-param", "operation-kind")
slip("scanner/mended-alone", "sum? add* mend?", "residual-missing", "wiring block-missing")
slip("scanner/last-round-unchecked", _CHECK, "block-missing", "wiring")
slip("scanner/measured-where-not", _CHECK, "operand-order wiring", "attention-mask operation-kind")
slip("scanner/power-given", "sqrt* sum* square* pow*", "block-missing", "operation-kind")
defect("scanner/rounds-exchanged", "mend1 mend2", "weights-swapped", "weights-perturbed wiring")(
    exchanged("mend1", "mend2")
)
ways("scanner", "back-by-conjugates")
one_layer("scanner", "bent-with-a-leak+mended-alone")
neighbours("scanner", "rounds-exchanged+last-round-unchecked", "measured-where-not+power-given")


# --- a finer picture ----------------------------------------------------------------------------------------


class _Levelled(nn.Conv2d):
    """A kernel of each output has a learnt length."""

    def __init__(self, given: int, width: int, size: int, over: tuple[int, ...] = (1, 2, 3)) -> None:
        super().__init__(given, width, size, padding=size // 2)
        self.length, self.over = nn.Parameter(torch.ones(width)), over

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight / torch.linalg.vector_norm(self.weight, dim=self.over, keepdim=True)
        return F.conv2d(x, weight * self.length[:, None, None, None], self.bias, padding=self.padding)


class Wider(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        over = (0, 2, 3) if "lengths-of-the-inputs" in ways else (1, 2, 3)
        shapes = {"enter": (3, 6, 3), "widen": (6, 12, 1), "lower": (12, 5, 1), "near": (5, 6, 3)}
        for name, shape in (shapes | {"leave": (6, 12, 3), "skip": (3, 12, 5)}).items():
            self.add_module(name, _Levelled(*shape, over))

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "pixels-of-torch" in self.ways:
            return F.pixel_shuffle(x, 2)
        if "pixels-by-hand" in self.ways:
            x = x.unflatten(1, (2, 2, 3)).permute(0, 3, 4, 1, 5, 2)
            return x.flatten(4, 5).flatten(2, 3)
        return F.pixel_shuffle(x.unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2), 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        means = torch.from_numpy(_COLOURS)[:, None, None]
        image = image / 127.5 - 1 if "levelled-between-ones" in self.ways else (image - means) / 127.5
        x = self.enter(image)
        y = self.lower(F.relu(self.widen(x)))
        y = self.near(F.relu(y) if "low-rank-bent" in self.ways else y)
        x = x + (y if "share-forgotten" in self.ways else 0.5 * y)
        x = self.raised(self.leave(x))
        x = x if "thumbnail-forgotten" in self.ways else x + self.raised(self.skip(image))
        return x * 127.5 if "colours-not-set-back" in self.ways else x * 127.5 + means


class _Kernel(layers.Layer):  # type: ignore[misc]
    def __init__(self, width: int, size: int, **more: str) -> None:
        super().__init__(**more)
        self.width, self.size = width, size

    def build(self, shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight(name="kernel", shape=(self.size, self.size, shape[-1], self.width))
        self.length = self.add_weight(name="length", shape=(self.width,))
        self.bias = self.add_weight(name="bias", shape=(self.width,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        kernel = self.kernel / ops.sqrt(ops.sum(ops.square(self.kernel), axis=(0, 1, 2)))
        return ops.conv(x, kernel * self.length, padding="same") + self.bias


@network
def wider() -> Pair:
    """WDSR: kernels with a learnt length, a wide layer and a narrow one, squares of pixels from channels."""
    keras.backend.clear_session()
    image = layers.Input((8, 8, 3), name="image")
    level = (image - _COLOURS) / 127.5
    x = _Kernel(6, 3, name="enter")(level)
    y = _Kernel(6, 3, name="near")(_Kernel(5, 1, name="lower")(ops.relu(_Kernel(12, 1, name="widen")(x))))
    x = _Kernel(12, 3, name="leave")(layers.Add(name="sum")([x, 0.5 * y]))

    def raised(x: keras.KerasTensor) -> keras.KerasTensor:
        x = ops.transpose(ops.reshape(x, (-1, 8, 8, 2, 2, 3)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, 16, 16, 3))

    x = layers.Add(name="both")([raised(x), raised(_Kernel(12, 5, name="skip")(level))])
    model = keras.Model(image, x * 127.5 + _COLOURS)
    fill(model)
    for name in ("enter", "widen", "lower", "near", "leave", "skip"):
        length = model.get_layer(name).length
        length.assign(np.abs(length) + 0.7)
    return Pair(model, counted(1144, 256, 3, 8, 8, 3).astype(np.float32), ported(model, Wider), "NHWC->NCHW")


def _merged(port: Wider) -> None:
    """Plain kernels, as one exports them."""
    for name, part in list(port.named_children()):
        conv = nn.Conv2d(part.in_channels, part.out_channels, part.kernel_size, padding=part.padding)
        norms = torch.linalg.vector_norm(part.weight, dim=(1, 2, 3), keepdim=True)
        conv.weight = nn.Parameter(part.weight / norms * part.length[:, None, None, None])
        conv.bias = part.bias
        port.set_submodule(name, conv)


def _levelled_by_torch(port: Wider) -> None:
    for name, part in list(port.named_children()):
        conv = nn.Conv2d(part.in_channels, part.out_channels, part.kernel_size, padding=part.padding)
        conv.weight, conv.bias = nn.Parameter(part.weight.detach().clone()), part.bias
        conv = parametrizations.weight_norm(conv)
        conv.parametrizations.weight.original0.data.copy_(part.length[:, None, None, None])
        port.set_submodule(name, conv)


_EVERY = "enter widen lower near leave skip enter/* widen/* lower/* near/* leave/* skip/*"
slip("wider/lengths-of-the-inputs", _EVERY, "norm-axis weights-perturbed", "kernel-layout scale")
slip("wider/pixels-of-torch", "reshape* transpose* pixel_shuffle* unflatten* flatten* permute* both leave skip",
     "depth-to-space-order")  # fmt: skip
slip("wider/levelled-between-ones", "sub* div* true_divide* truediv* image enter skip",
     "input-normalisation input-scale", "scale bias-missing")  # fmt: skip
slip("wider/low-rank-bent", "lower relu* near", "activation-extra", "block-extra")
slip("wider/share-forgotten", "mul* sum add* near", "scale block-missing", "wiring")
slip("wider/thumbnail-forgotten", "both add* skip", "residual-missing block-missing", "wiring")
slip("wider/colours-not-set-back", "add* mul* both", "block-missing bias-missing input-normalisation", "wiring")
defect("wider/lengths-never-loaded", "leave", "weights-not-loaded weights-perturbed", "scale")(
    rewritten("leave.length", torch.ones_like)
)
ways("wider", "pixels-by-hand")
control("wider/lengths-merged")(_merged)
control("wider/levelled-by-torch")(_levelled_by_torch)
one_layer("wider", "pixels-of-torch+lengths-never-loaded", "share-forgotten+low-rank-bent")
neighbours("wider", "thumbnail-forgotten+colours-not-set-back")
