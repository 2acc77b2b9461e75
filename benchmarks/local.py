"""Re-execution on correct ports and on planted defects: false alarms, defects found at their place, time.

python -m benchmarks.local ports [--held-out] [--regimes equal small large one many] [PAIR …]
python -m benchmarks.local defects [--stack N] [--kinds KIND …] [--draws N] [PAIR …]
python -m benchmarks.local seconds

``ports`` measures every pair of the corpus' correct ports, as recorded and with inputs scaled by 1e-3 and 1e3 and in
batches of 1 and 32; a pair that comes out ``diverged`` is a false alarm. ``defects`` builds 1 to N defects at once into
the PyTorch side: one is located when a pair diverges whose tensor is computed, since the last pair above it, by a node
that the defect changed, added or took away; a diverged pair that no defect explains is a false alarm. ``seconds``
relates the re-execution to a forward pass of both models. Results are added to benchmarks/local.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
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

import tracer
from benchmarks.corpus import Built, Port, ports
from benchmarks.corpus.record import kept
from benchmarks.defects import LARGEST
from tracer import adapter as adapters
from tracer.alignment import Alignment, align
from tracer.compare.diff import Diff, diff
from tracer.compare.local import Local, Measure, Measured
from tracer.compare.verdict import Tolerance, Verdict
from tracer.errors import ReplayError, TracerError
from tracer.graph import Structure
from tracer.rerun import loading
from tracer.rerun.cuts import Cut, cuts
from tracer.rerun.local import Exact, exact, local_errors
from tracer.rerun.measure import joined
from tracer.store import Recording, Trace

RESULTS = Path(__file__).with_suffix(".json")
STRICT = Tolerance(0.0, 0.0)
"""No error passes, so that every verdict rests on what was measured again."""
REGIMES = ("equal", "small", "large", "one", "many")
AT_ONCE = ("block-missing", "block-extra", "block-repeated", "layer-extra", "layer-missing", "normalisation-extra",
           "activation-extra", "activation-missing", "dense-missing")  # fmt: skip
"""Defects whose place is what they added or took away, not the layer beside it."""


class Rig:
    """A reference with its own exact activations, against which many candidates are measured."""

    def __init__(self, model: object, recording: Recording, folder: Path) -> None:
        self.recording, self.folder = recording, folder
        self.seconds = 0.0
        names = [node.name for node in recording.structure.stored() if recording.stored(node.name) is not None]
        every = [Cut(name, name, name, 0, True, (), ()) for name in names]
        began = time.perf_counter()
        try:
            ours, inputs = loading.live(model, recording)
            self.exact = exact(ours, inputs, recording, every, folder)
        except ReplayError as error:
            self.exact = Exact({}, None, {}, str(error))
        self.seconds = time.perf_counter() - began

    def measure(self, model: object) -> Measure:
        def run(alignment: Alignment, reference: Recording, candidate: Recording) -> Measured:
            made, without = cuts(alignment.pairs, reference, candidate)
            theirs, inputs = loading.live(model, candidate)
            found, notes = local_errors(theirs, inputs, reference, made, self.exact, self.folder)
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
    return _both(built, inputs, theirs, place)


def _both(built: Built, inputs: Any, theirs: Any, place: Path) -> tuple[Recording, Recording]:
    tracer.record(built.reference, inputs, trace=place, name="reference", **built.record[0])
    tracer.record(built.candidate, theirs, trace=place, name="equal", **built.record[1])
    trace = Trace.open(place)
    return trace.recording("reference"), trace.recording("equal")


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
            if score.bases.keys() - {"float64 on both sides"}:
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
class Planted:
    """Defects in one model: what each changed, in the names that its nodes have in the end."""

    model: Any
    kinds: list[str] = field(default_factory=list)
    places: list[set[str]] = field(default_factory=list)
    gone: list[set[str]] = field(default_factory=list)
    was: dict[str, str | None] = field(default_factory=dict)


def plant(subject: Any, kinds: Sequence[str], seed: int) -> Planted | None:
    """Build in the defects one after the other; None where there is no place for one of them."""
    from benchmarks.corpus.mutations import Subject, observe

    out, inputs = Planted(subject.model), subject.inputs
    out.was = {node.name: node.name for node in subject.structure}
    for position, kind in enumerate(kinds):
        own = subject if out.model is subject.model else Subject(out.model, inputs)
        mutation = own.mutate(kind, seed + position)
        if mutation is None:
            return None
        structure = observe(mutation.model, inputs)[0]
        names = mutation.names
        now: dict[str, set[str]] = {}
        for new, old in names.items():
            if old is not None:
                now.setdefault(old, set()).add(new)
        out.places = [{new for old in place for new in now.get(old, ())} for place in out.places]
        new_nodes = {node.name for node in structure if names.get(node.name, None) is None}
        place = new_nodes
        if kind not in AT_ONCE:
            place |= {new for new, old in names.items() if old is not None and _within(old, mutation.where)}
        out.gone.append({found for name in mutation.gone if (found := out.was.get(name)) is not None})
        out.was = {node.name: out.was.get(names.get(node.name) or "") for node in structure}
        out.places.append(place)
        out.kinds.append(kind)
        out.model = mutation.model
    undone = any(not place and not gone for place, gone in zip(out.places, out.gone, strict=True))
    return None if undone else out


def _within(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith((f"{place}.", f"{place}#", f"{place}[")) for place in places)


def segment(structure: Structure, start: str, stops: set[str]) -> set[str]:
    """The nodes that a tensor is computed by, up to those in ``stops``; itself among them."""
    seen, queue = {start}, [start]
    nodes = structure.by_name
    while queue:
        node = nodes[queue.pop()]
        for name in (*node.parents, *((node.alias_of,) if node.alias_of else ())):
            if name not in seen and name not in stops:
                seen.add(name)
                queue.append(name)
    return seen


@dataclass
class Found:
    """What was found of planted defects."""

    located: list[bool]
    exact: list[bool]
    false: list[str]
    diverged: int


def judged(found: Diff, planted: Planted, twins: Mapping[str, str]) -> Found:
    """``twins``: the reference's node of each of the correct port's."""
    theirs, ours = found.candidate.structure, found.reference.structure
    computed = [p for p in found.pairs if "output" not in p.pair.evidence]
    ends = [(p.node.name, p.candidate_node.name) for p in computed]
    known = {name for ours_, _ in ends for name in (ours_, found.reference.resolve(ours_))}
    # What a defect made another node's twin (queries and values exchanged) shows where it is read.
    crossed = {t for o, t in ends if twins.get(planted.was.get(t) or "", o) != o}
    stops = {name for _, theirs_ in ends for name in (theirs_, found.candidate.resolve(theirs_))} - crossed
    lost = [{twins[name] for name in gone if name in twins} for gone in planted.gone]
    located, exact_, false, count = [False] * len(lost), [False] * len(lost), [], 0
    for pair in found.pairs:
        if pair.verdict is not Verdict.DIVERGED:
            continue
        count += 1
        place = segment(theirs, pair.candidate_node.name, stops) | {found.candidate.resolve(pair.candidate_node.name)}
        source = segment(ours, pair.node.name, known)
        explained = False
        for index, affected in enumerate(planted.places):
            if place & affected or source & lost[index]:
                located[index] = explained = True
                exact_[index] |= pair.candidate_node.name in affected or bool(source & lost[index])
        if not explained:
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
    if rig.exact.why:
        print(f"      {port.name}: {rig.exact.why[:150]}")
    inputs = {node.name: correct.read(node.name) for node in correct.structure.inputs}
    subject = Subject(model, inputs)
    right = align(reference, correct)
    twins = {name: pair.reference[-1] for pair in right.pairs for name in pair.candidate}
    for node in reversed(list(correct.structure)):  # what has no twin shows in the first that does
        below = [twins[child] for child in correct.structure.children[node.name] if child in twins]
        if node.name not in twins and below:
            twins[node.name] = below[0]
    rng = np.random.default_rng(options.seed)
    stacks = [[kind] for kind in names]
    if options.stack > 1:
        possible = [kind for kind in names if subject.mutate(kind, options.seed) is not None]
        most = min(options.stack, len(possible))
        stacks = [list(rng.choice(possible, most, replace=False)) for _ in range(4 * options.draws)]
    done = 0
    for kinds in stacks:
        if options.stack > 1 and done == options.draws:
            break
        began = time.perf_counter()
        try:
            planted = plant(subject, [str(kind) for kind in kinds], options.seed)
        except Exception as error:
            print(f"{port.name:26} {'+'.join(kinds)}: not planted: {type(error).__name__} {str(error)[:100]}")
            continue
        if planted is None:
            continue
        done += 1
        try:
            candidate = _recorded(planted.model, correct, built.record[0 if swapped else 1], scratch / "defect.zarr")
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


def _recorded(model: Any, correct: Recording, record: Mapping[str, Any], place: Path) -> Recording:
    """Record a defective model on the port's own input."""
    from benchmarks.defects import _layout

    shutil.rmtree(place, ignore_errors=True)
    saved = Trace.open(correct.root).inputs(correct.input_id)
    inputs = {name: values for name, (values, _) in saved.items()}
    trace = Trace.at(place)
    trace.make()
    trace.save_inputs(correct.input_id, inputs, {name: dict(own) for name, (_, own) in saved.items()})
    tracer.record(model, inputs, trace=place, name="defect", **{**record, "layout": _layout(correct)})
    return Trace.open(place).recording("defect")


# --- time -----------------------------------------------------------------------------------------------------


def forward(model: object, recording: Recording, repeats: int = 3) -> float:
    """Seconds of a plain forward pass of a live model on what a recording was fed."""
    _, inputs = loading.live(model, recording)
    if recording.framework == "pytorch":
        import torch

        given = {name: torch.from_numpy(np.array(values)) for name, values in inputs.items()}

        def run() -> None:
            with torch.no_grad():
                model(**given)  # type: ignore[operator]
    else:
        values = list(inputs.values())
        plain = inputs if len(values) > 1 else values[0]

        def run() -> None:
            model(plain, training=False)  # type: ignore[operator]

    took = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        took.append(time.process_time() - began)
    return min(took)


def sized() -> dict[str, Callable[[], Built]]:
    """Networks at the size at which they are used; VGG16 at the corpus' own, of which the classifier is small."""
    from dataclasses import replace

    from benchmarks.corpus import hub, vision_tuned

    def large(make: Callable[[], Built]) -> Callable[[], Built]:
        def build() -> Built:
            before = vision_tuned.keras_application
            vision_tuned.keras_application = lambda name, size, **options: before(name, 224, **options)
            try:
                return make()
            finally:
                vision_tuned.keras_application = before

        return build

    def bert() -> Built:
        known = hub.TWINS["bert"]
        options = {**known.options, "hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12,
                   "intermediate_size": 3072, "max_position_embeddings": 512}  # fmt: skip
        return replace(known, options=options, inputs=hub._ids(2, 128, 99)).build()

    return {
        "resnet50 at 224": large(ports()["vision/resnet50"].build),
        "mobilenet_v2 at 224": large(ports()["vision/mobilenet_v2"].build),
        "vgg16 at 96": ports()["vision/vgg16"].build,
        "bert, 6 layers of 768": bert,
    }


def run_seconds(options: argparse.Namespace) -> None:
    """In processor time, which other work on the machine disturbs least."""
    for name, build in sized().items():
        if options.names and not any(fnmatchcase(name, pattern) for pattern in options.names):
            continue
        built = build()
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            sides = _both(built, built.inputs, built.candidate_inputs, Path(scratch) / "t.zarr")
            plain = forward(built.reference, sides[0]), forward(built.candidate, sides[1])
            made, _ = cuts(align(*sides).pairs, *sides)
            ours = adapters.for_object(built.reference)[1].wrap(built.reference)
            inputs = loading.prepare(ours, sides[0])
            began = time.process_time()
            try:
                whole = exact(ours, inputs, sides[0], list(made.values()), Path(scratch))
            except ReplayError as error:
                whole = Exact({}, None, {}, str(error))
            between = time.process_time()
            theirs = adapters.for_object(built.candidate)[1].wrap(built.candidate)
            inputs = loading.prepare(theirs, sides[1])
            again = time.process_time()
            local_errors(theirs, inputs, sides[0], made, whole, Path(scratch))
            parts = between - began, time.process_time() - again
        ratio = sum(parts) / sum(plain)
        print(f"{name:24} forward {plain[0]:.2f} + {plain[1]:.2f} s  again: reference {parts[0]:.2f}, candidate "
              f"{parts[1]:.2f} s = {ratio:.1f} x  {whole.why[:80]}", flush=True)  # fmt: skip
        keep("seconds", {"port": name, "forward": plain, "exact": parts[0], "local": parts[1], "ratio": ratio},
             ("port",))  # fmt: skip


# --- results --------------------------------------------------------------------------------------------------


def keep(what: str, row: dict[str, Any], key: Sequence[str]) -> None:
    """Add a row to the results, in the place of the one with the same key."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = [other for other in known.get(what, []) if any(other[k] != row[k] for k in key)]
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
    {"ports": run_ports, "defects": run_defects, "seconds": run_seconds}[options.what](options)


if __name__ == "__main__":
    main()
