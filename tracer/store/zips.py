"""The records of a stored zip file, as bytes.

Python's zipfile goes back twice for each entry that it writes, and cannot read a file whose directory is still to come.
"""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import NamedTuple

from tracer.errors import TraceError

crc32: Callable[..., int] = zlib.crc32
"""Of data, going on from the sum of what came before where that is given."""
with contextlib.suppress(ImportError):  # four times as fast, where it is installed
    crc32 = import_module("isal.isal_zlib").crc32

ALIGNMENT = 64
"""Bytes: where a tensor's data begins in the file, so that it can be used where it lies."""
_PADDING = struct.Struct("<HH")
_PADDING_ID = 0xD935  # what Android's zipalign uses
_PADDED = [_PADDING.pack(_PADDING_ID, gap) + bytes(gap) for gap in range(ALIGNMENT)]
# The records of a zip file: APPNOTE.TXT 4.3.7, 4.3.12, 4.3.14, 4.3.15, 4.3.16, and 4.5.3 for sizes beyond 32 bits.
_MAGIC = b"PK\3\4"
LOCAL = struct.Struct("<4s5H3L2H")
_BEFORE_NAME = LOCAL.size + _PADDING.size
_SIZES = struct.Struct("<3L2H")
_PLACED = struct.Struct("<3L2H10xL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_WIDE = struct.Struct("<2H2Q")
_WIDE_AT = struct.Struct("<2H3Q")
CRC = struct.Struct("<L")
LOCAL_CRC, CENTRAL_CRC = 14, 16
"""Where the checksum stands in them."""
_LARGE, _MANY = 0xFFFFFFFF, 0xFFFF
"""What stands in a record for a number that is in a wider one."""
_limits = _LARGE, _MANY
"""From which size and count on it stands there."""
_VERSION = 45
_UTF8 = 0x800
_DATE = (1 << 5) | 1  # the first of January 1980: when it was written stands in the attributes
_SAME = struct.pack("<5H", _VERSION, _UTF8, 0, 0, _DATE)
_BEFORE_SIZES, _BEFORE_PLACED = _MAGIC + _SAME, b"PK\1\2" + _VERSION.to_bytes(2, "little") + _SAME
"""What all headers, and all records of the directory, begin with."""


class Entry(NamedTuple):
    """An entry of a zip: its checksum, its size in bytes, and where its header begins in the file."""

    name: bytes
    crc: int
    size: int
    at: int


def wide(size: int) -> bytes:
    """What is added to the header of an entry whose size does not fit into it."""
    return _WIDE.pack(1, 16, size, size) if size >= _limits[0] else b""


def local(name: bytes, crc: int, size: int, extra: bytes) -> bytes:
    """What stands before an entry's data."""
    said = _LARGE if size >= _limits[0] else size
    return _BEFORE_SIZES + _SIZES.pack(crc, said, said, len(name), len(extra)) + name + extra


def record(name: bytes, crc: int, size: int, offset: int) -> bytes:
    """What stands in the directory of an entry."""
    if size < _limits[0] and offset < _limits[0]:
        return _BEFORE_PLACED + _PLACED.pack(crc, size, size, len(name), 0, offset) + name
    extra = _WIDE_AT.pack(1, 24, size, size, offset)
    return _BEFORE_PLACED + _PLACED.pack(crc, _LARGE, _LARGE, len(name), len(extra), _LARGE) + name + extra


def ending(start: int, length: int, count: int) -> bytes:
    """What follows the directory of ``count`` entries, which has ``length`` bytes from ``start`` on."""
    end, wide = (count, length, start), b""
    if start + length >= _limits[0] or count >= _limits[1]:
        fields = (_END64.size - 12, _VERSION, _VERSION, 0, 0, count, *end)
        wide = _END64.pack(b"PK\6\6", *fields) + _LOCATOR.pack(b"PK\6\7", 0, start + length, 1)
        end = _MANY, _LARGE, _LARGE
    return wide + _END.pack(b"PK\5\6", 0, 0, end[0], *end, 0)


def aligned(name: bytes, size: int, at: int, crc: int = 0) -> bytes:
    """:func:`local` of an entry at ``at`` whose data begins at a multiple of :data:`ALIGNMENT` bytes."""
    extra = wide(size)
    gap = -(at + _BEFORE_NAME + len(name) + len(extra)) % ALIGNMENT
    return local(name, crc, size, extra + _PADDED[gap])


HEAD = 1 << 12
"""Bytes that are looked at for what stands before an entry's data, but for names that are longer."""


class Layout:
    """Where the entries of a stored zip lie that is written from beginning to end.

    Attributes:
        at: where the next one begins in the file.
        entries: those that the directory will list.
    """

    def __init__(self) -> None:
        self.at = 0
        self.entries: list[Entry] = []

    def data(self, name: bytes, size: int, crc: int) -> tuple[Entry, bytes]:
        """An aligned entry whose data follow, not listed yet, and what stands before them."""
        head = aligned(name, size, self.at, crc)
        entry = Entry(name, crc, size, self.at)
        self.at += len(head) + size
        return entry, head

    def whole(self, name: bytes, size: int, crc: int, whole: bytes) -> bytes:
        """List an entry that is given with its header, which is what is to be written."""
        self.entries.append(Entry(name, crc, size, self.at))
        self.at += len(whole)
        return whole

    def ended(self) -> Iterator[tuple[Entry, int]]:
        """Each entry, and where it ends in the file."""
        entries = sorted(self.entries, key=lambda entry: entry.at)
        return zip(entries, [*(entry.at for entry in entries[1:]), self.at], strict=False)

    def cut(self, at: int) -> None:
        """Go on from there again."""
        self.at = at
        self.entries = [entry for entry in self.entries if entry.at < at]

    def end(self) -> bytes:
        """The directory."""
        records = b"".join(record(entry.name, entry.crc, entry.size, entry.at) for entry in self.entries)
        return records + ending(self.at, len(records), len(self.entries))


def entry_at(window: memoryview, at: int, shown: str, begin: int = 0, length: int | None = None) -> tuple[Entry, int]:
    """The entry that begins at ``at``, and where its data does.

    ``window`` is the file, of ``length`` bytes, from ``begin`` on. Raises TraceError, naming the file as ``shown``,
    unless it is a stored one and whole.
    """
    where = f"damaged: no entry that tracer wrote at {at} in {shown}"
    length = len(window) if length is None else length
    head = at - begin
    try:
        if not 0 <= head <= len(window):
            raise TraceError(where)
        magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = LOCAL.unpack_from(window, head)
        start = head + LOCAL.size + name_length + extra_length
        if packed == size == _LARGE:
            _, _, size, packed = _WIDE.unpack_from(window, start - extra_length)
    except struct.error:
        raise TraceError(where) from None
    if (magic, flags, method) != (_MAGIC, _UTF8, zipfile.ZIP_STORED) or packed != size:
        raise TraceError(where)
    if begin + start + size > length:
        raise TraceError(f"damaged: {shown} is cut off")
    return Entry(bytes(window[head + LOCAL.size :][:name_length]), crc, size, at), begin + start
