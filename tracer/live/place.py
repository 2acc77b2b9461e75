"""Where the daemon of this user listens, and how it is found."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_runtime_path

from tracer.errors import InputError
from tracer.names import display

FOLDER = "TRACER_RUNTIME"
"""The variable that names another folder: several daemons of one user, tests."""
_LONGEST = 100  # bytes of a Unix socket's path: 107, less what ZeroMQ needs


def folder(*, make: bool = False) -> Path:
    """The folder of the socket, which nobody but its owner may enter.

    Raises InputError where it belongs to someone else or is open to others.
    """
    given = os.environ.get(FOLDER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where the session has no folder of its own, the fallback does
        path = Path(given) if given else user_runtime_path("tracer", appauthor=False)
    shown = display(str(path))
    if make:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make {shown}: {error.strerror} (name another folder with {FOLDER})") from error
    try:
        found = path.lstat()
    except FileNotFoundError:
        return path
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise InputError(f"{shown} is not a folder of yours: name another with {FOLDER}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise InputError(f"{shown} is open to others: chmod 700 {shown}, or name another folder with {FOLDER}")
    if len(os.fsencode(path / "daemon.sock")) > _LONGEST:
        raise InputError(f"{shown} is too long a path for a socket: name a shorter one with {FOLDER}")
    return path


def socket() -> Path:
    return folder() / "daemon.sock"


def log() -> Path:
    return folder() / "daemon.log"


def address() -> str:
    """Of the socket, as ZeroMQ takes it."""
    return f"ipc://{socket()}"


def running() -> int | None:
    """The process id of the daemon that runs, or None. Raises InputError as :func:`folder`."""
    try:
        descriptor = os.open(folder() / "daemon.pid", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        found = os.read(descriptor, 32)
        return int(found) if found.strip().isdigit() else None
    else:
        return None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Be the one daemon of the folder; what a killed one left is taken over. Raises InputError where one runs."""
    where = folder(make=True)
    descriptor = os.open(where / "daemon.pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"a daemon is running already (process {running() or '?'}): tracer daemon stop") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        (where / "daemon.sock").unlink(missing_ok=True)
        yield
    finally:
        (where / "daemon.sock").unlink(missing_ok=True)
        os.close(descriptor)
