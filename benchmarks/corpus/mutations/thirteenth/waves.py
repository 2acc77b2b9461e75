"""Waves: the voices of a song from the wave itself, and what hears before it writes."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.thirteenth.registry import defect, neighbours, network, one_layer, slip, ways


class Stems(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down1, self.down2 = nn.Conv1d(1, 4, 5, padding=2), nn.Conv1d(4, 6, 5, padding=2)
        self.low, self.up2 = nn.Conv1d(6, 8, 5, padding=2), nn.Conv1d(14, 6, 5, padding=2)
        self.up1, self.voice = nn.Conv1d(10, 4, 5, padding=2), nn.Conv1d(5, 1, 1)

    def leaky(self, x: torch.Tensor) -> torch.Tensor:
        if "leaky-by-maximum" in self.ways:
            return torch.maximum(x, 0.2 * x)
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.2)

    def shorter(self, x: torch.Tensor) -> torch.Tensor:
        if "means-for-every-other" in self.ways:
            return F.avg_pool1d(x, 2)
        return x[:, :, 1::2] if "odd-steps" in self.ways else x[:, :, ::2]

    def longer(self, x: torch.Tensor) -> torch.Tensor:
        if "longer-by-repeats" in self.ways:
            return x.repeat_interleave(2, dim=2)
        if "lines-by-shares" in self.ways:
            wide = F.pad(x, (1, 1), mode="replicate")
            found = [0.25 * wide[:, :, :-2] + 0.75 * x, 0.75 * x + 0.25 * wide[:, :, 2:]]
            return torch.stack(found, dim=3).flatten(2)
        corners = True if "longer-between-ends" in self.ways else None
        return F.interpolate(x, scale_factor=2, mode="linear", align_corners=corners)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        one = self.leaky(self.down1(wave))
        two = self.leaky(self.down2(self.shorter(one)))
        x = self.longer(self.leaky(self.low(self.shorter(two))))
        x = self.longer(self.leaky(self.up2(torch.cat([two, x] if "skip-in-front" in self.ways else [x, two], dim=1))))
        x = self.leaky(self.up1(torch.cat([x, two.new_zeros(one.shape) if "skip-lost" in self.ways else one], dim=1)))
        voice = self.voice(torch.cat([x, wave], dim=1))
        voice = voice if "voice-left-linear" in self.ways else torch.tanh(voice)
        found = [wave - voice, voice] if "rest-first" in self.ways else [voice, wave - voice]
        return torch.cat(found, dim=1).transpose(1, 2)


@network
def stems() -> Pair:
    """Wave-U-Net: every other step on the way down, lines between steps on the way up, what is left for the rest."""
    keras.backend.clear_session()
    wave = layers.Input((24, 1), name="wave")

    def conv(name: str, wide: int, x: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.Conv1D(wide, 5, padding="same", name=name)(x)
        return layers.LeakyReLU(negative_slope=0.2, name=f"{name}_leaky")(x)

    def longer(name: str, x: keras.KerasTensor, skip: keras.KerasTensor) -> keras.KerasTensor:
        steps, wide = x.shape[1:]
        x = layers.Reshape((steps, 1, wide), name=f"{name}_line")(x)
        x = layers.UpSampling2D((2, 1), interpolation="bilinear", name=f"{name}_longer")(x)
        return layers.Concatenate(name=f"{name}_both")([layers.Reshape((2 * steps, wide), name=f"{name}_row")(x), skip])

    one = conv("down1", 4, wave)
    two = conv("down2", 6, one[:, ::2])
    x = conv("up2", 6, longer("up2", conv("low", 8, two[:, ::2]), two))
    x = conv("up1", 4, longer("up1", x, one))
    x = layers.Concatenate(name="raw")([x, wave])
    voice = layers.Conv1D(1, 1, activation="tanh", name="voice")(x)
    model = keras.Model(wave, layers.Concatenate(name="stems")([voice, layers.Subtract(name="rest")([wave, voice])]))
    fill(model)
    return Pair(model, fed(1371, 3, 24, 1), ported(model, Stems), "NHWC->NCHW")


_LONGER = "up?_longer up?_line up?_row interpolate* repeat_interleave* up?_both cat*"
slip("stems/slope-of-torch", "*_leaky leaky_relu* down? low up?", "activation-param")
slip("stems/means-for-every-other", "get_item* avg_pool* down2 low", "pool-kind", "block-extra operation-kind")
slip("stems/odd-steps", "get_item* down2 low", "shift", "wiring pool-kind")
slip("stems/longer-by-repeats", _LONGER, "resize-mode", "operation-kind")
slip("stems/longer-between-ends", _LONGER, "resize-align-corners", "resize-mode operation-kind")
slip("stems/skip-in-front", "up2_both cat* up2", "concat-order", "operand-order channel-order wiring")
slip("stems/skip-lost", "up1_both cat* zeros* new_zeros* up1 down1*", "residual-missing", "wiring block-missing")
slip("stems/voice-left-linear", "voice tanh* rest stems", "activation-missing", "block-missing")
slip("stems/rest-first", "stems cat* rest sub*", "concat-order", "operand-order channel-order wiring axis-permutation")
defect("stems/kernel-turned-round", "low", "kernel-flip", "weights-perturbed axis-permutation")(
    rewritten("low.weight", lambda weight: weight.flip(2))
)
ways("stems", "leaky-by-maximum", "lines-by-shares")
one_layer("stems", "means-for-every-other+kernel-turned-round", "voice-left-linear+rest-first")
neighbours("stems", "longer-by-repeats+skip-in-front", "skip-lost+slope-of-torch")


# --- what hears ---------------------------------------------------------------------------------------------


def _places() -> np.ndarray:
    """Waves of six places in eight features: all sines, then all cosines."""
    angles = np.arange(6)[:, None] * np.exp(-np.log(100.0) * np.arange(4) / 3)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class Murmur(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2 = nn.Conv1d(5, 8, 3, padding=1), nn.Conv1d(8, 8, 3, stride=2)
        self.look_norm, self.wide_norm, self.last_norm = (nn.LayerNorm(8, eps=1e-5) for _ in range(3))
        self.query, self.key, self.value, self.mix = (nn.Linear(8, 8, bias=i != 1) for i in range(4))
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        if "gelu-by-hand" in self.ways:
            return x * 0.5 * (1 + torch.erf(x / 2**0.5))
        return F.gelu(x, approximate="tanh" if "gelu-by-tanh" in self.ways else "none")

    def looked(self, x: torch.Tensor) -> torch.Tensor:
        if "one-product" in self.ways:
            own = (self.query, self.key, self.value)
            bias = torch.cat([torch.zeros(8) if one.bias is None else one.bias for one in own])
            q, k, v = F.linear(x, torch.cat([one.weight for one in own]), bias).chunk(3, dim=2)
        else:
            q, k, v = self.query(x), self.key(x), self.value(x)
        if "heads-innermost" in self.ways:
            q, k, v = (y.unflatten(2, (4, 2)).permute(0, 3, 1, 2) for y in (q, k, v))
        else:
            q, k, v = (y.unflatten(2, (2, 4)).transpose(1, 2) for y in (q, k, v))
        if "scaled-on-both-sides" in self.ways:
            y = F.softmax((q * 4**-0.25) @ (k * 4**-0.25).mT, dim=3) @ v
        elif "quarter-forgotten-on-keys" in self.ways:
            y = F.softmax((q * 4**-0.25) @ k.mT, dim=3) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.mix(y.transpose(1, 2).flatten(2))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = self.gelu(self.conv1(mel))
        x = self.gelu(self.conv2(F.pad(x, (0, 1) if "strided-as-same" in self.ways else (1, 1)))).transpose(1, 2)
        places = torch.from_numpy(_places())
        if "sines-and-cosines-in-turn" in self.ways:
            places = torch.stack(places.chunk(2, dim=1), dim=2).flatten(1)
        x = x + places
        if "normed-behind-the-sum" in self.ways:
            x = self.look_norm(x + self.looked(x))
        else:
            x = x + self.looked(self.look_norm(x))
        x = x + self.narrow(self.gelu(self.wide(self.wide_norm(x))))
        return x if "last-norm-forgotten" in self.ways else self.last_norm(x)


@network
def murmur() -> Pair:
    """Whisper's encoder: two kernels with a gelu, of which one strides, waves for places, keys without a bias."""
    keras.backend.clear_session()
    mel = layers.Input((12, 5), name="mel")

    def norm(name: str, x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.LayerNormalization(epsilon=1e-5, name=name)(x)

    x = layers.Conv1D(8, 3, padding="same", activation="gelu", name="conv1")(mel)
    x = layers.ZeroPadding1D(1, name="around")(x)
    x = layers.Conv1D(8, 3, 2, activation="gelu", name="conv2")(x) + _places()
    y = norm("look_norm", x)
    heads = [layers.Reshape((6, 2, 4), name=f"{name}_heads")(layers.Dense(8, use_bias=name != "key", name=name)(y))
             for name in ("query", "key", "value")]  # fmt: skip
    q, k, v = (ops.transpose(y, (0, 2, 1, 3)) for y in heads)
    shares = layers.Softmax(name="shares")(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2.0)
    y = layers.Reshape((6, 8), name="joined")(ops.transpose(ops.matmul(shares, v), (0, 2, 1, 3)))
    x = layers.Add(name="sum1")([x, layers.Dense(8, name="mix")(y)])
    y = layers.Dense(16, activation="gelu", name="wide")(norm("wide_norm", x))
    x = layers.Add(name="sum2")([x, layers.Dense(8, name="narrow")(y)])
    model = keras.Model(mel, norm("last_norm", x))
    fill(model)
    grown(model, 2, "query", "key")
    return Pair(model, fed(1372, 3, 12, 5), ported(model, Murmur), "NHWC->NCHW")


_HEADS = "query* key* value* scaled_dot* matmul* softmax* shares mul* unflatten* permute* transpose* mix joined"
slip("murmur/gelu-by-tanh", "conv? wide gelu*", "gelu-approx")
slip("murmur/strided-as-same", "around conv2 pad*", "pad-asymmetry", "shift")
slip("murmur/sines-and-cosines-in-turn", "conv2 gelu* transpose* add* stack* flatten* chunk*",
     "concat-order channel-order axis-permutation", "weights-perturbed")  # fmt: skip
slip("murmur/heads-innermost", _HEADS, "head-layout reshape-order", "wiring channel-order axis-permutation")
slip("murmur/quarter-forgotten-on-keys", _HEADS, "attention-scale", "scale")
slip("murmur/normed-behind-the-sum", "look_norm sum1 add*", "residual-order wiring", "operand-order")
slip("murmur/last-norm-forgotten", "last_norm sum2 add*", "block-missing", "wiring")
defect("murmur/norm-eps-of-keras", "*_norm", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
defect("murmur/value-not-biased", "value", "bias-missing", "weights-not-loaded")(set_to("value", bias=None))
defect("murmur/mix-as-it-lies", "mix", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("mix.weight", lambda weight: weight.T)
)
ways("murmur", "gelu-by-hand", "one-product", "scaled-on-both-sides")
one_layer("murmur", "heads-innermost+quarter-forgotten-on-keys", "value-not-biased+quarter-forgotten-on-keys")
neighbours("murmur", "normed-behind-the-sum+norm-eps-of-keras", "mix-as-it-lies+heads-innermost")
