"""A finished file put where the user wants it: whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tracer.errors import InputError, TraceError, TracerError
from tracer.names import display
from tracer.preflight import check_kind
from tracer.store import zarr3

_SHOWN = 100
"""Characters that are shown of a name that is too long."""


def check(path: Path, force: bool) -> None:
    """Raises InputError where :func:`publish` cannot succeed: something is there, or nothing may be made there."""
    try:
        _check(path, force)
    except OSError as error:  # a name too long, a folder that may not be entered
        raise failed(path, error) from error


def check_name(path: Path) -> None:
    """Raises InputError for ``-``: who says it means standard output, and would find a file of that name."""
    if str(path) == "-":
        raise InputError("this cannot be written on standard output (-): name a file")


def _check(path: Path, force: bool) -> None:
    """Raises InputError, OSError."""
    check_name(path)
    shown, folder = display(str(path)), _behind(path).parent
    if path.is_dir():
        raise InputError(f"{shown} is a folder: name a file")
    if not force and (path.exists() or path.is_symlink()):
        raise InputError(f"{shown} exists already: --force replaces it")
    if path.exists():
        check_kind(path)  # a device or a pipe would be replaced itself: /dev/null is everybody's
    if not folder.is_dir():
        raise InputError(f"there is no folder {display(str(folder))}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {shown}: the folder may not be written to")


def failed(path: Path, error: OSError) -> TracerError:
    """What to raise where writing ``path`` failed: InputError for a place that was none, TraceError for the disk."""
    shown, folder = display(str(path)), path.absolute().parent
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"cannot write {display(str(path), _SHOWN)}: the name is too long")
    if not folder.is_dir():
        return InputError(f"there is no folder {display(str(folder))}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError(f"cannot write {shown}: {error.strerror}")
    return TraceError(f"cannot write {shown}: {error.strerror}")


def _behind(path: Path) -> Path:
    """The file that is written: of a link what it leads to, as ``cp`` and a shell's ``>`` do; the link stays."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path.absolute()


def publish(made: Path, path: Path, force: bool) -> None:
    """Copy the file ``made`` to ``path``, synced, in one step; what is there is replaced only with ``force``.

    Raises InputError where a file is in the way, TraceError where the disk fails; nothing is left behind then.
    """

    def fill(out: BinaryIO) -> None:
        # A worker made it: what it may be a link to is not ours to copy.
        source = os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(source, "rb") as given:
            if not stat.S_ISREG(os.fstat(source).st_mode):
                raise OSError(errno.EINVAL, "no regular file")
            shutil.copyfileobj(given, out, 1 << 20)

    publish_filled(fill, path, force)


def publish_text(text: str, path: Path, force: bool) -> None:
    """:func:`publish` of a file that holds ``text``."""
    publish_filled(lambda out: out.write(text.encode()), path, force)


def publish_filled(fill: Callable[[BinaryIO], object], path: Path, force: bool) -> None:
    """:func:`publish` of what ``fill`` writes into a new file beside it, whose ``name`` is its path."""
    path = _behind(path) if force else path.absolute()
    temporary: str | None = None
    try:
        name = str(path.with_name(f".tracer-{secrets.token_hex(8)}"))
        with open(name, "xb") as out:
            temporary = name
            fill(out)
            out.flush()
            os.fsync(out.fileno())
        _put(temporary, path, force)
        temporary = None
        zarr3.sync(path.parent)
    except FileExistsError:
        raise InputError(f"{display(str(path))} exists already: --force replaces it") from None
    except TraceError:  # of what was to be written
        raise
    except OSError as error:
        raise failed(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _put(temporary: str, path: Path, force: bool) -> None:
    """Raises FileExistsError without ``force``, OSError."""
    if force:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # unlike a rename it never replaces what has come there meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)
        return
    os.unlink(temporary)
