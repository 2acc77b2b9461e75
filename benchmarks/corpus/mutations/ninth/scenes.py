"""Pictures that become others: gates over channels and places, horses that become zebras, and light at dusk."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten


class Gated(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.few, self.many = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3), nn.Linear(3, 8)
        self.places, self.head = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.Linear(8, 4)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        return F.hardsigmoid(x) if "hard-gates" in self.ways else torch.sigmoid(x)

    def asked(self, x: torch.Tensor) -> torch.Tensor:
        if "points-for-dense" in self.ways:
            x = F.conv2d(x[..., None, None], self.few.weight[..., None, None], self.few.bias)
            return F.conv2d(F.relu(x), self.many.weight[..., None, None], self.many.bias)[..., 0, 0]
        x = self.few(x)
        return self.many(x if "few-left-linear" in self.ways else F.relu(x))

    def by_channel(self, x: torch.Tensor) -> torch.Tensor:
        mean, most = self.asked(x.mean((2, 3))), self.asked(x.amax((2, 3)))
        if "gated-before-the-sum" in self.ways:
            share = self.gate(mean) + self.gate(most)
        else:
            share = self.gate(mean if "means-asked-alone" in self.ways else mean + most)
        return x * share[:, :, None, None]

    def by_place(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.sum(1, keepdim=True) if "sum-over-the-channels" in self.ways else x.mean(1, keepdim=True)
        most = x.amax(1, keepdim=True)
        return x * self.gate(self.places(torch.cat([most, mean] if "largest-first" in self.ways else [mean, most], 1)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(image))
        y = (
            self.by_channel(self.by_place(x))
            if "places-before-channels" in self.ways
            else self.by_place(self.by_channel(x))
        )
        return self.head((x + y).mean((2, 3)))


@network
def gated() -> Pair:
    """CBAM: one small network asks the mean and the largest of each channel, a wide kernel those of each place."""
    keras.backend.clear_session()
    image = layers.Input((10, 10, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image)
    few, many = layers.Dense(3, activation="relu", name="few"), layers.Dense(8, name="many")
    asked = [
        many(few(pool(x)))
        for pool in (layers.GlobalAveragePooling2D(name="channel_mean"), layers.GlobalMaxPooling2D(name="channel_most"))
    ]
    share = layers.Activation("sigmoid", name="channel_gate")(layers.Add(name="asked")(asked))
    y = layers.Multiply(name="by_channel")([x, layers.Reshape((1, 1, 8), name="everywhere")(share)])
    both = layers.Concatenate(name="both")([ops.mean(y, axis=3, keepdims=True), ops.max(y, axis=3, keepdims=True)])
    share = layers.Conv2D(1, 7, padding="same", use_bias=False, activation="sigmoid", name="places")(both)
    x = layers.Add(name="sum")([x, layers.Multiply(name="by_place")([y, share])])
    model = keras.Model(image, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="whole")(x)))
    fill(model)
    grown(model, 2, "stem", "places", "few", "many")
    return Pair(model, fed(941, 4, 10, 10, 3), ported(model, Gated), "NHWC->NCHW")


_GATES = "asked add* channel_gate sigmoid* hardsigmoid* many many#* by_channel mul*"
slip("gated/hard-gates", "sigmoid* hardsigmoid* channel_gate places", "activation-kind", "operation-kind")
slip("gated/few-left-linear", "few few#* relu* many many#*", "activation-missing", "block-missing")
slip("gated/gated-before-the-sum", _GATES, "residual-order", "operand-order activation-extra block-extra wiring")
slip("gated/means-asked-alone", _GATES, "residual-missing block-missing", "wiring")
slip("gated/sum-over-the-channels", "mean* sum* both cat* places", "pool-kind scale", "operation-kind")
slip("gated/largest-first", "both cat* places", "concat-order", "operand-order channel-order")
slip("gated/places-before-channels", "by_channel by_place mul* both mean* amax* max* channel_*",
     "wiring residual-order", "operand-order block-missing block-extra")  # fmt: skip
defect("gated/places-turned", "places", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("places.weight", lambda weight: weight.transpose(2, 3))
)
defect("gated/stem-of-another-step", "stem", "weights-perturbed", "weights-not-loaded")(
    rewritten("stem.weight", lambda weight: weight + 0.1 * weight.roll(1, 0))
)
ways("gated", "points-for-dense")
one_layer("gated", "hard-gates+gated-before-the-sum", "largest-first+places-turned")
neighbours("gated", "few-left-linear+means-asked-alone")


# --- horses -------------------------------------------------------------------------------------------------


class Cycle(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.down = nn.Conv2d(3, 4, 7, bias=False), nn.Conv2d(4, 6, 3, stride=2, bias=False)
        self.one, self.two = nn.Conv2d(6, 6, 3, bias=False), nn.Conv2d(6, 6, 3, bias=False)
        self.up, self.paint = nn.ConvTranspose2d(6, 4, 3, stride=2, bias=False), nn.Conv2d(4, 3, 7)
        self.norm1, self.norm5 = (nn.InstanceNorm2d(4, eps=1e-3, affine=True) for _ in range(2))
        self.norm2, self.norm3, self.norm4 = (nn.InstanceNorm2d(6, eps=1e-3, affine=True) for _ in range(3))

    def padded(self, x: torch.Tensor, width: int, mode: str = "reflect") -> torch.Tensor:
        return F.pad(x, (width,) * 4, mode="constant" if "zeros-around" in self.ways else mode)

    def normed(self, norm: nn.InstanceNorm2d, x: torch.Tensor) -> torch.Tensor:
        if "instances-as-groups" in self.ways:
            return F.group_norm(x, x.shape[1], norm.weight, norm.bias, norm.eps)
        if "levelled-at-once" in self.ways:
            return F.group_norm(x, 1, norm.weight, norm.bias, norm.eps)
        if "norms-without-weights" in self.ways:
            return F.instance_norm(x, eps=norm.eps)
        return norm(x)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "output-padding-of-torch" in self.ways:
            return F.conv_transpose2d(x, self.up.weight, stride=2, padding=1, output_padding=1)
        return self.up(x)[:, :, :-1, :-1]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.normed(self.norm1, self.stem(self.padded(image, 3))))
        x = self.down(F.pad(x, (1, 1, 1, 1) if "halved-after-even-padding" in self.ways else (0, 1, 0, 1)))
        x = F.relu(self.normed(self.norm2, x))
        y = F.relu(self.normed(self.norm3, self.one(self.padded(x, 1))))
        x = x + self.normed(self.norm4, self.two(self.padded(y, 1)))
        x = F.relu(x) if "relu-behind-the-sum" in self.ways else x
        x = F.relu(self.normed(self.norm5, self.raised(x)))
        x = self.paint(self.padded(x, 3, "replicate" if "edges-repeated" in self.ways else "reflect"))
        return torch.sigmoid(x) if "sigmoid-for-tanh" in self.ways else torch.tanh(x)


@network
def cycle() -> Pair:
    """CycleGAN's generator: mirrored edges, norms of instances, a residual block, and twice the size by cropping."""
    keras.backend.clear_session()
    image = layers.Input((14, 14, 3), name="image")

    def mirrored(x: keras.KerasTensor, width: int) -> keras.KerasTensor:
        return ops.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), mode="reflect")

    def normed(x: keras.KerasTensor, i: int) -> keras.KerasTensor:
        return layers.GroupNormalization(groups=-1, name=f"norm{i}")(x)

    x = normed(layers.Conv2D(4, 7, use_bias=False, name="stem")(mirrored(image, 3)), 1)
    x = layers.Conv2D(6, 3, 2, padding="same", use_bias=False, name="down")(layers.ReLU(name="relu1")(x))
    x = layers.ReLU(name="relu2")(normed(x, 2))
    y = normed(layers.Conv2D(6, 3, use_bias=False, name="one")(mirrored(x, 1)), 3)
    y = layers.Conv2D(6, 3, use_bias=False, name="two")(mirrored(layers.ReLU(name="relu3")(y), 1))
    x = layers.Add(name="sum")([x, normed(y, 4)])
    x = normed(layers.Conv2DTranspose(4, 3, 2, padding="same", use_bias=False, name="up")(x), 5)
    x = layers.Conv2D(3, 7, name="paint")(mirrored(layers.ReLU(name="relu4")(x), 3))
    model = keras.Model(image, layers.Activation("tanh", name="tanh")(x))
    fill(model)
    grown(model, 0.4, "paint")
    return Pair(model, fed(942, 2, 14, 14, 3), ported(model, Cycle), "NHWC->NCHW")


_NORMS = "norm? *_norm*"
slip("cycle/zeros-around", "pad* stem one two paint", "pad-mode", "operation-kind")
slip("cycle/edges-repeated", "pad* paint", "pad-mode", "operation-kind")
slip("cycle/levelled-at-once", _NORMS, "norm-axis groups", "operation-kind")
slip("cycle/norms-without-weights", _NORMS, "weights-not-loaded block-missing bias-missing", "bn-stats scale")
slip("cycle/output-padding-of-torch", "up conv_transpose2d* get_item*", "transposed-conv-shift", "pad-asymmetry")
slip("cycle/halved-after-even-padding", "down pad*", "pad-asymmetry", "shift pad-mode")
slip("cycle/relu-behind-the-sum", "sum add* relu* up", "activation-extra", "block-extra")
slip("cycle/sigmoid-for-tanh", "tanh* sigmoid* paint", "activation-kind", "operation-kind")
defect("cycle/norm-eps-of-torch", _NORMS, "ln-eps bn-eps")(epsilon(1e-5, nn.InstanceNorm2d))
ways("cycle", "instances-as-groups")
one_layer("cycle", "levelled-at-once+norm-eps-of-torch", "edges-repeated+sigmoid-for-tanh")
neighbours("cycle", "relu-behind-the-sum+output-padding-of-torch")


# --- dusk ---------------------------------------------------------------------------------------------------


class Dusk(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.one, self.two, self.three = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))
        self.four, self.curves = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 9, 3, padding=1)

    def joined(self, conv: nn.Conv2d, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        if "kernels-in-halves" in self.ways:
            first, second = conv.weight.split(4, dim=1)
            return F.conv2d(new, first, conv.bias, padding=1) + F.conv2d(old, second, padding=1)
        return conv(torch.cat([old, new] if "older-first" in self.ways else [new, old], dim=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        one = F.relu(self.one(image))
        two = F.relu(self.two(one))
        three = F.relu(self.three(two))
        four = F.relu(self.joined(self.four, three, two))
        curves = self.joined(self.curves, four, one)
        curves = curves if "curves-unbounded" in self.ways else torch.tanh(curves)
        parts = [curves[:, i::3] for i in range(3)] if "every-third-channel" in self.ways else curves.split(3, dim=1)
        x = image
        for part in parts[: 2 if "two-rounds" in self.ways else 3]:
            if "curves-by-addcmul" in self.ways:
                x = torch.addcmul(x, part, torch.addcmul(-x, x, x))
            elif "curve-of-the-first-image" in self.ways:
                x = x + part * (image**2 - image)
            else:
                x = x + part * ((x - x**2) if "curves-the-other-way" in self.ways else (x**2 - x))
        return x


@network
def dusk() -> Pair:
    """Zero-DCE: a small network tells each pixel's curve, which brightens the picture three times."""
    keras.backend.clear_session()
    image = layers.Input((9, 8, 3), name="image")

    def conv(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.Conv2D(4, 3, padding="same", activation="relu", name=name)(x)

    one = conv(image, "one")
    two = conv(one, "two")
    four = conv(layers.Concatenate(name="later")([conv(two, "three"), two]), "four")
    curves = layers.Conv2D(9, 3, padding="same", activation="tanh", name="curves")(
        layers.Concatenate(name="latest")([four, one])
    )
    x = image
    for part in ops.split(curves, 3, axis=-1):
        x = x + part * (ops.square(x) - x)
    model = keras.Model(image, x)
    fill(model)
    grown(model, 2, "one", "two", "three", "four")
    return Pair(model, 1 / (1 + np.exp(-fed(943, 2, 9, 8, 3))), ported(model, Dusk), "NHWC->NCHW")


_ROUNDS = "split* get_item* slice* add* sub* subtract* mul* multiply* square* pow*"
slip("dusk/older-first", "later latest cat* four curves", "concat-order", "operand-order channel-order")
slip("dusk/curves-unbounded", "curves tanh* split*", "activation-missing", "block-missing")
slip("dusk/every-third-channel", _ROUNDS, "channel-order reshape-order", "axis-permutation wiring operand-order")
slip("dusk/two-rounds", _ROUNDS, "block-missing", "wiring residual-missing")
slip("dusk/curve-of-the-first-image", _ROUNDS, "wiring", "operand-order residual-missing")
slip("dusk/curves-the-other-way", _ROUNDS, "scale operand-order", "wiring operation-kind")
ways("dusk", "kernels-in-halves", "curves-by-addcmul")
one_layer("dusk", "curves-unbounded+older-first")
neighbours("dusk", "curves-unbounded+every-third-channel")
