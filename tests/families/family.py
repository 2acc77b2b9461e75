"""What a model family is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def floats(*shape: int) -> Array:
    """Standard normal values, the same every time."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def tokens(*shape: int, below: int) -> Array:
    """Token numbers, the same every time."""
    return np.random.default_rng(0).integers(1, below, shape).astype(np.int64)


@dataclass(frozen=True)
class Family:
    """A model of a public package.

    Attributes:
        name: ``package/model``.
        framework: ``torch`` or ``keras``.
        build: makes the model with random weights; imports its package.
        inputs: the names of forward's parameters (or of the Keras inputs) and their values.
        packages: import names of what must be installed.
        tested: whether the tests record it; the others are for the figures only.
        stands_for: one line on what is peculiar about how it computes.
    """

    name: str
    framework: str
    build: Callable[[], Any]
    inputs: Callable[[], dict[str, Array]] = field(repr=False)
    packages: tuple[str, ...] = ()
    tested: bool = False
    stands_for: str = ""
