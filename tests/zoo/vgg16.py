"""keras.applications.VGG16 against a VGG16 in torchvision's style, with seeded weights.

torchvision flattens (C, H, W). As people do, the rows of `fc1` are re-ordered for that instead of permuting the
activation, so the two flatten outputs hold the same values in another order and everything behind agrees.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from .pair import Defect, Pair, built
from .weights import as_torch, load, seed_weights, weighted_layers

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def _names() -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    truth, fused, at = {}, {}, 0
    for stage, (convs, _) in enumerate(STAGES, start=1):
        for conv in range(1, convs + 1):
            fused[f"block{stage}_conv{conv}"] = (f"features.{at}", f"features.{at + 1}")
            at += 2
        truth[f"block{stage}_pool"] = f"features.{at}"
        at += 1
    fused["fc1"] = ("classifier.0", "classifier.1")
    fused["fc2"] = ("classifier.3", "classifier.4")
    fused["predictions"] = ("classifier.6", "softmax")
    return truth | {"flatten": "flatten"}, fused


TRUTH, FUSED = _names()


def build_keras(size: int) -> Any:
    from keras import applications

    model = applications.VGG16(weights=None, input_shape=(size, size, 3))
    seed_weights(model, seed=6)
    return model


_KERAS = {size: partial(build_keras, size) for size in (64, 224)}


def architecture(size: int = 224, softmax: bool = True) -> Any:
    """torchvision's VGG for images of ``size``, without weights; ``softmax=False`` returns logits as it does."""
    import torch
    from torch import nn

    features: list[nn.Module] = []
    channels, side = 3, size >> 5
    for convs, filters in STAGES:
        for _ in range(convs):
            features += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(inplace=True)]
            channels = filters
        features.append(nn.MaxPool2d(2, 2))

    class VGG(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(*features)
            self.avgpool = nn.AdaptiveAvgPool2d((side, side))
            self.classifier = nn.Sequential(
                nn.Linear(512 * side * side, 4096),
                nn.ReLU(True),
                nn.Dropout(),
                nn.Linear(4096, 4096),
                nn.ReLU(True),
                nn.Dropout(),
                nn.Linear(4096, 1000),
            )

        def forward(self, x: Any) -> Any:
            x = torch.flatten(self.avgpool(self.features(x)), 1)
            x = self.classifier(x)
            return torch.softmax(x, dim=1) if softmax else x

    with torch.device("meta"):
        model = VGG()
    return model.to_empty(device="cpu")


def build_torch(size: int, softmax: bool = True, reorder: bool = True) -> Any:
    """The port; ``reorder=False`` leaves the rows of `fc1` in Keras's order."""
    arrays = {}
    for name, layer in weighted_layers(built(_KERAS[size])).items():
        for key, value in as_torch(layer).items():
            if reorder and (name, key) == ("fc1", "weight"):
                side = size >> 5
                value = value.reshape(-1, side, side, 512).transpose(0, 3, 1, 2).reshape(value.shape)
            arrays[f"{FUSED[name][0]}.{key}"] = value
    return load(architecture(size, softmax), arrays)


def _pair(name: str, size: int) -> Pair:
    return Pair(
        name=name,
        keras=_KERAS[size],
        torch=partial(build_torch, size),
        input_shape=(2, size, size, 3),
        truth=TRUTH,
        fused=FUSED,
        defects={
            "dense-row-order": Defect(
                "the rows of fc1 not re-ordered for (C, H, W)",
                partial(build_torch, size, reorder=False),
                # The same thing as a forgotten permute: whether the flatten or the kernel is to blame is a matter of
                # the fix chosen, and the flatten is the first tensor that differs.
                first="flatten",
            ),
            "logits": Defect(
                "torchvision's model as it is: no softmax",
                partial(build_torch, size, softmax=False),
                first="predictions",
                truth={"predictions": None},
            ),
        },
        notes="flatten holds the same values in another order on both sides; avgpool does nothing at this size",
    )


PAIRS = [_pair("vgg16", 224), _pair("vgg16_small", 64)]
