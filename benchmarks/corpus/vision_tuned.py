"""keras.applications against torchvision: real depths, random weights, small images.

Images are 32k + 1 pixels wide: every strided layer then meets an odd length, where TensorFlow's SAME padding and
keras.applications' own are symmetric and torchvision's paddings are right as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

from benchmarks.corpus.port import Built, Port
from benchmarks.corpus.transfer import IMAGE_MEAN, IMAGE_VARIANCE, Carried, Twin, ported
from tests.torchvision_ops import register

CLASSES = 10


def name_layers_anew() -> None:
    """Let Keras number the layers without a name of their own from the start: a network's names are always the same."""
    from keras.src.utils.naming import reset_uids

    reset_uids()


def keras_application(name: str, size: int, **options: Any) -> Any:
    """A network of keras.applications without pretrained weights that returns logits."""
    from keras import applications

    name_layers_anew()
    options = {"classifier_activation": None, "classes": CLASSES, **options}
    return getattr(applications, name)(weights=None, input_shape=(size, size, 3), **options)


def torchvision_model(name: str, **options: Any) -> Any:
    """A network of torchvision without pretrained weights."""
    register()
    from torchvision import models

    return getattr(models, name)(**{"num_classes": CLASSES, **options})


def configure(model: Any, kind: str, **attributes: Any) -> None:
    """Set attributes of all modules of a class."""
    for module in model.modules():
        if type(module).__name__ == kind:
            for name, value in attributes.items():
                assert hasattr(module, name), name
                setattr(module, name, value)


def with_bias(convolution: Any) -> None:
    """Give a convolution the bias that Keras's has."""
    import torch

    convolution.bias = torch.nn.Parameter(torch.zeros(convolution.out_channels))


# VGG

VGG = {"vgg16": ("VGG16", (2, 2, 3, 3, 3)), "vgg19": ("VGG19", (2, 2, 4, 4, 4))}


def vgg(name: str) -> Built:
    import torch
    from torch import nn

    keras_name, stages = VGG[name]
    size, side = 96, 3
    reference = keras_application(keras_name, size)
    with torch.device("meta"):  # at its own size the classifier takes 400 MB
        candidate = torchvision_model(name, init_weights=False)
        candidate.avgpool = nn.AdaptiveAvgPool2d((side, side))
        candidate.classifier[0] = nn.Linear(512 * side * side, 4096)
    candidate.to_empty(device="cpu")
    twins: dict[str, Twin] = {}
    at = 0
    for stage, convolutions in enumerate(stages, start=1):
        for i in range(1, convolutions + 1):
            twins[f"block{stage}_conv{i}"] = f"features.{at}"
            at += 2
        at += 1
    twins |= {"fc1": "classifier.0", "fc2": "classifier.3", "predictions": "classifier.6"}
    return ported(reference, candidate, Carried(twins, rows={"fc1": (side, side, 512)}), seed=6)


# ResNet

RESNET = {"resnet50": ("ResNet50", (3, 4, 6, 3)), "resnet101": ("ResNet101", (3, 4, 23, 3))}


def resnet(name: str) -> Built:
    """Version 1: the stride is at the first convolution of a block; all convolutions have a bias."""
    keras_name, depths = RESNET[name]
    reference = keras_application(keras_name, 65)
    candidate = torchvision_model(name)
    configure(candidate, "BatchNorm2d", eps=1.001e-5, momentum=0.01)
    for module in list(candidate.modules()):
        if type(module).__name__ == "Conv2d":
            with_bias(module)
        elif type(module).__name__ == "Bottleneck":
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    twins: dict[str, Twin] = {"conv1_conv": "conv1", "conv1_bn": "bn1", "predictions": "fc"}
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            ours, theirs = f"conv{stage + 1}_block{block + 1}", f"layer{stage}.{block}"
            for i in (1, 2, 3):
                twins |= {f"{ours}_{i}_conv": f"{theirs}.conv{i}", f"{ours}_{i}_bn": f"{theirs}.bn{i}"}
            if block == 0:
                twins |= {f"{ours}_0_conv": f"{theirs}.downsample.0", f"{ours}_0_bn": f"{theirs}.downsample.1"}
    return ported(reference, candidate, Carried(twins), seed=7)


# MobileNet


def mobilenet_v2(alpha: float = 1.0, size: int = 97) -> Built:
    reference = keras_application("MobileNetV2", size, alpha=alpha)
    candidate = torchvision_model("mobilenet_v2", width_mult=alpha)
    configure(candidate, "BatchNorm2d", eps=1e-3, momentum=1e-3)
    twins: dict[str, Twin] = {"Conv1": "features.0.0", "bn_Conv1": "features.0.1"}
    for block in range(17):
        ours, theirs = f"block_{block}" if block else "expanded_conv", f"features.{block + 1}.conv"
        steps = ["expand", "depthwise"] if block else ["depthwise"]
        for i, step in enumerate(steps):
            twins |= {f"{ours}_{step}": f"{theirs}.{i}.0", f"{ours}_{step}_BN": f"{theirs}.{i}.1"}
        last = len(steps)
        twins |= {f"{ours}_project": f"{theirs}.{last}", f"{ours}_project_BN": f"{theirs}.{last + 1}"}
    twins |= {"Conv_1": "features.18.0", "Conv_1_bn": "features.18.1", "predictions": "classifier.1"}
    return ported(reference, candidate, Carried(twins), seed=8)


# EfficientNet


def normalising(model: Any) -> Any:
    """The same network behind the image's normalisation, which Keras has in the model and torchvision before it."""
    import torch

    class Normalised(type(model)):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            mean, variance = (torch.tensor(values).reshape(-1, 1, 1) for values in (IMAGE_MEAN, IMAGE_VARIANCE))
            return super().forward((x / 255 - mean) / variance.sqrt())

    model.__class__ = Normalised
    return model


def inverted_residual(ours: str, theirs: str, steps: Sequence[str], depthwise: str = "dwconv") -> dict[str, Twin]:
    """The twins in a block of EfficientNet; ``steps`` are among ``expand``, ``dw``, ``se`` and ``project``."""
    twins: dict[str, Twin] = {}
    for i, step in enumerate(steps):
        at = f"{theirs}.block.{i}"
        if step == "se":
            twins |= {f"{ours}_se_reduce": f"{at}.fc1", f"{ours}_se_expand": f"{at}.fc2"}
        elif step == "dw":
            twins |= {f"{ours}_{depthwise}": f"{at}.0", f"{ours}_bn": f"{at}.1"}
        else:
            twins |= {f"{ours}_{step}_conv": f"{at}.0", f"{ours}_{step}_bn": f"{at}.1"}
    return twins


def efficientnet_b0() -> Built:
    reference = keras_application("EfficientNetB0", 97)
    candidate = normalising(torchvision_model("efficientnet_b0"))
    configure(candidate, "BatchNorm2d", eps=1e-3, momentum=0.01)
    twins: dict[str, Twin] = {"stem_conv": "features.0.0", "stem_bn": "features.0.1"}
    for stage in range(1, 8):
        for i, block in enumerate(candidate.features[stage]):
            steps = ("expand", "dw", "se", "project")[4 - len(block.block) :]
            twins |= inverted_residual(f"block{stage}{chr(ord('a') + i)}", f"features.{stage}.{i}", steps)
    twins |= {"top_conv": "features.8.0", "top_bn": "features.8.1", "predictions": "classifier.1"}
    return ported(reference, candidate, Carried(twins, left_out=["normalization"]), seed=9)


# Inception


def excluding_padding(block: type) -> type:
    """A block of torchvision's whose average pools do not count the zeros of the padding, as TensorFlow's do not."""
    import torch.nn.functional as F

    pools = SimpleNamespace(**{**vars(F), "avg_pool2d": partial(F.avg_pool2d, count_include_pad=False)})
    written: Any = vars(block)["_forward"]
    forward = FunctionType(written.__code__, {**written.__globals__, "F": pools})
    return type(block.__name__, (block,), {"_forward": forward})


def inception_v3() -> Built:
    register()
    from torchvision.models import inception

    reference = keras_application("InceptionV3", 139)
    blocks = [inception.BasicConv2d, *(getattr(inception, f"Inception{letter}") for letter in "ABCDE")]
    blocks = [excluding_padding(block) if "_forward" in vars(block) else block for block in blocks]
    candidate = torchvision_model(
        "inception_v3", aux_logits=False, init_weights=False, inception_blocks=[*blocks, inception.InceptionAux]
    )
    configure(candidate, "BatchNorm2d", momentum=0.01)
    # Both make their convolutions in the same order, and Keras numbers them.
    units = [name for name, module in candidate.named_modules() if type(module).__name__ == "BasicConv2d"]
    twins: dict[str, Twin] = {"predictions": "fc"}
    for i, unit in enumerate(units):
        number = f"_{i}" if i else ""
        twins |= {f"conv2d{number}": f"{unit}.conv", f"batch_normalization{number}": f"{unit}.bn"}
    scales = {(f"{unit}.bn", "weight"): 1.0 for unit in units}
    return ported(reference, candidate, Carried(twins, constant=scales), seed=10)


# DenseNet


def densenet121() -> Built:
    reference = keras_application("DenseNet121", 97)
    candidate = torchvision_model("densenet121")
    configure(candidate, "BatchNorm2d", eps=1.001e-5, momentum=0.01)
    twins: dict[str, Twin] = {"conv1_conv": "features.conv0", "conv1_bn": "features.norm0", "bn": "features.norm5"}
    twins["predictions"] = "classifier"
    for block, depth in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, depth + 1):
            ours, theirs = f"conv{block + 1}_block{layer}", f"features.denseblock{block}.denselayer{layer}"
            twins |= {f"{ours}_0_bn": f"{theirs}.norm1", f"{ours}_1_bn": f"{theirs}.norm2"}
            twins |= {f"{ours}_1_conv": f"{theirs}.conv1", f"{ours}_2_conv": f"{theirs}.conv2"}
        if block < 4:
            ours, theirs = f"pool{block + 1}", f"features.transition{block}"
            twins |= {f"{ours}_bn": f"{theirs}.norm", f"{ours}_conv": f"{theirs}.conv"}
    return ported(reference, candidate, Carried(twins), seed=11)


def port(name: str, build: Callable[[], Built], library: str = "torchvision", held_out: bool = False) -> Port:
    source = f"keras.applications against {library}, weights carried over by name and checked on the outputs"
    return Port(f"vision/{name}", build, source, held_out)


TUNED: tuple[Port, ...] = (
    port("vgg16", partial(vgg, "vgg16")),
    port("resnet50", partial(resnet, "resnet50")),
    port("mobilenet_v2", mobilenet_v2),
    port("inception_v3", inception_v3),
    port("efficientnet_b0", efficientnet_b0),
    port("densenet121", densenet121),
)
