"""The corpus' recordings: made once, kept in the user's cache folder, aligned and scored whenever the engine changes.

Every pair has a trace with three recordings: ``reference``, ``equal`` (the candidate with the reference's weights) and
``unrelated`` (the candidate with weights of its own).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import platformdirs

import tracer
from benchmarks.corpus.port import Parameter, Port
from benchmarks.corpus.truth import Truth
from tracer.store import Recording, Trace

VERSION = 2
"""Of what is kept; older recordings are made again."""


def home() -> Path:
    return Path(os.environ.get("TRACER_CORPUS") or platformdirs.user_cache_path("tracer-nn") / "corpus")


@dataclass(frozen=True)
class Kept:
    """A pair's recordings and truth."""

    port: Port
    folder: Path

    @cached_property
    def trace(self) -> Trace:
        return Trace.open(self.folder / "trace.zarr")

    def recording(self, name: str) -> Recording:
        return self.trace.recording(name)

    @cached_property
    def truth(self) -> Truth:
        return Truth.load(self.folder / "truth.json")

    def judge(self, parameters: Mapping[Parameter, Parameter]) -> None:
        """Work out the truth, and keep it."""
        truth = Truth.of(self.recording("reference"), self.recording("equal"), parameters)
        truth.save(self.folder / "truth.json")
        self.__dict__.pop("truth", None)


def folder(port: Port) -> Path:
    return home() / f"v{VERSION}" / port.name.replace("/", "-")


def kept(port: Port) -> Kept | None:
    """What was recorded of a pair before; None where nothing was."""
    place = folder(port)
    return Kept(port, place) if (place / "truth.json").exists() else None


def record(port: Port) -> Kept:
    """Record a pair anew and work out its truth."""
    place = folder(port)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    trace = place / "trace.zarr"
    built = port.build()
    ours, theirs = built.record
    tracer.record(built.reference, built.inputs, trace=trace, name="reference", **ours)
    tracer.record(built.candidate, built.candidate_inputs, trace=trace, name="equal", **theirs)
    with scrambled(built.candidate):
        tracer.record(built.candidate, built.candidate_inputs, trace=trace, name="unrelated", **theirs)
    found = Kept(port, place)
    found.judge(built.parameters)
    return found


@contextmanager
def scrambled(module: Any, seed: int = 7) -> Iterator[None]:
    """A model with weights of its own while the context lasts: as large as they were, but unrelated."""
    if hasattr(module, "set_weights"):
        yield from _scrambled_keras(module, seed)
        return
    import torch

    generator = torch.Generator().manual_seed(seed)
    statistics = (n for n, _ in module.named_buffers() if n.endswith(("running_mean", "running_var")))
    tensors = dict(module.named_parameters()) | {name: module.get_buffer(name) for name in statistics}
    before = {name: value.detach().clone() for name, value in tensors.items()}
    with torch.no_grad():
        for name, value in tensors.items():
            if not value.is_floating_point():
                continue
            drawn = torch.randn(value.shape, generator=generator).to(value.dtype)
            spread = value.std() if value.numel() > 1 else value.abs().max()
            fresh = value.mean() + drawn * spread
            value.copy_(fresh.abs() + 0.1 if name.endswith("running_var") else fresh)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in tensors.items():
                value.copy_(before[name])


def _scrambled_keras(model: Any, seed: int) -> Iterator[None]:
    rng = np.random.default_rng(seed)
    before = model.get_weights()
    names = [variable.path if hasattr(variable, "path") else variable.name for variable in model.weights]
    fresh = []
    for name, value in zip(names, before, strict=True):
        drawn = value.mean() + rng.standard_normal(value.shape) * (value.std() if value.size > 1 else abs(value).max())
        fresh.append((abs(drawn) + 0.1 if "moving_variance" in name else drawn).astype(value.dtype))
    model.set_weights(fresh)
    try:
        yield
    finally:
        model.set_weights(before)
