"""Explaining a diff: every pair that parts on its own, the cheapest and surest statements first."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tracer.causes import fingerprints, fixes, loops
from tracer.causes.case import Case, cases
from tracer.causes.condense import in_blocks, merged
from tracer.causes.differences import differences, may_show
from tracer.causes.edit import Edit
from tracer.causes.finding import Cause, Finding
from tracer.causes.search import OVER, Budget, Spent, search
from tracer.causes.step import Unknown
from tracer.causes.undone import Make, undone
from tracer.compare import Diff, PairDiff
from tracer.compare.verdict import Verdict
from tracer.errors import ExitCode
from tracer.rerun.cuts import cuts

SCHEMA = "tracer-explain/1"
SECONDS = 2.0
"""For a pair, unless told otherwise."""


@dataclass(frozen=True)
class Explained:
    """What was found of a diff.

    Attributes:
        findings: of pairs that part on their own, and of settings that will matter elsewhere, in running order; the
            same mistake in several layers is one.
        looked: pairs that were computed again; ``unread`` those that could not be, with the reason.
        left: pairs that were not looked at for want of time.
        each: the same findings before those of several layers were made one.
    """

    diff: Diff
    findings: tuple[Finding, ...]
    looked: int
    unread: dict[str, str]
    left: tuple[str, ...] = ()
    each: tuple[Finding, ...] = ()

    @property
    def parting(self) -> tuple[Finding, ...]:
        """Findings that this input shows."""
        return tuple(one for one in self.findings if one.status != "latent")

    @property
    def latent(self) -> tuple[Finding, ...]:
        """What differs and will show in training or on other inputs."""
        return tuple(one for one in self.findings if one.status == "latent")

    def exit_code(self) -> ExitCode:
        """1 where something parts, whether its cause is known or not; else as the comparison's."""
        code = self.diff.exit_code()
        return ExitCode.DIVERGED if self.parting and code != ExitCode.PARTIAL else code

    def __bool__(self) -> bool:
        return self.exit_code() is ExitCode.OK

    def __str__(self) -> str:
        from tracer.report.explain import plain

        return plain(self)

    def to_json(self) -> dict[str, Any]:
        """The documented object of ``tracer explain --json``."""
        diff = self.diff
        return {
            "schema": SCHEMA,
            "reference": diff.reference.name,
            "candidate": diff.candidate.name,
            "tolerance": {"atol": diff.tolerance.atol, "rtol": diff.tolerance.rtol},
            "verdict": str(diff.verdict),
            "causes": [one.to_json() for one in self.parting],
            "latent": [one.to_json() for one in self.latent],
            "looked": self.looked,
            "unread": dict(self.unread),
            "left": list(self.left),
        }


@dataclass(frozen=True)
class Looked:
    """What looking at one pair came to.

    Attributes:
        finding: None where there is nothing to say.
        unread: why the pair could not be computed; empty where it was.
        sort: for what it was taken: one that ``parts`` on its own, ``inherits`` its difference, or ``agrees``.
        seconds: that it was given; None where all was tried.
    """

    finding: Finding | None
    unread: str = ""
    sort: str = "parts"
    seconds: float | None = None

    def enough(self, sort: str, seconds: float) -> bool:
        """Whether looking again could say no more."""
        return self.sort == sort and (self.seconds is None or self.seconds >= seconds)


def explain(
    diff: Diff,
    *,
    seconds: float = SECONDS,
    within: float | None = None,
    every: bool = True,
    only: Callable[[PairDiff], bool] | None = None,
    known: MutableMapping[str, Looked] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Explained:
    """Find out why pairs part, from the two recordings alone.

    ``seconds`` are for one pair, ``within`` for all of them. Pairs that diverged are looked at; with ``every`` also all
    whose difference may come from above, for a second defect may hide below a first; with ``only`` those alone for
    which it is true. What is ``known`` of a pair, by its aligned name, is not looked for again, and what is found is
    put in. Raises TraceError where a recording cannot be read.
    """
    made, _ = cuts(diff.alignment.pairs, diff.reference, diff.candidate)
    make = cases(made, diff.reference, diff.candidate)
    known = {} if known is None else known
    found: list[Finding] = []
    unread: dict[str, str] = {}
    left: list[str] = []
    by_index = {index: cut for cut in made.values() for index in (cut.index, *(index for index, _ in cut.same))}
    wanted = [
        (i, pair)
        for i, pair in enumerate(diff.pairs)
        if i in by_index and (every or pair.verdict is Verdict.DIVERGED) and (only is None or only(pair))
    ]
    began, looked = time.monotonic(), 0
    for done, (index, pair) in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted))
        key = _key(pair)
        one = known.get(key)
        if one is None or not one.enough(_sort(pair), seconds):
            spent = time.monotonic() - began
            if within is not None and spent >= within:
                left.append(pair.aligned)
                continue
            given = seconds if within is None else min(seconds, within - spent)
            one = known[key] = _look(make, index, pair, given)
            if one.finding is not None and _structural(one.finding) and undone(by_index[index], made, diff.pairs, make):
                one = known[key] = replace(one, finding=None)
        if one.unread:
            unread[pair.aligned] = one.unread
        looked += not one.unread
        if one.finding is not None:
            found.append(one.finding)
    findings = tuple(loops.together(one, found, diff.candidate) for one in merged(found))
    return Explained(diff, findings, looked, unread, tuple(left), tuple(found))


def _key(pair: PairDiff) -> str:
    """A pair's name; an output that is compared again has its own."""
    return f"{pair.aligned} (output)" if "output" in pair.pair.evidence else pair.aligned


def _sort(pair: PairDiff) -> str:
    """What of a verdict says how a pair is looked at."""
    agrees = pair.verdict in (Verdict.MATCH, Verdict.NOISE)
    return "parts" if pair.verdict is Verdict.DIVERGED else "agrees" if agrees else "inherits"


def _structural(one: Finding) -> bool:
    """Whether other operations are all that was found: there may be two ways to one result."""
    return one.status != "latent" and all(cause.key in ("", "kind", "operand") for cause in one.causes)


def _look(make: Make, index: int, pair: PairDiff, seconds: float) -> Looked:
    began, sort, why = time.monotonic(), _sort(pair), ""
    try:
        case, turned = make(index, pair, frozenset())
        one = stated(case) if sort == "agrees" else of_pair(case, turned, Budget(seconds), parts=sort == "parts")
    except Unknown as error:
        one, why = None, str(error)
        if sort == "parts":
            one = Finding(pair.aligned, "unknown", notes=(f"could not be computed again: {error}",))
    over = one is not None and any(note.startswith(OVER) for note in one.notes)
    if one is not None:
        one = replace(one, seconds=time.monotonic() - began)
    return Looked(one, why, sort, seconds if over else None)


def stated(case: Case) -> Finding | None:
    """What the recordings say differs at a pair whose values agree. Raises Unknown."""
    told = tuple(_cause(case, edit) for edit in differences(case) if may_show(case, edit))
    return Finding(case.pair.aligned, "latent", told) if told else None


def of_pair(case: Case, turned: Case, budget: Budget, *, parts: bool) -> Finding | None:
    """What is found of one pair; None where it agrees and nothing else is to be said. Raises Unknown.

    ``parts`` says that the pair diverged by its values.
    """
    try:
        outcome = search(case, turned, budget)
    except Spent:
        return Finding(case.pair.aligned, "unknown", notes=(OVER,)) if parts else None
    pair = case.pair
    at = outcome.case
    spare = [edit for edit in outcome.spare if edit.seen and may_show(at, edit)]
    if outcome.agrees:
        told = tuple(_cause(at, edit) for edit in spare)
        return Finding(pair.aligned, "latent", told, before=outcome.before) if told else None
    if outcome.best is None:
        near = () if outcome.nearest is None else tuple(edit.what for edit in outcome.nearest.edits)
        notes = (*outcome.notes, *(f"nearest: {what}" for what in near[-1:]))
        after = outcome.nearest.error if outcome.nearest is not None else None
        return Finding(
            pair.aligned, "unknown", (), before=outcome.before, after=after, floor=at.bar, notes=notes, how=_how(at),
            seen=fingerprints.of_case(at),
        )  # fmt: skip
    edits = outcome.best.edits
    causes = tuple(replace(_cause(at, edit), without=left) for edit, left in zip(edits, outcome.without, strict=True))
    causes = in_blocks(edits, causes)
    others = tuple(_cause(at, edit) for edit in outcome.others)
    same = tuple(replace(_cause(at, edit), id=name) for edit in edits for name in edit.same)
    return Finding(
        pair.aligned, "ambiguous" if others else "proven", causes, (*others, *same), outcome.before,
        outcome.best.error, at.bar, how=_how(at), notes=(*outcome.notes, *_unseen(spare)),
    )  # fmt: skip


def _unseen(spare: Sequence[Edit]) -> tuple[str, ...]:
    """What differs as well, and is not needed to reproduce the result."""
    return tuple(f"differs too, which this input does not show: {e.what}" for e in spare if e.values != (None, None))


def _how(case: Case) -> str:
    return f"the {case.other}'s {case.ours.node.label} on what the {case.doer} was given, in float64"


def _cause(case: Case, edit: Edit) -> Cause:
    ours, theirs = edit.step, edit.twin
    if not ours and not theirs:
        ours, theirs = case.ours.node.name, case.theirs.node.name
    reference, candidate = (theirs, ours) if case.turned_round else (ours, theirs)
    side = case.ours if case.turned_round else case.theirs
    name = candidate or side.node.name
    node = side.recording.structure.by_name.get(name, side.node)
    fix = fixes.of(case, edit)
    return Cause(
        edit.cause, edit.what, fix.text, reference, candidate, edit.key, edit.values, node.source, changes=fix.changes
    )
