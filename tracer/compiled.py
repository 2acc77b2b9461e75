"""Kernels that numba compiles once, and that are then loaded as machine code, without numba.

A module of kernels has ``entries()``: the functions that are called from Python, each with the types it is called with.
What numba makes of them lies as one object file in the user's cache (``~/.cache/tracer/kernels`` on Linux), which
llvmlite loads in some 0.06 s, where numba's import and its own cache take 0.7 s. It is code: where anybody else may
write, nothing is kept or read. Without it there are no kernels, and whoever wants them does without.

    python -m tracer.compiled          # compiles all there are, some 20 s of processor
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

MODULES = {"tracer.compare.kernels": ("tracer.compare.loops", "tracer.compare.slots"), "tracer.store.kernels": ()}
"""And the modules that they take loops from."""
WORTHWHILE = 4 << 20
"""Elements, to record or to compare, from which on loading kernels (0.06 s, once in a process) takes less time than
they save (some 3 ns of each element, and more)."""
_AGAIN = 24 * 3600.0
"""Seconds after which compiling is tried once more that came to nothing."""
_lock = threading.Lock()
_loaded: dict[str, SimpleNamespace | None] = {}


@dataclass(frozen=True)
class _Argument:
    """What a kernel takes: an array in the machine's byte order, or a whole number (of no ``dtype``)."""

    dtype: str | None = None
    ndim: int = 0
    contiguous: bool = False
    written: bool = False


class Kernel:
    """A function in machine code, called with arrays and whole numbers, as numba would be.

    The convention is that of numba's native functions: the places of the result and of an exception, then the
    arguments, an array as owner, parent, elements, bytes of one, data, shape and strides.

    Raises:
        TypeError: an argument is not what was compiled for.
    """

    def __init__(self, address: int, arguments: Sequence[_Argument], owner: object) -> None:
        self._arguments = tuple((a, None if a.dtype is None else np.dtype(a.dtype)) for a in arguments)
        self._owner = owner  # what the code lies in
        words = sum(1 if a.dtype is None else 5 + 2 * a.ndim for a in arguments)
        pointers = [ctypes.c_void_p] * 2
        self._call = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers, *[ctypes.c_ssize_t] * words)(address)

    def __call__(self, *given: Any) -> int:
        words: list[int] = []
        if len(given) != len(self._arguments):
            raise TypeError(f"{len(self._arguments)} arguments are taken, {len(given)} were given")
        for value, (wanted, dtype) in zip(given, self._arguments, strict=True):
            if dtype is None:
                words.append(int(value))
                continue
            flags = value.flags
            if (
                value.dtype != dtype or value.ndim != wanted.ndim or not flags.aligned
                or (wanted.contiguous and not flags.c_contiguous) or (wanted.written and not flags.writeable)
            ):  # fmt: skip
                raise TypeError(f"{value.dtype} array of {value.ndim} dimensions where {wanted} is taken")
            data = value.__array_interface__["data"][0]
            words += (0, 0, value.size, value.itemsize, data, *value.shape, *value.strides)
        result, raised = ctypes.c_int64(), ctypes.c_void_p()
        if self._call(ctypes.addressof(result), ctypes.addressof(raised), *words):
            raise RuntimeError("a compiled kernel failed")
        return result.value


def loaded(module: str) -> bool:
    """Whether :func:`load` was called for a module, and found it kept."""
    return _loaded.get(module) is not None


def load(module: str) -> SimpleNamespace | None:
    """A module's kernels by name, if they are kept for this processor; the first time that takes some 0.06 s."""
    with _lock:
        if _loaded.get(module) is None:
            _loaded[module] = _read(module) if available() else None
        return _loaded[module]


def worthwhile(module: str, elements: int) -> SimpleNamespace | None:
    """A module's kernels, if they are loaded already, or pay for so many elements; where they are not kept, they are
    compiled for the next time."""
    if elements < WORTHWHILE and not loaded(module):
        return None
    found = load(module)
    if found is None:
        make_behind()
    return found


@functools.cache
def available() -> bool:
    """Whether numba is installed and not switched off."""
    return importlib.util.find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


@functools.cache
def _version(module: str) -> str:
    """What tells the sources of a module, and what compiles them, from others."""
    found = hashlib.sha256(importlib.metadata.version("numba").encode())
    found.update(importlib.metadata.version("llvmlite").encode())
    for one in (__name__ if __name__ != "__main__" else "tracer.compiled", module, *MODULES[module]):
        spec = importlib.util.find_spec(one)
        if spec is not None and spec.origin is not None:
            found.update(Path(spec.origin).read_bytes())
    return found.hexdigest()[:16]


def folder() -> Path | None:
    """Where compiled code is kept; None where others may write there, or nobody."""
    try:
        from platformdirs import user_cache_path
    except ImportError:  # in an environment of --python
        return None
    place = user_cache_path("tracer") / "kernels"
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = place.lstat()
        if not stat.S_ISDIR(own.st_mode) or own.st_uid != os.geteuid() or own.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return None
        for part in place.resolve().parents:  # who may write there could put another folder in its place
            found = part.stat()
            shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
            if shared or found.st_uid not in (os.geteuid(), 0):
                return None
        return place if os.access(place, os.W_OK) else None
    except OSError:
        return None


def _processor() -> str:
    import llvmlite.binding as llvm

    cpu = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    return hashlib.sha256(cpu.encode()).hexdigest()[:16]


def _machine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True,
        reloc="default", codemodel="jitdefault",
    )  # fmt: skip


def _read(module: str) -> SimpleNamespace | None:
    """What is kept of a module; None where nothing is, or anything is wrong with it."""
    with contextlib.suppress(Exception):
        place = folder()
        if place is None or next(place.glob(f"{_version(module)}-*.o"), None) is None:
            return None
        head, _, code = (place / f"{_version(module)}-{_processor()}.o").read_bytes().partition(b"\n")
        said = json.loads(head)
        if said["sha256"] == hashlib.sha256(code).hexdigest():
            return _linked(said["functions"], code)
    return None


def _linked(functions: dict[str, Any], code: bytes) -> SimpleNamespace:
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return SimpleNamespace(**{
        name: Kernel(engine.get_function_address(symbol), [_Argument(**one) for one in arguments], engine)
        for name, (symbol, arguments) in functions.items()
    })  # fmt: skip


def make(module: str) -> None:
    """Compile a module, and keep what comes of it.

    Raises:
        OSError: there is no place to keep it.
        ValueError: the code calls what is not in it.
    """
    import llvmlite.binding as llvm

    place = folder()
    if place is None:
        raise OSError("there is no folder of the user's own to keep compiled kernels in")
    functions: dict[str, Any] = {}
    whole: Any = llvm.parse_assembly("")
    for kernel, signature in importlib.import_module(module).entries():
        kernel.compile(signature.args)
        functions[kernel.__name__] = (
            kernel.overloads[signature.args].fndesc.llvm_func_name,
            [asdict(_argument(one)) for one in signature.args],
        )
        whole.link_in(llvm.parse_assembly(kernel.inspect_llvm(signature.args)))
    missing = [f.name for f in whole.functions if f.is_declaration and not f.name.startswith("llvm.")]
    if missing:  # LLVM would end the process that loads it
        raise ValueError(f"{module} calls {', '.join(missing)}")
    code = _machine().emit_object(whole)
    head = json.dumps({"module": module, "sha256": hashlib.sha256(code).hexdigest(), "functions": functions})
    with tempfile.NamedTemporaryFile(dir=place, delete=False) as file:
        file.write(head.encode() + b"\n" + code)
    os.replace(file.name, place / f"{_version(module)}-{_processor()}.o")


def _argument(of: Any) -> _Argument:
    from numba import types
    from numba.np.numpy_support import as_dtype

    if not isinstance(of, types.Array):
        return _Argument()
    return _Argument(as_dtype(of.dtype).str, of.ndim, of.layout == "C", of.mutable)


def make_behind() -> None:
    """Have what is not kept compiled by a process of its own, at the lowest priority; at most once a day.

    It outlives this one. Where nothing can be kept, as in a worker's sandbox, there is none.
    """
    place = folder() if available() else None
    if place is None:
        return
    tried = place / f"tried-{'-'.join(map(_version, MODULES))}"
    with contextlib.suppress(OSError):
        if tried.exists() and time.time() - tried.stat().st_mtime < _AGAIN:
            return
        tried.unlink(missing_ok=True)
        tried.touch(exist_ok=False)
        # Not from the working directory, where anything may lie.
        command = [sys.executable, "-P", "-m", "tracer.compiled", "--behind"]
        null = subprocess.DEVNULL
        begun = subprocess.Popen(command, cwd="/", stdin=null, stdout=null, stderr=null, start_new_session=True)
        begun.returncode = 0  # it is not waited for, of which Python would warn


if __name__ == "__main__":
    if "--behind" in sys.argv:
        os.nice(19)
    for one in MODULES:
        make(one)
    print(f"compiled; kept in {folder()}")
