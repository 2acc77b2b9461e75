"""Landlock (Linux ≥ 5.13) through ctypes: an unprivileged process gives up rights for good.

Only what is opened *after* :func:`restrict` is checked, and before ABI 8 only for the calling thread and the
threads and processes it starts later: call it while the process has one thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

# The same numbers on every architecture that came after 2019, and on x86_64.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_SELF_TSYNC = 1 << 3
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_ABI = (1 << 13) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_READ = _EXECUTE | _READ_FILE | _READ_DIR
# No devices, sockets, FIFOs or symbolic links: a device node made by root would undo the sandbox, and the
# others in a trace would trap its readers.
_WRITE = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE

_NET = (1 << 0) | (1 << 1)  # TCP bind, TCP connect
_SCOPES = (1 << 0) | (1 << 1)  # abstract Unix sockets, signals to processes outside


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _syscall(number: int, *args: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = int(libc.syscall(ctypes.c_long(number), *args))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def supported() -> int:
    """The kernel's Landlock ABI; 0 where there is none (not Linux, too old, not enabled)."""
    if sys.platform != "linux":
        return 0
    try:
        return _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    except OSError:
        return 0


def no_new_privileges() -> None:
    """Give up gaining rights through set-uid programs. Raises OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)
    if libc.prctl(ctypes.c_int(_PR_SET_NO_NEW_PRIVS), one, zero, zero, zero) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _handled(abi: int) -> int:
    rights = _FIRST_ABI
    if abi >= 2:
        rights |= _REFER
    if abi >= 3:
        rights |= _TRUNCATE
    if abi >= 5:
        rights |= _IOCTL_DEV
    return rights


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _OF_FILES
        rule = _PathBeneath(rights, parent)
        _syscall(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(parent)


def restrict(read: Iterable[Path], write: Iterable[Path], network: bool = False) -> int:
    """Leave this process the files beneath ``read`` and ``write`` only, for good; returns the ABI used.

    ``write`` means reading too. Paths that do not exist are skipped; a symbolic link stands for its target.
    Unless ``network``, TCP is denied from ABI 4 (UDP and named Unix sockets are not Landlock's: see
    :mod:`.seccomp`). From ABI 6 signals and abstract Unix sockets reach only this process and its children;
    those from outside still arrive. Metadata (``stat``, ``chmod``) is not covered by any ABI:
    see there too.

    Raises OSError: ENOSYS where :func:`supported` is 0, otherwise what the kernel says.
    """
    abi = supported()
    if not abi:
        raise OSError(errno.ENOSYS, "no Landlock on this system")
    handled = _handled(abi)
    attributes = _Ruleset(handled, 0 if network or abi < 4 else _NET, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path in read:
            _allow(ruleset, path, _READ & handled)
        for path in write:
            _allow(ruleset, path, _WRITE & handled)
        no_new_privileges()
        flags = _SELF_TSYNC if abi >= 8 else 0
        _syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(flags))
    finally:
        os.close(ruleset)
    return abi


def covers_all_threads(abi: int) -> bool:
    """Whether :func:`restrict`, called now, would hold every thread of this process."""
    return abi >= 8 or len(os.listdir("/proc/self/task")) == 1
