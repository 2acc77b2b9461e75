"""Ports to Keras: perceptrons over patches, and a generator. The network in PyTorch is right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry_back, fill_torch
from benchmarks.corpus.mutations.fifth.registry import mistake, neighbours, network, one_layer, variant
from benchmarks.corpus.mutations.pairs import Pair


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.act, self.drop = nn.GELU(), nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.drop(self.act(self.fc1(x))))


class Mix(nn.Module):
    """As timm has it: norms before both perceptrons."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(16, eps=1e-6), Mlp(16, 16)
        self.norm2, self.channels = nn.LayerNorm(16, eps=1e-6), Mlp(16, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 16, 4, stride=4), nn.Sequential(Mix(), Mix())
        self.norm, self.head = nn.LayerNorm(16, eps=1e-6), nn.Linear(16, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(image).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(dim=1))


class _Dropping(layers.Dropout):  # type: ignore[misc]
    def call(self, inputs: Any, training: Any = None) -> Any:
        return super().call(inputs, training=True)


def _mixer(**wrong: Any) -> Any:
    keras.backend.clear_session()
    eps = wrong.get("eps", 1e-6)
    act = "linear" if wrong.get("act_lost") else lambda x: ops.gelu(x, approximate=wrong.get("approximate", False))

    def mlp(x: Any, hidden: int, name: str, act: Any = act) -> Any:
        x = layers.Activation(act, name=f"{name}.act")(layers.Dense(hidden, name=f"{name}.fc1")(x))
        drop = _Dropping if wrong.get("dropping") else layers.Dropout
        return layers.Dense(16, name=f"{name}.fc2")(drop(0.1, name=f"{name}.drop")(x))

    def block(x: Any, name: str) -> Any:
        last = name == "blocks.1"
        y = layers.LayerNormalization(epsilon=eps, axis=wrong.get("axis", -1) if last else -1, name=f"{name}.norm1")(x)
        kept = y if wrong.get("from_norm") and last else x
        if wrong.get("unturned") and last:
            y = mlp(y, 16, f"{name}.tokens")
        elif wrong.get("einsum"):
            y = ops.transpose(mlp(ops.einsum("btc->bct", y), 16, f"{name}.tokens"), (0, 2, 1))
        else:
            y = layers.Permute((2, 1), name=f"{name}.turn")(y)
            y = layers.Permute((2, 1), name=f"{name}.back")(mlp(y, 16, f"{name}.tokens"))
        x = y if wrong.get("no_skip") and last else layers.Add(name=f"{name}.sum1")([kept, y])
        y = layers.LayerNormalization(epsilon=eps, name=f"{name}.norm2")(x)
        return layers.Add(name=f"{name}.sum2")([x, mlp(y, 32, f"{name}.channels")])

    image = layers.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 4, strides=4, name="stem")(image)
    if wrong.get("columns"):
        x = layers.Permute((2, 1, 3), name="columns")(x)
    x = layers.Reshape((16, 16), name="patches")(x)
    x = block(block(x, "blocks.0"), "blocks.1")
    if not wrong.get("norm_lost"):
        x = layers.LayerNormalization(epsilon=eps, name="norm")(x)
    x = ops.mean(x, axis=2) if wrong.get("features") else layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(image, layers.Dense(5, name="head")(x))


@network
def mixer() -> Pair:
    """An MLP-Mixer of two blocks, with as many patches as channels: nothing fails where they are mistaken."""
    model = Mixer().eval()
    fill_torch(model)
    for mix in model.blocks:
        mix.tokens.fc1.weight.data *= 1.5
    model.stem.weight.data *= 0.1
    model.stem.bias.data *= 0.1
    inputs = np.random.default_rng(51).standard_normal((2, 3, 16, 16)).astype(np.float32)

    def make(**wrong: Any) -> Any:
        port = carry_back(model, _mixer(**wrong))
        if wrong.get("stem_turned"):
            kernel = port.get_layer("stem").kernel
            kernel.assign(np.swapaxes(np.array(kernel), 0, 1))
        if wrong.get("fc1_turned"):
            kernel = port.get_layer("blocks.0.tokens.fc1").kernel
            kernel.assign(np.array(kernel).T)
        if wrong.get("norms_exchanged"):
            one, two = (port.get_layer(f"blocks.0.norm{i}") for i in (1, 2))
            kept = one.get_weights()
            one.set_weights(two.get_weights())
            two.set_weights(kept)
        if wrong.get("block_again"):
            for part in ("tokens.fc1", "tokens.fc2", "channels.fc1", "channels.fc2", "norm1", "norm2"):
                port.get_layer(f"blocks.1.{part}").set_weights(port.get_layer(f"blocks.0.{part}").get_weights())
        return port

    return Pair(model, inputs, make, "NCHW->NHWC")


mistake("mixer/patches-by-columns", "patches columns flatten transpose stem", "reshape-order flatten-order",
        "axis-permutation", columns=True)  # fmt: skip
_TOKENS = "blocks.1.tokens blocks.1.turn blocks.1.back blocks.1.transpose blocks.1.transpose_1"
mistake("mixer/tokens-unturned", _TOKENS, "block-missing wiring", "axis-permutation reshape-order", unturned=True)
mistake("mixer/kernel-turned", "stem", "kernel-layout", "axis-permutation weights-perturbed", stem_turned=True)
mistake("mixer/dense-unturned", "blocks.0.tokens.fc1", "dense-transpose", "kernel-layout weights-perturbed",
        fc1_turned=True)  # fmt: skip
mistake("mixer/gelu-by-tanh", "blocks.?.*.act", "gelu-approx", approximate=True)
mistake(
    "mixer/act-lost",
    "blocks.?.*.act blocks.?.*.fc1 blocks.?.*.fc2",
    "activation-missing",
    "block-missing",
    act_lost=True,
)
mistake("mixer/norm-eps-of-keras", "blocks.?.norm? norm", "ln-eps", eps=1e-3)
mistake("mixer/norm-over-patches", "blocks.1.norm1", "norm-axis", "operation-kind", axis=1)
mistake("mixer/norms-exchanged", "blocks.0.norm1 blocks.0.norm2", "weights-swapped", "weights-perturbed",
        norms_exchanged=True)  # fmt: skip
mistake("mixer/sum-of-the-normed", "blocks.1.sum1 blocks.1.add blocks.1.norm1", "residual-order wiring",
        "operand-order residual-missing", from_norm=True)  # fmt: skip
mistake("mixer/shortcut-lost", "blocks.1.sum1 blocks.1.add blocks.1.back", "residual-missing", "block-missing wiring",
        no_skip=True)  # fmt: skip
mistake("mixer/first-block-twice", "blocks.1.*", "weights-not-loaded weights-swapped", "weights-perturbed",
        block_again=True)  # fmt: skip
mistake("mixer/last-norm-lost", "norm mean head", "block-missing", "norm-axis", norm_lost=True)
mistake("mixer/mean-of-features", "mean head", "pool-kind norm-axis", "operation-kind axis-permutation", features=True)
mistake("mixer/dropping", "blocks.?.*.drop", "dropout-mode", "scale block-extra", dropping=True)
variant("mixer/turned-by-name", einsum=True)
one_layer("mixer", "norm-eps-of-keras+norm-over-patches")
neighbours(
    "mixer", "patches-by-columns+kernel-turned", "shortcut-lost+tokens-unturned", "last-norm-lost+mean-of-features"
)


# --- a generator --------------------------------------------------------------------------------------------


class Paint(nn.Module):
    """From a code to a picture, four transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.ConvTranspose2d(6, 12, 3, bias=False)
        self.project_bn = nn.BatchNorm2d(12)
        self.up1, self.up1_bn = nn.ConvTranspose2d(12, 12, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.up2 = nn.ConvTranspose2d(12, 8, 5, stride=2, padding=2, output_padding=1, bias=False)
        self.up2_bn = nn.BatchNorm2d(8)
        self.out = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.project_bn(self.project(code[:, :, None, None])))
        x = F.relu(self.up2_bn(self.up2(F.relu(self.up1_bn(self.up1(x))))))
        return torch.tanh(self.out(x))


class _OfTheBatch(layers.BatchNormalization):  # type: ignore[misc]
    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs, training=True)


def _paint(**wrong: Any) -> Any:
    keras.backend.clear_session()

    def normed(x: Any, name: str) -> Any:
        norm = _OfTheBatch if wrong.get("of_the_batch") == name else layers.BatchNormalization
        act = wrong.get("act", "relu") if name != wrong.get("act_lost") else "linear"
        act = (
            layers.LeakyReLU(0.2, name=f"{name}_act") if act == "leaky" else layers.Activation(act, name=f"{name}_act")
        )
        own = norm(epsilon=wrong.get("eps", 1e-5), momentum=0.9, name=f"{name}_bn")
        if wrong.get("norm_lost") == name:
            return act(x)
        return own(act(x)) if wrong.get("norm_behind") == name else act(own(x))

    def up(x: Any, width: int, size: int, name: str, **own: Any) -> Any:
        return layers.Conv2DTranspose(width, size, strides=2, padding="same", name=name, **own)(x)

    code = layers.Input((6,), name="code")
    if wrong.get("dense"):
        x = layers.Dense(108, use_bias=False, name="project_dense")(code)
        x = layers.Reshape((12, 3, 3) if wrong["dense"] == "maps first" else (3, 3, 12), name="maps")(x)
        x = layers.Permute((2, 3, 1), name="turn")(x) if wrong["dense"] == "maps first" else x
    else:
        x = layers.Reshape((1, 1, 6), name="pixel")(code)
        x = layers.Conv2DTranspose(12, 3, use_bias=False, name="project")(x)
    x = normed(up(normed(x, "project"), 12, 4, "up1", use_bias=False), "up1")
    if wrong.get("up2_same"):
        x = up(x, 8, 5, "up2", use_bias=False)
    else:
        x = layers.Conv2DTranspose(8, 5, strides=2, use_bias=False, name="up2")(x)
        x = layers.Cropping2D(((2, 1), (2, 1)), name="crop")(x)
    x = normed(x, "up2")
    x = up(x, 3, 4, "out", use_bias=not wrong.get("no_bias"))
    return keras.Model(code, layers.Activation(wrong.get("result", "tanh"), name="colours")(x))


@network
def paint() -> Pair:
    """A DCGAN's generator, as PyTorch's tutorial has it."""
    model = Paint().eval()
    fill_torch(model)
    for norm in (model.project_bn, model.up1_bn, model.up2_bn):
        norm.running_var.mul_(0.02 if norm is model.up2_bn else 0.5)  # type: ignore[operator]
    model.out.weight.data *= 0.5
    inputs = np.random.default_rng(52).standard_normal((3, 6)).astype(np.float32)

    def make(**wrong: Any) -> Any:
        state = model.state_dict()
        order = (2, 3, 1, 0) if wrong.get("dense") == "maps last" else (1, 2, 3, 0)
        state["project_dense.weight"] = model.project.weight.permute(*order).reshape(108, 6)
        port = carry_back(SimpleNamespace(state_dict=lambda: state), _paint(**wrong))
        if "turned" in wrong:
            kernel = port.get_layer(wrong["turned"][0]).kernel
            kernel.assign(np.ascontiguousarray(wrong["turned"][1](np.array(kernel))))
        norm = port.get_layer("up1_bn")
        if wrong.get("statistics_left"):
            norm.moving_mean.assign(ops.zeros(12))
            norm.moving_variance.assign(ops.ones(12))
        if wrong.get("deviation"):
            norm.moving_variance.assign(ops.sqrt(norm.moving_variance))
        return port

    return Pair(model, inputs, make, "NCHW->NHWC")


mistake("paint/up-same", "up2 crop", "transposed-conv-shift", "pad-asymmetry", up2_same=True)
mistake("paint/up-unturned", "up1", "kernel-layout", "weights-perturbed",
        turned=("up1", lambda kernel: kernel.swapaxes(2, 3)))  # fmt: skip
mistake("paint/out-flipped", "out", "kernel-flip", "kernel-layout weights-perturbed",
        turned=("out", lambda kernel: kernel[::-1, ::-1]))  # fmt: skip
mistake("paint/maps-in-the-other-order", "project project_dense maps turn pixel reshape getitem unsqueeze*",
        "reshape-order flatten-order dense-row-order", "kernel-layout weights-perturbed channel-order",
        dense="as is")  # fmt: skip
mistake("paint/leaky", "project_act up?_act relu relu_?", "activation-kind activation-param", act="leaky")
mistake("paint/act-lost", "up1_act relu_1 up1_bn", "activation-missing", "block-missing", act_lost="up1")
mistake("paint/norm-lost", "up2_bn up2_act relu_2", "block-missing", "bn-stats", norm_lost="up2")
mistake("paint/norm-behind", "project_bn project_act relu", "residual-order wiring activation-missing activation-extra",
        "block-missing block-extra operation-kind", norm_behind="project")  # fmt: skip
mistake("paint/norm-of-the-batch", "up1_bn", "bn-mode", "bn-stats", of_the_batch="up1")
mistake("paint/norm-eps-of-keras", "up2_bn up1_bn project_bn", "bn-eps", eps=1e-3)
mistake("paint/statistics-left", "up1_bn", "bn-stats", "weights-not-loaded weights-perturbed", statistics_left=True)
mistake("paint/variance-as-deviation", "up1_bn", "bn-stats", "weights-perturbed", deviation=True)
mistake("paint/colours-to-one", "colours tanh", "activation-kind", "logits", result="sigmoid")
mistake("paint/out-without-bias", "out", "bias-missing", "weights-perturbed", no_bias=True)
variant("paint/projected-by-a-dense-layer", dense="maps last")
variant("paint/projected-maps-first", dense="maps first")
one_layer("paint", "statistics-left+norm-eps-of-keras", "out-flipped+out-without-bias")
neighbours("paint", "up-unturned+act-lost", "out-without-bias+colours-to-one")
