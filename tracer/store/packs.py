"""The tensors of one run, or of one step of many, in one file: a stored zip that is a Zarr v3 hierarchy itself.

A run has hundreds or thousands of tensors: files and folders for each would cost more than the bytes. The zip is
written from beginning to end. A step's (here) is renamed when it is whole, so it is there or it is not, and one that
retention drops is one file less; a run's (:mod:`tracer.store.runs`) is there from the start. zarr-python opens it
(``zarr.storage.ZipStore``); the zip's own CRC-32 of every chunk takes the place of the ``crc32c`` codec. Reading here
takes stored entries alone, of the form that :mod:`tracer.store.zarr3` writes: no codec and no decompression is reached
by a hostile file.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import struct
import uuid
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.errors import TraceError
from tracer.names import display
from tracer.store import zarr3, zips

SUFFIX = ".zarr.zip"
GATHERED = 1 << 16
_ROOM = 4 * GATHERED
"""Bytes: what is smaller than the first is copied together, up to the second, and written at once."""


@dataclass(frozen=True)
class Text:
    """An entry that is one ``zarr.json``; ``whole`` is its local header and its data."""

    name: bytes
    crc: int
    size: int
    whole: bytes

    @classmethod
    def of(cls, place: str, text: bytes) -> Text:
        name = (f"{place}/{zarr3.METADATA}" if place else zarr3.METADATA).encode()
        crc = zips.crc32(text)
        return cls(name, crc, len(text), zips.local(name, crc, len(text), zips.wide(len(text))) + text)


@lru_cache(maxsize=4096)
def _group(place: str) -> Text:
    return Text.of(place, zarr3.encoded(zarr3.group_metadata({})))


def groups(arrays: Collection[str]) -> dict[str, Text]:
    """The groups that arrays at these places lie in, but for the root, by their places."""
    found: dict[str, Text] = {}
    for place in arrays:
        while (place := place.rpartition("/")[0]) and place not in found and place not in arrays:
            found[place] = _group(place)
    return found


@dataclass(frozen=True)
class Slot:
    """What of an array is the same at every step: where it lies and how it is described.

    Attributes:
        place: relative to the hierarchy's root.
        dtype: of the array; ``on_disk`` is the one whose bits stand for it in the file.
    """

    place: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    on_disk: np.dtype[Any]
    chunk: bytes
    described: Text

    @classmethod
    def of(
        cls, place: str, values: NDArray[Any], attributes: Mapping[str, Any], dimensions: Sequence[str]
    ) -> Slot:  # fmt: skip
        """For arrays like ``values``."""
        metadata = zarr3.metadata_of(values.shape, values.dtype, attributes, dimensions, checksum=False)
        chunk = f"{place}/{zarr3.chunk_name(values.ndim)}".encode()
        text = Text.of(place, zarr3.encoded(metadata))
        return cls(place, values.shape, values.dtype, dtypes.stored_as(values.dtype), chunk, text)


@dataclass(frozen=True)
class _Chunk:
    """An entry that holds data: what stands in the file around its checksum, and where."""

    name: bytes
    size: int
    at: int
    before: bytes
    after: bytes

    @classmethod
    def of(cls, name: bytes, size: int, at: int) -> _Chunk:
        head = zips.aligned(name, size, at)
        return cls(name, size, at, head[: zips.LOCAL_CRC], head[zips.LOCAL_CRC + zips.CRC.size :])

    @property
    def end(self) -> int:
        return self.at + len(self.before) + zips.CRC.size + len(self.after) + self.size


@dataclass(frozen=True)
class _Tail:
    """What follows the data of a pack, but for its root.

    Attributes:
        texts: the entries that describe arrays and groups, from byte ``at`` of the file on.
        records: of the directory, of ``count`` entries; the checksums of the chunks belong at ``crcs``.
    """

    at: int
    texts: bytes
    records: bytes
    crcs: list[int]
    count: int

    @classmethod
    def of(cls, slots: Sequence[Slot], chunks: Sequence[_Chunk], at: int) -> _Tail:
        described = {slot.place: slot.described for slot in slots}
        described |= groups(described.keys())
        records, crcs, texts = bytearray(), [], bytearray()
        for chunk in chunks:
            crcs.append(len(records) + zips.CENTRAL_CRC)
            records += zips.record(chunk.name, 0, chunk.size, chunk.at)
        for text in described.values():
            records += zips.record(text.name, text.crc, text.size, at + len(texts))
            texts += text.whole
        return cls(at, bytes(texts), bytes(records), crcs, len(chunks) + len(described))


class PackWriter:
    """Writes one pack; nothing is at ``path`` before :meth:`commit`.

    Python's zipfile writes three records and goes back twice for each tensor, which costs more than small tensors
    themselves: a tensor is at most one write here, and what describes them all is one at the end. Steps are mostly like
    those before them: what was worked out for the pack ``like`` is taken over where it fits.

    Raises OSError where the disk fails; what was written is then to be given up with :meth:`abort`.
    """

    def __init__(self, path: Path, like: PackWriter | None = None) -> None:
        self.path = path
        self._temporary = f"{path.parent}/{zarr3.TEMPORARY}-{uuid.uuid4().hex}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file: int | None = os.open(self._temporary, flags, 0o644)
        self._at = 0
        self._slots: list[Slot] = []
        self._chunks: list[_Chunk] = []
        self._crcs: list[int] = []
        self._room: memoryview = memoryview(bytearray(_ROOM)) if like is None else like._room
        self._waiting = 0
        self._tail: _Tail | None = None
        self._like = None if like is None else (like._slots, like._chunks, like._tail)

    def put(self, slot: Slot, values: NDArray[Any]) -> None:
        """Write an array of the shape and type that ``slot`` has; ``values`` may be changed afterwards."""
        self._slots.append(slot)
        raw = zarr3.bytes_of(values, slot.on_disk)
        size = len(raw)
        if not size:
            return
        chunk, number = None, len(self._chunks)
        if self._like is not None and number < len(self._like[1]):
            chunk = self._like[1][number]
        if chunk is None or chunk.name is not slot.chunk or chunk.at != self._at or chunk.size != size:
            chunk = _Chunk.of(slot.chunk, size, self._at)
        crc = zips.crc32(raw)
        self._chunks.append(chunk)
        self._crcs.append(crc)
        self._at = chunk.end
        self._add(chunk.before + zips.CRC.pack(crc) + chunk.after)
        self._add(raw)

    def commit(self, attributes: Mapping[str, Any], lists: Mapping[str, Sequence[str]] | None = None) -> int:
        """Put the pack in its place, with ``attributes`` at its root and further ones that are ``lists``, the JSON of
        whose items is given. Its size in bytes."""
        if self._like is not None and self._like[:2] == (self._slots, self._chunks):
            self._tail = self._like[2]
        if self._tail is None:
            self._tail = _Tail.of(self._slots, self._chunks, self._at)
        self._like, tail = None, self._tail
        root = Text.of("", zarr3.encoded_group(attributes, lists or {}))
        records = bytearray(tail.records)
        for place, crc in zip(tail.crcs, self._crcs, strict=True):
            zips.CRC.pack_into(records, place, crc)
        records += zips.record(root.name, root.crc, root.size, tail.at + len(tail.texts))
        start = tail.at + len(tail.texts) + len(root.whole)
        end = zips.ending(start, len(records), tail.count + 1)
        for part in (tail.texts, root.whole, records, end):
            self._add(part)
        self._flush()
        assert self._file is not None
        os.close(self._file)
        self._file = None
        os.replace(self._temporary, self.path)
        return start + len(records) + len(end)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            Path(self._temporary).unlink(missing_ok=True)

    def _add(self, data: bytes | bytearray | memoryview) -> None:
        """Append to the file; what is small waits for more."""
        at, size = self._waiting, len(data)
        if at + size > _ROOM:
            self._flush()
            at = 0
        if size < GATHERED:
            self._room[at : at + size] = data
            self._waiting = at + size
            return
        self._flush()
        assert self._file is not None, "it is over"
        zarr3.write_all(self._file, memoryview(data))

    def _flush(self) -> None:
        assert self._file is not None, "it is over"
        size, self._waiting = self._waiting, 0
        zarr3.write_all(self._file, self._room[:size])


class Pack:
    """A pack that is read. Raises FileNotFoundError, or TraceError where it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shown = display(str(path))
        descriptor = zarr3.open_regular(path)
        try:
            found = os.fstat(descriptor)
            self._changed = found.st_mtime_ns
            self._map = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if found.st_size else b"")
        finally:
            os.close(descriptor)

    @cached_property
    def _directory(self) -> dict[str, int]:
        """Where each entry begins, as the end of a whole pack says."""
        try:
            with open(zarr3.open_regular(self.path), "rb") as file, zipfile.ZipFile(file) as directory:
                return {info.filename: info.header_offset for info in directory.infolist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise TraceError(f"damaged: {self._shown} is not a whole zip file") from error

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Of the root. Raises TraceError where the pack is not whole."""
        return self._metadata(zarr3.METADATA, None)["attributes"]  # type: ignore[no-any-return]

    def so_far(self) -> Iterator[tuple[str, int | None, dict[str, Any]]]:
        """Each array that a run has written, until one is not whole: its path, where it begins (None for an empty one),
        its ``zarr.json``."""
        at, chunks = 0, dict[str, int]()
        with contextlib.suppress(TraceError, UnicodeDecodeError):
            while True:
                entry, start = zips.entry_at(self._map, at, self._shown)
                name = entry.name.decode()
                place, _, last = name.rpartition("/")
                if last != zarr3.METADATA:
                    chunks[place] = at
                else:
                    metadata = self._metadata(name, at)
                    if metadata.get("node_type") == "array":
                        yield place, chunks.get(place), metadata
                at = start + entry.size

    def fingerprint(self, place: str, shape: tuple[int, ...], at: int | None = None) -> tuple[int, ...]:
        """Size and CRC-32 of an array's chunk and when the file changed (ns); nothing for an empty array.

        Raises TraceError where it is missing.
        """
        if not math.prod(shape):
            return ()
        entry, _ = self._find(_chunk_of(place, shape), at)
        return entry.size, entry.crc, self._changed

    def read_array(
        self,
        place: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        at: int | None = None,
        *,
        verify: bool = True,
    ) -> NDArray[Any]:
        """An array where it lies in the file, read-only; ``at`` is where its entry begins, where that is known.

        Raises TraceError when anything is missing or damaged; with ``verify`` the whole chunk is read for that.
        """
        on_disk, count = dtypes.stored_as(dtype), math.prod(shape)
        if count == 0:
            return np.empty(shape, dtype)
        raw = self._bytes(_chunk_of(place, shape), at, verify=verify)
        if len(raw) != count * on_disk.itemsize:
            where = f"{self._shown}: {display(place)}"
            raise TraceError(f"damaged: {where} holds {len(raw)} bytes where {count * on_disk.itemsize} were written")
        return np.frombuffer(raw, on_disk.newbyteorder("<"), count).view(dtype).reshape(shape)

    def _metadata(self, name: str, at: int | None) -> dict[str, Any]:
        return zarr3.decoded(bytes(self._bytes(name, at)), f"{self._shown}: {display(name)}")

    def _bytes(self, name: str, at: int | None, *, verify: bool = True) -> memoryview:
        entry, start = self._find(name, at)
        raw = self._map[start : start + entry.size]
        if verify and zips.crc32(raw) != entry.crc:
            raise TraceError(f"damaged: the checksum of {self._shown}: {display(name)} does not fit its data")
        return raw

    def _find(self, name: str, at: int | None) -> tuple[zips.Entry, int]:
        at = self._directory.get(name) if at is None else at
        if at is None:
            raise TraceError(f"damaged: {self._shown}: {display(name)} is missing")
        entry, start = zips.entry_at(self._map, at, self._shown)
        if entry.name != name.encode():
            raise TraceError(f"damaged: {self._shown}: {display(name)} is not where it was written")
        return entry, start


def _chunk_of(place: str, shape: tuple[int, ...]) -> str:
    return f"{place}/{zarr3.chunk_name(len(shape))}"


def packs(folder: Path) -> dict[int, Path]:
    """The packs of a folder by step, in order; none where there is no such folder."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return {}
    found = {}
    for entry in entries:
        stem = entry.name.removesuffix(SUFFIX)
        if stem != entry.name and stem.isascii() and stem.isdigit() and entry.is_file(follow_symlinks=False):
            found[int(stem)] = Path(entry.path)
    return dict(sorted(found.items()))


def pack_name(step: int) -> str:
    """The file's name of a step's pack; names sort as steps do."""
    return f"{step:010d}{SUFFIX}"


__all__ = ["Pack", "PackWriter", "Slot", "pack_name", "packs"]
