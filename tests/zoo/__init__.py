"""Real networks in both frameworks, with the truth of which node is which, and ports that went wrong.

Frameworks are imported when a model is built, never by importing this package.
"""

from __future__ import annotations

from . import deepepi, ecg_generic, ecg_pathology, mtcnn, spliceai, tracto_ae, vgg16
from .pair import Defect, Pair, built

MODULES = (ecg_generic, ecg_pathology, deepepi, tracto_ae, vgg16, mtcnn, spliceai)
PAIRS: dict[str, Pair] = {pair.name: pair for module in MODULES for pair in module.PAIRS}

__all__ = ["PAIRS", "Defect", "Pair", "built"]
