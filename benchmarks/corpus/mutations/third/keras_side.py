"""Ports back: the PyTorch network is right, and its port to Keras has the mistake."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry_back, fill_torch
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.third.registry import mistake, neighbours, network, one_layer


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.reduce, self.conv = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.expand = nn.Conv2d(4, 10, 1, bias=False)
        self.expand_bn = nn.BatchNorm2d(10)
        self.short = nn.Conv2d(6, 10, 1, stride=2)
        self.block1, self.block2 = nn.Conv2d(10, 10, 3, padding=1), nn.Conv2d(10, 10, 3, padding=1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.silu(self.stem_bn(self.stem(x))))
        y = F.relu(self.conv(F.relu(self.reduce(x))))
        x = F.relu(self.expand_bn(self.expand(y)) + self.short(x))
        for block in (self.block1, self.block2):
            x = x + F.relu(block(x))
        return self.head(x.mean((2, 3)))


class _OfTheBatch(layers.BatchNormalization):  # type: ignore[misc]
    """As tf.compat.v1 had it where ``training`` was left at True."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs, training=True)


class _Dropping(layers.Dropout):  # type: ignore[misc]
    """Dropout for many predictions of one input."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return super().call(inputs, training=True)


def _residual(**wrong: Any) -> Any:
    keras.backend.clear_session()
    momentum = wrong.get("momentum", 0.9)
    image = layers.Input((16, 12, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(image)
    norm = _OfTheBatch if wrong.get("bn_training") else layers.BatchNormalization
    x = norm(epsilon=1e-5, momentum=momentum, name="stem_bn")(x)
    x = layers.Activation(wrong.get("stem_act", "silu"), name="stem_act")(x)
    if wrong.get("pool_same"):
        x = layers.MaxPooling2D(3, strides=2, padding="same", name="pool")(x)
    else:
        x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=wrong.get("pool_fill", -np.inf))
        x = layers.MaxPooling2D(3, strides=2, name="pool")(x)
    early = wrong.get("stride_first", False)
    y = layers.Conv2D(4, 1, strides=2 if early else 1, activation="relu", name="reduce")(x)
    if not early:
        y = layers.ZeroPadding2D(1, name="conv_pad")(y)
    y = layers.Conv2D(4, 3, strides=1 if early else 2, padding="same" if early else "valid", activation="relu",
                      name="conv")(y)  # fmt: skip
    y = layers.Conv2D(10, 1, use_bias=False, activation=wrong.get("expand_act"), name="expand")(y)
    y = layers.BatchNormalization(epsilon=1e-5, momentum=momentum, name="expand_bn")(y)
    x = y if wrong.get("no_shortcut") else layers.Add(name="sum")([y, layers.Conv2D(10, 1, strides=2, name="short")(x)])
    x = layers.ReLU(name="sum_relu")(x)
    for block in wrong.get("blocks", ("block1", "block2")):
        y = layers.Conv2D(10, 3, padding="same", activation="relu", name=block)(x)
        x = layers.Add(name=f"{block}_sum")([x, y])
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, layers.Dense(4, dtype=wrong.get("head_dtype"), name="head")(x))


@network
def residual_back() -> Pair:
    """A residual network as torchvision has it."""
    torch.manual_seed(0)
    model = Residual().eval()
    fill_torch(model)
    inputs = np.random.default_rng(12).standard_normal((2, 3, 16, 12)).astype(np.float32)
    return Pair(model, inputs, lambda **wrong: carry_back(model, _residual(**wrong)), "NCHW->NHWC")


mistake(
    "residual_back/stride-first", "reduce conv conv_pad", "stride-position", "shift pad-asymmetry", stride_first=True
)
mistake("residual_back/bn-training", "stem_bn", "bn-mode", "bn-stats", bn_training=True)
mistake("residual_back/pool-same", "pool pad", "pad-asymmetry", "pad-mode shift block-extra", pool_same=True)
mistake("residual_back/pool-zeros", "pool pad", "pad-mode pool-count-include-pad", "block-extra", pool_fill=0.0)
mistake("residual_back/stem-gelu", "stem_act silu stem_bn", "activation-kind", "operation-kind", stem_act="gelu")
mistake("residual_back/expand-relu", "expand", "activation-extra", "block-extra", expand_act="relu")
mistake("residual_back/no-shortcut", "sum add short expand_bn sum_relu", "residual-missing", "block-missing",
        no_shortcut=True)  # fmt: skip
mistake("residual_back/block-missing", "block1 block1_sum block2 block2_sum add_1 add_2", "block-missing",
        "residual-missing", blocks=("block1",))  # fmt: skip
mistake("residual_back/head-in-bfloat16", "head", "dtype", "weights-perturbed", head_dtype="mixed_bfloat16")
mistake("residual_back/momentum-copied", "stem_bn expand_bn", "training-bn-momentum", latent=True, momentum=0.1)
neighbours("residual_back", "pool-same+stride-first", "expand-relu+no-shortcut")
one_layer("residual_back", "bn-training+stem-gelu")


class Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(25, 8, padding_idx=0)
        self.places = nn.Embedding(9, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.flat_norm = nn.LayerNorm(8, elementwise_affine=False)
        self.attend = nn.MultiheadAttention(8, 4, batch_first=True)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.flat_norm(self.lstm(self.words(ids))[0])
        keys = x + self.places.weight
        future = torch.ones(9, 9, dtype=torch.bool).triu(1)
        y, _ = self.attend(x, keys, x, attn_mask=future, need_weights=False)
        return self.head(self.drop((x + y).mean(1)))


class _Places(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.table = self.add_weight(shape=(9, 8), name="embeddings")

    def call(self, x: Any) -> Any:
        return x + self.table


def _cross(**wrong: Any) -> Any:
    keras.backend.clear_session()
    ids = layers.Input((9,), dtype="int32", name="ids")
    x = layers.Embedding(25, 8, mask_zero=wrong.get("mask_zero", False), name="words")(ids)
    x = layers.LSTM(8, return_sequences=True, recurrent_activation=wrong.get("gates", "sigmoid"),
                    go_backwards=wrong.get("backwards", False), name="lstm")(x)  # fmt: skip
    x = layers.LayerNormalization(epsilon=wrong.get("eps", 1e-5), axis=wrong.get("axis", -1), center=False, scale=False,
                                  name="flat_norm")(x)  # fmt: skip
    keys = _Places("places")(x)
    attend = layers.MultiHeadAttention(4, 2, name="attend")
    causal = wrong.get("causal", True)
    y = (
        attend(x, keys, x, use_causal_mask=causal)
        if wrong.get("in_torch_order")
        else attend(query=x, value=x, key=keys, use_causal_mask=causal)
    )
    x = layers.Add(name="sum")([x, y])
    x = x[:, -1] if wrong.get("last") else layers.GlobalAveragePooling1D(name="mean")(x)
    x = (_Dropping if wrong.get("dropping") else layers.Dropout)(0.25, name="drop")(x)
    return keras.Model(ids, layers.Dense(3, activation=wrong.get("head_act"), name="head")(x))


@network
def cross_back() -> Pair:
    """Words, an LSTM, keys with places and values without, the mean of the steps."""
    torch.manual_seed(0)
    model = Cross().eval()
    fill_torch(model)
    inputs = np.random.default_rng(13).integers(1, 25, (2, 9)).astype(np.int32)
    inputs[0, 7:], inputs[1, 2] = 0, 0

    def make(**wrong: Any) -> Any:
        port = carry_back(model, _cross(**wrong))
        half = wrong.get("one_bias")
        if half:
            kernel, hidden, _ = port.get_layer("lstm").get_weights()
            port.get_layer("lstm").set_weights([kernel, hidden, model.lstm.bias_ih_l0.detach().numpy()])
        return port

    return Pair(model, inputs, make, "same")


mistake("cross_back/mask-zero", "words lstm attend mean", "attention-mask", "rnn-last-step pool-kind",
        mask_zero=True)  # fmt: skip
mistake("cross_back/one-bias", "lstm", "rnn-bias", "weights-perturbed weights-not-loaded", one_bias=True)
mistake("cross_back/norm-over-steps", "flat_norm", "norm-axis", axis=1)
mistake("cross_back/norm-eps-default", "flat_norm", "ln-eps", eps=1e-3)
mistake("cross_back/value-before-key", "attend", "qkv-order", "weights-swapped operand-order wiring",
        in_torch_order=True)  # fmt: skip
mistake("cross_back/sees-the-future", "attend", "attention-mask", "block-missing", causal=False)
mistake("cross_back/last-step", "mean getitem get_item slice", "pool-kind rnn-last-step", "operation-kind", last=True)
mistake("cross_back/dropping", "drop dropout", "dropout-mode", "scale block-extra", dropping=True)
mistake("cross_back/probabilities", "head softmax", "logits activation-extra", "block-extra", head_act="softmax")
one_layer("cross_back", "value-before-key+sees-the-future", "one-bias+hard-gates")
neighbours("cross_back", "one-bias+norm-over-steps")
mistake("cross_back/hard-gates", "lstm", "rnn-activation", "activation-kind", gates="hard_sigmoid")
