"""Memory that is used again and again: on many machines new pages cost ten times what is copied into them."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALL = 1 << 15
"""Bytes: for less the allocator's own memory is warm."""


class Buffers:
    """Gives out arrays whose memory comes back by itself once nothing refers to it any more.

    Used by several threads.

    Args:
        most: bytes in all, of what is in use and what waits to be used again; more is given out where more is in use.

    Attributes:
        held: bytes in all at present.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0
        self._free: defaultdict[int, deque[memoryview]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._used: dict[int, tuple[weakref.ref[NDArray[Any]], memoryview]] = {}

    def array(self, size: int) -> NDArray[np.uint8]:
        """An array of so many bytes, whatever is in them."""
        # Sizes are rounded up, so that there are few and what is free fits: by an eighth at most.
        step = 1 << max(12, size.bit_length() - 4)
        room = -(-size // step) * step
        with self._lock:
            free = self._free[room]
            memory = free.pop() if free else self._new(room)
        given = np.frombuffer(memory, np.uint8, size)
        # Views of it refer to this very array, for its own memory is no array's.
        reference = weakref.ref(given, self._back)
        self._used[id(reference)] = reference, memory
        return given

    def copy(self, values: NDArray[Any]) -> NDArray[Any]:
        """A copy in C order."""
        if values.nbytes < _SMALL or values.dtype.hasobject:
            return np.array(values, order="C", copy=True)
        copied = self.array(values.nbytes).view(values.dtype).reshape(values.shape)
        np.copyto(copied, values)
        return copied

    def _new(self, room: int) -> memoryview:
        for size, free in self._free.items():
            while free and self.held + room > self._most:
                free.pop()
                self.held -= size
        self.held += room
        return np.empty(room, np.uint8).data

    def _back(self, reference: weakref.ref[NDArray[Any]]) -> None:
        # Without the lock: the garbage collector may call it from within a call that holds it.
        _, memory = self._used.pop(id(reference))
        self._free[memory.nbytes].append(memory)
