"""Speech: a word by a transformer, a spectrum of two parts without its noise, and who speaks by pieces."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
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
from benchmarks.corpus.mutations.fourteenth.registry import drawn_bias
from benchmarks.corpus.mutations.ninth.registry import regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten


class Uttered(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.qkv, self.leave = nn.Linear(5, 8), nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
        self.token, self.places = (nn.ParameterDict({"row": torch.zeros(n, 8)}) for n in (1, 8))
        self.norm1, self.norm2 = (nn.LayerNorm(8, eps=1e-3) for _ in range(2))
        self.wide, self.narrow, self.word = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 4)

    def looked(self, x: torch.Tensor) -> torch.Tensor:
        if "three-projections" in self.ways:
            q, k, v = (F.linear(x, weight) for weight in self.qkv.weight.chunk(3))
        else:
            q, k, v = self.qkv(x).chunk(3, dim=2)
        q, k = (k, q) if "keys-first" in self.ways else (q, k)
        if "heads-innermost" in self.ways:
            q, k, v = (part.unflatten(2, (4, 2)).permute(0, 3, 1, 2) for part in (q, k, v))
        else:
            q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in (q, k, v))
        if "looked-by-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.mT / (8**0.5 if "scaled-by-the-whole-width" in self.ways else 2)
            y = F.softmax(scores, dim=2 if "shared-among-askers" in self.ways else 3) @ v
        return self.leave(y.transpose(1, 2).flatten(2))

    def told(self, x: torch.Tensor) -> torch.Tensor:
        return self.narrow(F.gelu(self.wide(x), approximate="tanh" if "gelu-by-tanh" in self.ways else "none"))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = self.enter(frames)
        token = self.token["row"].expand(len(x), 1, 8)
        x = torch.cat([x, token] if "token-behind" in self.ways else [token, x], dim=1) + self.places["row"]
        if "norms-ahead" in self.ways:
            x = x + self.looked(self.norm1(x))
            x = x + self.told(self.norm2(x))
        else:
            x = self.norm1(x + self.looked(x))
            x = self.norm2(x + self.told(x))
        x = x[:, -1] if "token-behind" in self.ways else x[:, 0]
        return self.word(x)


class _Row(layers.Layer):  # type: ignore[misc]
    """Rows that are learnt, before what is given or added to it."""

    def __init__(self, rows: int, before: bool, **own: str) -> None:
        super().__init__(**own)
        self.rows, self.before = rows, before

    def build(self, shape: tuple[int, ...]) -> None:
        self.row = self.add_weight(name="row", shape=(self.rows, shape[-1]))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        if not self.before:
            return x + self.row
        row = ops.broadcast_to(self.row, (ops.shape(x)[0], self.rows, x.shape[2]))
        return ops.concatenate([row, x], axis=1)


@network
def uttered() -> Pair:
    """A keyword transformer: frames are words, one product for all three projections, norms behind the sums."""
    keras.backend.clear_session()
    frames = layers.Input((7, 5), name="frames")
    x = _Row(1, True, name="token")(layers.Dense(8, name="enter")(frames))
    x = _Row(8, False, name="places")(x)
    parts = ops.split(layers.Dense(24, use_bias=False, name="qkv")(x), 3, axis=2)
    heads = [layers.Reshape((8, 2, 4), name=f"{name}_heads")(part) for name, part in zip("qkv", parts, strict=True)]
    q, k, v = (layers.Permute((2, 1, 3), name=f"{name}_turned")(one) for name, one in zip("qkv", heads, strict=True))
    shares = layers.Softmax(name="shares")(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2)
    y = layers.Permute((2, 1, 3), name="turned_back")(ops.matmul(shares, v))
    y = layers.Dense(8, name="leave")(layers.Reshape((8, 8), name="joined")(y))
    x = layers.LayerNormalization(name="norm1")(layers.Add(name="sum1")([x, y]))
    y = layers.Dense(8, name="narrow")(layers.Dense(16, activation="gelu", name="wide")(x))
    x = layers.LayerNormalization(name="norm2")(layers.Add(name="sum2")([x, y]))
    model = keras.Model(frames, layers.Dense(4, name="word")(x[:, 0]))
    fill(model)
    grown(model, 2, "qkv", "wide")
    return Pair(model, fed(1571, 3, 7, 5), ported(model, Uttered), "same")


_LOOK = (
    "qkv *_heads *_turned shares softmax* matmul* div* truediv* transpose* permute* unflatten* split* chunk* mT* leave"
)
_BLOCK = "norm1 norm2 sum1 sum2 add* qkv wide leave narrow"
slip("uttered/keys-first", _LOOK, "qkv-order", "wiring operand-order")
slip("uttered/heads-innermost", _LOOK, "head-layout reshape-order", "wiring channel-order axis-permutation")
slip("uttered/scaled-by-the-whole-width", _LOOK, "attention-scale", "scale")
slip("uttered/shared-among-askers", _LOOK, "softmax-axis", "operation-kind")
slip("uttered/gelu-by-tanh", "wide gelu* narrow", "gelu-approx")
slip("uttered/token-behind", "token expand* cat* places add* getitem* get_item* select* slice*", "concat-order",
     "operand-order wiring axis-permutation embedding-offset shift")  # fmt: skip
slip("uttered/norms-ahead", _BLOCK, "residual-order wiring", "operand-order block-missing block-extra")
defect("uttered/norm-eps-of-torch", "norm?", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("uttered/leave-as-it-lies", "leave", "dense-transpose", "weights-perturbed axis-permutation")(
    rewritten("leave.weight", lambda weight: weight.T)
)
ways("uttered", "looked-by-torch", "three-projections")
one_layer("uttered", "keys-first+heads-innermost", "scaled-by-the-whole-width+shared-among-askers")
neighbours("uttered", "leave-as-it-lies+norm-eps-of-torch", "token-behind+gelu-by-tanh")


# --- a spectrum ---------------------------------------------------------------------------------------------


class Spectrum(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for part in ("real", "imag"):
            self.add_module(f"{part}_down", nn.Conv2d(1, 4, (2, 3), (1, 2), bias=False))
            self.add_module(f"{part}_bn", nn.BatchNorm2d(4, eps=1e-3))
            self.add_module(f"{part}_bend", nn.PReLU(4))
            self.add_module(f"{part}_up", nn.ConvTranspose2d(4, 1, (1, 3), (1, 2), bias=False))

    def both(self, name: str, real: torch.Tensor, imag: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        one, two = self.get_submodule(f"real_{name}"), self.get_submodule(f"imag_{name}")
        if name == "down" and "one-kernel" in self.ways:
            whole = torch.cat([torch.cat([one.weight, -two.weight], 1), torch.cat([two.weight, one.weight], 1)])
            real, imag = F.conv2d(torch.cat([real, imag], dim=1), whole, stride=(1, 2)).chunk(2, dim=1)
            return real, imag
        if name == "down" and "parts-not-crossed" in self.ways:
            return one(real), two(imag)
        if "sum-for-difference" in self.ways:
            return one(real) + two(imag), one(imag) + two(real)
        return one(real) - two(imag), one(imag) + two(real)

    def masked(self, spectrum: torch.Tensor, real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
        first, second = spectrum[:, :1], spectrum[:, 1:]
        size = torch.sqrt(real * real + imag * imag + 1e-8)
        squashed = size if "mask-without-an-end" in self.ways else torch.tanh(size)
        if "angles-by-products" in self.ways:
            real, imag = real / size * squashed, imag / size * squashed
            return torch.cat([first * real - second * imag, first * imag + second * real], dim=1)
        loud = torch.sqrt(first * first + second * second + 1e-8) * squashed
        angle = torch.atan2(second, first)
        angle = angle if "angle-left-noisy" in self.ways else angle + torch.atan2(imag, real)
        return torch.cat([loud * torch.cos(angle), loud * torch.sin(angle)], dim=1)

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        real, imag = spectrum[:, :1], spectrum[:, 1:]
        real, imag = (imag, real) if "imaginary-first" in self.ways else (real, imag)
        ahead = (0, 1) if "reads-ahead" in self.ways else (1, 0)
        around = (1, 0, *ahead) if "bands-padded-in-front" in self.ways else (0, 1, *ahead)
        real, imag = self.both("down", F.pad(real, around), F.pad(imag, around))
        real, imag = self.real_bend(self.real_bn(real)), self.imag_bend(self.imag_bn(imag))
        real, imag = self.both("up", real, imag)
        real, imag = (x[..., 1:] if "cropped-in-front" in self.ways else x[..., :-1] for x in (real, imag))
        return self.masked(spectrum, real, imag)


@network
def spectrum() -> Pair:
    """DCCRN of one level: kernels of two parts that are crossed, past frames alone, a mask with a size and an angle."""
    keras.backend.clear_session()
    given = layers.Input((7, 12, 2), name="spectrum")
    real, imag = given[..., :1], given[..., 1:]

    def crossed(make: type[layers.Layer], name: str, *own: object, **more: object) -> tuple[object, object]:
        one, two = (make(*own, use_bias=False, name=f"{part}_{name}", **more) for part in ("real", "imag"))
        return one(real) - two(imag), one(imag) + two(real)

    real, imag = (
        layers.ZeroPadding2D(((1, 0), (0, 1)), name=f"{n}_pad")(x) for n, x in (("real", real), ("imag", imag))
    )
    real, imag = crossed(layers.Conv2D, "down", 4, (2, 3), (1, 2))
    real, imag = (
        layers.PReLU(shared_axes=[1, 2], name=f"{name}_bend")(layers.BatchNormalization(name=f"{name}_bn")(x))
        for name, x in (("real", real), ("imag", imag))
    )
    real, imag = crossed(layers.Conv2DTranspose, "up", 1, (1, 3), (1, 2), padding="same")
    size = ops.tanh(ops.sqrt(real * real + imag * imag + 1e-8))
    first, second = given[..., :1], given[..., 1:]
    loud = ops.sqrt(first * first + second * second + 1e-8) * size
    angle = ops.arctan2(second, first) + ops.arctan2(imag, real)
    model = keras.Model(given, layers.Concatenate(name="clean")([loud * ops.cos(angle), loud * ops.sin(angle)]))
    fill(model)
    return Pair(model, fed(1572, 3, 7, 12, 2), ported(model, Spectrum), "NHWC->NCHW")


_CROSS = "real_down imag_down real_up imag_up sub* add* subtract*"
_MASK = "sqrt* tanh* mul* multiply* atan2* arctan2* cos* sin* add* clean cat*"
slip("spectrum/sum-for-difference", _CROSS, "operation-kind", "scale wiring")
slip("spectrum/parts-not-crossed", _CROSS, "block-missing residual-missing wiring", "operation-kind")
slip(
    "spectrum/imaginary-first",
    "spectrum get_item* getitem* slice* *_pad pad* real_down imag_down",
    "channel-order wiring",
    "operand-order axis-permutation weights-swapped",
)
slip("spectrum/reads-ahead", "*_pad pad* *_down", "pad-asymmetry", "shift")
slip("spectrum/bands-padded-in-front", "*_pad pad* *_down", "pad-asymmetry", "shift")
slip("spectrum/cropped-in-front", "*_up getitem* get_item* slice* sub* add*", "transposed-conv-shift", "pad-asymmetry")
slip("spectrum/mask-without-an-end", _MASK, "activation-missing", "block-missing")
slip("spectrum/angle-left-noisy", _MASK, "block-missing residual-missing", "wiring operation-kind")
defect(
    "spectrum/slopes-of-torch", "real_bend", "activation-param weights-not-loaded", "weights-perturbed activation-kind"
)(rewritten("real_bend.weight", lambda weight: torch.full_like(weight, 0.25)))
defect("spectrum/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("spectrum", "one-kernel", "angles-by-products")
one_layer("spectrum", "reads-ahead+imaginary-first", "mask-without-an-end+angle-left-noisy")
neighbours("spectrum", "sum-for-difference+slopes-of-torch", "cropped-in-front+angle-left-noisy")


# --- pieces -------------------------------------------------------------------------------------------------


class Pieces(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.one, self.two = nn.LSTM(5, 6, batch_first=True), nn.LSTM(6, 6, batch_first=True)
        self.code = nn.Linear(6, 6)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        if "both-in-one" in self.ways:
            both = nn.LSTM(5, 6, 2, batch_first=True)
            for i, each_ in enumerate((self.one, self.two)):
                for name, tensor in each_.named_parameters():
                    getattr(both, name.replace("l0", f"l{i}")).data.copy_(tensor)
            return both(x)[0][:, -1]
        if "loops-by-hand" in self.ways:
            return unrolled(self.two, unrolled(self.one, x))[:, -1]
        x = self.one(x)[0]
        x, (_, cell) = self.two(x)
        if "cell-for-state" in self.ways:
            return cell[0]
        return x[:, 0] if "first-step-read" in self.ways else x[:, -1]

    def length(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.square().sum(-1, keepdim=True).sqrt() if "length-by-hand" in self.ways else F.normalize(x, dim=-1)

    def told(self, x: torch.Tensor) -> torch.Tensor:
        x = self.code(self.read(x))
        if "length-before-the-bend" in self.ways:
            return F.relu(self.length(x))
        x = x if "code-left-linear" in self.ways else F.relu(x)
        return x if "pieces-of-any-length" in self.ways else self.length(x)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        pieces = frames.unfold(1, 5, 3).transpose(2, 3)
        if "one-after-another" in self.ways:
            x = torch.stack([self.told(piece) for piece in pieces.unbind(1)], dim=1)
        else:
            x = self.told(pieces.flatten(0, 1)).unflatten(0, pieces.shape[:2])
        x = x.amax(1) if "largest-of-pieces" in self.ways else x.mean(1)
        return x if "mean-of-any-length" in self.ways else self.length(x)


@network
def pieces() -> Pair:
    """GE2E's speaker: pieces that overlap, two LSTM layers, a ReLU, lengths of one, and the mean's length of one."""
    keras.backend.clear_session()
    frames = layers.Input((11, 5), name="frames")
    one, two = layers.LSTM(6, return_sequences=True, name="one"), layers.LSTM(6, name="two")
    code, length = layers.Dense(6, activation="relu", name="code"), layers.UnitNormalization(name="length")
    found = [length(code(two(one(frames[:, i : i + 5])))) for i in (0, 3, 6)]
    model = keras.Model(frames, layers.UnitNormalization(name="last_length")(layers.Average(name="mean_piece")(found)))
    fill(model)
    one.cell.kernel.assign(one.cell.kernel * 2)
    code.bias.assign(code.bias + 0.3)
    return Pair(model, fed(1573, 4, 11, 5), ported(model, Pieces), "same")


_TOLD = "code relu* length normalize*"
_MEAN = "mean_piece mean* amax* average* last_length normalize* unflatten*"
slip(
    "pieces/first-step-read",
    "two get_item* getitem* select* slice* code",
    "rnn-last-step",
    "wiring shift rnn-direction",
)
slip(
    "pieces/cell-for-state", "two get_item* getitem* select* slice* code", "wiring", "rnn-last-step activation-missing"
)
slip("pieces/code-left-linear", _TOLD, "activation-missing", "block-missing")
slip(
    "pieces/length-before-the-bend", _TOLD, "residual-order wiring", "operand-order activation-missing activation-extra"
)
slip("pieces/pieces-of-any-length", f"{_TOLD} {_MEAN}", "block-missing", "scale wiring")
slip("pieces/largest-of-pieces", _MEAN, "pool-kind", "operation-kind")
slip("pieces/mean-of-any-length", _MEAN, "block-missing", "scale")
defect("pieces/gates-of-onnx", "one", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("one", 0, 3, 1, 2)
)
defect("pieces/second-bias-as-drawn", "two", "rnn-bias weights-not-loaded weights-perturbed")(drawn_bias("two"))
defect("pieces/code-as-it-lies", "code", "dense-transpose", "weights-perturbed axis-permutation")(
    rewritten("code.weight", lambda weight: weight.T)
)
ways("pieces", "both-in-one", "loops-by-hand", "length-by-hand", "one-after-another")
one_layer("pieces", "code-left-linear+code-as-it-lies", "largest-of-pieces+mean-of-any-length")
neighbours("pieces", "gates-of-onnx+second-bias-as-drawn", "second-bias-as-drawn+first-step-read")
