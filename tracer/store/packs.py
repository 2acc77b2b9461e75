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
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.errors import TraceError
from tracer.names import display
from tracer.store import zarr3

SUFFIX = ".zarr.zip"
_ALIGNMENT = 64
"""Bytes: where a tensor's data begins in the file, so that it can be used where it lies."""
_PADDING = struct.Struct("<HH")
_PADDING_ID = 0xD935  # what Android's zipalign uses
_HEADER = struct.Struct("<4s5H3L2H")  # of a local file: APPNOTE.TXT 4.3.7
_ALWAYS = (1980, 1, 1, 0, 0, 0)


class PackWriter:
    """Writes one pack; nothing is at ``path`` before :meth:`commit`.

    Raises OSError where the disk fails; what was written is then to be given up with :meth:`abort`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f"{zarr3.TEMPORARY}-{uuid.uuid4().hex}")
        self._file = open(self._temporary, "wb")  # noqa: SIM115
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        self._groups: set[str] = set()

    @property
    def nbytes(self) -> int:
        """Written so far."""
        return self._file.tell()

    def put(self, place: str, values: NDArray[Any], attributes: Mapping[str, Any], dimensions: Sequence[str]) -> None:
        """Write an array at a path relative to the hierarchy's root."""
        self._group(str(PurePosixPath(place).parent))
        on_disk = dtypes.stored_as(values.dtype)
        data = np.asarray(values, order="C").view(on_disk).astype(on_disk.newbyteorder("<"), copy=False)
        extra = {} if on_disk == values.dtype else {"dtype": values.dtype.name}
        metadata = zarr3.array_metadata(values.shape, on_disk, {**attributes, **extra}, dimensions, checksum=False)
        if data.size:
            self._write(f"{place}/{zarr3.chunk_name(values.ndim)}", data.reshape(-1).view(np.uint8).data)
        self._describe(place, metadata)

    def commit(self, attributes: Mapping[str, Any]) -> int:
        """Put the pack in its place, with ``attributes`` at its root. Its size in bytes."""
        self._describe("", zarr3.group_metadata(attributes))
        self._zip.close()
        size = self._file.tell()
        self._file.close()
        os.replace(self._temporary, self.path)
        return size

    def abort(self) -> None:
        """Leave nothing behind."""
        self._zip.fp = None  # else it would write its directory when it is collected
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _group(self, place: str) -> None:
        while place != "." and place not in self._groups:
            self._groups.add(place)
            self._describe(place, zarr3.group_metadata({}))
            place = str(PurePosixPath(place).parent)

    def _describe(self, place: str, metadata: Mapping[str, Any]) -> None:
        name = f"{place}/{zarr3.METADATA}" if place else zarr3.METADATA
        self._zip.writestr(zipfile.ZipInfo(name, _ALWAYS), zarr3.encoded(metadata))

    def _write(self, name: str, data: memoryview) -> None:
        info = zipfile.ZipInfo(name, _ALWAYS)
        start = self._file.tell() + _HEADER.size + len(name.encode()) + _PADDING.size
        gap = -start % _ALIGNMENT
        info.extra = _PADDING.pack(_PADDING_ID, gap) + bytes(gap)
        info.file_size = len(data)
        with self._zip.open(info, "w", force_zip64=len(data) > zipfile.ZIP64_LIMIT // 2) as entry:
            entry.write(data)


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

    @property
    def nbytes(self) -> int:
        return len(self._map)

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
            magic, *_, name_length, extra_length = _HEADER.unpack_from(self._map, start)
        except struct.error:
            raise TraceError(f"damaged: {where} lies outside the file") from None
        start += _HEADER.size + name_length + extra_length
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
