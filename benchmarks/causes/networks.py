"""The sets of defects in networks of their own: these recorded, each with its defects and its other correct ways."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tracer
from benchmarks.causes.runs import Run
from benchmarks.corpus import mutations
from benchmarks.corpus.mutations.pairs import DefectSet
from benchmarks.corpus.record import VERSION, home
from benchmarks.planted import Planted, twins_of
from tracer.errors import TracerError
from tracer.store import Recording, Trace

CORRECT = "correct"


def within(name: str, places: Iterable[str]) -> bool:
    """Whether a node belongs to one of these layers or calls."""
    return any(fnmatchcase(name, place + end) for place in places for end in ("", ".*", "/*", "#*", "[[]*"))


def _digest(which: DefectSet) -> str:
    """Of the set's source: what was recorded by another is not taken."""
    home_ = Path(mutations.__file__).parent
    files = [home_ / "carrying.py", *sorted((home_ / which.name).glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@dataclass(frozen=True)
class NetworkBench:
    """One pair of networks of a set."""

    of: DefectSet
    network: str

    @cached_property
    def pair(self) -> Any:
        """With what the tables ask of a port."""
        return SimpleNamespace(port=SimpleNamespace(name=f"{self.of.name}/{self.network}", held_out=False))

    @cached_property
    def folder(self) -> Path:
        return home() / f"{self.of.name}-v{VERSION}" / self.network / _digest(self.of)

    @cached_property
    def _trace(self) -> Trace:
        return Trace.open(self.folder / "trace.zarr")

    @property
    def names(self) -> list[str]:
        """Of all that is recorded: the correct ports, the defects, and two at once."""
        return [CORRECT, *self.of.names(self.network)]

    def recording(self, name: str) -> Recording:
        return self._trace.recording(name.replace("/", " "))

    @cached_property
    def reference(self) -> Recording:
        return self._trace.recording("reference")

    @cached_property
    def correct(self) -> Recording:
        return self._trace.recording(CORRECT)

    @cached_property
    def twins(self) -> dict[str, str]:
        """The reference's nodes by the correct port's, and by their own names with a mark."""
        own = {f"reference:{node.name}": node.name for node in self.reference.structure}
        return twins_of(self.reference, self.correct) | own

    def record(self, kinds: Iterable[str]) -> None:
        """Record what is missing."""
        import torch

        if (self.folder / "trace.zarr").exists():
            return
        torch.set_num_threads(1)
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        self.folder.mkdir(parents=True)
        made = self.folder / "making.zarr"
        pair = self.of.networks[self.network]()
        tracer.record(pair.reference, pair.inputs, trace=made, name="reference")
        for name in self.names:
            port = self.of.build(pair, name)
            tracer.record(port, trace=made, name=name.replace("/", " "), layout=pair.layout)
        made.rename(self.folder / "trace.zarr")

    def runs(self, kinds: Iterable[str]) -> Iterator[Run]:
        """What is recorded, correct ports first."""
        for name in kinds:
            try:
                candidate = self.recording(name)
            except TracerError as error:
                print(f"{self.pair.port.name}: {name}: {error} (--record)")
                continue
            label = {None: "", True: "two in one layer", False: "two in neighbours"}[self.of.together.get(name)]
            parts = [part for part in name.split("+") if part in self.of.defects]
            label = label or ("one" if parts else "correct")
            yield Run(self, self.planted(parts, candidate), candidate, label == "two in one layer", label, name)

    def planted(self, parts: list[str], candidate: Recording) -> Planted:
        """Where the defects are in a port. Raises KeyError where none of a defect's places is in either network."""
        found = Planted(None, parts)
        known = {node.name for node in self.correct.structure if node.role == "layer"}
        found.was = {node.name: node.name for node in candidate.structure if node.name in known}
        for part in parts:
            at = self.of.defects[part].at
            place = {node.name for node in candidate.structure if within(node.name, at)}
            lost = {f"reference:{node.name}" for node in self.reference.structure if within(node.name, at)}
            if not place and not lost:
                raise KeyError(f"{part}: nothing is called {' or '.join(at)}")
            found.places.append(place)
            found.gone.append(lost)
        return found
