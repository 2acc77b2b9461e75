"""Modules of kernels that numba compiles: loading them, and where the code is kept.

Such a module has ``entries()``: the functions that are called from Python, each with the types it is called with. What
numba makes of them lies in the user's cache (``~/.cache/tracer/kernels`` on Linux). It is code: where anybody else may
write, nothing is kept or read. Without numba, or where anything goes wrong with it, there are no kernels, and whoever
wants them does without.

    python -m tracer.compiled          # compiles all there are, beforehand
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

MODULES = {"tracer.compare.kernels": ("tracer.compare.loops",), "tracer.store.kernels": ()}
"""And the modules that they take loops from."""
_lock = threading.Lock()
_loaded: dict[str, ModuleType | None] = {}


def loaded(module: str) -> bool:
    """Whether :func:`load` was called for a module and has come to an end."""
    return module in _loaded


def load(module: str) -> ModuleType | None:
    """A module of kernels, ready to be called; None where there is no numba, or it does not work here.

    Loading takes about 0.7 s of processor where they are kept, compiling some 10 s.
    """
    with _lock:
        if module not in _loaded:
            _loaded[module] = _compiled(module) if available() else None
        return _loaded[module]


@cache
def available() -> bool:
    """Whether numba is installed and not switched off."""
    return importlib.util.find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


def kept(module: str) -> bool:
    """Whether code of this version of a module is kept."""
    place = folder()
    return place is not None and next((place / _version(module)).glob("*/*.nbc"), None) is not None


def _version(module: str) -> str:
    """What tells the sources of a module from others: numba looks at the time of one file alone."""
    found = hashlib.sha256()
    for one in (module, *MODULES[module]):
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


def _compiled(module: str) -> ModuleType | None:
    place = None
    with contextlib.suppress(ImportError, OSError):
        place = folder()
        place = place / _version(module) if place is not None else None
    # Suppressed are numba's own exceptions, and those of what lies in its cache.
    if place is not None:
        with contextlib.suppress(Exception):
            return _ready(module, place)
        # Where it may be read but not written, as in a worker's sandbox, numba would not look at it.
        with contextlib.suppress(Exception), tempfile.TemporaryDirectory() as copy:
            for kept in place.glob("*/*"):
                target = Path(copy, kept.relative_to(place))
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(kept, target)
            return _ready(module, Path(copy))
    with contextlib.suppress(Exception):
        return _ready(module, None)
    return None


def _ready(module: str, place: Path | None) -> ModuleType:
    found = importlib.import_module(module)
    with _cache_at(place):
        for kernel, signature in found.entries():
            if place is not None:
                kernel.enable_caching()
            kernel.compile(signature)
            kernel.disable_compile()  # or arrays that may be written to would have code of their own
    return found


@contextlib.contextmanager
def _cache_at(place: Path | None) -> Iterator[None]:
    from numba import config

    before = config.CACHE_DIR
    config.CACHE_DIR = "" if place is None else str(place)
    try:
        yield
    finally:
        config.CACHE_DIR = before


if __name__ == "__main__":
    for one in MODULES:
        if load(one) is None:
            raise SystemExit(f"{one} cannot be compiled here: is numba installed?")
    print(f"compiled; kept in {folder()}" if folder() else "compiled, but there is no place to keep them")
