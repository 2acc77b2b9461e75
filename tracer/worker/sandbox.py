"""What a job may touch, and closing the door behind it."""

from __future__ import annotations

import contextlib
import glob
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tracer import compiled
from tracer.errors import TracerError
from tracer.worker import landlock, seccomp
from tracer.worker.protocol import Job

# The system's programs and libraries, and what an interpreter, a C library or a thread pool asks the machine.
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/localtime",
    "/etc/mime.types",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/fs/cgroup",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
)
_WRITABLE = ("/dev/null",)

NO_LANDLOCK = "no Landlock on this kernel: the model file runs without a sandbox"


def _environment() -> Iterator[str]:
    """Where this interpreter's modules and libraries are."""
    yield from (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    yield from sysconfig.get_paths().values()
    yield from filter(None, sys.path)
    yield from site.getsitepackages()
    for place in filter(None, sys.path):  # packages may be links to where they lie
        with contextlib.suppress(OSError):
            yield from (entry.path for entry in os.scandir(place) if entry.is_symlink())
    yield from filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):  # setuptools maps packages past sys.path
            for place in getattr(module, "MAPPING", {}).values():
                yield from (str(place), f"{place}.py")


def _of_file(path: str) -> Iterator[str]:
    yield path
    if not os.path.exists(path):  # a TensorFlow checkpoint is named by its prefix
        yield from glob.iglob(f"{glob.escape(path)}.index")
        yield from glob.iglob(f"{glob.escape(path)}.data-*")


def own_code(job: Job) -> bool:
    """Whether the user named code of their own (``arch``, ``imports``, a ``loss``) for this job."""
    return bool(job.request.get("arch") or job.request.get("imports") or ":" in str(job.options.get("loss")))


def model_files(job: Job) -> Iterator[str]:
    """What the model is loaded from, the files that an adapter finds beside it excepted."""
    for key in ("path", "weights"):
        value = job.request.get(key)
        if value:
            yield from _of_file(str(value))


def readable(job: Job) -> list[Path]:
    """What the worker may read: system, environment, the model's files, and the user's code if named."""
    places = [*_SYSTEM, *_environment(), *job.read, *model_files(job)]
    if compiled.available() and (kept := compiled.folder()) is not None:
        places.append(str(kept))
    if own_code(job):
        places.append(os.getcwd())
        called = (str(what or "").rpartition(":")[0] for what in (job.request.get("arch"), job.options.get("loss")))
        sources = (source for source in (*called, *job.request.get("imports", ())) if source.endswith(".py"))
        places += [os.path.dirname(os.path.realpath(source)) for source in sources]
    return [Path(place) for place in dict.fromkeys(places)]


def writable(job: Job, temporary: Path) -> list[Path]:
    """What the worker may write: the trace, its own temporary directory, what the job names."""
    places = [*_WRITABLE, *job.write, *([job.trace] if job.trace else [])]
    return [temporary, *(Path(place) for place in places)]


def close(job: Job, temporary: Path) -> tuple[str, list[str]]:
    """Confine this process as ``job`` says: what holds it now, in words, and notices for the user.

    Raises TracerError when the kernel has Landlock but will not close it: the model then must not run.
    """
    if not job.sandbox:
        return "none", []
    abi = landlock.supported()
    if not abi:
        return "none", [NO_LANDLOCK]
    notices = []
    if not landlock.covers_all_threads(abi):
        notices.append("the framework started threads before the sandbox closed: they are outside it")
    try:
        landlock.restrict(readable(job), writable(job, temporary))
    except OSError as error:
        why = f"the sandbox could not be closed: {error.strerror}"
        raise TracerError(f"{why}; the model was not loaded") from error
    return f"landlock {abi}" + (", no sockets" if seccomp.restrict() else ""), notices
