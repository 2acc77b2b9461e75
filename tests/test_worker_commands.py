"""No tests: the commands that the worker of test_worker.py runs, as ``worker_commands``."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracer.errors import InputError, TraceError
from tracer.worker.main import Emit
from tracer.worker.protocol import Job


def _try(function: Callable[[], object]) -> str:
    try:
        function()
    except Exception as error:
        return type(error).__name__
    return "done"


def _trace(job: Job) -> Path:
    assert job.trace is not None
    return Path(job.trace)


def echo(job: Job, emit: Emit) -> dict[str, Any]:
    print("chatter of the framework")
    os.write(1, b"chatter of its C code\n")
    emit({"event": "phase", "text": "recording"})
    emit({"event": "notice", "text": "a\x1b]52;c;evil\x07b"})
    emit({"event": "progress", "done": 1, "total": 2})
    return {"options": job.options, "confinement": job.confinement, "tmp": os.environ["TMPDIR"]}


def probe(job: Job, emit: Emit) -> dict[str, Any]:
    trace, outside = _trace(job), Path(job.options["outside"])
    address = ("127.0.0.1", job.options["port"])

    def datagram() -> None:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", address)

    (trace / "made").write_text("x")
    (trace / "folder").mkdir()
    (trace / "made").rename(trace / "folder" / "moved")
    os.truncate(trace / "folder" / "moved", 0)
    return {
        "read": _try(lambda: (outside / "secret").read_text()),
        "list": _try(lambda: os.listdir(outside)),
        "write": _try(lambda: (outside / "new").write_text("x")),
        "remove": _try(lambda: os.remove(outside / "secret")),
        "move": _try(lambda: (outside / "secret").rename(trace / "stolen")),
        "passwd": _try(lambda: Path("/etc/passwd").read_text()),
        "tcp": _try(lambda: socket.create_connection(address, 2)),
        "udp": _try(datagram),
        "kill": _try(lambda: os.kill(os.getppid(), 0)),
        "link": _try(lambda: (trace / "link").symlink_to("/etc")),
        "device": _try(lambda: os.mknod(trace / "device", 0o20600, os.makedev(1, 3))),
        "child": _try(lambda: subprocess.run(["/bin/cat", outside / "secret"], check=True)),
        "run": _try(lambda: subprocess.run([sys.executable, "-c", "import json"], check=True)),
        "pair": _try(socket.socketpair),
        "model": _try(lambda: Path(job.request["path"]).read_text()),
    }


def tamper(job: Job, emit: Emit) -> dict[str, Any]:
    """What a model's code can do to files outside, and to other processes: the names of the errors."""
    import ctypes
    import platform
    import resource

    from tracer.worker import seccomp

    column = ("x86_64", "aarch64").index(platform.machine())
    rows = {**seccomp.DENIED, **seccomp.OF_OTHERS, **seccomp.SOCKETS}
    numbers: dict[str, Any] = {name: row[column] for name, row in rows.items()}
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: int) -> int:
        result = libc.syscall(*[ctypes.c_long(value) for value in (numbers[name], *arguments, *[0] * 6)][:7])
        return ctypes.get_errno() if result < 0 else 0

    def stay_in_the_group() -> None:
        leaving = [sys.executable, "-c", "import os; os.setpgid(0, 0); print(os.getsid(0), os.getpgid(0))"]
        done = subprocess.run(leaving, check=True, capture_output=True, text=True, start_new_session=True)
        if done.stdout.split() != [str(os.getsid(0)), str(os.getpgid(0))]:
            raise AssertionError("it would outlive the worker")

    numbers["clone"] = seccomp.CLONE[column]
    new_user = 0x1000_0200  # CLONE_NEWUSER with CLONE_FS: without a filter the kernel answers EINVAL
    victim, other = Path(job.options["outside"]) / "secret", os.getppid()
    readable = os.open(job.request["path"], os.O_RDONLY)
    said = {
        "chmod": _try(lambda: victim.chmod(0o777)),
        "fchmod": _try(lambda: os.fchmod(readable, 0o777)),
        "chown": _try(lambda: os.chown(victim, os.getuid(), os.getgid())),
        "lchown": _try(lambda: os.lchown(victim, os.getuid(), os.getgid())),
        "fchown": _try(lambda: os.fchown(readable, os.getuid(), os.getgid())),
        "utime": _try(lambda: os.utime(victim, (1, 1))),
        "futime": _try(lambda: os.utime(readable, (1, 1))),
        "setxattr": _try(lambda: os.setxattr(victim, "user.x", b"y")),
        "removexattr": _try(lambda: os.removexattr(victim, "user.x")),
        "setpriority": _try(lambda: os.setpriority(os.PRIO_PROCESS, other, os.getpriority(os.PRIO_PROCESS, other))),
        "affinity": _try(lambda: os.sched_setaffinity(other, os.sched_getaffinity(other))),
        "prlimit": _try(lambda: resource.prlimit(other, resource.RLIMIT_NOFILE)),
        "datagrams": _try(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)),
        "namespace": os.strerror(call("clone", new_user)),
        **{name: os.strerror(call(name, -1)) for name, row in rows.items() if row[column] is not None},
    }
    own = {
        "affinity": _try(lambda: os.sched_setaffinity(0, os.sched_getaffinity(0))),
        "own affinity": _try(lambda: os.sched_setaffinity(os.getpid(), os.sched_getaffinity(0))),
        "group": _try(stay_in_the_group),
        "limit": _try(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))),
    }
    unknown = libc.syscall(ctypes.c_long(463), *[ctypes.c_long(0)] * 6)
    return {"denied": said, "allowed": own, "unknown": [int(unknown), ctypes.get_errno()]}


def environment(job: Job, emit: Emit) -> dict[str, Any]:
    return {"environ": dict(os.environ), "proc": Path("/proc/self/environ").read_text()}


def crash_in(job: Job, emit: Emit) -> dict[str, Any]:
    emit({"event": "phase", "text": job.options["phase"]})
    if job.options.get("sleep"):
        time.sleep(job.options["sleep"])
        return {}
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def leave_arrays(job: Job, emit: Emit) -> dict[str, Any]:
    """What a hostile inspection leaves behind."""
    (Path(job.write[0]) / "0.npy").write_text("x")
    return {"beside": _try(lambda: (Path(job.write[0]).parent / "x").write_text("x"))}


def stubborn(job: Job, emit: Emit) -> dict[str, Any]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    (Path(os.environ["TMPDIR"]) / "left").write_text("x")
    emit({"event": "notice", "text": str(os.getpid())})
    time.sleep(600)
    return {}


def refuse(job: Job, emit: Emit) -> dict[str, Any]:
    raise InputError("model.h5 is damaged:\nno layers")


def fail_recording(job: Job, emit: Emit) -> dict[str, Any]:
    emit({"event": "phase", "text": "recording"})
    raise TraceError("the disk is full")


def bug(job: Job, emit: Emit) -> dict[str, Any]:
    if job.options.get("later"):
        emit({"event": "phase", "text": "recording"})
    raise KeyError("here")


def leave(job: Job, emit: Emit) -> dict[str, Any]:
    sys.exit(0)


def out_of_memory(job: Job, emit: Emit) -> dict[str, Any]:
    raise MemoryError


def crash(job: Job, emit: Emit) -> dict[str, Any]:
    if job.options.get("recording"):
        emit({"event": "phase", "text": "recording"})
    print("the last words", file=sys.stderr, flush=True)
    ctypes.string_at(0)
    return {}


def vanish(job: Job, emit: Emit) -> dict[str, Any]:
    os._exit(7)


def hang(job: Job, emit: Emit) -> dict[str, Any]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    child = subprocess.Popen(["/bin/sleep", "600"])
    emit({"event": "notice", "text": f"{os.getpid()} {child.pid}"})
    time.sleep(600)
    return {}


def eat(job: Job, emit: Emit) -> dict[str, Any]:
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 16)
        time.sleep(0.01)


def slow(job: Job, emit: Emit) -> dict[str, Any]:
    emit({"event": "phase", "text": "recording"})
    try:
        emit({"event": "notice", "text": str(os.getpid())})
        time.sleep(60)
    except KeyboardInterrupt:
        (_trace(job) / "finished").write_text("yes")
        raise
    return {}


def forge(job: Job, emit: Emit) -> dict[str, Any]:
    os.write(int(sys.argv[1]), job.options["bytes"].encode() + b"\n")
    time.sleep(60)
    return {}


def torch_forward(job: Job, emit: Emit) -> dict[str, Any]:
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(5))
    out = net(torch.ones(2, 3, 64, 64))
    big = torch.ones(600, 600) @ torch.ones(600, 600)
    torch.save(net.state_dict(), _trace(job) / "w.pt")
    torch.load(_trace(job) / "w.pt", weights_only=True)
    return {"shape": list(out.shape), "big": float(big[0, 0]), "confinement": job.confinement}


def tensorflow_forward(job: Job, emit: Emit) -> dict[str, Any]:
    import keras
    import tensorflow as tf

    net = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(5)]
    )
    out = tf.function(lambda x: net(x, training=False))(tf.ones((2, 32, 32, 3)))
    path = _trace(job) / "net.keras"
    net.save(path)
    keras.models.load_model(path)
    return {"shape": list(out.shape), "confinement": job.confinement}
