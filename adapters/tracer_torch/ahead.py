"""Tensors that were kept while a model was looked at, so that it need not run again to record them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tracer.adapter import Array, NotRecorded
from tracer_torch.events import Event, Key
from tracer_torch.tensors import taken

Identity = tuple[tuple[str, tuple[int, ...], str, bytes], ...]


class Ahead:
    """Copies of what comes into being in a pass, in order, as long as these and the inputs take at most ``most`` bytes.

    Attributes:
        found: each tensor that is no alias, or why it has no values.
        whole: whether that is all of them.
    """

    def __init__(self, inputs: Mapping[str, Array], most: int) -> None:
        self.found: list[tuple[Key, Array | NotRecorded]] = []
        self._left = most - sum(array.nbytes for array in inputs.values())
        self._inputs = _identity(inputs) if self.whole else ()

    @property
    def whole(self) -> bool:
        return self._left >= 0

    def of(self, inputs: Mapping[str, Array]) -> bool:
        """Whether all tensors are here that the model makes of ``inputs``."""
        return self.whole and self._inputs == _identity(inputs)

    def __call__(self, event: Event, tensor: torch.Tensor) -> None:
        """Keep what an event is about."""
        if not self.whole or event.alias is not None:
            return
        value: Any
        value, owned = taken(tensor)
        if not isinstance(value, NotRecorded):
            self._left -= value.nbytes
            if not self.whole:
                self.found.clear()
                return
            value = value if owned else np.array(value, order="C")
        self.found.append((event.key, value))


def _identity(inputs: Mapping[str, Array]) -> Identity:
    return tuple((name, array.shape, str(array.dtype), array.tobytes()) for name, array in inputs.items())
