"""Cheap checks of model files, before any framework is imported."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Literal

from tracer.adapter import LoadRequest
from tracer.errors import InputError, RefusedError

Format = Literal["hdf5", "zip", "json"]

MAX_CONFIG = 64 << 20
_MAX_RATIO = 100
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512, 1024, 2048)


def preflight(request: LoadRequest) -> None:
    """Check every file of ``request``. Raises InputError or RefusedError, in one line."""
    if request.path is None and request.arch is None:
        raise InputError("no model: give a model file, or --arch pkg.mod:callable")
    for path in (request.path, request.weights):
        if path is not None:
            check(path)


def check(path: Path) -> Format:
    """What ``path`` is. Raises InputError when it is no model file, RefusedError when it is built to do harm."""
    try:
        info = path.stat()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or 'cannot be opened'}") from None
    except ValueError:
        raise InputError(f"{str(path)!r} is no file name") from None
    if stat.S_ISDIR(info.st_mode):
        raise InputError(f"{path} is a directory; Keras models are .keras, .h5 or .json files")
    if not stat.S_ISREG(info.st_mode):
        raise InputError(f"{path} is not a regular file")
    if not info.st_size:
        raise InputError(f"{path} is empty")
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or 'cannot be read'}") from None
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a git-lfs pointer, not the model: run git lfs pull")
    if any(head[offset : offset + 8] == _HDF5 for offset in _HDF5_OFFSETS):
        return "hdf5"
    if head.startswith(b"PK"):
        _zip(path)
        return "zip"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] in (b"{", b'"'):
        _json(path, info.st_size)
        return "json"
    if text[:1] == b"<":
        raise InputError(f"{path} is an HTML or XML page, not a model: the download went wrong")
    if path.suffix in (".h5", ".hdf5", ".keras"):
        raise InputError(f"{path} is no {path.suffix} file: it begins with {head[:8]!r}")
    raise InputError(f"{path} is neither HDF5 (.h5), a .keras archive nor model JSON")


def _json(path: Path, size: int) -> None:
    if size > MAX_CONFIG:
        raise RefusedError(f"{path} holds {size >> 20} MiB of JSON; a model has at most {MAX_CONFIG >> 20} MiB")
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(value, str):
            value = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {_brief(error)}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or 'cannot be read'}") from None
    if not isinstance(value, dict) or "class_name" not in value:
        raise InputError(f"{path} is JSON, but not a Keras model's (no class_name)")


def _zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise InputError(f"{path} is a truncated or damaged .keras archive: {_brief(error)}") from None
    names = [member.filename for member in members]
    if "config.json" not in names or len(set(names)) != len(names):
        what = "holds a name twice" if "config.json" in names else "holds no config.json"
        hint = " (a torch file?)" if any(name.endswith("data.pkl") for name in names) else ""
        raise InputError(f"{path} is a zip archive, but no .keras model: it {what}{hint}")
    for member in members:
        place = PurePosixPath(member.filename.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or (place.parts and place.parts[0].endswith(":")):
            raise RefusedError(f"{path} holds the path {member.filename!r}, which leads out of the archive")
        if member.filename.endswith(".json") and member.file_size > MAX_CONFIG:
            raise RefusedError(
                f"{path}: {member.filename} unpacks to {member.file_size >> 20} MiB, more than {MAX_CONFIG >> 20}"
            )
        if member.file_size > (1 << 20) and member.file_size > _MAX_RATIO * max(member.compress_size, 1):
            ratio = member.file_size // max(member.compress_size, 1)
            raise RefusedError(f"{path}: {member.filename} unpacks to {ratio} times its size")
        if member.flag_bits & 1:
            raise InputError(f"{path}: {member.filename} is encrypted")
    total = sum(member.file_size for member in members)
    if total > _MAX_RATIO * max(path.stat().st_size, 1 << 20):
        raise RefusedError(f"{path} unpacks to {total >> 20} MiB, more than {_MAX_RATIO} times its size")


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
