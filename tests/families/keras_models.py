"""keras.applications, mtcnn's and SpliceAI's networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.families.family import Array, Family, floats


def _application(name: str, size: int, library: str = "keras", **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        from importlib import import_module

        applications = import_module(library).applications
        return getattr(applications, name)(weights=None, input_shape=(size, size, 3), classes=10, **options)

    return build


def _mtcnn(stage: str) -> Callable[[], Any]:
    def build() -> Any:
        from tests.zoo.mtcnn import build_keras

        return build_keras(stage)

    return build


def _spliceai() -> Any:
    import tf_keras

    from scripts.demo_models import packaged_h5

    return tf_keras.models.load_model(packaged_h5(1), compile=False)


def _of(*shape: int) -> Callable[[], dict[str, Array]]:
    return lambda: {"": floats(2, *shape)}


# (model, image size, options, tested, what is peculiar)
_APPLICATIONS: tuple[tuple[str, int, dict[str, Any], bool, str], ...] = (
    ("MobileNet", 64, {"alpha": 0.25}, False, "depthwise convolutions"),
    ("MobileNetV2", 64, {"alpha": 0.35}, False, "inverted residuals"),
    ("MobileNetV3Small", 64, {"alpha": 0.75, "minimalistic": False}, True, "operators between layers"),
    ("EfficientNetB0", 64, {}, False, "rescaling and normalisation inside"),
    ("EfficientNetV2B0", 64, {}, False, "fused blocks"),
    ("DenseNet121", 64, {}, False, "concatenation of all that came before"),
    ("ResNet50", 64, {}, False, "bottlenecks"),
    ("ResNet50V2", 64, {}, False, "activation before the convolution"),
    ("InceptionV3", 96, {}, False, "branches, average pools with SAME padding"),
    ("InceptionResNetV2", 96, {}, False, "a custom scaling layer"),
    ("Xception", 96, {}, False, "separable convolutions"),
    ("VGG16", 64, {}, False, "fused activations"),
    ("NASNetMobile", 64, {}, False, "cells in many branches"),
    ("ConvNeXtTiny", 64, {}, False, "stochastic depth and layer scale as layers of their own"),
)  # fmt: skip

FAMILIES = (
    *(
        Family(f"keras.applications/{name}", "keras", _application(name, size, **options), _of(size, size, 3),
               ("keras",), tested, peculiar)
        for name, size, options, tested, peculiar in _APPLICATIONS
    ),
    Family("tf_keras.applications/EfficientNetB0", "keras", _application("EfficientNetB0", 64, "tf_keras"),
           _of(64, 64, 3), ("tf_keras",), False, "Keras 2's own"),
    Family("tf_keras.applications/MobileNetV3Small", "keras", _application("MobileNetV3Small", 64, "tf_keras"),
           _of(64, 64, 3), ("tf_keras",), True, "operators as TFOpLambda layers"),
    Family("mtcnn/PNet", "keras", _mtcnn("PNet"), _of(24, 24, 3), ("mtcnn",), False, "subclassed"),
    Family("mtcnn/RNet", "keras", _mtcnn("RNet"), _of(24, 24, 3), ("mtcnn",), False, "subclassed"),
    Family("mtcnn/ONet", "keras", _mtcnn("ONet"), _of(48, 48, 3), ("mtcnn",), True, "subclassed, several outputs"),
    Family("spliceai/spliceai1", "keras", _spliceai, _of(10100, 4), ("spliceai", "tf_keras"), False, "dilated"),
)  # fmt: skip
