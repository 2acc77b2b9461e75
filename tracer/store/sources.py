"""Where the bytes of a file are read from, and arrays that are put together from pieces of it."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tracer.names import display
from tracer.store import zarr3

SPILLED = 64 << 20
"""Bytes: what is put together and larger lies in an unnamed file, whose pages the kernel takes back."""


class Source(Protocol):
    """The bytes of one file.

    Attributes:
        size: in bytes.
        changed: when (ns).
        mapped: whether :meth:`view` gives memory that costs nothing until it is looked at.
    """

    size: int
    changed: int
    mapped: bool

    def view(self, start: int, stop: int) -> memoryview:
        """The bytes from ``start`` up to ``stop``, or up to the end. Raises TracerError, OSError."""
        ...

    def open(self) -> IO[bytes]:
        """The same to be read as a file is."""
        ...


class Mapped:
    """A file on this machine. Raises FileNotFoundError, and TraceError where it is no regular file."""

    mapped = True

    def __init__(self, path: Path) -> None:
        self._path = path
        descriptor = zarr3.open_regular(path)
        try:
            found = os.fstat(descriptor)
            self.size, self.changed = found.st_size, found.st_mtime_ns
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if found.st_size else b""
        finally:
            os.close(descriptor)
        self._view = memoryview(self._map)

    def view(self, start: int, stop: int) -> memoryview:
        return self._view[start:stop]

    def open(self) -> IO[bytes]:
        return open(zarr3.open_regular(self._path), "rb")


Opener = Callable[[Path], Source | None]
_elsewhere: list[Opener] = []


def also(opener: Opener) -> None:
    """Ask ``opener`` first for each file that is opened from now on: None where it does not know the path."""
    _elsewhere.append(opener)


called: dict[Path, str] = {}
"""What a folder or file that stands for one elsewhere is called there."""


def shown(path: Path) -> str:
    """How a path is said."""
    return display(called.get(path) or str(path))


def opened(path: Path) -> Source:
    """The bytes of a file, which may lie elsewhere. Raises FileNotFoundError, TracerError."""
    for opener in _elsewhere:
        found = opener(path)
        if found is not None:
            return found
    return Mapped(path)


def joined(size: int, pieces: Iterable[bytes | memoryview | NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pieces of ``size`` bytes in all, one behind the other; read-only. Raises OSError where there is no room."""
    views = (piece.data if isinstance(piece, np.ndarray) else memoryview(piece) for piece in pieces)
    if size <= SPILLED:
        room, at = np.empty(size, np.uint8), 0
        for view in views:
            room[at : at + len(view)] = np.frombuffer(view, np.uint8)
            at += len(view)
        room.flags.writeable = False
        return room
    with tempfile.TemporaryFile() as file:
        for view in views:
            zarr3.write_all(file.fileno(), view)
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)


def forget(array: NDArray[Any]) -> None:
    """Let go of the pages of an array that lies in a file: they are found again when they are looked at."""
    owner: Any = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    if owner is not None:
        owner.madvise(mmap.MADV_DONTNEED)
