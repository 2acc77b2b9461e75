"""One step of a recording in one file: a stored zip that is a Zarr v3 hierarchy itself.

A step has hundreds of tensors, a run has thousands of steps: a file for each tensor of each would cost more than the
bytes. The zip is written from beginning to end under another name and renamed when it is whole, so a step is there or
it is not, and one that retention drops is one file less. zarr-python opens it (``zarr.storage.ZipStore``); the zip's
own CRC-32 of every chunk takes the place of the ``crc32c`` codec. Reading here takes stored entries alone, of the form
that :mod:`tracer.store.zarr3` writes: no codec and no decompression is reached by a hostile file.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import uuid
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.errors import TraceError
from tracer.names import display
from tracer.store import zarr3

SUFFIX = ".zarr.zip"
_ALIGNMENT = 64
"""Bytes: where a tensor's data begins in the file, so that it can be used where it lies."""
_PADDING = struct.Struct("<HH")
_PADDING_ID = 0xD935  # what Android's zipalign uses
# The records of a zip file: APPNOTE.TXT 4.3.7, 4.3.12, 4.3.14, 4.3.15, 4.3.16, and 4.5.3 for sizes beyond 32 bits.
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_WIDE = struct.Struct("<2H2Q")
_WIDE_AT = struct.Struct("<2H3Q")
_LARGE, _MANY = 0xFFFFFFFF, 0xFFFF
"""What stands in a record for a number that is in a wider one."""
_limits = _LARGE, _MANY
"""From which size and count on it stands there."""
_GATHERED = 1 << 14
"""Bytes: smaller pieces are copied together and written at once."""
_VERSION = 45
_UTF8 = 0x800
_DATE = (1 << 5) | 1  # the first of January 1980: when it was written stands in the attributes


@dataclass(slots=True)
class _Entry:
    name: bytes
    crc: int
    size: int
    offset: int


class PackWriter:
    """Writes one pack; nothing is at ``path`` before :meth:`commit`.

    Python's zipfile writes three records and goes back twice for each tensor, which costs more than small tensors
    themselves: a tensor is one write here, and what describes them all is one at the end.

    Raises OSError where the disk fails; what was written is then to be given up with :meth:`abort`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f"{zarr3.TEMPORARY}-{uuid.uuid4().hex}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file: int | None = os.open(self._temporary, flags, 0o644)
        self._at = 0
        self._entries: list[_Entry] = []
        self._described: dict[str, bytes] = {}

    def put(self, place: str, values: NDArray[Any], attributes: Mapping[str, Any], dimensions: Sequence[str]) -> None:
        """Write an array at a path relative to the hierarchy's root."""
        raw, metadata = zarr3.as_stored(values, attributes, dimensions, checksum=False)
        if raw:
            self._put(*self._entry(f"{place}/{zarr3.chunk_name(values.ndim)}", raw, True))
        self._described[place] = zarr3.encoded(metadata)

    def commit(self, attributes: Mapping[str, Any]) -> int:
        """Put the pack in its place, with ``attributes`` at its root. Its size in bytes."""
        assert self._file is not None, "it is over"
        group = zarr3.encoded(zarr3.group_metadata({}))
        for place in list(self._described):
            while (place := place.rpartition("/")[0]) and place not in self._described:
                self._described[place] = group
        self._described[""] = zarr3.encoded(zarr3.group_metadata(attributes))
        described = []
        for place, text in self._described.items():
            described += self._entry(f"{place}/{zarr3.METADATA}" if place else zarr3.METADATA, memoryview(text), False)
        self._put(*described)
        self._put(*self._directory())
        os.close(self._file)
        self._file = None
        os.replace(self._temporary, self.path)
        return self._at

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._temporary.unlink(missing_ok=True)

    def _entry(self, name: str, data: memoryview, aligned: bool) -> list[bytes | memoryview]:
        """The pieces of a stored entry that is written next."""
        raw, size = name.encode(), len(data)
        crc = zlib.crc32(data)
        wide = size >= _limits[0]
        extra = _WIDE.pack(1, 16, size, size) if wide else b""
        if aligned:
            gap = -(self._at + _LOCAL.size + len(raw) + len(extra) + _PADDING.size) % _ALIGNMENT
            extra += _PADDING.pack(_PADDING_ID, gap) + bytes(gap)
        said = _LARGE if wide else size
        head = _LOCAL.pack(b"PK\3\4", _VERSION, _UTF8, 0, 0, _DATE, crc, said, said, len(raw), len(extra))
        self._entries.append(_Entry(raw, crc, size, self._at))
        self._at += len(head) + len(raw) + len(extra) + size
        return [head, raw, extra, data]

    def _directory(self) -> list[bytes]:
        parts = []
        for entry in self._entries:
            wide = max(entry.size, entry.offset) >= _limits[0]
            extra = _WIDE_AT.pack(1, 24, entry.size, entry.size, entry.offset) if wide else b""
            size, offset = (_LARGE, _LARGE) if wide else (entry.size, entry.offset)
            parts.append(
                _CENTRAL.pack(
                    b"PK\1\2", _VERSION, _VERSION, _UTF8, 0, 0, _DATE, entry.crc, size, size, len(entry.name),
                    len(extra), 0, 0, 0, 0, offset,
                )
                + entry.name + extra
            )  # fmt: skip
        start, length, count = self._at, sum(map(len, parts)), len(parts)
        end = count, length, start
        if start + length >= _limits[0] or count >= _limits[1]:
            fields = (_END64.size - 12, _VERSION, _VERSION, 0, 0, count, *end)
            parts += [_END64.pack(b"PK\6\6", *fields), _LOCATOR.pack(b"PK\6\7", 0, start + length, 1)]
            end = _MANY, _LARGE, _LARGE
        parts.append(_END.pack(b"PK\5\6", 0, 0, end[0], *end, 0))
        self._at += sum(map(len, parts))
        return parts

    def _put(self, *pieces: bytes | memoryview) -> None:
        assert self._file is not None, "it is over"
        small, whole = bytearray(), []
        for piece in pieces:
            if len(piece) < _GATHERED:
                small += piece
            else:
                whole += [memoryview(bytes(small)), memoryview(piece)]
                small = bytearray()
        for part in (*whole, memoryview(small)):
            zarr3.write_all(self._file, part)


class Pack:
    """A pack that is read. Raises FileNotFoundError, or TraceError where it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shown = display(str(path))
        descriptor = zarr3.open_regular(path)
        with os.fdopen(descriptor, "rb") as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                with zipfile.ZipFile(file) as directory:
                    self._entries = {info.filename: info for info in directory.infolist()}
            except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
                raise TraceError(f"damaged: {self._shown} is not a whole zip file") from error

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Of the root."""
        return self._metadata("")["attributes"]  # type: ignore[no-any-return]

    def array_attributes(self, place: str) -> dict[str, Any]:
        """Of one array. Raises TraceError where it is missing or damaged."""
        return self._metadata(place)["attributes"]  # type: ignore[no-any-return]

    def fingerprint(self, place: str, rank: int) -> tuple[int, ...]:
        """Size and CRC-32 of an array's chunk; nothing for an empty array's."""
        info = self._entries.get(f"{place}/{zarr3.chunk_name(rank)}")
        return () if info is None else (info.file_size, info.CRC)

    def read_array(self, place: str, *, verify: bool = True) -> NDArray[Any]:
        """An array where it lies in the file, read-only, in its true element type.

        Raises TraceError when anything is missing or damaged; with ``verify`` the whole chunk is read for that.
        """
        where = f"{self._shown}: {display(place)}"
        shape, on_disk, dtype = zarr3.layout_of(self._metadata(place), where, checksum=False)
        count = math.prod(shape)
        if count == 0:
            return np.empty(shape, dtype)
        raw = self._bytes(f"{place}/{zarr3.chunk_name(len(shape))}", verify=verify)
        if len(raw) != count * on_disk.itemsize:
            raise TraceError(f"damaged: {where} holds {len(raw)} bytes where {count * on_disk.itemsize} were written")
        return np.frombuffer(raw, on_disk.newbyteorder("<"), count).view(dtype).reshape(shape)

    def _metadata(self, place: str) -> dict[str, Any]:
        name = f"{place}/{zarr3.METADATA}" if place else zarr3.METADATA
        return zarr3.decoded(bytes(self._bytes(name)), f"{self._shown}: {display(name)}")

    def _bytes(self, name: str, *, verify: bool = True) -> memoryview:
        info = self._entries.get(name)
        where = f"{self._shown}: {display(name)}"
        if info is None:
            raise TraceError(f"damaged: {where} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            raise TraceError(f"{where} is not an entry that tracer wrote")
        start = info.header_offset
        try:
            magic, *_, name_length, extra_length = _LOCAL.unpack_from(self._map, start)
        except struct.error:
            raise TraceError(f"damaged: {where} lies outside the file") from None
        start += _LOCAL.size + name_length + extra_length
        raw = memoryview(self._map)[start : start + info.file_size]
        if magic != b"PK\3\4" or len(raw) != info.file_size or info.file_size != info.compress_size:
            raise TraceError(f"damaged: {where} is not whole")
        if verify and zlib.crc32(raw) != info.CRC:
            raise TraceError(f"damaged: the checksum of {where} does not fit its data")
        return raw


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


__all__ = ["Pack", "PackWriter", "pack_name", "packs"]
