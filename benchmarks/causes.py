"""The cause engine on planted defects and on correct ports: what it names, rightly and wrongly, and in what time.

python -m benchmarks.causes defects [--record] [--held-out] [--new] [--kinds KIND …] [--stacks N …] [PAIR …]
python -m benchmarks.causes ports [--held-out] [PAIR …]

``defects`` takes the recordings that benchmarks.defects keeps, and explains each against the port's reference. Every
kind of defect has the names of causes that are right for it, and those that are vague but do not mislead. A defect is

first    all that is said at its place is right, and no other cause is held possible;
among    a right name is among three at most that are said at its place;
vague    what is said there is true, and too general;
unknown  the place is found, the cause is not;
wrong    a name that misleads is said there;
missed   nothing is said there.

A place is the changed node or the first pair behind it. Findings elsewhere are false ones, but for the ``latent``.
``--stacks`` takes several defects at once; ``--new`` those that were written when the engine was done. ``ports``
explains correct ports, where every cause is false. Results go to benchmarks/causes.json.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import ports
from benchmarks.corpus.record import kept
from benchmarks.defects import Bench, Stale, benches
from benchmarks.planted import AT_ONCE, Planted, defective, explaining, stacked, twins_of, within
from tracer.causes.explain import SECONDS, Explained, explain
from tracer.causes.finding import Finding
from tracer.compare.diff import diff
from tracer.errors import TracerError
from tracer.store import Recording, Trace

RESULTS = Path(__file__).with_suffix(".json")
OUTCOMES = ("first", "among", "vague", "unknown", "wrong", "missed")
SAID = ("proven", "ambiguous")
FEW = 3
"""Names at one place at most among which the right one may be."""
LATENT_KINDS = frozenset({"bn-momentum"})

RIGHT: dict[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "activation-extra": "activation-extra",
        "activation-kind": "activation-kind",
        "activation-missing": "activation-missing",
        "activation-param": "activation-param weights-perturbed",  # the slopes of a PReLU are weights
        "attention-mask": "attention-mask",
        "attention-scale": "attention-scale",
        "bias-missing": "bias-missing",
        "block-extra": "block-extra",
        "block-missing": "block-missing",
        "block-repeated": "block-extra",
        "bn-eps": "bn-eps",
        "bn-mode": "bn-mode",
        "bn-momentum": "training-bn-momentum",
        "bn-stats": "bn-stats",
        "bn-swapped": "bn-stats",
        "channel-order": "channel-order",
        "concat-order": "concat-order",
        "dense-missing": "block-missing",
        "dense-row-order": "dense-row-order",
        "dense-transpose": "dense-transpose",
        "depth-to-space-order": "depth-to-space-order",
        "depthwise-order": "depthwise-order",
        "dilation": "dilation",
        "dropout-mode": "dropout-mode",
        "dtype": "dtype",
        "embedding-offset": "embedding-offset",
        "embedding-scale": "embedding-scale",
        # Where heads are joined or split by a view, the other order of the view is the other layout of the heads.
        "flatten-order": "flatten-order reshape-order head-layout",
        "gelu-approx": "gelu-approx",
        "groups": "groups",
        "gru-gate-order": "gru-gate-order",
        "head-layout": "head-layout",
        "input-normalisation": "input-normalisation",
        "input-scale": "input-scale",
        "kernel-flip": "kernel-flip",
        "kernel-layout": "kernel-layout",
        "layer-extra": "block-extra",
        "layer-missing": "block-missing",
        "ln-eps": "ln-eps",
        "logits": "logits",
        "lstm-gate-order": "lstm-gate-order",
        "norm-axis": "norm-axis",
        "normalisation-extra": "block-extra",
        "pad-asymmetry": "pad-asymmetry",
        "pad-mode": "pad-mode",
        "pad-valid": "pad-mode",
        "pool-ceil-mode": "pool-ceil-mode",
        "pool-count-include-pad": "pool-count-include-pad",
        "pool-kind": "pool-kind",
        # The weights of two projections change places: both are what happened.
        "qkv-order": "qkv-order weights-swapped",
        "reshape-order": "reshape-order flatten-order head-layout",
        "residual-missing": "residual-missing",
        "residual-order": "residual-order",
        "resize-align-corners": "resize-align-corners",
        "resize-mode": "resize-mode",
        "rnn-bias": "rnn-bias",
        "rnn-direction": "rnn-direction",
        "rnn-last-step": "rnn-last-step",
        "softmax-axis": "softmax-axis",
        "stack-order": "concat-order",
        "std-ddof": "std-ddof",
        "stride-position": "stride-position",
        "transposed-conv-shift": "transposed-conv-shift",
        "weights-not-loaded": "weights-not-loaded",
        "weights-perturbed": "weights-perturbed",
        "weights-swapped": "weights-swapped qkv-order",  # two layers beside one another may be projections
    }.items()
}
"""The names that are right for each kind of defect."""
VAGUE: dict[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "activation-kind": "operation-kind",
        "attention-mask": "block-missing",
        "attention-scale": "scale weights-perturbed block-missing",
        "channel-order": "axis-permutation block-extra",
        "concat-order": "axis-permutation channel-order",
        "depth-to-space-order": "axis-permutation channel-order reshape-order block-extra",
        "depthwise-order": "kernel-layout channel-order",
        "embedding-scale": "scale block-extra",
        "flatten-order": "axis-permutation block-extra",
        "gelu-approx": "activation-kind",
        "head-layout": "channel-order kernel-layout",
        "input-normalisation": "block-extra",
        "input-scale": "scale input-normalisation block-extra",
        "kernel-layout": "dense-transpose",
        "pad-asymmetry": "block-extra shift",
        "pad-mode": "block-extra",
        "pool-kind": "operation-kind",
        "reshape-order": "axis-permutation block-extra",
        "rnn-direction": "block-extra",
        "stack-order": "axis-permutation channel-order",
        "std-ddof": "scale",
        "transposed-conv-shift": "shift block-extra pad-mode",
        "weights-swapped": "weights-not-loaded",
    }.items()
}
"""Names that are true of a kind of defect, and too general."""


# --- what was planted ------------------------------------------------------------------------------------------


def planted_of(bench: Bench, kind: str) -> Planted:
    """What a kept defect changed, from what was kept with it."""
    known = bench.known(kind)
    assert known
    names: Mapping[str, str | None] = known["names"]
    candidate = bench.recording(kind).structure
    out = Planted(None, [kind])
    place = {node.name for node in candidate if names.get(node.name) is None}
    if kind not in AT_ONCE:
        place |= {new for new, old in names.items() if old is not None and within(old, known["where"])}
    out.places.append(place)
    kept_ = {old for old in names.values() if old is not None}
    out.gone.append({node.name for node in bench.correct.structure} - kept_)
    out.was = {node.name: names.get(node.name) for node in candidate}
    return out


@dataclass(frozen=True)
class Run:
    """One defective candidate."""

    bench: Bench
    planted: Planted
    candidate: Recording

    @property
    def kinds(self) -> list[str]:
        return self.planted.kinds


def singles(bench: Bench, kinds: Iterable[str]) -> Iterator[Run]:
    for kind in kinds:
        if bench.known(kind):
            yield Run(bench, planted_of(bench, kind), bench.recording(kind))


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


# --- judging ---------------------------------------------------------------------------------------------------


@dataclass
class Judged:
    """What was said of the defects of one candidate.

    Attributes:
        outcomes: one for each, see the module.
        proven: whether the result was reproduced at its place.
        said: what was found at each's place.
        false: findings that no defect explains; ``latent`` how many findings speak of settings without effect.
    """

    outcomes: list[str]
    proven: list[bool]
    said: list[list[Finding]]
    false: list[Finding]
    latent: int
    explained: Explained
    seconds: float
    parts: int = field(default=0)


def judged(run: Run, twins: Mapping[str, str], seconds: float, profile: cProfile.Profile | None) -> Judged:
    found = diff(run.bench.reference, run.candidate)
    began = time.perf_counter()
    if profile is not None:
        profile.enable()
    try:
        explained = explain(found, seconds=seconds)
    finally:
        if profile is not None:
            profile.disable()
    took = time.perf_counter() - began
    by = explaining(found, run.planted, twins)
    pairs = {pair.aligned: pair for pair in found.pairs}
    count = len(run.kinds)
    said: list[list[Finding]] = [[] for _ in range(count)]
    sharing: dict[int, set[str]] = {}
    false, latent, parts = [], 0, 0
    for finding in explained.findings:
        places = [by(pairs[name]) for name in finding.pairs or (finding.pair,)]
        at = [i for i in range(count) if any(place[i] is not None for place in places)]
        if finding.status == "latent":
            latent += 1
            at = [i for i in at if run.kinds[i] in LATENT_KINDS]
        else:
            parts += len(places)
            if not at:
                false.append(finding)
        for i in at:
            said[i].append(finding)
            sharing.setdefault(id(finding), set()).update(RIGHT[run.kinds[i]])
    outcomes = [_outcome(kind, found_, sharing) for kind, found_ in zip(run.kinds, said, strict=True)]
    proven = [any(one.status in (*SAID, "latent") for one in found_) for found_ in said]
    return Judged(outcomes, proven, said, false, latent, explained, took, parts)


def _outcome(kind: str, said: Sequence[Finding], sharing: Mapping[int, set[str]]) -> str:
    """``sharing``: the names that are right for any of the defects at a finding's place."""
    if not said:
        return "missed"
    named = [one for one in said if one.causes]
    if not named:
        return "unknown"
    right, vague = RIGHT[kind], VAGUE.get(kind, frozenset())
    held = [set(one.names) | {cause.id for cause in one.candidates} for one in named]
    if any(not names & (sharing[id(one)] | vague) for one, names in zip(named, held, strict=True)):
        return "wrong"
    together = [n for n in held if n & right]
    if not together:
        return "vague" if any(names & vague for names in held) else "unknown"
    # A proven finding's candidates are further names of the same thing, an ambiguous one's are other things.
    sure = all(one.status != "ambiguous" and set(one.names) <= sharing[id(one)] for one in named)
    if sure:
        return "first"
    if any(len(names - sharing[id(one)]) < FEW for one, names in zip(named, held, strict=True) if names & right):
        return "among"
    return "vague"


# --- defects ---------------------------------------------------------------------------------------------------


def line(finding: Finding) -> str:
    after = "" if finding.after is None else f" to {finding.after:.2g}"
    others = " | ".join(dict.fromkeys(c.id for c in finding.candidates))
    names = "+".join(finding.names) or "unknown"
    more = f" and {len(finding.pairs) - 1} more" if len(finding.pairs) > 1 else ""
    before = "" if finding.before is None else f"{finding.before:.2g}"
    return f"{finding.status} {names}{f' or {others}' if others else ''}: {before}{after} at {finding.pair}{more}"


def shown(finding: Finding) -> Iterator[str]:
    yield line(finding)
    for cause in finding.causes:
        yield f"    {cause.id}: {cause.what}  [{cause.fix}]"
    for text in (*finding.seen, *finding.notes):
        yield f"    . {text}"


def run_defects(options: argparse.Namespace) -> None:
    from benchmarks.corpus.mutations import KINDS

    seen = [kind for kind in KINDS if kind in RIGHT]
    if options.new:
        from benchmarks.corpus.mutations import unseen

        RIGHT.update(unseen.RIGHT)
        VAGUE.update(unseen.VAGUE)
        seen = list(unseen.RIGHT)
    kinds = [kind for kind in seen if any(fnmatchcase(kind, pattern) for pattern in options.kinds)]
    rows: list[dict[str, Any]] = []
    failed = 0
    profile = cProfile.Profile() if options.profile else None
    for bench in benches(options.names, held_out=options.held_out, make=options.record):
        port = bench.pair.port
        if options.record:
            _record(bench, kinds, options)
        twins: dict[str, str] | None = None
        for run in _runs(bench, kinds, options):
            twins = twins if twins is not None else twins_of(bench.reference, bench.correct)
            title = "+".join(run.kinds)
            try:
                result = judged(run, twins, options.seconds, profile)
            except Exception as error:  # an engine that fails on one is shown on the others all the same
                failed += 1
                print(f"{port.name:26} {title:26} FAILED {type(error).__name__}: {str(error)[:200]}", flush=True)
                if options.verbose:
                    traceback.print_exc()
                continue
            rows += _rows(run, result)
            marks = " ".join(result.outcomes)
            print(f"{port.name:26} {title:26} {marks:8} {len(result.false)} false {result.latent} latent  "
                  f"{result.seconds:5.1f} s of {result.explained.looked} pairs", flush=True)  # fmt: skip
            if not port.held_out:
                _tell(result, options.verbose)
    if rows:
        table("KIND", rows, "kind")
        table("PORT", rows, "port")
        _keep("new" if options.new else "stacks" if options.stacks else "defects", rows, options)
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    if failed:
        raise SystemExit(f"{failed} explanations failed")


def _record(bench: Bench, kinds: Sequence[str], options: argparse.Namespace) -> None:
    from benchmarks.corpus.mutations import KINDS

    try:
        if options.stacks:
            planted = [kind for kind in kinds if not KINDS[kind].latent]
            record_at_once(bench, planted, options.stacks, options.draws, options.seed)
        else:
            bench.record(kinds)
    except (TracerError, AssertionError, OSError, Stale) as error:
        print(f"{bench.pair.port.name}: {error}")


def _runs(bench: Bench, kinds: Sequence[str], options: argparse.Namespace) -> Iterator[Run]:
    if not options.stacks:
        yield from singles(bench, kinds)
    for count in options.stacks:
        yield from at_once(bench, count, options.draws, options.seed)


def _tell(result: Judged, verbose: bool) -> None:
    for outcome, said in zip(result.outcomes, result.said, strict=True):
        if outcome != "first" or verbose:
            for finding in said[: None if verbose else 3]:
                for text in shown(finding) if verbose else (line(finding),):
                    print(f"      {text[:240]}")
    for finding in result.false[: None if verbose else 3]:
        for text in shown(finding) if verbose else (line(finding),):
            print(f"      false  {text[:240]}")


def _rows(run: Run, result: Judged) -> Iterator[dict[str, Any]]:
    for i, kind in enumerate(run.kinds):
        yield {
            "port": run.bench.pair.port.name,
            "held_out": run.bench.pair.port.held_out,
            "kind": kind,
            "kinds": run.kinds,
            "outcome": result.outcomes[i],
            "proven": result.proven[i],
            "together": any(one in other for j, other in enumerate(result.said) if j != i for one in result.said[i]),
            "said": [line(finding) for finding in result.said[i]],
            "false": [line(finding) for finding in result.false] if i == 0 else [],
            "latent": result.latent if i == 0 else 0,
            "looked": result.explained.looked,
            "unread": len(result.explained.unread),
            "seconds": round(result.seconds, 2) if i == 0 else 0.0,
            "parts": result.parts if i == 0 else 0,
            "slowest": round(max((f.seconds / len(f.pairs or "1") for f in result.explained.findings), default=0.0), 2),
        }


def table(title: str, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """Counts of the outcomes by one column."""
    print(f"\n{title:28} {'all':>4} {'located':>7} {'proven':>6} " + " ".join(f"{o:>7}" for o in OUTCOMES) + "  false")
    for value in (*sorted(dict.fromkeys(row[key] for row in rows)), None):
        chosen = [row for row in rows if value is None or row[key] == value]
        counts = Counter(row["outcome"] for row in chosen)
        located = len(chosen) - counts["missed"]
        false = sum(len(row["false"]) for row in chosen)
        print(f"{value or 'ALL':28} {len(chosen):4} {located:7} {sum(row['proven'] for row in chosen):6} "
              + " ".join(f"{counts[o] or '':>7}" for o in OUTCOMES) + f"  {false or ''}")  # fmt: skip
    if key == "port":
        _totals(rows)


def _totals(rows: Sequence[Mapping[str, Any]]) -> None:
    count = len(rows)
    counts = Counter(row["outcome"] for row in rows)
    parts, seconds = sum(row["parts"] for row in rows), sum(row["seconds"] for row in rows)
    shares = ", ".join(f"{counts[o]} {o} ({counts[o] / count:.1%})" for o in OUTCOMES)
    print(f"\n{count} defects: {shares}; {sum(row['proven'] for row in rows) / count:.1%} reproduced")
    together = [row for row in rows if row["together"]]
    if together:
        first = sum(row["outcome"] == "first" for row in together)
        print(f"of these in one layer with another: {len(together)}, {first} first ({first / len(together):.1%})")
    models = sum(bool(row["false"]) for row in rows)
    print(f"false findings {sum(len(row['false']) for row in rows)} in {models} models; {seconds:.0f} s in all, "
          f"{seconds / max(parts, 1):.2f} s for each pair that parts, "
          f"the slowest {max(row['slowest'] for row in rows):.1f}")  # fmt: skip


# --- correct ports ---------------------------------------------------------------------------------------------


def run_ports(options: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    profile = cProfile.Profile() if options.profile else None
    for name, port in ports().items():
        pair = kept(port)
        if pair is None or (port.held_out and not options.held_out):
            continue
        if options.names and not any(fnmatchcase(name, pattern) for pattern in options.names):
            continue
        found = diff(pair.recording("reference"), pair.recording("equal"))
        began = time.perf_counter()
        if profile is not None:
            profile.enable()
        try:
            explained = explain(found, seconds=options.seconds)
        except Exception as error:
            print(f"{name:28} FAILED {type(error).__name__}: {str(error)[:200]}", flush=True)
            if options.verbose:
                traceback.print_exc()
            continue
        finally:
            if profile is not None:
                profile.disable()
        took = time.perf_counter() - began
        rows.append(_port_row(name, port.held_out, explained, took))
        row = rows[-1]
        print(f"{name:28} {row['pairs']:4} pairs {row['looked']:4} read ({row['looked'] / max(row['pairs'], 1):.0%})  "
              f"{len(row['false'])} false {row['unknown']} unknown  {took / max(row['pairs'], 1):.3f} s a pair  "
              f"{'' if port.held_out else row['latent']}", flush=True)  # fmt: skip
        if not port.held_out:
            for finding in explained.findings:
                if finding.status != "latent" or options.verbose:
                    for text in shown(finding) if options.verbose else (line(finding),):
                        print(f"      {text[:240]}")
            for why, count in Counter(map(_short, explained.unread.values())).most_common(
                None if options.verbose else 4
            ):
                print(f"      not read: {count} x {why}")
    if rows:
        pairs, looked = sum(r["pairs"] for r in rows), sum(r["looked"] for r in rows)
        latent: Counter[str] = sum((Counter(row["latent"]) for row in rows), Counter())
        false, unknown = sum(len(row["false"]) for row in rows), sum(row["unknown"] for row in rows)
        print(f"\n{len(rows)} ports, {pairs} pairs, {looked / pairs:.1%} read; {false} false, {unknown} unknown; "
              f"{sum(row['seconds'] for row in rows) / pairs:.3f} s a pair; latent {dict(latent)}")  # fmt: skip
        _keep("ports", rows, options)
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


def _short(why: str) -> str:
    return why if len(why) < 110 else f"{why[:107]}…"


def _port_row(name: str, held_out: bool, explained: Explained, took: float) -> dict[str, Any]:
    latent = Counter(f"{c.id}:{c.key}" for f in explained.findings if f.status == "latent" for c in f.causes)
    return {
        "port": name,
        "held_out": held_out,
        "pairs": explained.looked + len(explained.unread),
        "looked": explained.looked,
        "false": [line(f) for f in explained.findings if f.status in SAID],
        "unknown": sum(f.status == "unknown" for f in explained.findings),
        "latent": dict(latent),
        "unread": dict(Counter(explained.unread.values())),
        "seconds": round(took, 2),
    }


# --- results ---------------------------------------------------------------------------------------------------


def _keep(what: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Keep the results of a run over everything."""
    if options.names or options.kinds != ["*"]:
        return
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**known, what: rows}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("defects", "ports"))
    parser.add_argument("names", nargs="*", metavar="PAIR", help="globs over the corpus' names")
    parser.add_argument("--kinds", nargs="+", default=["*"], metavar="KIND", help="globs over the kinds of defects")
    parser.add_argument("--stacks", nargs="+", type=int, default=[], metavar="N", help="so many defects at once")
    parser.add_argument("--draws", type=int, default=4, help="models of each port with several defects")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--new", action="store_true", help="the defects that the engine was not made with")
    parser.add_argument("--record", action="store_true", help="make the recordings that are missing")
    parser.add_argument("--held-out", action="store_true", help="the ports kept aside as well: for reports only")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for one pair")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--verbose", action="store_true", help="tell all that was said")
    options = parser.parse_intermixed_args()
    with np.errstate(all="ignore"):
        {"defects": run_defects, "ports": run_ports}[options.what](options)


if __name__ == "__main__":
    main()
