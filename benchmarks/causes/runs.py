"""The candidates with defects, and what was planted in each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.defects import Bench
from benchmarks.planted import AT_ONCE, Planted, defective, stacked, within
from tracer.errors import TracerError
from tracer.store import Recording, Trace


def planted_of(bench: Bench, kind: str) -> Planted:
    """What a kept defect changed, from what was kept with it; ``one+other`` is two in the same layer."""
    parts = kind.split("+")
    known = bench.known(kind)
    assert known
    names: Mapping[str, str | None] = known["names"]
    candidate = bench.recording(kind).structure
    out = Planted(None, list(parts))
    place = {node.name for node in candidate if names.get(node.name) is None}
    if kind not in AT_ONCE:
        place |= {new for new, old in names.items() if old is not None and within(old, known["where"])}
    out.places = [place for _ in parts]
    kept_ = {old for old in names.values() if old is not None}
    out.gone = [{node.name for node in bench.correct.structure} - kept_ for _ in parts]
    out.was = {node.name: names.get(node.name) for node in candidate}
    return out


@dataclass(frozen=True)
class Run:
    """One defective candidate.

    Attributes:
        one_layer: whether all its defects were built into the same one.
        label: what it is counted under where its side does not say it; ``name``: its own where it has no defects.
    """

    bench: Any
    planted: Planted
    candidate: Recording
    one_layer: bool = False
    label: str = ""
    name: str = ""

    @property
    def kinds(self) -> list[str]:
        return self.planted.kinds


def singles(bench: Bench, kinds: Iterable[str]) -> Iterator[Run]:
    for kind in kinds:
        if bench.known(kind):
            yield Run(bench, planted_of(bench, kind), bench.recording(kind), "+" in kind)


def _place(bench: Bench, count: int, seed: int, draw: int) -> Path:
    return bench.folder / f"{count} at once, {seed}.{draw}.zarr"


def at_once(bench: Bench, count: int, draws: int, seed: int) -> Iterator[Run]:
    """The kept candidates with several defects."""
    for draw in range(draws):
        place = _place(bench, count, seed, draw)
        about = place.with_suffix(".json")
        if about.exists():
            known = json.loads(about.read_text())
            sets = [[set(names) for names in known[key]] for key in ("places", "gone")]
            planted = Planted(None, known["kinds"], sets[0], sets[1], known["was"])
            yield Run(bench, planted, Trace.open(place).recording("defect"))


def record_at_once(bench: Bench, kinds: Sequence[str], counts: Sequence[int], draws: int, seed: int) -> None:
    """Make the candidates with several defects that are missing. Raises Stale as :meth:`Bench.record` does."""
    missing = [n for n in counts if not _place(bench, n, seed, 0).with_suffix(".json").exists()]
    if not missing:
        return
    import torch

    from benchmarks.corpus.mutations import Subject

    torch.set_num_threads(1)
    built = bench.pair.port.build()
    correct = bench.correct
    subject = Subject(
        built.reference if bench.swapped else built.candidate,
        {node.name: correct.read(node.name) for node in correct.structure.inputs},
    )
    bench.folder.mkdir(parents=True, exist_ok=True)
    for count in missing:
        for draw, planted in enumerate(stacked(subject, kinds, count, draws, seed)):
            place = _place(bench, count, seed, draw)
            try:
                defective(planted.model, correct, built.record[0 if bench.swapped else 1], place)
            except TracerError as error:
                print(f"{bench.pair.port.name}: {'+'.join(planted.kinds)} not recorded: {error}")
                shutil.rmtree(place, ignore_errors=True)
                continue
            what = {"kinds": planted.kinds, "places": [sorted(p) for p in planted.places],
                    "gone": [sorted(g) for g in planted.gone], "was": planted.was}  # fmt: skip
            place.with_suffix(".json").write_text(json.dumps(what))
