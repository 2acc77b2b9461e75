"""Cheap checks of a file before any framework sees it: is it there, is it a file, what is it, is it a trap?"""

from __future__ import annotations

import difflib
import os
import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import Literal

from tracer.errors import InputError, RefusedError
from tracer.names import display

Kind = Literal[
    "zip",
    "hdf5",
    "pickle",
    "json",
    "npy",
    "safetensors",
    "elf",
    "gzip",
    "tar",
    "tflite",
    "html",
    "git-lfs",
    "unknown",
]

_HEAD = 4096
_LARGEST_HEADER = 100 << 20
"""safetensors itself refuses longer headers."""
_MEMBERS = 200_000
_END = struct.Struct("<4s4H2LH")
"""A zip's last record: signature, disks, members here and in all, the directory's bytes and place, a comment's."""
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_MOST = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
"""What the last record says of members, bytes and place where zip64's record holds them."""
_SMALL = 1 << 20
"""Below this many bytes a compressed member may have any ratio: configurations compress well."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _missing(path: Path) -> InputError:
    try:
        near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=2, cutoff=0.7)
    except OSError:
        near = []
    hint = f"; did you mean {' or '.join(display(name) for name in near)}?" if near else ""
    return InputError(f"no such file: {display(str(path))}{hint}")


def check_kind(path: Path) -> int:
    """The size of ``path`` in bytes. Raises InputError where it is no regular file, OSError where there is none."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "not a regular file")
        raise InputError(f"{display(str(path))} is {kind}, where a file is wanted")
    return status.st_size


def _head(path: Path) -> bytes:
    # O_NONBLOCK: had the file become a named pipe since it was looked at, opening it must not hang.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        return file.read(_HEAD)


def check_regular_file(path: Path) -> None:
    """See that ``path`` is a readable file with something of its own in it.

    Raises InputError, in one line, for a missing file (naming near ones in its folder), a directory, pipe or
    device, an unreadable or empty file, a git-lfs pointer, and a web page saved in place of the file.
    """
    shown = display(str(path))
    try:
        size = check_kind(path)
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise InputError(f"{shown} is a symbolic link to a file that does not exist") from None
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {shown}: {getattr(error, 'strerror', None) or error}") from error
    if not size:
        raise InputError(f"{shown} is empty")
    kind = sniff(path)
    if kind == "git-lfs":
        raise InputError(f"{shown} is a git-lfs pointer, not the file itself: run 'git lfs pull'")
    if kind == "html":
        raise InputError(f"{shown} is a web page, not the file it should be: the download went wrong")


def sniff(path: Path) -> Kind:
    """What the first bytes say a file is. A pickle of protocol 0 or 1 is ``unknown``.

    Raises InputError when it cannot be read.
    """
    try:
        head = _head(path)
        size = path.stat().st_size
        # An archive may hold an HDF5 file at just such a place.
        if head[:8] != b"\x89HDF\r\n\x1a\n" and head[:4] != b"PK\x03\x04" and _hdf5_after_user_block(path, size):
            return "hdf5"
    except OSError as error:
        raise InputError(f"cannot read {display(str(path))}: {error.strerror}") from error
    return _kind(head, size)


def _hdf5_after_user_block(path: Path, size: int) -> bool:
    if path.suffix.lower() not in (".h5", ".hdf5", ".keras", ".hdf"):
        return False
    with open(path, "rb") as file:
        offset = 512
        while offset < min(size, 1 << 20):
            file.seek(offset)
            if file.read(8) == b"\x89HDF\r\n\x1a\n":
                return True
            offset *= 2
    return False


_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"\x93NUMPY", "npy"),
    (b"\x7fELF", "elf"),
    (b"\x1f\x8b", "gzip"),
    (b"version https://git-lfs.github.com/spec/", "git-lfs"),
)


def _kind(head: bytes, size: int) -> Kind:
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"TFL3":
        return "tflite"
    if len(head) >= 9:  # before pickles: the length of its header may begin as they do
        (length,) = struct.unpack_from("<Q", head)
        if head[8:9] == b"{" and 2 <= length <= min(_LARGEST_HEADER, size - 8):
            return "safetensors"
    if len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return "pickle"
    if head[257:262] == b"ustar":
        return "tar"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"<(!doctype html|html|head|\?xml)", text, re.IGNORECASE):
        return "html"
    if text[:1] in (b"{", b"["):
        return "json"
    return "unknown"


def zip_names(path: Path) -> tuple[str, ...]:
    """The names of a zip's members; none when its directory cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except Exception:  # of a damaged directory zipfile raises half a dozen types
        return ()


def zip_check(path: Path, max_ratio: float = 100, max_member: int = 8 << 30) -> None:
    """See from its directory alone that a zip is whole and no trap; nothing is unpacked.

    ``max_ratio`` is the most a compressed member, or the whole, may grow; ``max_member`` the most bytes one
    compressed member may become. Raises InputError for a truncated, damaged or password-protected zip, and
    RefusedError for bombs, members outside the archive's own folder, links, and names that occur twice.
    """
    shown = display(str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            agreed = _one_directory(archive)
        size = path.stat().st_size
    except Exception as error:  # of a damaged directory zipfile raises half a dozen types
        raise InputError(f"{shown}: truncated or damaged zip") from error
    if not agreed:
        raise RefusedError(f"{shown}: a zip whose end does not say where its directory lies: readers would not agree")
    if len(members) > _MEMBERS:
        raise RefusedError(f"{shown}: a zip of {len(members)} members, where {_MEMBERS} are allowed")
    if sum(member.compress_size for member in members) > size:
        raise RefusedError(f"{shown}: a zip whose members overlap, or that lost its end")
    names: set[str] = set()
    for member in members:
        _check_name(shown, member, names)
        _check_size(shown, member, max_ratio, max_member)
    total = sum(member.file_size for member in members)
    if total > max(max_ratio * size, _SMALL):
        raise RefusedError(f"{shown}: a zip bomb: {size} bytes would unpack to {total}")


def _one_directory(archive: zipfile.ZipFile) -> bool:
    """Whether other readers find the directory that zipfile found.

    zipfile takes what lies right before the end record, others (torch's miniz) go where that record says, and by
    zip64's own record where there is one: two directories, of which only one would be checked.
    """
    file = archive.fp
    assert file is not None
    end = file.seek(0, os.SEEK_END) - _END.size - len(archive.comment)
    file.seek(end)
    signature, *_, count, length, start, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\5\6" or comment != len(archive.comment):
        return False
    said, found = (count, length, start), (len(archive.infolist()), length, archive.start_dir)
    end_64 = end - _LOCATOR.size - _END_64.size
    file.seek(max(0, end_64))
    before = file.read(end - max(0, end_64))
    if before[-_LOCATOR.size :][:4] != b"PK\6\7":
        return said == found
    if len(before) < _END_64.size + _LOCATOR.size:
        return False
    _, _, where, _ = _LOCATOR.unpack(before[-_LOCATOR.size :])
    signature, *_, count, length, start = _END_64.unpack(before[: _END_64.size])
    found = (len(archive.infolist()), length, archive.start_dir)
    return (signature, where, (count, length, start)) == (b"PK\6\6", end_64, found) and all(
        short in (whole, most) for short, whole, most in zip(said, found, _MOST, strict=True)
    )


def _check_name(shown: str, member: zipfile.ZipInfo, names: set[str]) -> None:
    # The name as it stands in the file: zipfile cuts at a NUL and turns the system's separators.
    name = member.orig_filename
    where = f"{shown}: zip member {display(name, 100)}"
    path = name.replace("\\", "/")
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/") or "\0" in name:
        raise RefusedError(f"{where} would land outside the archive's own folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise RefusedError(f"{where} is a symbolic link")
    if name in names:
        raise RefusedError(f"{where} occurs twice, and readers would not agree which one counts")
    names.add(name)


def _check_size(shown: str, member: zipfile.ZipInfo, max_ratio: float, max_member: int) -> None:
    where = f"{shown}: zip member {display(member.orig_filename, 100)}"
    if member.flag_bits & 0x1:
        raise InputError(f"{where} is password-protected")
    if member.compress_type == zipfile.ZIP_STORED:
        if member.file_size != member.compress_size:
            raise RefusedError(f"{where} declares two sizes")
        return
    if member.file_size > max_member:
        raise RefusedError(f"{where} would unpack to {member.file_size} bytes, where {max_member} are allowed")
    if member.file_size > max(max_ratio * member.compress_size, _SMALL):
        raise RefusedError(f"{where} is a zip bomb: {member.compress_size} bytes to {member.file_size}")
