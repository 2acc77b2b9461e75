"""Cheap checks of model files before torch is imported: regular, whole, and of a form that can be loaded as data."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from pathlib import Path

from tracer.errors import InputError, RefusedError
from tracer.names import display

_LARGEST_RATIO = 100
"""Unpacked over packed size above which a zip member is taken for a bomb; torch stores its records unpacked."""
_LARGEST_HEADER = 100 << 20
"""safetensors refuses larger headers as well."""
_RETRACE = "hooks do not fire inside it: build the nn.Module in Python and give its weights with --arch"


def check_file(path: Path) -> str:
    """Say what ``path`` holds: ``zip``, ``pickle`` (old torch.save) or ``safetensors``.

    Raises InputError for anything that is not a whole regular file of these, RefusedError for files that are
    programs (TorchScript, torch.export, torch.package) or built to exhaust memory.
    """
    shown = display(str(path))
    head, size = _beginning(path, shown)
    if not head:
        raise InputError(f"{shown} is empty")
    if head.startswith(b"version https://git-lfs.github.com"):
        raise InputError(f"{shown} is a git-lfs pointer, not the file itself: run 'git lfs pull'")
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise InputError(f"{shown} is a web page, not a model: the download went wrong")
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path, shown)
        return "zip"
    if path.suffix.lower() == ".safetensors":
        _check_safetensors(head, size, shown)
        return "safetensors"
    if head[0] == 0x80 and 1 <= head[1] <= 5:
        return "pickle"
    raise InputError(_other_format(head, shown))


def _beginning(path: Path, shown: str) -> tuple[bytes, int]:
    """The first bytes of a regular file, and its size."""
    try:
        status = os.stat(path)
        kind = stat.S_IFMT(status.st_mode)
        # Only a regular file is opened: opening a FIFO would wait for ever.
        if kind == stat.S_IFREG:
            with open(path, "rb") as file:
                return file.read(512), status.st_size
    except FileNotFoundError:
        raise InputError(f"{shown} does not exist") from None
    except OSError as error:
        raise InputError(f"{shown} cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError:
        raise InputError(f"{shown} is not a legal file name") from None
    if kind == stat.S_IFDIR:
        raise InputError(f"{shown} is a directory; give the .pt, .pth or .safetensors file inside it")
    raise InputError(f"{shown} is not a regular file")


def _other_format(head: bytes, shown: str) -> str:
    if head.startswith(b"\x89HDF\r\n"):
        return f"{shown} is an HDF5 file (Keras): record it with 'tracer record tf'"
    if head.startswith(b"PK"):
        return f"{shown} is a damaged or empty zip archive"
    if head[257:262] == b"ustar":
        return f"{shown} is a tar archive; files of torch before 0.2 and archives are not read: unpack or save it again"
    if head.startswith(b"\x1f\x8b"):
        return f"{shown} is gzip-compressed: unpack it first"
    if head.startswith(b"\x93NUMPY"):
        return f"{shown} is a numpy array, not a model"
    return f"{shown} is not a PyTorch file: expected a torch.save zip or pickle, or .safetensors"


def _check_zip(path: Path, shown: str) -> None:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, OverflowError):
        raise InputError(f"{shown} is truncated or damaged: its zip directory cannot be read") from None
    names = [_inner(member.filename) for member in members]
    _check_contents(set(names), {member.filename for member in members}, shown)
    for name, member in zip(names, members, strict=True):
        if member.header_offset + member.compress_size > size:
            raise InputError(f"{shown} is truncated or damaged: record '{display(name, 60)}' lies outside the file")
        packed = member.compress_type != zipfile.ZIP_STORED
        bomb = member.file_size > _LARGEST_RATIO * max(member.compress_size, 1)
        if bomb or (packed and name.startswith("data/")):
            # torch.save never compresses; torch.load would unpack whatever size is claimed.
            raise RefusedError(
                f"{shown} holds compressed records ({member.file_size:,} bytes out of "
                f"{member.compress_size:,}), which torch.save never writes: refused; save it again with torch.save"
            )
    if "data.pkl" not in names:
        raise InputError(f"{shown} is a zip archive but not a torch.save file (no data.pkl)")


def _inner(name: str) -> str:
    """The record's name without the archive's own top folder."""
    return name.partition("/")[2] or name


def _check_contents(inner: set[str], full: set[str], shown: str) -> None:
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise RefusedError(f"{shown} is TorchScript, which runs code while it is loaded, and {_RETRACE}")
    exported = ("archive_format", "serialized_exported_program.json")
    if any(name.endswith(exported) for name in full):
        raise RefusedError(f"{shown} is a torch.export archive, which can run code while it is loaded, and {_RETRACE}")
    if any(name.startswith(".data/") or "/.data/extern_modules" in name for name in full | inner) and any(
        name.endswith("extern_modules") for name in full
    ):
        raise RefusedError(f"{shown} is a torch.package archive: loading it runs the Python inside; not supported")
    if any(name.endswith("model.weights.h5") for name in full):
        raise InputError(f"{shown} is a Keras file: record it with 'tracer record tf'")
    if full and all(name.endswith(".npy") for name in full):
        raise InputError(f"{shown} is a numpy .npz archive, not a model")


def _check_safetensors(head: bytes, size: int, shown: str) -> None:
    length = int.from_bytes(head[:8], "little") if len(head) >= 8 else -1
    if length <= 0 or head[8:9] != b"{":
        raise InputError(f"{shown} is not a safetensors file")
    if length > size - 8 or length > _LARGEST_HEADER:
        raise InputError(f"{shown} is truncated or damaged: its header claims {length:,} bytes of {size:,}")
