"""torch_ecg's networks for electrocardiograms.

The package imports tools for reading recordings, plotting and downloading that its networks do not use (boto3, wfdb,
matplotlib, scipy): they are not installed, and stand-ins answer their imports. The networks are the package's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.families.family import Array, Family, floats

_UNUSED = (
    "matplotlib", "matplotlib.pyplot", "matplotlib.ticker", "boto3", "botocore", "botocore.client", "bib_lookup",
    "sklearn", "sklearn.utils", "wfdb", "wfdb.io", "scipy", "scipy.io", "scipy.signal", "scipy.interpolate",
    "scipy.ndimage", "scipy.stats", "scipy.special", "scipy.linalg",
)  # fmt: skip


def models() -> Any:
    """The module ``torch_ecg.models``."""
    if "torch_ecg" not in sys.modules:
        spec = find_spec("torch_ecg")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        root = Path(spec.submodule_search_locations[0])
        # The packages' own __init__ files import trainers, data bases and signal processing.
        for name in ("torch_ecg", "torch_ecg.components"):
            package = ModuleType(name)
            package.__spec__ = ModuleSpec(name, None, is_package=True)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
    import torch  # looks into every module there is while it is imported, stand-ins too  # noqa: F401

    added = [name for name in _UNUSED if name.partition(".")[0] not in sys.modules and not _installed(name)]
    for name in added:
        stand_in = ModuleType(name)
        stand_in.__path__ = []
        stand_in.__getattr__ = _anything  # type: ignore[method-assign]
        sys.modules[name] = stand_in
    try:
        import torch_ecg.models
    finally:
        for name in added:
            del sys.modules[name]
    return torch_ecg.models


def _anything(attribute: str) -> type:
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    return type(attribute, (), {})


def _installed(name: str) -> bool:
    return find_spec(name.partition(".")[0]) is not None


def _crnn(cnn: str, rnn: str = "lstm", attn: str = "se") -> Callable[[], Any]:
    def build() -> Any:
        network = models()
        from copy import deepcopy

        from torch_ecg.model_configs import ECG_CRNN_CONFIG

        config = deepcopy(ECG_CRNN_CONFIG)
        config.cnn.name, config.rnn.name, config.attn.name = cnn, rnn, attn
        return network.ECG_CRNN(["a", "b", "c"], 12, config)

    return build


def _whole(name: str, config: str, leads: int | None = 12) -> Callable[[], Any]:
    def build() -> Any:
        network = models()
        import torch_ecg.model_configs as configs

        arguments: list[Any] = [["a", "b", "c"]] + ([leads] if leads else [])
        return getattr(network, name)(*arguments, config=getattr(configs, config))

    return build


def _signal(length: int) -> Callable[[], dict[str, Array]]:
    return lambda: {"input": floats(2, 12, length)}


_BACKBONES = ("resnet_nature_comm", "resnet_nature_comm_bottle_neck_se", "tresnetN", "regnet_S", "resnet_18",
              "multi_scopic_leadwise", "vgg16", "vgg16_leadwise", "densenet_leadwise", "xception_leadwise",
              "mobilenet_v1", "mobilenet_v2", "mobilenet_v3")  # fmt: skip
_TESTED = {"resnet_nature_comm"}

FAMILIES = (
    *(Family(f"torch_ecg/ECG_CRNN {cnn}", "torch", _crnn(cnn), _signal(800), ("torch_ecg",), cnn in _TESTED,
             "convolutions, LSTM, squeeze and excitation") for cnn in _BACKBONES),
    Family("torch_ecg/ECG_CRNN attention", "torch", _crnn("resnet_nature_comm", "none", "gc"), _signal(800),
           ("torch_ecg",), False, "global context"),
    Family("torch_ecg/ECG_CRNN transformer", "torch", _crnn("resnet_nature_comm", "linear", "transformer"),
           _signal(800), ("torch_ecg",), False, "nn.TransformerEncoder"),
    Family("torch_ecg/ECG_SEQ_LAB_NET", "torch", _whole("ECG_SEQ_LAB_NET", "ECG_SEQ_LAB_NET_CONFIG"), _signal(800),
           ("torch_ecg",), False, "sequence labels"),
    Family("torch_ecg/ECG_UNET", "torch", _whole("ECG_UNET", "ECG_UNET_VANILLA_CONFIG"), _signal(800),
           ("torch_ecg",), False, "upsampling, concatenation"),
    Family("torch_ecg/ECG_SUBTRACT_UNET", "torch", _whole("ECG_SUBTRACT_UNET", "ECG_SUBTRACT_UNET_CONFIG"),
           _signal(800), ("torch_ecg",), True, "differences of branches"),
    Family("torch_ecg/RR_LSTM", "torch", _whole("RR_LSTM", "RR_LSTM_CONFIG", None),
           lambda: {"input": floats(30, 2, 1)}, ("torch_ecg",), False, "RR intervals, time first"),
)  # fmt: skip
