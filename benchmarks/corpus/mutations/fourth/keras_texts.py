"""A port to Keras of a language model with rotated places, attention and network side by side."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry_back, fill_torch
from benchmarks.corpus.mutations.fourth.registry import mistake, neighbours, network, one_layer, variant
from benchmarks.corpus.mutations.pairs import Pair

_STEPS, _WINDOW = 9, 5


def _angles() -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of nine places for two frequencies."""
    angles = np.outer(np.arange(_STEPS), 100.0 ** (-np.arange(2) / 2))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _hidden(window: int = _WINDOW, ahead: int = 0) -> np.ndarray:
    """Where a step (rows) does not see another one."""
    apart = np.arange(_STEPS)[:, None] - np.arange(_STEPS)
    return (apart < -ahead) | (apart >= window)


class Speak(nn.Module):
    """Two heads of eight features, of which four are rotated in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(24, 16)
        self.norm, self.qkv, self.mix = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16, bias=False)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)
        self.last, self.head = nn.LayerNorm(16), nn.Linear(16, 24)
        for name, value in zip(("cos", "sin"), _angles(), strict=True):
            self.register_buffer(name, torch.from_numpy(value), persistent=False)
        self.register_buffer("hidden", torch.from_numpy(_hidden()), persistent=False)

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        one, two = x[..., :4:2], x[..., 1:4:2]
        turned = torch.stack([one * self.cos - two * self.sin, two * self.cos + one * self.sin], dim=-1)
        return torch.cat([turned.flatten(-2), x[..., 4:]], dim=-1)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(len(x), _STEPS, 2, 24).transpose(1, 2).chunk(3, dim=-1)
        scores = self.turn(q) @ self.turn(k).transpose(-2, -1) / math.sqrt(8)
        weights = torch.softmax(scores.masked_fill(self.hidden, -1e9), dim=-1)
        return self.mix((weights @ v).transpose(1, 2).reshape(len(x), _STEPS, 16))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids)
        y = self.norm(x)
        x = x + self.attend(y) + self.narrow(F.gelu(self.wide(y), approximate="tanh"))
        return self.head(self.last(x))


def _speak(**wrong: Any) -> Any:
    keras.backend.clear_session()
    cos, sin = _angles()
    eps = wrong.get("eps", 1e-5)

    def turn(x: Any) -> Any:
        if wrong.get("halves"):
            one, two = x[..., :2], x[..., 2:4]
            turned = ops.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)
        else:
            one, two = x[..., :4:2], x[..., 1:4:2]
            turned = ops.stack([one * cos - two * sin, two * cos + one * sin], axis=-1)
            turned = ops.reshape(turned, (-1, 2, _STEPS, 4))
        return ops.concatenate([turned, x[..., 4:]], axis=-1)

    def attend(x: Any) -> Any:
        x = layers.Dense(48, name="qkv")(x)
        if wrong.get("parts_first"):
            parts = [ops.reshape(part, (-1, _STEPS, 2, 8)) for part in ops.split(x, 3, axis=-1)]
            q, k, v = (ops.transpose(part, (0, 2, 1, 3)) for part in parts)
        else:
            x = ops.transpose(ops.reshape(x, (-1, _STEPS, 2, 24)), (0, 2, 1, 3))
            q, k, v = ops.split(x, 3, axis=-1)
        q, k = turn(q), turn(k)
        v = turn(v) if wrong.get("values_turned") else v
        hidden = wrong.get("hidden", _hidden())
        if wrong.get("einsum"):
            scores = ops.einsum("bhid,bhjd->bhij", q / np.float32(math.sqrt(8)), k)
            scores = ops.where(hidden, np.float32(-1e9), scores)
        else:
            scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * (1 / wrong.get("divisor", math.sqrt(8)))
            scores = scores + np.float32(-1e9) * hidden.astype(np.float32)
        y = ops.matmul(ops.softmax(scores, axis=-1), v)
        return layers.Dense(16, use_bias=False, name="mix")(
            ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, _STEPS, 16))
        )

    ids = layers.Input((_STEPS,), dtype="int32", name="ids")
    x = layers.Embedding(24, 16, name="words")(ids)
    norm = layers.LayerNormalization(epsilon=eps, name="norm")
    wide, narrow = layers.Dense(32, name="wide"), layers.Dense(16, name="narrow")
    y = norm(x)
    one = attend(y)
    if wrong.get("in_turn"):
        x = layers.Add(name="attended")([x, one])
        x = layers.Add(name="sum")([x, narrow(ops.gelu(wide(norm(x)), approximate=True))])
    else:
        two = narrow(ops.gelu(wide(y), approximate=wrong.get("approximate", True)))
        x = layers.Add(name="sum")([x, one, two])
    if not wrong.get("last_lost"):
        x = layers.LayerNormalization(epsilon=eps, name="last")(x)
    return keras.Model(ids, layers.Dense(24, use_bias=not wrong.get("no_bias"), name="head")(x))


@network
def speak() -> Pair:
    """A block as GPT-J has it: one norm for both branches, pairs rotated in part of a head, a window over the past."""
    model = Speak().eval()
    fill_torch(model)
    model.words.weight.data *= 0.3
    model.narrow.weight.data *= 8
    model.wide.weight.data *= 1.5
    inputs = np.random.default_rng(34).integers(0, 24, (2, _STEPS)).astype(np.int32)

    def make(**wrong: Any) -> Any:
        port = carry_back(model, _speak(**wrong))
        if wrong.get("tied"):
            port.get_layer("head").kernel.assign(model.words.weight.detach().numpy().T)
        return port

    return Pair(model, inputs, make, "same")


_TURN = (
    "get_item* slice* mul multiply mul_[1-7] multiply_[1-7] sub* add add_1 stack* concatenate* cat* flatten* "
    "reshape_[12] matmul"
)
_SCORES = "matmul multiply_8 div add_2 masked_fill softmax"

mistake("speak/halves-turned", _TURN, "head-layout", "channel-order concat-order axis-permutation reshape-order "
        "qkv-order operation-kind", halves=True)  # fmt: skip
mistake("speak/parts-before-heads", "qkv split* reshape* transpose* view chunk", "qkv-order",
        "head-layout channel-order axis-permutation reshape-order concat-order weights-swapped",
        parts_first=True)  # fmt: skip
mistake("speak/values-turned", f"{_TURN} multiply_* get_item_* matmul_1", "block-extra",
        "operation-kind wiring head-layout", values_turned=True)  # fmt: skip
mistake("speak/unscaled", _SCORES, "attention-scale", "scale block-missing", divisor=1.0)
mistake("speak/sees-the-next", _SCORES, "attention-mask", "weights-perturbed", hidden=_hidden(ahead=1))
mistake("speak/window-of-one-more", _SCORES, "attention-mask", "weights-perturbed", hidden=_hidden(window=_WINDOW + 1))
mistake("speak/one-after-the-other", "attended sum add_2 add_3 norm#1 wide", "wiring residual-order",
        "block-extra operation-kind", in_turn=True)  # fmt: skip
mistake("speak/gelu-exact", "gelu wide", "gelu-approx", "activation-kind", approximate=False)
mistake("speak/norm-eps-of-keras", "norm last", "ln-eps", eps=1e-3)
mistake("speak/last-norm-lost", "last head", "block-missing", "scale norm-axis", last_lost=True)
mistake("speak/head-without-bias", "head", "bias-missing", "weights-perturbed", no_bias=True)
mistake("speak/head-tied", "head", "weights-not-loaded weights-swapped", "weights-perturbed", tied=True)
variant("speak/scores-by-name", einsum=True)
one_layer("speak", "unscaled+sees-the-next")
neighbours("speak", "last-norm-lost+head-without-bias")
