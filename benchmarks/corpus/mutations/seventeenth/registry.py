"""Where the seventeenth set's modules register, and what its ports share."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.corpus.mutations.kinds import KindedSet

SET = KindedSet("seventeenth")
network, control, defect, slip, ways = SET.network, SET.control, SET.defect, SET.slip, SET.ways
one_layer, neighbours = SET.one_layer, SET.neighbours


def channels_last(port: Any) -> Any:
    """Lays all kernels out with their channels last."""
    return port.to(memory_format=torch.channels_last)
