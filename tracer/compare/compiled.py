"""Whether the compiled kernels of :mod:`tracer.compare.kernels` are worth loading."""

from __future__ import annotations

from types import SimpleNamespace

from tracer import compiled

_MODULE = "tracer.compare.kernels"
WORTHWHILE = 4 << 20
"""Elements from which on loading the kernels (0.06 s, once in a process) takes less time than they save."""


def kernels(elements: int) -> SimpleNamespace | None:
    """The kernels, if they are there already, or pay for a comparison of so many elements, and are kept."""
    if elements < WORTHWHILE and not compiled.loaded(_MODULE):
        return None
    found = load()
    if found is None:
        compiled.make_behind()
    return found


def load() -> SimpleNamespace | None:
    """The kernels, whatever their loading costs; None where they are not kept."""
    return compiled.load(_MODULE)
