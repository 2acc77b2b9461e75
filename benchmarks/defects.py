"""The alignment after defects: every kind of defect, built into the PyTorch side of the corpus' ports, and scored.

python -m benchmarks.defects [--record] [--held-out] [--structure] [--verbose] [--kinds KIND …] [PAIR …]

``--record`` makes the recordings that are missing (kept in the user's cache folder, beside the port's own); without it
those that are there are scored, which takes seconds after a change of the engine. Prints a line for each defect, then a
table by kind and one by pair; writes benchmarks/defects.json. Ports whose own recordings are large are left out unless
they are named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import tracer
from benchmarks.corpus import Built, Port, ports
from benchmarks.corpus.record import Kept, home, kept, record
from benchmarks.corpus.score import Score, score
from benchmarks.corpus.truth import Truth
from tracer.alignment import align
from tracer.errors import TracerError
from tracer.graph import Structure
from tracer.store import Recording, Trace

VERSION = 2
"""Of the defects: recordings of other versions are made again."""
CORRECT = "-"
"""The kind of the port without a defect, which the others are to be read against; not in the totals."""
LARGEST = 48 << 20
"""Bytes of a port's recordings above which it is only taken when it is named."""


class Stale(Exception):
    """A port is not what it was when it was recorded."""


@dataclass(frozen=True)
class Bench:
    """A port and its defective variants; ``swapped`` where the PyTorch side is the port's reference."""

    pair: Kept

    @cached_property
    def swapped(self) -> bool:
        return self.pair.recording("equal").framework != "pytorch"

    @property
    def reference(self) -> Recording:
        return self.pair.recording("equal" if self.swapped else "reference")

    @property
    def correct(self) -> Recording:
        """The PyTorch side without a defect."""
        return self.pair.recording("reference" if self.swapped else "equal")

    @cached_property
    def truth(self) -> Truth:
        truth = self.pair.truth
        if not self.swapped:
            return truth
        parameters = {theirs: ours for ours, theirs in truth.parameters.items()}
        return Truth(truth.candidate, truth.reference, truth.computing[::-1], parameters)

    @cached_property
    def folder(self) -> Path:
        """Not in the port's own, which is emptied when it is recorded anew, though it may come out the same."""
        correct = self.correct
        digest = hashlib.sha256(repr((correct.input_id, _nodes(correct.structure))).encode())
        digest.update(f"{np.abs(_output(correct)).max():.3g}".encode())
        return _home(self.pair) / digest.hexdigest()[:12]

    def known(self, kind: str) -> Mapping[str, Any] | None:
        """What is kept of a kind: ``{}`` where the port has no place for it, None where it was never tried."""
        path = self.folder / f"{kind}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def recording(self, kind: str) -> Recording:
        return Trace.open(self.folder / f"{kind}.zarr").recording("defect")

    def score(self, kind: str, *, structure: bool) -> tuple[Score, float]:
        """How right the alignment of the reference to the defective candidate is, and the seconds it took."""
        known = self.known(kind) or {}
        ours, theirs = self.reference, self.correct if kind == CORRECT else self.recording(kind)
        began = time.perf_counter()
        alignment = align(ours.structure, theirs.structure) if structure else align(ours, theirs)
        took = time.perf_counter() - began
        return score(alignment, self.truth, known.get("names")), took

    def record(self, kinds: Iterable[str]) -> None:
        """Build in and record the kinds of which nothing is kept. Raises Stale when the port must be recorded anew."""
        missing = [kind for kind in kinds if self.known(kind) is None]
        if not missing:
            return
        import torch

        from benchmarks.corpus.mutations import Subject

        torch.set_num_threads(1)
        for old in _home(self.pair).glob("*"):
            if old != self.folder:
                shutil.rmtree(old)
        built = self.pair.port.build()
        model = built.reference if self.swapped else built.candidate
        correct = self.correct
        try:
            subject = Subject(model, {node.name: correct.read(node.name) for node in correct.structure.inputs})
        except Exception as error:
            raise Stale(str(error)) from error
        if not _same(subject.structure, subject.outputs, correct):
            raise Stale("the port is built, or recorded, otherwise than it was")
        self.folder.mkdir(parents=True, exist_ok=True)
        for kind in missing:
            mutation = subject.mutate(kind)
            what: dict[str, Any] = {}
            if mutation is not None:
                self._record(kind, mutation.model, built)
                what = {"where": mutation.where, "names": mutation.names, "latent": mutation.latent}
                seen = {node.name for node in self.recording(kind).structure}
                assert mutation.names.keys() <= seen, f"{kind}: {sorted(mutation.names.keys() - seen)[:3]}"
            (self.folder / f"{kind}.json").write_text(json.dumps(what))

    def _record(self, kind: str, model: Any, built: Built) -> None:
        """Record a defective candidate on the port's input, moved as it was for the correct one."""
        place = self.folder / f"{kind}.zarr"
        shutil.rmtree(place, ignore_errors=True)
        correct = self.correct
        stored = self.pair.trace.inputs(correct.input_id)
        inputs = {name: values for name, (values, _) in stored.items()}
        trace = Trace.at(place)
        trace.make()
        trace.save_inputs(correct.input_id, inputs, {name: dict(own) for name, (_, own) in stored.items()})
        options = dict(built.record[0 if self.swapped else 1]) | {"layout": _layout(correct)}
        tracer.record(model, inputs, trace=place, name="defect", **options)


def _home(pair: Kept) -> Path:
    return home() / f"defects-v{VERSION}" / pair.folder.name


def _nodes(structure: Structure) -> list[Any]:
    return [(node.name, node.kind, node.shape, node.params) for node in structure]


def _output(recording: Recording) -> Any:
    return recording.read(recording.resolve(recording.structure.outputs[0]))


def _same(structure: Structure, outputs: Sequence[Any], correct: Recording) -> bool:
    """Whether a model is the one that was recorded: node by node, and by what it gives."""
    if _nodes(structure) != _nodes(correct.structure):
        return False
    return np.allclose(_output(correct), outputs[0].numpy(), rtol=1e-3, atol=1e-4)


def _layout(correct: Recording) -> str:
    """How the saved input's axes were moved for a recording."""
    for axes in correct.attributes.get("input_axes", {}).values():
        rank = len(axes)
        if rank >= 3 and tuple(axes) == (0, rank - 1, *range(1, rank - 1)):
            return "NHWC->NCHW"
        if rank >= 3 and tuple(axes) == (0, *range(2, rank), 1):
            return "NCHW->NHWC"
    return "same"


def benches(names: list[str], *, held_out: bool, make: bool) -> Iterable[Bench]:
    """The ports to take, recorded where they were not and ``make`` says so."""
    for name, port in ports().items():
        if port.held_out and not held_out:
            continue
        if not (any(fnmatchcase(name, pattern) for pattern in names) if names else _small(port)):
            continue
        pair = kept(port)
        if pair is None and make:
            try:
                pair = record(port)
            except Exception:
                traceback.print_exc()
        if pair is None:
            print(f"{name}: not recorded (--record)")
        else:
            yield Bench(pair)


def _small(port: Port) -> bool:
    """Whether a port is recorded, and in little space."""
    pair = kept(port)
    if pair is None:
        return False
    return sum(pair.recording(name).nbytes for name in ("reference", "equal")) <= LARGEST


def row(bench: Bench, kind: str, result: Score, took: float) -> dict[str, Any]:
    known = bench.known(kind) or {}
    return {
        "pair": bench.pair.port.name,
        "held_out": bench.pair.port.held_out,
        "kind": kind,
        "where": known.get("where", []),
        "precision": result.precision,
        "recall": result.recall,
        "f1": result.f1,
        "wrong": result.wrong,
        "missed": result.expected - result.hits,
        "expected": result.expected,
        "ambiguous": result.ambiguous,
        "sure_precision": result.sure_precision,
        "coverage": result.coverage,
        "seconds": round(took, 3),
    }


def table(title: str, rows: list[dict[str, Any]], scores: list[Score], key: str) -> None:
    """Mean and least F1, and the counts together, by one column of the rows."""
    print(f"\n{title:34} {'runs':>4}  mean F1  least   precision recall  wrong missed ambiguous sure P  coverage")
    for value in (*dict.fromkeys(row[key] for row in rows), None):
        chosen = [i for i, row in enumerate(rows) if row[key] == (row[key] if value is None else value)]
        chosen = [i for i in chosen if value == CORRECT or rows[i]["kind"] != CORRECT]
        if not chosen:
            continue
        total = Score()
        for i in chosen:
            total += scores[i]
        f1 = [rows[i]["f1"] for i in chosen]
        print(
            f"{value or 'ALL':34} {len(chosen):4}  {np.mean(f1):.4f}  {min(f1):.4f}  {total.precision:.4f}    "
            f"{total.recall:.4f}  {total.wrong:5} {total.expected - total.hits:6} {total.ambiguous:9} "
            f"{total.sure_precision:.4f}  {total.coverage:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PAIR", help="globs over the corpus' names")
    parser.add_argument("--kinds", nargs="+", default=["*"], metavar="KIND", help="globs over the kinds of defects")
    parser.add_argument("--record", action="store_true", help="make the recordings that are missing")
    parser.add_argument("--held-out", action="store_true", help="the ports kept aside as well: for reports only")
    parser.add_argument("--structure", action="store_true", help="align the structures alone")
    parser.add_argument("--verbose", action="store_true", help="list what is wrong and what is missed")
    options = parser.parse_args()
    from benchmarks.corpus.mutations import KINDS

    kinds = [kind for kind in KINDS if any(fnmatchcase(kind, pattern) for pattern in options.kinds)]
    rows: list[dict[str, Any]] = []
    scores: list[Score] = []
    failed = 0
    for bench in benches(options.names, held_out=options.held_out, make=options.record):
        name = bench.pair.port.name
        if options.record:
            began = time.perf_counter()
            try:
                try:
                    bench.record(kinds)
                except Stale as error:
                    print(f"{name}: {error}; recorded anew")
                    bench = Bench(record(bench.pair.port))
                    bench.record(kinds)
            except (TracerError, AssertionError, OSError, Stale) as error:
                print(f"{name}: {error}")
            print(f"{name}: recorded in {time.perf_counter() - began:.0f} s", flush=True)
        for kind in (CORRECT, *kinds):
            if kind != CORRECT and not bench.known(kind):
                continue
            try:
                result, took = bench.score(kind, structure=options.structure)
            except Exception as error:  # an engine that fails on one pair is shown on the others all the same
                print(f"{name:28} {kind:22} FAILED {type(error).__name__}: {error}", flush=True)
                result, took, failed = Score(expected=1), 0.0, failed + 1
            rows.append(row(bench, kind, result, took))
            scores.append(result)
            print(f"{name:28} {kind:22} {result.line()}  {took:5.2f} s", flush=True)
            if options.verbose:
                for pair in result.errors:
                    print(f"      wrong {pair}")
                for node in result.missed:
                    print(f"      missed {node}")
    if rows:
        table("KIND", rows, scores, "kind")
        table("PAIR", rows, scores, "pair")
        if not options.structure and not options.names and options.kinds == ["*"]:
            Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1))
    if failed:
        raise SystemExit(f"{failed} alignments failed")


if __name__ == "__main__":
    main()
