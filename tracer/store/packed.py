"""Arrays that were compressed after they were recorded, without loss: several chunks each, every one by itself.

The codec is Zarr's own ``blosc``: zstd behind a shuffle of bytes. A chunk holds whole trailing axes and a part of one,
so that it is a range of the array's elements in C order. Reading takes exactly this form.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.errors import TraceError, TracerError
from tracer.store import zarr3

CHUNK = 1 << 20
"""Bytes of a chunk at most, before they are compressed."""
_LEVEL = 3
"""Of zstd: it left 0.746 of ResNet-50's activations at 160 MB/s of one core, level 1 0.765 at 340."""
_THREADS = 2
_HEADER = struct.Struct("<4B3L")
"""Of a blosc chunk: versions of the format and of the codec's, flags and element size; bytes of what is in it, of a
block, and of itself. Where the blocks begin follows, four bytes each: c-blosc's README_CHUNK_FORMAT.rst."""
_FORMAT, _SHUFFLED, _COPIED, _PLAIN = 2, 1, 2, 4 << 5 | 1 << 4
"""The version of the format, and flags: bytes shuffled, blocks not compressed, by zstd and in one stream each."""
_LENGTH = struct.Struct("<L")
_AT_ONCE = 8
"""Chunks that are compressed, or read, before the next are begun."""


def _split(shape: Sequence[int], itemsize: int) -> tuple[int, int]:
    """The axis along which an array is cut, and how much of it a chunk holds: axes behind it are whole, those before
    it cut at each place."""
    inner = itemsize
    for axis in reversed(range(len(shape))):
        if inner * shape[axis] > CHUNK:
            return axis, max(1, CHUNK // inner)
        inner *= max(1, shape[axis])
    return 0, max(1, shape[0]) if shape else 1


def chunk_shape(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Of an array of ``shape``: of at most :data:`CHUNK` bytes, but for one element."""
    split, part = _split(shape, itemsize)
    return (*[1] * split, part, *(max(1, length) for length in shape[split + 1 :])) if shape else ()


def metadata_of(
    shape: Sequence[int], on_disk: np.dtype[Any], attributes: Mapping[str, Any], dimensions: Sequence[str]
) -> dict[str, Any]:
    """``zarr.json`` of a packed array; ``on_disk`` is the data type in the file."""
    found = zarr3.array_metadata(shape, on_disk, attributes, dimensions, checksum=False)
    size = on_disk.itemsize
    blosc = {
        "cname": "zstd", "clevel": _LEVEL, "shuffle": "shuffle" if size > 1 else "noshuffle", "typesize": size,
        "blocksize": 0,
    }  # fmt: skip
    found["codecs"].append({"name": "blosc", "configuration": blosc})
    found["chunk_grid"]["configuration"]["chunk_shape"] = list(chunk_shape(shape, size))
    return found


def is_packed(metadata: Mapping[str, Any], shape: Sequence[int], on_disk: np.dtype[Any]) -> bool:
    """Whether an array's ``zarr.json`` is one of these, and of that shape and data type."""
    expected = metadata_of(shape, on_disk, {}, [])
    parts = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs")
    return all(metadata.get(part) == expected[part] for part in parts)


def _chunks(shape: Sequence[int], itemsize: int) -> Iterator[tuple[str, int, int]]:
    """The key of each chunk in C order, and the elements from and up to which it holds."""
    if not shape:
        yield "c", 0, 1
        return
    split, part = _split(shape, itemsize)
    inner, length = math.prod(shape[split + 1 :]), shape[split]
    behind = [0] * (len(shape) - split - 1)
    for number, lead in enumerate(np.ndindex(*shape[:split])):
        for index, row in enumerate(range(0, length, part)):
            begin, end = number * length + row, number * length + min(row + part, length)
            yield ".".join(map(str, ("c", *lead, index, *behind))), begin * inner, end * inner


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "tracer-blosc")


@cache
def _blosc() -> Any:
    try:
        return import_module("numcodecs.blosc")
    except ImportError:
        raise TracerError("the recording is packed: pip install numcodecs for it, or tracer pack --unpack") from None


def _in_threads(work: Any, items: Iterator[Any]) -> Iterator[Any]:
    """``work`` of each item, in order, of few at a time."""
    while batch := list(itertools.islice(items, _AT_ONCE)):
        if len(batch) == 1:
            yield work(batch[0])
            continue
        begun = [_threads().submit(work, item) for item in batch]
        try:
            for one in begun:
                yield one.result()
        finally:
            wait(begun)  # none looks at the file any more when this ends, however it does


def encoded(values: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    """The chunks of an array that has elements: key and bytes."""
    on_disk = dtypes.stored_as(values.dtype)
    flat = np.frombuffer(zarr3.bytes_of(values, on_disk), on_disk)
    blosc, whole = _blosc(), math.prod(chunk_shape(values.shape, on_disk.itemsize))

    def one(chunk: tuple[str, int, int]) -> tuple[str, bytes]:
        key, begin, end = chunk
        part = flat[begin:end]
        if part.size < whole:  # the grid is regular: the last one is as long as the others
            part = np.concatenate([part, np.zeros(whole - part.size, part.dtype)])
        shuffle = blosc.SHUFFLE if on_disk.itemsize > 1 else blosc.NOSHUFFLE
        return key, blosc.compress(part, b"zstd", _LEVEL, shuffle, 0)

    yield from _in_threads(one, _chunks(values.shape, on_disk.itemsize))


def _is_sound(raw: bytes | memoryview, whole: int, itemsize: int) -> bool:
    """Whether every number in a chunk of ``whole`` bytes that c-blosc acts on is one that it writes itself.

    The file may be anyone's; what is left to be decoded is zstd alone. Raises struct.error where it is too short.
    """
    version, _, flags, size, says, block, length = _HEADER.unpack_from(raw)
    if (version, size, says, length) != (_FORMAT, itemsize, whole, len(raw)):
        return False
    if flags & _COPIED:
        return bool(length == _HEADER.size + whole)
    if flags & ~_SHUFFLED != _PLAIN or not 0 < block <= whole:
        return False
    count = -(-whole // block)
    first = _HEADER.size + count * _LENGTH.size
    if first > length:
        return False
    for number in range(count):
        (start,) = _LENGTH.unpack_from(raw, _HEADER.size + number * _LENGTH.size)
        if start < first:
            return False
        (stream,) = _LENGTH.unpack_from(raw, start)
        if not 0 < stream <= min(block, whole - number * block) or start + _LENGTH.size + stream > length:
            return False
    return True


def decoded(shape: Sequence[int], on_disk: np.dtype[Any], read: Any, where: str) -> Iterator[NDArray[np.uint8]]:
    """The bytes of an array chunk by chunk; ``read`` gives what lies under a key. Raises TraceError."""
    blosc, whole = _blosc(), math.prod(chunk_shape(shape, on_disk.itemsize)) * on_disk.itemsize

    def one(chunk: tuple[int, bytes | memoryview]) -> NDArray[np.uint8]:
        size, raw = chunk
        found = np.empty(whole, np.uint8)
        try:
            fits = _is_sound(raw, whole, on_disk.itemsize)
            if fits:
                blosc.decompress(raw, found)
        except (struct.error, RuntimeError, ValueError, TypeError):
            fits = False
        if not fits:
            raise TraceError(f"damaged: a chunk of {where} cannot be unpacked")
        return found[:size]

    pieces = ((end - begin, read(key)) for key, begin, end in _chunks(shape, on_disk.itemsize))
    yield from _in_threads(one, ((count * on_disk.itemsize, raw) for count, raw in pieces))
