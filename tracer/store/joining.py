"""A tensor that comes in several batches, and what may keep them from being joined."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.store.runs import GrowingArray
from tracer.store.storage import Joined
from tracer.store.summary import Summary


class Unfit(Exception):
    """A batch's tensor cannot be joined to those before it."""


def overflows(values: NDArray[Any], stored: NDArray[Any]) -> bool:
    """Whether rounding made infinities of finite values."""
    return stored.dtype != values.dtype and bool((~np.isfinite(stored) & np.isfinite(values)).any())


class Growing:
    """A tensor that is put together from several batches."""

    def __init__(self, joined: Joined, dtype: np.dtype[Any]) -> None:
        self.joined = joined
        self.dtype = dtype
        self.summary = Summary(quick=True)
        self.array: GrowingArray | None = None
        self.batches = 0
