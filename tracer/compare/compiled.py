"""The compiled kernels of :mod:`tracer.compare.kernels`."""

from __future__ import annotations

from types import SimpleNamespace

from tracer import compiled

_MODULE = "tracer.compare.kernels"


def kernels(elements: int) -> SimpleNamespace | None:
    """The kernels, where they pay for a comparison of so many elements."""
    return compiled.worthwhile(_MODULE, elements)


def load() -> SimpleNamespace | None:
    """The kernels, whatever their loading costs; None where they are not kept."""
    return compiled.load(_MODULE)
