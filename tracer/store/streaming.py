"""The bytes of a file that is written from beginning to end, on their way from memory to the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PAGE = 1 << 12
"""Bytes: what is written past the cache begins and ends at multiples of it, in the file and in memory."""
_SLAB = 8 << 20
_TOGETHER = 4
"""Slabs whose memory is taken at once: the kernel gives large pages for it, at a quarter of the time of small ones."""
_CACHED = 16 << 20
"""Bytes that are left to the page cache: a short recording is soon over, and likely to be read at once."""
_BEHIND = 8
"""Slabs that wait for a disk that is slower than who writes; the page cache takes them then."""


Copy = Callable[[NDArray[np.uint8], NDArray[np.uint8]], None]
"""From the first to the second."""


class _Slab:
    """Memory of a part of the file: what lies at multiples of its size there."""

    def __init__(self, memory: NDArray[np.uint8], begin: int, at: int) -> None:
        self.memory = memory
        self.begin = begin
        self.given = at
        """Up to where it was handed to the thread that writes, and below what is written."""
        self.written = at


class Stream:
    """Takes bytes into memory that is used again and again; a thread writes them.

    A write past the page cache costs a sixth of the processor time of one that goes through it, which the model needs
    itself; for that the file is cut into slabs that begin at pages. What is written can still be read from memory
    until that is needed again. Used by one thread at a time, but :meth:`pieces`.

    Args:
        path: of the file that is open as ``file``.
        memory: bytes that it may take.
        leaving: called with a place in the file: what lies before it is in memory for the last time.

    Attributes:
        end: bytes of the file, with those that are still to be written.
        good: bytes that are written.
    """

    def __init__(self, path: Path, file: int, memory: int, leaving: Callable[[int], None] | None = None) -> None:
        self.end = self.good = 0
        self._path = path
        self._file = file
        self._direct: int | None = None
        self._leaving = leaving
        self._size = max(_PAGE, min(_SLAB, memory // 4 // _PAGE * _PAGE))
        self._left = max(2, memory // self._size)
        self._slabs: dict[int, _Slab] = {}
        self._free: list[NDArray[np.uint8]] = []
        self._fault: OSError | None = None
        self._waiting = 0
        self._changed = threading.Condition()
        self._queue: queue.SimpleQueue[tuple[_Slab, int, int] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    # -- taking ------------------------------------------------------------------------------------------------

    def append(self, data: bytes | bytearray | memoryview, copy: Copy | None = None) -> None:
        """Take bytes, copied by ``copy`` if that is given.

        Raises OSError where some that were taken before could not be written.
        """
        if self._fault is not None:
            raise self._fault
        left = np.frombuffer(data, np.uint8)
        while left.size:
            slab = self._slabs.get(self.end // self._size) or self._next()
            at = self.end - slab.begin
            count = min(left.size, self._size - at)
            if copy is None:
                np.copyto(slab.memory[at : at + count], left[:count])
            else:
                copy(left[:count], slab.memory[at : at + count])
            self.end += count
            left = left[count:]
            if at + count == self._size:
                self._hand_over(slab)

    def skip(self, size: int) -> None:
        """Leave out so many bytes of the file, which somebody else writes. Raises OSError."""
        self.flush()
        self.end += size
        self.good = self.end
        if (slab := self._slabs.get(self.end // self._size)) is not None:
            slab.given = slab.written = self.end

    def push(self) -> None:
        """Have what was taken written soon."""
        if (slab := self._slabs.get(self.end // self._size)) is not None:
            self._hand_over(slab)

    def flush(self) -> None:
        """Write all that was taken. Raises OSError where something could not be."""
        slab = self._slabs.get(self.end // self._size)
        if slab is not None and self._thread is None:
            self._write(slab, slab.given, self.end)
            slab.given = self.end
        else:
            self.push()
            with self._changed:
                self._changed.wait_for(lambda: not self._waiting)
        if self._fault is not None:
            raise self._fault

    def cut(self, at: int) -> None:
        """After a fault: go on from there, at most :attr:`good`."""
        with contextlib.suppress(OSError):
            self.flush()
        self._free += [slab.memory for slab in self._slabs.values()]
        self._slabs.clear()
        self._fault = None
        self.end = self.good = at

    def close(self) -> None:
        """Write what was handed over, then no more."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if self._direct is not None and self._direct >= 0:
            os.close(self._direct)
        self._direct = -1

    def pieces(self, begin: int, end: int, room: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """The bytes from ``begin`` to ``end``, where they lie in memory or read into ``room``. Raises OSError."""
        while begin < end:
            index = begin // self._size
            stop = min(end, (index + 1) * self._size)
            slab = self._slabs.get(index)
            if slab is not None:
                yield slab.memory[begin - slab.begin : stop - slab.begin]
            else:
                stop = min(stop, begin + room.size)
                done = begin
                while done < stop:
                    read = os.preadv(self._file, [room[done - begin : stop - begin].data], done)
                    if not read:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    done += read
                yield room[: stop - begin]
            begin = stop

    # -- memory ------------------------------------------------------------------------------------------------

    def _next(self) -> _Slab:
        """Memory for what comes next. Raises OSError where there is none."""
        index = self.end // self._size
        if not self._free and not self._reuse(wait=not self._left):
            self._make()
            if not self._free:
                self._reuse(wait=True)
        slab = self._slabs[index] = _Slab(self._free.pop(), index * self._size, self.end)
        return slab

    def _make(self) -> None:
        count = min(_TOGETHER, self._left)
        try:
            memory = np.empty(count * self._size + _PAGE, np.uint8)
        except MemoryError:
            if not self._slabs:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
            self._left = 0  # what there is must do
            return
        self._left -= count
        start = -memory.ctypes.data % _PAGE
        self._free += [memory[start + place * self._size :][: self._size] for place in range(count)]

    def _reuse(self, *, wait: bool) -> bool:
        """Half of what there is, for who looks at it before it leaves should not disturb the model all the time; False
        where that is not written yet. Memory that was used before takes a copy faster than new."""
        oldest = [self._slabs[index] for index in sorted(self._slabs)[: max(1, len(self._slabs) // 2)]]
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._fault or all(slab.written == slab.given for slab in oldest))
            if self._fault is not None:
                raise self._fault
            if len(self._slabs) < _TOGETHER or any(slab.written != slab.given for slab in oldest):
                return False
        if self._leaving is not None:
            self._leaving(oldest[-1].begin + self._size)
        for slab in oldest:
            self._free.append(self._slabs.pop(slab.begin // self._size).memory)
        return True

    # -- writing -----------------------------------------------------------------------------------------------

    def _hand_over(self, slab: _Slab) -> None:
        begin, end = slab.given, min(self.end, slab.begin + self._size)
        if begin == end:
            return
        slab.given = end
        with self._changed:
            self._waiting += 1
        self._queue.put((slab, begin, end))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tracer-disk", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            if self._fault is None:
                self._write(*task)
            with self._changed:
                self._waiting -= 1
                self._changed.notify_all()

    def _write(self, slab: _Slab, begin: int, end: int) -> None:
        first, last = -(-begin // _PAGE) * _PAGE, end // _PAGE * _PAGE
        if first >= last or begin < _CACHED or self._waiting > _BEHIND or not self._past_cache():
            parts = [(begin, end, False)]
        else:
            parts = [(begin, first, False), (first, last, True), (last, end, False)]
        try:
            for start, stop, direct in parts:
                self._put(slab.memory[start - slab.begin : stop - slab.begin].data, start, direct)
        except OSError as error:
            self._fault = error
        else:
            slab.written = self.good = end

    def _put(self, data: memoryview, at: int, direct: bool) -> None:
        while data:
            try:
                count = os.pwrite(self._direct if direct and self._direct is not None else self._file, data, at)
            except OSError as error:
                if not direct or error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                    raise
                direct = False  # the file system promised more than it can
                continue
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            at += count
            self.good = at
            data = data[count:]

    def _past_cache(self) -> bool:
        if self._direct is None:
            self._direct = -1
            if hasattr(os, "O_DIRECT"):
                with contextlib.suppress(OSError):  # not every file system can
                    self._direct = os.open(self._path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        return self._direct >= 0
