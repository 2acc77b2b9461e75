"""keras.applications against their twins in torchvision and timm."""

from __future__ import annotations

from benchmarks.corpus.port import Port
from benchmarks.corpus.vision_held_out import HELD_OUT
from benchmarks.corpus.vision_tuned import TUNED

PORTS: tuple[Port, ...] = (*TUNED, *HELD_OUT)
