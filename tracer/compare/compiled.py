"""Whether the compiled kernels of :mod:`tracer.compare.kernels` are worth loading."""

from __future__ import annotations

from types import ModuleType

from tracer import compiled

_MODULE = "tracer.compare.kernels"
_RECORDING = "tracer.store.kernels"
WORTHWHILE = 32 << 20
"""Elements from which on loading the kernels (0.7 s) takes less time than they save."""
COMPILING = 4 * WORTHWHILE
"""And compiling them (10 s), which is done once, if there is a place to keep them."""
_UNKEPT = 16 * WORTHWHILE
"""And if there is none."""


def kernels(elements: int) -> ModuleType | None:
    """The kernels, if they are there already, or pay for a comparison of so many elements."""
    if compiled.loaded(_MODULE):
        return load()
    known = elements >= WORTHWHILE and compiled.kept(_MODULE)
    if elements < (WORTHWHILE if known else COMPILING) or (elements < _UNKEPT and compiled.folder() is None):
        return None
    found = load()
    if found is not None and not known:  # a recorder in its sandbox finds code, and cannot keep any
        compiled.load(_RECORDING)
    return found


def load() -> ModuleType | None:
    """The kernels, whatever that costs; None where there is no numba, or it does not work here."""
    return compiled.load(_MODULE)
