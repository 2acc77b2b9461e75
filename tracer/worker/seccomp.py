"""A seccomp filter that takes away new sockets: what Landlock leaves open of the network.

Landlock denies TCP alone. UDP would carry data out through a DNS look-up, and a named Unix socket (a
container daemon's, a desktop bus) would do anything at all. ``socketpair``, which asyncio needs, stays.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

from tracer.worker.landlock import no_new_privileges

# machine: AUDIT_ARCH_*, then the numbers of seccomp and socket.
_MACHINES = {"x86_64": (0xC000003E, 317, 41), "aarch64": (0xC00000B7, 277, 198)}
_IO_URING_SETUP = 425  # opens sockets past any seccomp filter; the same number everywhere
_X32 = 0x4000_0000

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
_AT_NUMBER, _AT_ARCHITECTURE = 0, 4

_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _filter(architecture: int, socket: int) -> bytes:
    steps = (
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_JUMP_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, _AT_NUMBER),
        (_JUMP_AT_LEAST, 3, 0, _X32),
        (_JUMP_EQUAL, 2, 0, socket),
        (_JUMP_EQUAL, 1, 0, _IO_URING_SETUP),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EACCES),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def deny_sockets() -> bool:
    """Deny ``socket`` and io_uring with EACCES to every thread of this process and its children, for good.

    False where that cannot be done (not Linux, another architecture, a kernel without it); raises nothing.
    """
    numbers = _MACHINES.get(platform.machine())
    # A 32-bit interpreter on a 64-bit kernel uses other numbers.
    if sys.platform != "linux" or numbers is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    architecture, seccomp, socket = numbers
    code = _filter(architecture, socket)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    try:
        no_new_privileges()
    except OSError:
        return False
    result: int = libc.syscall(
        ctypes.c_long(seccomp),
        ctypes.c_uint(_SET_MODE_FILTER),
        ctypes.c_uint(_FLAG_TSYNC),
        ctypes.byref(program),
    )
    return result == 0
