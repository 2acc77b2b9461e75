"""When the numbers of large tensors are computed: while they are copied, or as late as can be."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tracer import compiled, dtypes
from tracer.graph import Structure
from tracer.store import zarr3
from tracer.store.buffers import Buffers
from tracer.store.entries import Row
from tracer.store.runs import RunWriter
from tracer.store.streaming import Copy
from tracer.store.summary import Kernels, Summary

_PIECE = 1 << 20
"""Bytes that are read at a time, of what is no longer in memory."""
_THREADS = 4


_MODULE = "tracer.store.kernels"


def kernels(elements: int) -> Kernels | None:
    """The compiled kernels, where they pay for so many elements."""
    return cast("Kernels | None", compiled.worthwhile(_MODULE, elements))


@dataclass(slots=True)
class _Unsummed:
    """An array whose numbers are still to come, from its bytes in the file, from ``at`` (up to where that is done) to
    ``end``."""

    row: Row
    dtype: np.dtype[Any]
    at: int
    end: int
    summary: Summary


class Sums:
    """The numbers of the large tensors of one recording.

    Compiled kernels find them in the pass that copies a tensor. Without those they wait: a thread that computed them
    while the model runs would take the processor from the model's own threads, which wait for each other, and cost more
    than it takes. They are computed when the memory that the tensors wait in is needed, or at the end.

    Args:
        names: of the nodes of ``structure`` whose tensors are expected as they are.
    """

    def __init__(self, buffers: Buffers, structure: Structure, names: Collection[str]) -> None:
        self._buffers = buffers
        shapes = (n.shape for n in structure.stored() if n.dtype == "float32" and n.shape and n.name in names)
        self._kernels = kernels(sum(math.prod(shape) for shape in shapes))
        self._left: list[_Unsummed] = []
        self._lock = threading.Lock()

    def while_copied(self, values: NDArray[Any]) -> tuple[Summary, Copy] | None:
        """What finds the numbers of a tensor while it copies it in pieces; None where nothing does."""
        if self._kernels is None or values.dtype != np.float32 or not values.dtype.isnative:
            return None
        summary = Summary(quick=True)
        return summary, partial(_copy, summary, self._kernels)

    def later(self, row: Row, start: int, values: NDArray[Any], *, quick: bool) -> None:
        """Have the numbers of a tensor computed whose data begin at ``start`` in the file."""
        with self._lock:
            self._left.append(_Unsummed(row, values.dtype, start, start + values.nbytes, Summary(quick=quick)))

    def forget(self, end: int) -> None:
        """The tensors that do not lie before ``end`` were lost."""
        self._left = [wanted for wanted in self._left if wanted.end <= end]

    def compute(self, writer: RunWriter, until: int) -> None:
        """Of what lies before a place in the file, on all processors: the model waits. Raises OSError."""
        with self._lock:
            due = [wanted for wanted in self._left if wanted.at < until]
            self._left = [wanted for wanted in self._left if wanted.end > until]
        queue = iter(due)
        faults: list[OSError] = []

        def work() -> None:
            room = self._buffers.array(_PIECE)
            while not faults:
                with self._lock:
                    wanted = next(queue, None)
                if wanted is None:
                    return
                try:
                    _go_on(wanted, until, writer, room)
                except OSError as error:
                    faults.append(error)

        count = min(len(due), _THREADS, os.cpu_count() or 1)
        threads = [threading.Thread(target=work, name="tracer-sums") for _ in range(1, count)]
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
        if faults:
            raise faults[0]


def _go_on(wanted: _Unsummed, until: int, writer: RunWriter, room: NDArray[np.uint8]) -> None:
    stop = min(until, wanted.end)
    for piece in writer.pieces(wanted.at, stop, room):
        wanted.summary.add(piece.view(dtypes.stored_as(wanted.dtype)).view(wanted.dtype))
    wanted.at = stop
    if stop == wanted.end:
        wanted.row.summary = zarr3.as_json(wanted.summary.result())


def _copy(summary: Summary, kernels: Kernels, values: NDArray[np.uint8], into: NDArray[np.uint8]) -> None:
    summary.copy(values.view(np.float32), into.view(np.float32), kernels)
