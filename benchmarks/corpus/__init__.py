"""Pairs of networks that two people wrote, with truths that do not come from the engine that they measure."""

from __future__ import annotations

from benchmarks.corpus.port import Built, Parameter, Port

__all__ = ["Built", "Parameter", "Port", "ports"]


def ports() -> dict[str, Port]:
    """The whole corpus by name."""
    from importlib import import_module
    from importlib.util import find_spec

    from tests import torchvision_ops

    torchvision_ops.register()
    names = [n for n in ("zoo", "vision", "hub", "custom") if find_spec(f"benchmarks.corpus.{n}")]
    return {p.name: p for n in names for p in import_module(f"benchmarks.corpus.{n}").PORTS}
