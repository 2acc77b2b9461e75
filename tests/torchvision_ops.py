"""Makes torchvision, and what imports it (timm), importable next to a torch that its wheel was not built for.

The published wheel's C++ operators do not load beside a CPU-only torch, and importing torchvision then fails where it
describes them. The networks for classification need none of them: declaring their signatures is enough.
"""

from __future__ import annotations

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[torch.library.Library] = []


def register() -> None:
    """Declare the operators that torchvision expects, where its own library did not bring them. May be called again."""
    for signature in _OPERATORS:
        name = signature.partition("(")[0]
        if not hasattr(torch.ops.torchvision, name):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(signature)
            _kept.append(library)  # the definition lives as long as its library
