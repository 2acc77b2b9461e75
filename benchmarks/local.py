"""Re-execution on correct ports and on planted defects: false alarms, defects found at their place, time.

python -m benchmarks.local ports [--held-out] [--regimes equal small large one many] [PAIR …]
python -m benchmarks.local defects [--stack N] [--kinds KIND …] [--draws N] [PAIR …]
python -m benchmarks.local seconds

``ports`` measures every pair of the corpus' correct ports, as recorded and with inputs scaled by 1e-3 and 1e3 and in
batches of 1 and 32; a pair that comes out ``diverged`` is a false alarm. ``defects`` builds 1 to N defects at once into
the PyTorch side: one is located when a pair diverges whose tensor is computed, since the last pair above it, by a node
that the defect changed, added or took away; a diverged pair that no defect explains is a false alarm. ``seconds``
relates the re-execution to a forward pass of both models, with each of the two as the reference. Results are added to
benchmarks/local.json.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import Built, Port, ports
from benchmarks.corpus.record import kept
from benchmarks.defects import LARGEST
from benchmarks.planted import Planted, defective, explaining, stacked, twins_of
from benchmarks.seconds import both, run_seconds
from tracer.alignment import Alignment
from tracer.compare.comparing import Diff, diff
from tracer.compare.local import Local, Measure, Measured
from tracer.compare.verdict import Tolerance, Verdict
from tracer.errors import ReplayError, TracerError
from tracer.rerun import loading
from tracer.rerun.cuts import cuts
from tracer.rerun.local import Compared, Walked, against, local_errors, shaken, walked
from tracer.rerun.measure import joined
from tracer.store import Recording

RESULTS = Path(__file__).with_suffix(".json")
STRICT = Tolerance(0.0, 0.0)
"""No error passes, so that every verdict rests on what was measured again."""
REGIMES = ("equal", "small", "large", "one", "many")


class Rig:
    """A reference against which many candidates are measured."""

    def __init__(self, model: object, recording: Recording, folder: Path) -> None:
        self.recording, self.folder = recording, folder
        self.why = ""
        try:
            self.model, self.inputs = loading.live(model, recording)
        except ReplayError as error:
            self.why = str(error)

    def measure(self, model: object) -> Measure:
        def run(alignment: Alignment, reference: Recording, candidate: Recording) -> Measured:
            made, without = cuts(alignment.pairs, reference, candidate)
            theirs, inputs = loading.live(model, candidate)

            def compared(alone: Walked) -> Mapping[str, Compared]:
                if self.why:
                    raise ReplayError(self.why)
                return against(self.model, self.inputs, reference, made, alone.files, self.folder)

            found, notes = local_errors(
                made,
                lambda: walked(theirs, inputs, reference, made, self.folder),
                compared,
                lambda alone, names: shaken(theirs, inputs, reference, made, alone, names, self.folder),
            )
            return joined(alignment.pairs, reference, candidate, found, without, notes)

        return run


def chosen(names: Sequence[str], *, held_out: bool, largest: float = math.inf) -> Iterator[Port]:
    for name, port in ports().items():
        if port.held_out and not held_out:
            continue
        if names and not any(fnmatchcase(name, pattern) for pattern in names):
            continue
        known = kept(port)
        size = sum(known.recording(n).nbytes for n in ("reference", "equal")) if known is not None else 0
        if names or size <= largest:
            yield port


# --- correct ports --------------------------------------------------------------------------------------------


def changed(inputs: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    if isinstance(inputs, Mapping):
        return {name: change(np.asarray(values)) for name, values in inputs.items()}
    if isinstance(inputs, list | tuple):
        return [change(np.asarray(values)) for values in inputs]
    return None if inputs is None else change(np.asarray(inputs))


def _scaled(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: (x * factor).astype(x.dtype) if x.dtype.kind == "f" and x.ndim > 2 else x


def _batched(length: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.concatenate([np.roll(x, i, -1) if x.ndim > 1 else x for i in range(-(-length // len(x)))])[
        :length
    ]


CHANGES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "small": _scaled(1e-3), "large": _scaled(1e3), "one": _batched(1), "many": _batched(32),
}  # fmt: skip


def recorded(port: Port, built: Built, regime: str, place: Path) -> tuple[Recording, Recording] | None:
    """Both sides of a port; None where the regime changes nothing."""
    known = kept(port)
    if regime == "equal" and known is not None:
        return known.recording("reference"), known.recording("equal")
    change = CHANGES.get(regime, lambda x: x)
    inputs, theirs = changed(built.inputs, change), changed(built.candidate_inputs, change)
    if regime != "equal" and _same(inputs, built.inputs):
        return None
    return both(built, inputs, theirs, place)


def _same(a: Any, b: Any) -> bool:
    def flat(x: Any) -> Iterable[Any]:
        return x.values() if isinstance(x, Mapping) else x if isinstance(x, list | tuple) else [x]

    return all(np.array_equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


@dataclass
class Score:
    """Of one port in one regime."""

    pairs: int
    measured: int
    false: list[str]
    strict: list[str]
    why: dict[str, int]
    largest: list[tuple[float, str, str]]
    bases: dict[str, int]
    notes: list[str]
    verdicts: dict[str, int] = field(default_factory=dict)
    unlike: float = 0.0
    """How much more one side rounds than the other at most."""


def scored(found: Diff) -> Score:
    whys: Counter[str] = Counter()
    ratios = []
    for pair in found.pairs:
        local = pair.local
        if local is None or not local.known:
            whys[_short(local.why if local is not None else "not measured")] += 1
        else:
            ratios.append((local.ratio, pair.aligned, pair.candidate_node.name))
    strict = found.at(STRICT)
    return Score(
        len(found.pairs), len(ratios), _diverged(found), _diverged(strict), dict(whys), sorted(ratios)[:-6:-1],
        dict(Counter(p.local.basis for p in found.pairs if p.local is not None and p.local.known)), list(found.notes),
        {str(verdict): count for verdict, count in strict.counts.items()},
        max((_unlike(p.local) for p in found.pairs if p.local is not None and p.local.known), default=0.0),
    )  # fmt: skip


def _unlike(local: Local) -> float:
    if local.rounding_reference is None or local.rounding_candidate is None:
        return 0.0
    least, most = sorted((local.rounding_reference, local.rounding_candidate))
    return most / max(least, local.epsilon * local.scale, local.sensitivity or 0.0, 1e-300)


def _diverged(found: Diff) -> list[str]:
    return [
        f"{p.aligned} ~ {p.candidate_node.name} [{p.candidate_node.kind}]: {p.reason}"
        for p in found.pairs
        if p.verdict is Verdict.DIVERGED
    ]


def _short(why: str) -> str:
    for part in ("was not recorded", "passes", "did not run", "no order of the axes", "random"):
        if part in why:
            return part
    return why[:60]


def run_ports(options: argparse.Namespace) -> None:
    total = Counter[str]()
    for port in chosen(options.names, held_out=options.held_out):
        if options.held_out and not port.held_out and not options.names:
            continue
        try:
            built = port.build()
        except Exception:
            traceback.print_exc()
            continue
        for regime in options.regimes:
            with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
                began = time.perf_counter()
                try:
                    sides = recorded(port, built, regime, Path(scratch) / "t.zarr")
                    if sides is None:
                        continue
                    rig = Rig(built.reference, sides[0], Path(scratch))
                    found = diff(*sides, measure=rig.measure(built.candidate))
                except Exception as error:
                    print(f"{port.name:28} {regime:6} FAILED {type(error).__name__}: {str(error)[:200]}", flush=True)
                    total[f"{regime} failed"] += 1
                    if options.verbose:
                        traceback.print_exc()
                    continue
                score = scored(found)
                took = time.perf_counter() - began
            total[f"{regime} pairs"] += score.pairs
            total[f"{regime} false"] += len(score.false)
            total[f"{regime} strict"] += len(score.strict)
            total[f"{regime} measured"] += score.measured
            shown = "; ".join(f"{r:.2g} {a}" for r, a, _ in score.largest[:2])
            print(f"{port.name:28} {regime:6} {score.pairs:4} pairs {score.measured:4} measured  "
                  f"{len(score.false):3} false {len(score.strict):3} strict  {took:5.1f} s  unlike {score.unlike:.2g}  "
                  f"{'(held out)' if port.held_out else shown}", flush=True)  # fmt: skip
            if score.why:
                print(f"      without: {score.why}")
            if score.notes:
                print(f"      basis: {score.bases} {score.notes}")
            if not port.held_out:
                for line in score.strict if options.verbose else score.strict[:4]:
                    print(f"      ! {line[:230]}")
            keep("ports", {"port": port.name, "held_out": port.held_out, "regime": regime, "pairs": score.pairs,
                           "measured": score.measured, "false": len(score.false), "strict": len(score.strict),
                           "why": score.why, "bases": score.bases, "verdicts": score.verdicts,
                           "largest": score.largest[0][0] if score.largest else None,
                           "unlike": score.unlike, "seconds": round(took, 1)},
                 ("port", "regime"))  # fmt: skip
    for regime in options.regimes:
        pairs = total[f"{regime} pairs"]
        if pairs:
            print(f"{regime}: {pairs} pairs, {total[f'{regime} measured']} measured, {total[f'{regime} false']} false "
                  f"({1000 * total[f'{regime} false'] / pairs:.2f} per thousand), strict "
                  f"{total[f'{regime} strict']}, failed ports {total[f'{regime} failed']}")  # fmt: skip


# --- planted defects ------------------------------------------------------------------------------------------


@dataclass
class Found:
    """What was found of planted defects."""

    located: list[bool]
    exact: list[bool]
    false: list[str]
    diverged: int


def judged(found: Diff, planted: Planted, twins: Mapping[str, str]) -> Found:
    """``twins``: the reference's node of each of the correct port's."""
    located, exact_, false, count = [False] * len(planted.places), [False] * len(planted.places), [], 0
    by = explaining(found, planted, twins)
    for pair in found.pairs:
        if pair.verdict is not Verdict.DIVERGED:
            continue
        count += 1
        explained = by(pair)
        for index, there in enumerate(explained):
            if there is not None:
                located[index] = True
                exact_[index] |= there
        if all(there is None for there in explained):
            false.append(f"{pair.aligned} ~ {pair.candidate_node.name} [{pair.candidate_node.kind}]: {pair.reason}")
    return Found(located, exact_, false, count)


def run_defects(options: argparse.Namespace) -> None:
    from benchmarks.corpus.mutations import KINDS

    names = [kind for kind, found in KINDS.items() if not found.latent]
    names = [kind for kind in names if any(fnmatchcase(kind, pattern) for pattern in options.kinds)]
    total = Counter[str]()
    by_kind: dict[str, Counter[str]] = {}
    for port in chosen(options.names, held_out=options.held_out, largest=LARGEST):
        try:
            with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
                for kinds, result, took, missed in _planted(port, names, options, Path(scratch)):
                    count = len(kinds)
                    total["runs"] += 1
                    total["defects"] += count
                    total["located"] += sum(result.located)
                    total["exact"] += sum(result.exact)
                    total["false"] += len(result.false)
                    for kind, there in zip(kinds, result.located, strict=True):
                        by_kind.setdefault(kind, Counter()).update({"all": 1, "located": there})
                    keep("defects", {"port": port.name, "kinds": kinds, "seed": options.seed,
                                     "located": result.located, "exact": result.exact, "false": len(result.false),
                                     "diverged": result.diverged}, ("port", "kinds", "seed"))  # fmt: skip
                    bad = not all(result.located) or result.false
                    print(f"{port.name:26} {'+'.join(kinds):40} {sum(result.located)}/{count} located "
                          f"{len(result.false)} false of {result.diverged}  {took:4.1f} s"
                          f"{'   <<<' if bad else ''}", flush=True)  # fmt: skip
                    for line in missed:
                        print(f"      missed {line[:260]}")
                    for line in result.false[:3]:
                        print(f"      false  {line[:260]}")
        except Exception:
            traceback.print_exc()
    for kind, counts in sorted(by_kind.items(), key=lambda item: item[1]["located"] / item[1]["all"]):
        if counts["located"] < counts["all"]:
            print(f"{kind:26} {counts['located']}/{counts['all']}")
    if total["defects"]:
        share = total["located"] / total["defects"]
        print(f"{total['runs']} models, {total['defects']} defects: {total['located']} located ({share:.2%}), "
              f"{total['exact']} exactly, {total['false']} false")  # fmt: skip


def _planted(
    port: Port, names: Sequence[str], options: argparse.Namespace, scratch: Path
) -> Iterator[tuple[list[str], Found, float, list[str]]]:
    import torch

    from benchmarks.corpus.mutations import Subject

    torch.set_num_threads(1)
    built = port.build()
    sides = recorded(port, built, "equal", scratch / "own.zarr")
    assert sides is not None
    swapped = sides[1].framework != "pytorch"
    model, other = (built.reference, built.candidate) if swapped else (built.candidate, built.reference)
    reference, correct = (sides[1], sides[0]) if swapped else sides
    rig = Rig(other, reference, scratch)
    if rig.why:
        print(f"      {port.name}: {rig.why[:150]}")
    inputs = {node.name: correct.read(node.name) for node in correct.structure.inputs}
    subject = Subject(model, inputs)
    twins = twins_of(reference, correct)
    for planted in stacked(subject, names, options.stack, options.draws, options.seed):
        kinds = planted.kinds
        began = time.perf_counter()
        try:
            candidate = defective(planted.model, correct, built.record[0 if swapped else 1], scratch / "defect.zarr")
            found = diff(reference, candidate, measure=rig.measure(planted.model))
        except TracerError as error:
            print(f"{port.name:26} {'+'.join(kinds)} FAILED {type(error).__name__}: {str(error)[:200]}", flush=True)
            if options.verbose:
                traceback.print_exc()
            continue
        result = judged(found, planted, twins)
        yield planted.kinds, result, time.perf_counter() - began, _missed(found, planted, result, twins)


def _missed(found: Diff, planted: Planted, result: Found, twins: Mapping[str, str]) -> list[str]:
    """What is said at the places of defects that were not located."""
    lines = []
    for kind, there, place, gone in zip(planted.kinds, result.located, planted.places, planted.gone, strict=True):
        if there:
            continue
        lost = {twins[name] for name in gone if name in twins}
        near = [p for p in found.pairs if p.candidate_node.name in place or p.node.name in lost]
        said = [
            f"{p.aligned} ~ {p.candidate_node.name}: {p.verdict} {p.reason} "
            f"(ratio {p.local.ratio if p.local is not None and p.local.known else p.local and p.local.why})"
            for p in near[:2]
        ]
        lines.append(f"{kind} at {sorted(place)[:3]} gone {sorted(lost)[:3]}: {' | '.join(said) or 'no pair there'}")
    return lines


# --- results --------------------------------------------------------------------------------------------------


def keep(what: str, row: dict[str, Any], key: Sequence[str]) -> None:
    """Add a row to the results, in the place of the one with the same key."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = [other for other in known.get(what, []) if any(other.get(k) != row[k] for k in key)]
    known[what] = [*rows, row]
    RESULTS.write_text(json.dumps(known, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ports", "defects", "seconds"))
    parser.add_argument("names", nargs="*", metavar="PAIR", help="globs over the corpus' names")
    parser.add_argument("--regimes", nargs="+", default=["equal"], choices=REGIMES)
    parser.add_argument("--kinds", nargs="+", default=["*"], metavar="KIND", help="globs over the kinds of defects")
    parser.add_argument("--stack", type=int, default=1, metavar="N", help="defects at once")
    parser.add_argument("--draws", type=int, default=6, help="models of each port with several defects")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="the ports kept aside: for reports only")
    parser.add_argument("--scratch", type=Path, help="folder for what is recorded on the way")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_intermixed_args()
    if options.what == "seconds":
        run_seconds(options.names, options.scratch, lambda row: keep("seconds", row, ("port", "swapped")))
    else:
        {"ports": run_ports, "defects": run_defects}[options.what](options)


if __name__ == "__main__":
    main()
