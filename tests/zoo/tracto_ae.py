"""The streamline autoencoder of seed 004 (tractolearn), 256 points of 3 coordinates.

`tracto_ae` is the story: a PyTorch reference, ported to a subclassed Keras model of nested layers that keeps
PyTorch's flatten order by permuting. `tracto_ae_functional` is the way back: a functional Keras model flattens as
Keras does, and the PyTorch port permutes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from .pair import Defect, Pair
from .weights import seed_weights, to_keras, to_torch

POINTS, LATENT = 256, 32
WIDTHS = (3, 16, 32, 64, 128)
SHORT = POINTS >> 4
STAGES = range(1, 5)

ENCODER = {
    **{f"pad{i}": f"pad{i}" for i in STAGES},
    **{f"conv{i}": f"conv{i}" for i in STAGES},
    **{f"relu{i}": f"relu_{i - 1}" if i > 1 else "relu" for i in STAGES},
    "flatten": "flatten",
    "fc1": "fc1",
}
DECODER = {
    "fc2": "fc2",
    "reshape": "reshape",
    **{f"upsample{i}": f"upsample{i}" for i in STAGES},
    **{f"pad{i}": f"pad{i}" for i in STAGES},
    **{f"conv{i}": f"conv{i}" for i in STAGES},
    **{f"relu{i}": f"relu_{i - 1}" if i > 1 else "relu" for i in STAGES if i < 4},
}


def _truth(separator: str) -> dict[str, str]:
    encoder = {f"encoder{separator}{keras}": f"encoder.{torch}" for keras, torch in ENCODER.items()}
    return encoder | {f"decoder{separator}{keras}": f"decoder.{torch}" for keras, torch in DECODER.items()}


NESTED, FLAT = _truth("/"), _truth("_")


def architecture(keras_order: bool = False, flatten: str = "", reshape: str = "") -> Any:
    """The autoencoder in PyTorch without weights.

    With ``keras_order`` it flattens and reshapes over (length, channels) as Keras does; ``flatten="plain"`` or
    ``reshape="plain"`` forgets that on one side.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for i in STAGES:
                self.add_module(f"pad{i}", nn.ReflectionPad1d(1))
                self.add_module(f"conv{i}", nn.Conv1d(WIDTHS[i - 1], WIDTHS[i], 3, stride=2))
            self.fc1 = nn.Linear(WIDTHS[-1] * SHORT, LATENT)

        def forward(self, x: Any) -> Any:
            for i in STAGES:
                x = F.relu(self.get_submodule(f"conv{i}")(self.get_submodule(f"pad{i}")(x)))
            if keras_order and flatten != "plain":
                x = x.permute(0, 2, 1)
            return self.fc1(torch.flatten(x, 1))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc2 = nn.Linear(LATENT, WIDTHS[-1] * SHORT)
            for i in STAGES:
                self.add_module(f"upsample{i}", nn.Upsample(scale_factor=2, mode="linear", align_corners=False))
                self.add_module(f"pad{i}", nn.ReflectionPad1d(1))
                self.add_module(f"conv{i}", nn.Conv1d(WIDTHS[5 - i], WIDTHS[4 - i], 3))

        def forward(self, z: Any) -> Any:
            if keras_order and reshape != "plain":
                x = self.fc2(z).reshape(-1, SHORT, WIDTHS[-1]).permute(0, 2, 1)
            else:
                x = self.fc2(z).reshape(-1, WIDTHS[-1], SHORT)
            for i in STAGES:
                x = self.get_submodule(f"pad{i}")(self.get_submodule(f"upsample{i}")(x))
                x = self.get_submodule(f"conv{i}")(x)
                x = F.relu(x) if i < 4 else x
            return x

    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Encoder()
            self.decoder = Decoder()

        def forward(self, x: Any) -> Any:
            return self.decoder(self.encoder(x))

    return Autoencoder().eval()


def reference_torch() -> Any:
    """The PyTorch reference with seeded weights."""
    import torch

    model = architecture()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in model.parameters():
            scale = (2 / tensor[0].numel()) ** 0.5 if tensor.dim() > 1 else 0.1
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
    return model


@cache
def keras_layers() -> tuple[type, type]:
    """The two layers Keras lacks: reflection padding and linear upsampling of sequences."""
    import tensorflow as tf
    from keras import layers, saving

    @saving.register_keras_serializable("tracto")
    class ReflectPad(layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.pad(x, [[0, 0], [1, 1], [0, 0]], mode="REFLECT")

    @saving.register_keras_serializable("tracto")
    class LinearUpsample(layers.Layer):
        """tf.image.resize on a pseudo image of height 1."""

        def call(self, x: Any) -> Any:
            return tf.image.resize(x[:, None], (1, 2 * x.shape[1]), method="bilinear")[:, 0]

    return ReflectPad, LinearUpsample


def _stage(i: int, width: int, stride: int, prefix: str = "", last: bool = False) -> list[Any]:
    from keras import layers

    pad = keras_layers()[0](name=f"{prefix}pad{i}")
    conv = layers.Conv1D(width, 3, strides=stride, name=f"{prefix}conv{i}")
    return [pad, conv] if last else [pad, conv, layers.ReLU(name=f"{prefix}relu{i}")]


def subclassed(flatten: str = "permuted", reshape: str = "permuted") -> Any:
    """The Keras port with the reference's weights; ``"plain"`` is Keras's own order."""
    import keras
    from keras import layers

    class Chain(layers.Layer):
        """A layer of layers, run one after the other."""

        def __init__(self, steps: list[Any], name: str) -> None:
            super().__init__(name=name)
            self.steps = steps

        def call(self, x: Any) -> Any:
            for step in self.steps:
                x = step(x)
            return x

    class Autoencoder(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="tracto_ae")
            encoder = [layer for i in STAGES for layer in _stage(i, WIDTHS[i], 2)]
            encoder += [layers.Permute((2, 1), name="permute")] if flatten == "permuted" else []
            self.encoder = Chain(
                [*encoder, layers.Flatten(name="flatten"), layers.Dense(LATENT, name="fc1")], "encoder"
            )
            decoder: list[Any] = [layers.Dense(WIDTHS[-1] * SHORT, name="fc2")]
            if reshape == "permuted":
                decoder += [layers.Reshape((WIDTHS[-1], SHORT), name="reshape")]
                decoder += [layers.Permute((2, 1), name="permute")]
            else:
                decoder += [layers.Reshape((SHORT, WIDTHS[-1]), name="reshape")]
            for i in STAGES:
                decoder.append(keras_layers()[1](name=f"upsample{i}"))
                decoder += _stage(i, WIDTHS[4 - i], 1, last=i == 4)
            self.decoder = Chain(decoder, "decoder")

        def call(self, x: Any) -> Any:
            return self.decoder(self.encoder(x))

    model = Autoencoder()
    model(keras.ops.zeros((1, POINTS, 3)))
    return to_keras(reference_torch(), model, NESTED)


def functional() -> Any:
    """The same network as a functional Keras model in Keras's own order, with weights of its own."""
    import keras
    from keras import layers

    steps = [layer for i in STAGES for layer in _stage(i, WIDTHS[i], 2, "encoder_")]
    steps += [layers.Flatten(name="encoder_flatten"), layers.Dense(LATENT, name="encoder_fc1")]
    steps += [layers.Dense(WIDTHS[-1] * SHORT, name="decoder_fc2")]
    steps += [layers.Reshape((SHORT, WIDTHS[-1]), name="decoder_reshape")]
    for i in STAGES:
        steps.append(keras_layers()[1](name=f"decoder_upsample{i}"))
        steps += _stage(i, WIDTHS[4 - i], 1, "decoder_", last=i == 4)
    x = inputs = layers.Input((POINTS, 3), name="streamline")
    for step in steps:
        x = step(x)
    model = keras.Model(inputs, x, name="tracto_ae")
    seed_weights(model, seed=5)
    return model


def ported_torch(flatten: str = "", reshape: str = "") -> Any:
    """The functional Keras model carried to PyTorch."""
    return to_torch(functional(), architecture(True, flatten, reshape), FLAT)


PAIRS = [
    Pair(
        name="tracto_ae",
        keras=subclassed,
        torch=reference_torch,
        input_shape=(2, POINTS, 3),
        truth=NESTED,
        direction="pt->tf",
        defects={
            "flatten-order": Defect(
                "Flatten on (N, L, C) in the encoder",
                lambda: subclassed(flatten="plain"),
                first="encoder.flatten",
            ),
            "reshape-order": Defect(
                "Reshape to (L, C) at once in the decoder",
                lambda: subclassed(reshape="plain"),
                first="decoder.reshape",
            ),
        },
        notes="the shapes (N, 128, 16) and (N, 16, 128) occur on both sides at different layers",
    ),
    Pair(
        name="tracto_ae_functional",
        keras=functional,
        torch=ported_torch,
        input_shape=(2, POINTS, 3),
        truth=FLAT,
        defects={
            "flatten-order": Defect(
                "no permute before flatten", lambda: ported_torch(flatten="plain"), first="encoder_flatten"
            ),
            "reshape-order": Defect(
                "reshape to (C, L) at once", lambda: ported_torch(reshape="plain"), first="decoder_reshape"
            ),
        },
    ),
]
