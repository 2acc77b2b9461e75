"""The tensors of one run, or of one step of many, in one file: a stored zip that is a Zarr v3 hierarchy itself.

A run has hundreds or thousands of tensors: files and folders for each would cost more than the bytes. The zip is
written from beginning to end. A step's (here) is renamed when it is whole, so it is there or it is not, and one that
retention drops is one file less; a run's (:mod:`tracer.store.runs`) is there from the start. zarr-python opens it
(``zarr.storage.ZipStore``); the zip's own CRC-32 of every chunk takes the place of the ``crc32c`` codec. Reading here
takes stored entries alone, of the form that :mod:`tracer.store.zarr3` writes, or :mod:`tracer.store.packed`: no other
codec is reached by a hostile file.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import uuid
import weakref
import zipfile
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.errors import TraceError
from tracer.names import display
from tracer.store import packed, sources, zarr3, zips

SUFFIX = ".zarr.zip"
PACKED = "packed"
"""The attribute at the root of a file that was written anew: whether its arrays are compressed."""
GATHERED = 1 << 16
_ROOM = 4 * GATHERED
"""Bytes: what is smaller than the first is copied together, up to the second, and written at once."""
_WINDOW = 8 << 20
"""Bytes that are asked for at once of a file that lies elsewhere, and looked at before their pages are let go of."""


class Text(NamedTuple):
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
    return Text.of(place, zarr3.group_text({}))


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
        chunk = f"{place}/{zarr3.chunk_name(values.ndim)}".encode()
        text = Text.of(place, zarr3.described(values.shape, values.dtype, attributes, dimensions, checksum=False))
        return cls(place, values.shape, values.dtype, dtypes.stored_as(values.dtype), chunk, text)


class _Chunk(NamedTuple):
    """An entry that holds data: what stands in the file around its checksum, and where it begins and ends."""

    name: bytes
    size: int
    at: int
    end: int
    before: bytes
    after: bytes

    @classmethod
    def of(cls, name: bytes, size: int, at: int) -> _Chunk:
        head = zips.aligned(name, size, at)
        end = at + len(head) + size
        return cls(name, size, at, end, head[: zips.LOCAL_CRC], head[zips.LOCAL_CRC + zips.CRC.size :])


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

    With ``durable`` a pack outlasts a power cut once it is committed. Raises OSError where the disk fails; what was
    written is then to be given up with :meth:`abort`.
    """

    def __init__(self, path: Path, like: PackWriter | None = None, *, durable: bool = False) -> None:
        self.path = path
        self._durable = durable
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
        more = {name: f"[{','.join(items)}]" for name, items in (lists or {}).items()}
        root = Text.of("", zarr3.group_text(attributes, more))
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
        if self._durable:
            os.fsync(self._file)
        os.replace(self._temporary, self.path)
        os.close(self._file)
        self._file = None
        if self._durable:
            zarr3.sync(self.path.parent)
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


@dataclass
class Walk:
    """How far a file that is being written has been read, and where the data begin that are not described yet."""

    at: int = 0
    chunks: dict[str, int] = field(default_factory=dict)


class Pack:
    """A pack that is read. Raises FileNotFoundError, or TraceError where it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shown = sources.shown(path)
        self._file = sources.opened(path)
        self._made: weakref.WeakValueDictionary[str, NDArray[Any]] = weakref.WeakValueDictionary()
        self._recent: deque[NDArray[Any]] = deque()

    @cached_property
    def _directory(self) -> dict[str, zips.Entry]:
        """The entries, as the end of a whole pack lists them."""
        try:
            with self._file.open() as file, zipfile.ZipFile(file) as directory:
                return {
                    one.filename: zips.Entry(one.filename.encode(), one.CRC, one.file_size, one.header_offset)
                    for one in directory.infolist()
                }
        except FileNotFoundError as error:
            raise TraceError(f"{self._shown} was deleted or replaced while it was read") from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise TraceError(f"damaged: {self._shown} is not a whole zip file") from error

    @cached_property
    def _rewritten(self) -> bool:
        """Whether it was written anew after it was recorded (:mod:`tracer.store.packing`), so that the index of the
        recording does not know where things lie: its root comes first then."""
        with contextlib.suppress(TraceError):
            return self._entry(0)[0].name == zarr3.METADATA.encode()
        return False

    @cached_property
    def packed(self) -> bool:
        """Whether its arrays are compressed (:mod:`tracer.store.packed`)."""
        return self._rewritten and self.attributes.get(PACKED) is True

    @property
    def in_place(self) -> bool:
        """Whether an array that is read lies where it was written, so that a part of it costs no more than that."""
        return self._file.mapped and not self.packed

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Of the root. Raises TraceError where the pack is not whole."""
        return self._metadata(zarr3.METADATA, None)["attributes"]  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size

    def so_far(self, walk: Walk | None = None) -> Iterator[tuple[str, int | None, dict[str, Any]]]:
        """Each array that a run has written, until one is not whole: its path, where it begins (None for an empty one),
        its ``zarr.json``. With ``walk`` what came since that was used last."""
        walk = walk or Walk()
        with contextlib.suppress(TraceError, UnicodeDecodeError):
            while True:
                at = walk.at
                entry, start = self._entry(at)
                name = entry.name.decode()
                place, _, last = name.rpartition("/")
                metadata = self._metadata(name, at) if last == zarr3.METADATA else {}
                walk.at = start + entry.size
                if last != zarr3.METADATA:
                    walk.chunks[place] = at
                elif metadata.get("node_type") == "array":
                    yield place, walk.chunks.pop(place, None), metadata

    def arrays(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each array of a whole pack: its path and its ``zarr.json``, in the order in which they were written.

        Raises TraceError.
        """
        for name, entry in sorted(self._directory.items(), key=lambda item: item[1].at):
            place, _, last = name.rpartition("/")
            if last == zarr3.METADATA and (metadata := self._metadata(name, entry.at)).get("node_type") == "array":
                yield place, metadata

    def fingerprint(self, place: str, shape: tuple[int, ...], at: int | None = None) -> tuple[int, ...]:
        """Size and CRC-32 of an array's chunk and when the file changed (ns); nothing for an empty array.

        Raises TraceError where it is missing.
        """
        if not math.prod(shape):
            return ()
        name = _chunk_of(place, shape)
        # Elsewhere each look costs time, and the directory is one.
        entry = self._find(name, at)[0] if self._file.mapped else self._listed(name)
        return entry.size, entry.crc, self._file.changed

    def read_array(
        self,
        place: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        at: int | None = None,
        *,
        verify: bool = True,
    ) -> NDArray[Any]:
        """An array, read-only: where it lies in the file, or put together while somebody holds it; ``at`` is where its
        entry begins, where that is known.

        Raises TraceError when anything is missing or damaged; with ``verify`` the whole chunk is read for that.
        """
        on_disk, count = dtypes.stored_as(dtype), math.prod(shape)
        if count == 0:
            return np.empty(shape, dtype)
        found = self._made.get(place)
        if found is not None and (found.shape, found.dtype) == (shape, dtype):
            return found
        where, size = f"{self._shown}: {display(place)}", count * on_disk.itemsize
        if self.packed:
            if not packed.is_packed(self._metadata(f"{place}/{zarr3.METADATA}", None), shape, on_disk):
                raise TraceError(f"damaged: {where} has no usable array metadata")
            raw: Any = sources.joined(size, self._unpacked(place, shape, on_disk, where, verify))
        else:
            raw = self._raw(_chunk_of(place, shape), at, size, verify=verify)
            if len(raw) != size:
                raise TraceError(f"damaged: {where} holds {len(raw)} bytes where {size} were written")
        array = np.frombuffer(raw, on_disk.newbyteorder("<"), count).view(dtype).reshape(shape)
        if self.packed or not self._file.mapped:
            self._made[place] = array
            self._recent.append(array)
            while sum(one.nbytes for one in self._recent) > sources.SPILLED:
                self._recent.popleft()
        return array

    def _unpacked(
        self, place: str, shape: tuple[int, ...], on_disk: np.dtype[Any], where: str, verify: bool
    ) -> Iterator[NDArray[np.uint8]]:
        """The bytes of a packed array, chunk by chunk."""
        looked_at = 0

        def read(key: str) -> memoryview:
            nonlocal looked_at
            raw = self._bytes(f"{place}/{key}", None, verify=verify)
            looked_at += len(raw)
            if looked_at > _WINDOW and self._file.mapped:
                looked_at = 0
                sources.forget(np.frombuffer(raw, np.uint8))
            return raw

        yield from packed.decoded(shape, on_disk, read, where)

    def _metadata(self, name: str, at: int | None) -> dict[str, Any]:
        return zarr3.decoded(bytes(self._bytes(name, at)), f"{self._shown}: {display(name)}")

    def _raw(self, name: str, at: int | None, expected: int, *, verify: bool) -> memoryview | NDArray[np.uint8]:
        """The bytes of an entry that may be large."""
        if self._file.mapped or expected <= _WINDOW:
            return self._bytes(name, at, expected, verify=verify)
        entry, start = self._find(name, at)
        edges = range(start, start + entry.size, _WINDOW)
        pieces = (self._file.view(edge, min(edge + _WINDOW, start + entry.size)) for edge in edges)
        raw = sources.joined(entry.size, pieces)
        if verify:
            self._check(raw.data, entry)
        return raw

    def _bytes(self, name: str, at: int | None, expected: int = 0, *, verify: bool = True) -> memoryview:
        entry, start = self._find(name, at, expected)
        raw = self._file.view(start, start + entry.size)
        if verify:
            self._check(raw, entry)
        return raw

    def _check(self, raw: memoryview, entry: zips.Entry) -> None:
        crc = 0
        for start in range(0, len(raw), _WINDOW):
            part = raw[start : start + _WINDOW]
            crc = zips.crc32(part, crc)
            if len(raw) > _WINDOW:
                sources.forget(np.frombuffer(part, np.uint8))
        if crc != entry.crc:
            name = entry.name.decode(errors="replace")
            raise TraceError(f"damaged: the checksum of {self._shown}: {display(name)} does not fit its data")

    def _entry(self, at: int, expected: int = 0) -> tuple[zips.Entry, int]:
        """The entry at a place of the file, and where its data begins; ``expected`` bytes of them are wanted next."""
        window = self._file.view(at, at + zips.HEAD + min(expected, _WINDOW))
        return zips.entry_at(window, at, self._shown, at, self._file.size)

    def _listed(self, name: str) -> zips.Entry:
        entry = self._directory.get(name)
        if entry is None:
            raise TraceError(f"damaged: {self._shown}: {display(name)} is missing")
        return entry

    def _find(self, name: str, at: int | None, expected: int = 0) -> tuple[zips.Entry, int]:
        if at is None or self._rewritten:
            at = self._listed(name).at
        entry, start = self._entry(at, expected)
        if entry.name != name.encode():
            raise TraceError(f"damaged: {self._shown}: {display(name)} is not where it was written")
        return entry, start


def _chunk_of(place: str, shape: tuple[int, ...]) -> str:
    """The entry of an array's only chunk, or of the first of several."""
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


__all__ = ["Pack", "PackWriter", "Slot", "Walk", "pack_name", "packs"]
