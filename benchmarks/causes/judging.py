"""Comparing what is said of a candidate with what was planted in it."""

from __future__ import annotations

import cProfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.causes.names import LATENT_KINDS, RIGHT, VAGUE
from benchmarks.causes.runs import Run
from benchmarks.planted import Planted, explaining
from tracer.causes.explain import Explained, explain
from tracer.causes.finding import Finding
from tracer.compare.comparing import diff

SAID = ("proven", "ambiguous")
FEW = 3
"""Names at one place at most among which the right one may be."""


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
    fair: dict[int, set[str]] = {}
    false, latent, parts = [], 0, 0
    for finding in explained.findings:
        places = [by(pairs[name]) for name in finding.pairs or (finding.pair,)]
        names = {(c.reference, c.candidate) for c in finding.causes}
        # Rows in the order of another flatten and a flatten in another order are one thing, said above the kernel.
        above = [c.candidate for c in finding.causes if c.id == "flatten-order"]
        names |= {("", child) for name in above for child in run.candidate.structure.children.get(name, ())}
        at = [
            i
            for i in range(count)
            if any(place[i] is not None for place in places) or named(run.planted, i, names, twins)
        ]
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
            fair.setdefault(id(finding), set()).update(RIGHT[run.kinds[i]], VAGUE.get(run.kinds[i], ()))
    outcomes = [_outcome(kind, found_, sharing, fair) for kind, found_ in zip(run.kinds, said, strict=True)]
    proven = [any(one.status in (*SAID, "latent") for one in found_) for found_ in said]
    return Judged(outcomes, proven, said, false, latent, explained, took, parts)


def named(planted: Planted, which: int, names: Iterable[tuple[str, str]], twins: Mapping[str, str]) -> bool:
    """Whether a finding speaks of a node that a defect changed, or of its twin: it may be told further down."""
    place = planted.places[which]
    ours = {twins.get(planted.was.get(name) or "") for name in place} | {twins.get(n) for n in planted.gone[which]}
    return any(theirs in place or (not theirs and mine in ours) for mine, theirs in names)


def _outcome(kind: str, said: Sequence[Finding], sharing: Mapping[int, set[str]], fair: Mapping[int, set[str]]) -> str:
    """``sharing``: the names that are right for any of the defects at a finding's place; ``fair``: those too that are
    vague for one of them, and mislead nobody."""
    if not said:
        return "missed"
    named = [one for one in said if one.causes]
    if not named:
        return "unknown"
    right, vague = RIGHT[kind], VAGUE.get(kind, frozenset())
    held = [set(one.names) | {cause.id for cause in one.candidates} for one in named]
    if any(not names & fair[id(one)] for one, names in zip(named, held, strict=True)):
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
