"""Writing the tensors of one run into one file, where readers see each as soon as it is there."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.store import zarr3, zips
from tracer.store.packs import GATHERED, Text, groups
from tracer.store.streaming import Copy, Stream


class RunWriter:
    """Writes a pack (:mod:`tracer.store.packs`) in its place; used by one thread at a time.

    Each tensor is described right behind its data: what came before a crash is found by walking from entry to entry,
    without the directory that :meth:`commit` ends the file with. Raises OSError where the disk fails, for what was put
    before, too, which is written by another thread; :meth:`recover` then says what stays.

    Args:
        memory: bytes that wait to be written, or to be looked at with :meth:`pieces`, at most.
        leaving: called with this writer and a place in the file: what lies before it is in memory for the last time.
    """

    def __init__(
        self, path: Path, memory: int = 64 << 20, leaving: Callable[[RunWriter, int], None] | None = None
    ) -> None:
        self.path = path
        path.unlink(missing_ok=True)  # of a writer that was killed
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._stream = Stream(path, self._file, memory, None if leaving is None else partial(leaving, self))
        self._layout = zips.Layout()
        self._places: set[str] = set()
        self._starts: dict[int, int] = {}
        self._fixed = 0

    def put(
        self, place: str, values: NDArray[Any], attributes: Mapping[str, Any] | str, dimensions: Sequence[str] | str
    ) -> int | None:
        """Write an array at a path relative to the hierarchy's root; ``attributes`` and ``dimensions`` may be given as
        JSON.

        Gives where its data's entry begins in the file; None for an empty array, which has none.
        """
        return self.put_all([(place, values, attributes, dimensions)])[0]

    def put_all(
        self,
        arrays: Sequence[tuple[str, NDArray[Any], Mapping[str, Any] | str, Sequence[str] | str]],
        copy: Copy | None = None,
    ) -> list[int | None]:
        """:meth:`put` of several, whose data are copied by ``copy`` if that is given, in pieces of whole elements; none
        of them where anything but a disk fails."""
        layout = self._layout
        before, new = layout.at, [place for place, *_ in arrays]
        found: list[int | None] = []
        pieces: list[bytes | memoryview] = []
        try:
            for place, values, attributes, dimensions in arrays:
                raw, at = zarr3.bytes_of(values, dtypes.stored_as(values.dtype)), None
                if raw:
                    at = layout.at
                    entry, head = self._chunk(place, values.ndim, len(raw), zips.crc32(raw))
                    layout.entries.append(entry)
                    pieces += [head, raw]
                pieces.append(self._array(place, values.shape, values.dtype, attributes, dimensions))
                found.append(at)
        except BaseException:
            layout.cut(before)
            self._places.difference_update(new)
            raise
        self._write(pieces, copy)
        return found

    def start(self, at: int) -> int:
        """Where the data begin of an array whose entry begins at ``at``."""
        return self._starts[at]

    def pieces(self, begin: int, end: int, room: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """The bytes of the file from ``begin`` to ``end``, each piece until the next: where they lie in memory, or read
        into ``room``. Raises OSError."""
        return self._stream.pieces(begin, end, room)

    def push(self) -> None:
        """Have what was put written soon."""
        self._stream.push()

    def settle(self) -> None:
        """Write all that was put. Raises OSError."""
        self._stream.flush()

    def recover(self) -> int:
        """After a fault of the disk: go on behind the last array that is whole, and say where that is."""
        last = f"/{zarr3.METADATA}".encode()
        whole = [end for entry, end in self._layout.ended() if entry.name.endswith(last)]
        at = max([end for end in whole if end <= self._stream.good], default=0)
        at = max(at, self._fixed)  # what is mapped is not to be cut off
        self._stream.cut(at)
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, at)
        self._layout.cut(at)
        described = [entry.name.removesuffix(last) for entry in self._layout.entries if entry.name.endswith(last)]
        self._places = {place.decode() for place in described}
        return at

    def reserve(self, place: str, shape: Sequence[int], dtype: np.dtype[Any], axis: int) -> GrowingArray:
        """Room for an array that comes in pieces along ``axis``."""
        return GrowingArray(self, place, shape, dtype, axis)

    def commit(self, attributes: Mapping[str, Any]) -> None:
        """End the file, with ``attributes`` at its root."""
        root = Text.of("", zarr3.group_text(attributes))
        pieces = [self._described(text) for text in (*groups(self._places).values(), root)]
        self._write([*pieces, self._layout.end()])
        self.settle()
        self.close()

    def close(self) -> None:
        """Write no more. What was put stays."""
        self._stream.push()
        self._stream.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _chunk(self, place: str, rank: int, size: int, crc: int) -> tuple[zips.Entry, bytes]:
        """The entry of an array's data, which follow, and what stands before them."""
        entry, head = self._layout.data(f"{place}/{zarr3.chunk_name(rank)}".encode(), size, crc)
        self._starts[entry.at] = entry.at + len(head)
        return entry, head

    def _array(
        self,
        place: str,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        attributes: Mapping[str, Any] | str,
        dimensions: Sequence[str] | str,
    ) -> bytes:
        """The entry of an array's ``zarr.json``."""
        self._places.add(place)
        return self._described(Text.of(place, zarr3.described(shape, dtype, attributes, dimensions, checksum=False)))

    def _described(self, text: Text) -> bytes:
        """What is written next of a ``zarr.json``."""
        return self._layout.whole(text.name, text.size, text.crc, text.whole)

    def _write(self, pieces: Iterable[bytes | memoryview], copy: Copy | None = None) -> None:
        small = bytearray()
        for piece in pieces:
            if copy is not None and isinstance(piece, memoryview):
                self._stream.append(small)
                self._stream.append(piece, copy)
                small = bytearray()
            elif len(piece) < GATHERED:
                small += piece
            else:
                self._stream.append(small)
                self._stream.append(piece)
                small = bytearray()
        self._stream.append(small)


class GrowingArray:
    """An array of known shape that is written in pieces along one axis; listed only when :meth:`finish` was called.

    Its room is reserved at once: a mapping that meets a full disk later would kill the process. Raises OSError where
    the disk fails.
    """

    def __init__(self, writer: RunWriter, place: str, shape: Sequence[int], dtype: np.dtype[Any], axis: int) -> None:
        self.place = place
        self.shape = tuple(shape)
        self.dtype = dtype
        self._writer = writer
        self._axis = axis
        self._done = 0
        self._on_disk = dtypes.stored_as(dtype)
        self._map: np.memmap[Any, Any] | None = None
        size = math.prod(self.shape) * self._on_disk.itemsize
        if size:
            self._entry, head = writer._chunk(place, len(self.shape), size, 0)
            writer._write([head])
            start = writer._layout.at - size
            writer._stream.skip(size)
            os.posix_fallocate(writer._file, start, size)
            self._map = np.memmap(writer.path, self._on_disk.newbyteorder("<"), "r+", start, self.shape)
            writer._fixed = writer._layout.at

    def append(self, values: NDArray[Any]) -> None:
        """Write the next piece. Raises ValueError when its shape does not fit."""
        stop = self._done + values.shape[self._axis]
        index = (*[slice(None)] * self._axis, slice(self._done, stop))
        wanted = (*self.shape[: self._axis], values.shape[self._axis], *self.shape[self._axis + 1 :])
        if values.shape != wanted or stop > self.shape[self._axis]:
            raise ValueError(f"a piece of shape {values.shape} does not fit into {self.shape}")
        if self._map is not None:
            self._map[index] = np.asarray(values, order="C").view(self._on_disk)
        self._done = stop

    def finish(self, attributes: str, dimensions: Sequence[str]) -> tuple[tuple[int, ...], int | None]:
        """Make readable what was written, all or the pieces there are: the shape of that, and where it begins."""
        writer, mapped, self._map = self._writer, self._map, None
        if mapped is None or self._done < self.shape[self._axis]:
            self.shape = (*self.shape[: self._axis], self._done, *self.shape[self._axis + 1 :])
            index = (*[slice(None)] * self._axis, slice(0, self._done))
            part = np.empty(self.shape, self._on_disk) if mapped is None else np.array(mapped[index])
            part = part.astype(self._on_disk, copy=False).view(self.dtype)
            return self.shape, writer.put(self.place, part, attributes, dimensions)
        entry = self._entry
        crc = zips.crc32(mapped.reshape(-1).view(np.uint8).data)
        zarr3.write_all(writer._file, memoryview(zips.CRC.pack(crc)), entry.at + zips.LOCAL_CRC)
        writer._layout.entries.append(zips.Entry(entry.name, crc, entry.size, entry.at))
        writer._write([writer._array(self.place, self.shape, self.dtype, attributes, dimensions)])
        return self.shape, entry.at


__all__ = ["GrowingArray", "RunWriter"]
