"""A seccomp filter that takes away what Landlock leaves open.

Sockets: Landlock denies TCP alone. UDP would carry data out through a DNS look-up, and a named Unix socket (a
container daemon's, a desktop bus) would do anything at all. ``socketpair``, which asyncio needs, stays for streams:
datagrams can be sent to any path.
Files' metadata (mode, owner, times, attributes), other processes, System V and POSIX queues, keys, mounts and the
kernel itself: no model needs to change those, and a model run by root could. A process that left the worker's group
would outlive it: the calls for that are answered as if they were done.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

from tracer.worker.landlock import no_new_privileges

# machine: AUDIT_ARCH_*, the number of seccomp, and the column in the tables below.
_MACHINES = {"x86_64": (0xC000003E, 317, 0), "aarch64": (0xC00000B7, 277, 1)}
_NONE = None

# Name: numbers on x86_64 and on aarch64.
SOCKETS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "io_uring_setup": (425, 425),  # opens sockets past any seccomp filter
}
DENIED: dict[str, tuple[int | None, int | None]] = {
    # metadata
    "chmod": (90, _NONE), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, _NONE), "fchown": (93, 55), "lchown": (94, _NONE), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "utime": (132, _NONE), "utimes": (235, _NONE), "futimesat": (261, _NONE), "utimensat": (280, 88),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "acct": (163, 89),
    # processes
    "setpriority": (141, 140), "ioprio_set": (251, 30), "ptrace": (101, 117), "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "perf_event_open": (298, 241),
    # memory and queues that outlive their maker
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181),
    # keys
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    # the kernel and the machine
    "bpf": (321, 280), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "syslog": (103, 116),
    "swapon": (167, 224), "swapoff": (168, 225), "iopl": (172, _NONE), "ioperm": (173, _NONE),
    "settimeofday": (164, 170), "adjtimex": (159, 171), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162),
}  # fmt: skip
"""Denied with EPERM whatever their arguments."""
OF_OTHERS: dict[str, tuple[int | None, int | None]] = {
    "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
"""Denied with EPERM where the first argument, a process id, is neither 0 nor this process's."""
LEAVING: dict[str, tuple[int | None, int | None]] = {"setsid": (112, 157), "setpgid": (109, 154)}
"""Answered as if they were done."""
_SOCKETPAIR = (53, 199)
CLONE = (56, 220)
_CLONE3 = 435
_KIND_OF_SOCKET = 0xF  # the rest of the argument are flags
_NAMESPACES = 0x7E02_0000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_IOCTL = (16, 29)
_IOCTLS = (0x4008_6602, 0x4004_6602, 0x4008_7602, 0x401C_5820)  # FS_IOC_{SETFLAGS,32_SETFLAGS,SETVERSION,FSSETXATTR}
_UNKNOWN = 463
"""From here on (setxattrat, file_setattr, what is not invented yet; x32 too) a call is answered with ENOSYS."""

_LOAD, _AND, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_IF_SET, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST, _AT_SECOND = 0, 4, 16, 24  # low halves: both machines are little-endian

_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _numbers(table: dict[str, tuple[int | None, int | None]], column: int) -> list[int]:
    return [number for row in table.values() if (number := row[column]) is not None]


def _filter(architecture: int, column: int, own: int) -> bytes:
    """The program; a jump's targets are names of the returns at its end, or how many steps to skip."""
    steps: list[tuple[int, str | int, str | int, int]] = [
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_JUMP_EQUAL, 0, "eperm", architecture),
        (_LOAD, 0, 0, _AT_NUMBER),
        (_JUMP_AT_LEAST, "enosys", 0, _UNKNOWN),
        *((_JUMP_EQUAL, "eacces", 0, number) for number in _numbers(SOCKETS, column)),
        *((_JUMP_EQUAL, "eperm", 0, number) for number in _numbers(DENIED, column)),
        *((_JUMP_EQUAL, "done", 0, number) for number in _numbers(LEAVING, column)),
        (_JUMP_EQUAL, "enosys", 0, _CLONE3),  # its flags lie in memory; who gets this answer calls clone
        (_JUMP_EQUAL, 0, 2, CLONE[column]),
        (_LOAD, 0, 0, _AT_FIRST),
        (_JUMP_IF_SET, "eperm", "allow", _NAMESPACES),
        (_JUMP_EQUAL, 0, 3, _SOCKETPAIR[column]),
        (_LOAD, 0, 0, _AT_SECOND),
        (_AND, 0, 0, _KIND_OF_SOCKET),
        (_JUMP_EQUAL, "allow", "eacces", socket.SOCK_STREAM),
    ]
    for number in _numbers(OF_OTHERS, column):
        steps += [
            (_JUMP_EQUAL, 0, 3, number),
            (_LOAD, 0, 0, _AT_FIRST),
            (_JUMP_EQUAL, "allow", 0, 0),
            (_JUMP_EQUAL, "allow", "eperm", own),
        ]
    steps += [(_JUMP_EQUAL, 0, "allow", _IOCTL[column]), (_LOAD, 0, 0, _AT_SECOND)]
    steps += [(_JUMP_EQUAL, "eperm", 0, request) for request in _IOCTLS]
    returns = {
        "allow": _ALLOW,
        "eperm": _ERRNO | errno.EPERM,
        "eacces": _ERRNO | errno.EACCES,
        "enosys": _ERRNO | errno.ENOSYS,
        "done": _ERRNO,
    }
    place = {name: len(steps) + index for index, name in enumerate(returns)}

    def target(jump: str | int, at: int) -> int:
        return jump if isinstance(jump, int) else place[jump] - at - 1

    code = [(kind, target(yes, at), target(no, at), value) for at, (kind, yes, no, value) in enumerate(steps)]
    code += [(_RETURN, 0, 0, value) for value in returns.values()]
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def restrict() -> bool:
    """Deny the calls above to every thread of this process and its children, for good.

    False where that cannot be done (not Linux, another architecture, a kernel without it); raises nothing.
    """
    numbers = _MACHINES.get(platform.machine())
    # A 32-bit interpreter on a 64-bit kernel uses other numbers.
    if sys.platform != "linux" or numbers is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    architecture, seccomp, column = numbers
    code = _filter(architecture, column, os.getpid())
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
