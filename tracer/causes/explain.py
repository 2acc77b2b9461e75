"""Explaining a diff: every pair that parts on its own, the cheapest and surest statements first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tracer import kinds
from tracer.causes import fingerprints, fixes, loops, naming, registry, unloaded
from tracer.causes.calls import at_calls
from tracer.causes.case import Case, cases
from tracer.causes.condense import exchanged, in_blocks, merged
from tracer.causes.differences import differences, may_show
from tracer.causes.edit import Edit
from tracer.causes.elsewhere import called_elsewhere, for_another, idle
from tracer.causes.failing import Failure, failure
from tracer.causes.finding import Cause, Finding
from tracer.causes.given import with_given
from tracer.causes.joins import joined_otherwise
from tracer.causes.joint import at_one
from tracer.causes.needless import needless
from tracer.causes.probes import alike_when_small, depends, matters, one_function, told_apart
from tracer.causes.scores import SCALING
from tracer.causes.search import OVER, Budget, Outcome, Spent, search
from tracer.causes.step import Unknown
from tracer.causes.turns import in_turn, taken_there, widened
from tracer.causes.typed import typed
from tracer.causes.undone import FAR, Make, computed_elsewhere, given_alike, met, put_right, undone, uneven
from tracer.compare import Diff, PairDiff
from tracer.compare.judging import unread as read_by_nothing
from tracer.compare.verdict import Verdict
from tracer.errors import ExitCode
from tracer.rerun.cuts import Cut
from tracer.store import Recording

if TYPE_CHECKING:
    from pandas import DataFrame

    from tracer.rerun.verifying import Verified

SCHEMA = "tracer-explain/1"
SECONDS = 2.0
"""For a pair, unless told otherwise."""
_FURTHER = 2
"""Layers of tensors above a pair of unknown cause that are looked through."""
_SHARE = 0.5
"""Of a pair's time, what that may take once more."""
_SINGLY = 3
"""Of these tensors, those that are looked through one at a time."""
_NEXT = 3
"""Those on which a sum or a product may be made with another term."""
_LIKELY = 0.7
"""Evidence of a pair below which it says little."""
_AGAIN = 1.0
"""For two findings that are looked at as one."""
TELLING = 1.0
"""Seconds to ask what input would tell apart what this one does not."""


@dataclass(frozen=True)
class Explained:
    """What was found of a diff.

    Attributes:
        findings: of pairs that part on their own, and of settings that will matter elsewhere, in running order; the
            same mistake in several layers is one.
        looked: pairs that were computed again; ``unread`` those that could not be, with the reason.
        left: pairs that were not looked at for want of time.
        each: the same findings before those of several layers were made one.
        failed: families that raised, or could not be imported: what they would have said is missing.
        verified: what is left of the outputs' difference with the fixes; None where it was not asked.
    """

    diff: Diff
    findings: tuple[Finding, ...]
    looked: int
    unread: dict[str, str]
    left: tuple[str, ...] = ()
    each: tuple[Finding, ...] = ()
    failed: tuple[Failure, ...] = ()
    verified: Verified | None = None

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

    def _repr_html_(self) -> str:
        from tracer.report.html import fragment

        return fragment(self)

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
            "failed": [{"family": one.family, "error": one.error} for one in self.failed],
            **({} if self.verified is None else {"verified": self.verified.to_json()}),
        }

    def to_pandas(self) -> DataFrame:
        """One row a finding, with the columns of ``tracer explain --format csv``. Raises
        MissingFrameworkError without pandas."""
        from tracer.exporting.frames import frame

        return frame(self.to_json())


@dataclass(frozen=True)
class Looked:
    """What looking at one pair came to.

    Attributes:
        finding: None where there is nothing to say.
        unread: why the pair could not be computed; empty where it was.
        sort: for what it was taken: one that ``parts`` on its own, ``inherits`` its difference, or ``agrees``.
        seconds: that it was given; None where all was tried.
        failed: families that raised; what was found is not kept then.
        elsewhere: whether what is computed here stands at another tensor of the other side, and none of this pair.
        undone: whether what reads the pair takes back what was found: its tensors are no step of the same.
    """

    finding: Finding | None
    unread: str = ""
    sort: str = "parts"
    seconds: float | None = None
    failed: tuple[Failure, ...] = ()
    undone: bool = False
    elsewhere: bool = False

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
    made = met(diff.pairs, diff.reference, diff.candidate)
    make = cases(made, diff.reference, diff.candidate)
    known = {} if known is None else known
    found: list[Finding] = []
    unread: dict[str, str] = {}
    left: list[str] = []
    failed = {one.family: one for one in registry.load()}
    by_index = {index: cut for cut in made.values() for index in (cut.index, *(index for index, _ in cut.same))}
    wanted = [
        (i, pair)
        for i, pair in enumerate(diff.pairs)
        if i in by_index and (every or pair.verdict is Verdict.DIVERGED) and (only is None or only(pair))
        and not read_by_nothing(pair, diff.reference, diff.candidate)
    ]  # fmt: skip
    # What both sides only pass on is said where it is computed, unless it is looked at more closely here.
    first = {index: cut.index for cut in made.values() for index, name in cut.same if name == cut.reference}
    depth = {i: ("agrees", "inherits", "parts").index(_sort(pair)) for i, pair in wanted}
    wanted = [(i, pair) for i, pair in wanted if depth.get(first.get(i, -1), -1) < depth[i]]
    doubtful = {name for name, cut in made.items() if _doubtful(diff.pairs[cut.index])}
    began, looked = time.monotonic(), 0
    apart: set[str] = set()
    aside: dict[str, Looked] = {}
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
            cut = by_index[index]
            one = _look(make, index, pair, given, frozenset(apart))
            doubted = _doubted(one.finding, make, index, diff.pairs, doubtful, frozenset(apart))
            if doubted and not (again := _look(make, index, pair, given, frozenset(apart | doubted))).unread:
                one = again
            known[key], own = one, one.finding
            far = 0 if own is None else _far(own, cut, diff)
            if _unfounded(own, pair) and by_index[index].readers:
                aside[key] = one
            more = uneven(made) if own is not None and _longer(own) else frozenset()
            if (
                one.elsewhere
                or key in aside
                or (far and undone(cut, made, diff.pairs, make, frozenset(apart), far, more))
            ):
                one = known[key] = replace(one, finding=None, undone=True)
        lost = one.finding is not None and one.finding.status == "unknown" and not by_index[index].ways[0].fits
        if one.undone or pair.undone or lost or _padded(pair):  # what reads it is computed from above it
            apart.add(by_index[index].candidate)
        if one.unread:
            unread[pair.aligned] = one.unread
        looked += not one.unread
        failed.update({failure.family: failure for failure in one.failed})
        if one.finding is not None:  # an output that is compared again is told from the pair of that name
            found.append(replace(one.finding, pair=key))

    places = {_key(pair): (index, by_index[index]) for index, pair in wanted}
    for key, one in aside.items():  # what reads it says nothing: it cannot be computed
        readers = [_key(diff.pairs[made[name].index]) for name in places[key][1].readers]
        if one.finding is not None and all(reader in known and known[reader].unread for reader in readers):
            known[key] = one
            found.append(replace(one.finding, pair=key))
    found.sort(key=lambda one: places[one.pair][0])
    cancelled = _cancelled(found, wanted, by_index, made, diff.pairs, make, frozenset(apart))
    if given_alike(diff.pairs, diff.reference, diff.candidate):
        other = [one for one in found if one.status in ("proven", "ambiguous") and _another_way(one)]
        cancelled |= {
            one.pair for one in other if one.pair in places and put_right(places[one.pair][1], made, diff.pairs)
        }
    found = [one for one in found if one.pair not in cancelled]
    known.update({name: replace(known[name], finding=None) for name in cancelled})

    def aligned(one: Finding) -> str:
        return diff.pairs[places[one.pair][0]].aligned

    def look(index: int, apart: frozenset[str]) -> Finding | None:
        if within is not None and time.monotonic() - began >= within:
            return None
        try:
            case, turned = make(index, diff.pairs[index], apart)
            return of_pair(case, turned, Budget(_AGAIN), parts=True) if depends(case) else None
        except Unknown:
            return None

    doubtful = {one.pair for one in found if one.status == "unknown" or _structural(one) or _moved(one)}
    spare = needless(found, doubtful, places, made, diff.pairs, make)
    found = [one for one in found if one.pair not in spare]
    known.update({name: replace(known[name], finding=None) for name in spare})
    proven = [one for one in found if one.status == "proven"]
    opens = {one.pair for one in proven if _structural(one) or _absorbs(one) or _moved(one) or _longer(one)}
    for upper, lower, both in at_one(proven, opens, places, made, look):
        found[found.index(upper)] = both
        found.remove(lower)
        known[upper.pair] = replace(known[upper.pair], finding=replace(both, pair=aligned(both)))
        known[lower.pair] = replace(known[lower.pair], finding=None)
    found = [replace(one, pair=aligned(one)) for one in found]
    found = with_given(found, diff) if every and only is None else found
    bare = Explained(diff, (), looked, unread, tuple(left), failed=tuple(failed.values()))
    return with_findings(bare, found)


def with_findings(told: Explained, each: Sequence[Finding]) -> Explained:
    """The same with other findings, one of each pair in running order."""
    whole = at_calls(
        merged(unloaded.gathered(widened(taken_there(in_turn(each, told.diff), told.diff), told.diff), told.diff)),
        told.diff,
    )
    findings = tuple(loops.together(one, each, told.diff.candidate) for one in whole)
    return replace(told, findings=findings, each=tuple(each))


def _key(pair: PairDiff) -> str:
    """A pair's name; an output that is compared again has its own."""
    return f"{pair.aligned} (output)" if "output" in pair.pair.evidence else pair.aligned


def _sort(pair: PairDiff) -> str:
    """What of a verdict says how a pair is looked at."""
    # Beside what only says that something is masked every other difference is small.
    agrees = pair.verdict is Verdict.MATCH or (pair.verdict is Verdict.NOISE and not pair.masked)
    return "parts" if pair.verdict is Verdict.DIVERGED else "agrees" if agrees else "inherits"


def _structural(one: Finding) -> bool:
    """Whether other operations are all that was found, or n − 1 for n, which a factor behind may be for: there may be
    two ways to one result."""
    return one.status != "latent" and all(cause.key in _OPERATIONS for cause in one.causes)


_OPERATIONS = ("", "kind", "operand", "ddof", "activation")
"""Keys of causes that are other operations; an activation may be a setting of the layer that ends with it."""


def _another_way(one: Finding) -> bool:
    """Whether what was found may be no more than another way to a result: other operations or places, no other numbers,
    and a difference too large to be lost in a tolerance."""
    large = one.before is None or one.before >= _LARGE
    return large and (_structural(one) or _moved(one) or set(one.names) <= naming.GENERIC)


_LARGE = 0.1
"""Of the largest value."""


def _moved(one: Finding) -> bool:
    """Whether the same values stand elsewhere, and that is all."""
    return one.status != "latent" and bool(one.causes) and set(one.names) <= naming.ORDERS


def _doubtful(pair: PairDiff) -> bool:
    """Whether nothing but the places of two tensors makes them a pair."""
    told = pair.pair.evidence
    return told.get("kind", 1.0) < _LIKELY and told.get("graph", 1.0) < _LIKELY and not told.get("values", 1.0)


def _unfounded(one: Finding | None, pair: PairDiff) -> bool:
    """Whether all that is said is that one side does one thing and the other another, at a doubtful pair: what reads
    it is looked at from above it. So is what reads a pair of which nothing is known, of other shapes, where both only
    move values."""
    if one is not None and one.status == "unknown":
        both = {pair.node.kind, pair.candidate_node.kind}
        moves = both <= kinds.LAYOUT_ONLY and pair.stats is None and pair.verdict is not Verdict.DIVERGED
        return moves or (_doubtful(pair) and both <= SCALING and len(both) > 1)
    if one is None or one.status != "proven":
        return False
    sides = {(bool(cause.reference), bool(cause.candidate)) for cause in one.causes}
    others = sides == {(True, False), (False, True)} or all(cause.key == "kind" for cause in one.causes)
    return _doubtful(pair) and "weights" not in pair.pair.evidence and others


def _padded(pair: PairDiff) -> bool:
    """Whether one tensor is the other side's with the padding that a layer makes itself there, and no twin of it."""
    both = {pair.node.kind, pair.candidate_node.kind}
    return pair.stats is None and len(both) > 1 and "pad" in both


def _doubted(
    one: Finding | None, make: Make, index: int, pairs: Sequence[PairDiff], doubtful: Set[str], apart: frozenset[str]
) -> Set[str]:
    """The doubtful pairs that a finding of other operations rests on: with other twins it may say something else."""
    if one is None or not doubtful or not _structural(one):
        return frozenset()
    case = make(index, pairs[index], apart)[0]
    return doubtful & ({*case.ours.above.values()} | {*case.theirs.above})


def _longer(one: Finding) -> bool:
    """Whether the two tensors are of other lengths: what is cut off may be so further on."""
    return one.before is not None and not math.isfinite(one.before)


def _absorbs(one: Finding) -> bool:
    """Whether a bias is among what was found, or statistics that may hold one of the layer above."""
    return any("bias" in cause.key.split(", ") or "running_mean" in cause.key.split(", ") for cause in one.causes)


def _far(one: Finding, cut: Cut, diff: Diff) -> int:
    """Tensors on which what was found may be taken back, at most."""
    if _moved(one) or _longer(one):
        return FAR
    if not _structural(one):
        return int(_held(one, cut, diff.candidate))
    return _NEXT if len(one.causes) == 1 and _joins(one.causes[0], diff) else 1


def _joins(cause: Cause, diff: Diff) -> bool:
    """Whether it is about a sum or a product: the other side may make it further on, with another of its terms."""
    sides = ((diff.reference, cause.reference), (diff.candidate, cause.candidate))
    nodes = [side.structure.by_name[name] for side, name in sides if name in side.structure.by_name]
    return bool(nodes) and all(node.kind in ("add", "mul") for node in nodes)


def _held(one: Finding, cut: Cut, candidate: Recording) -> bool:
    """Whether a bias is all that was found, and only norms read the pair: their statistics may hold it."""
    kinds_read = {candidate.structure.by_name[name].kind for name in cut.readers}
    return all(cause.key == "bias" for cause in one.causes) and kinds_read <= kinds.NORMALISATIONS


def _cancelled(
    found: Sequence[Finding],
    wanted: Sequence[tuple[int, PairDiff]],
    by_index: Mapping[int, Cut],
    made: Mapping[str, Cut],
    pairs: Sequence[PairDiff],
    make: Make,
    apart: frozenset[str],
) -> set[str]:
    """Pairs whose findings take each other back: a flatten in another order before a kernel that has its rows in that
    order, a bias of one side that the other's statistics hold. The reader of such a pair must have a finding too: one
    that merely loses a difference (a ReLU of what is negative) does not speak for it. Nor does a tensor in ``apart``,
    that was found to differ and of which nothing is said."""
    parting = {one.pair for one in found if one.status != "latent"}
    gone: set[str] = set()
    for index, pair in wanted:
        cut = by_index[index]
        readers = {_key(pairs[made[name].index]) for name in cut.readers}
        if _key(pair) in parting - gone and readers and readers <= parting and undone(cut, made, pairs, make, apart):
            gone |= {_key(pair), *readers}
    return gone


def _look(make: Make, index: int, pair: PairDiff, seconds: float, apart: frozenset[str]) -> Looked:
    began, sort, why = time.monotonic(), _sort(pair), ""
    failed: dict[str, Failure] = {}
    moved = False
    try:
        case, turned = (replace(one, failed=failed) for one in make(index, pair, apart))
        one = stated(case) if sort == "agrees" else of_pair(case, turned, Budget(seconds), parts=sort == "parts")
        one = typed(_seen_elsewhere(one, case), pair, case)
        moved = one is not None and one.status in ("proven", "unknown") and computed_elsewhere(case)
        if one is not None and one.status == "unknown" and not moved:
            one = _further_up(make, index, pair, seconds, apart) or one
    except Unknown as error:
        one, why = None, str(error)
        if sort == "parts":
            one = Finding(pair.aligned, "unknown", notes=(f"could not be computed again: {error}",))
    except Exception as error:  # a fault of ours: what is said of the other pairs is said all the same
        one, why = None, f"looking at it failed: {error}"
        failed[pair.aligned] = failure(pair.aligned, error)
    over = one is not None and any(note.startswith(OVER) for note in one.notes)
    if one is not None:
        one = replace(one, seconds=time.monotonic() - began)
    return Looked(one, why, sort, seconds if over else None, tuple(failed.values()), elsewhere=moved)


def _further_up(make: Make, index: int, pair: PairDiff, seconds: float, apart: frozenset[str]) -> Finding | None:
    """What is found of a pair when tensors right above it, all or one, are not relied on but computed; None where
    nothing is.

    Two of them may stand for one another though each is what the other side has too, as queries and keys.
    """
    budget, reached = Budget(_SHARE * seconds), {apart}
    for _ in range(_FURTHER):
        beyond: set[frozenset[str]] = set()
        for gone in sorted(reached, key=sorted):
            try:
                side = make(index, pair, gone)[0].theirs
            except Unknown:
                continue
            known = side.recording.structure.by_name
            above = [name for name in side.above if known[name].role != "input"]
            beyond |= {gone | {*above}, *(gone | {name} for name in above[:_SINGLY])}
        for gone in sorted(beyond - reached, key=lambda names: (-len(names), sorted(names))):
            if budget.gone(1.0):
                return None
            try:
                one = of_pair(*make(index, pair, gone), budget.rest(), parts=False)
            except Unknown:
                continue
            if one is not None and one.status == "proven":
                return one
        reached = beyond
    return None


def _seen_elsewhere(one: Finding | None, case: Case) -> Finding | None:
    """A latent finding without settings by which the two sides are one function all the same."""
    if one is None or one.status != "latent":
        return one
    one = replace(one, causes=tuple(cause for cause in one.causes if not _of_two_forms(case, cause)))
    lasting = tuple(cause for cause in one.causes if cause.key in _LASTING)
    if len(lasting) < len(one.causes) and one_function(case):
        one = replace(one, causes=lasting)
    return one if one.causes else None


def _of_two_forms(case: Case, cause: Cause) -> bool:
    """Whether an epsilon stands in another operation on one side, and both do the same to values as small as it."""
    sizes = [float(value) for value in cause.values if isinstance(value, int | float) and value > 0]
    if cause.key != "epsilon" or not sizes or any(step.kind == "batchnorm" for step in case.program.steps):
        return False
    return all(alike_when_small(case, size) for size in (max(sizes) ** 0.5, max(sizes)))


_LASTING = ("momentum", "epsilon", "mode", "dtype")
"""Settings that training shows, or numbers that random input does not hit: a norm of zeros."""


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
    return of_outcome(case.pair, outcome)


def of_outcome(pair: PairDiff, outcome: Outcome) -> Finding | None:
    """What a search came to as a finding; None where the pair agrees and nothing else is to be said. Raises Unknown."""
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
    edits = for_another(at, outcome.best.edits)
    causes = tuple(replace(_cause(at, edit), without=left) for edit, left in zip(edits, outcome.without, strict=True))
    moved = called_elsewhere(at, edits, causes, _cause)
    if moved is causes:
        moved = joined_otherwise(at, exchanged(at, edits, in_blocks(edits, causes, idle(at, edits))))
    causes = moved
    if not causes:
        notes = (*outcome.notes, "all that one side computes would have to give way to what the other does")
        return Finding(
            pair.aligned, "unknown", (), before=outcome.before, floor=at.bar, notes=notes, how=_how(at),
            seen=fingerprints.of_case(at),
        )  # fmt: skip
    random = told_apart(at, edits, [rival.edits for rival in outcome.rivals], TELLING)
    rivals = list(zip((rival.edits[-1] for rival in outcome.rivals), random.same, strict=True))
    others = tuple(_cause(at, edit) for edit, alike in rivals if not alike)
    # Further names of the same function, which no input tells apart.
    same = [replace(_cause(at, edit), id=name) for edit in edits for name in edit.same]
    same += [_cause(at, edit) for edit, alike in rivals if alike and edit.cause != edits[-1].cause]
    return Finding(
        pair.aligned, "ambiguous" if others else "proven", causes, (*others, *same), outcome.before,
        outcome.best.error, at.bar, how=_how(at), apart=random.words,
        notes=(*outcome.notes, *_unseen([e for e in spare if e.values != (None, None)]), *_unseen(unshown(outcome))),
        edits=() if _weighty(at, edits) else edits, turned=at.turned_round,
    )  # fmt: skip


def _weighty(case: Case, edits: Sequence[Edit]) -> bool:
    """Whether a change is of weights, which would have to be kept."""
    roles = {role for step in case.program.steps for role in step.weights}
    return any(not roles.isdisjoint(edit.key.split(", ")) for edit in edits)


def unshown(outcome: Outcome) -> tuple[Edit, ...]:
    """Operations of one side alone that this input does not show, and random input does."""
    alone = tuple(edit for edit in outcome.spare if edit.seen and edit.detail.get("alone"))
    assert outcome.best is not None
    return alone if alone and matters(outcome.case, outcome.best.edits, alone, TELLING) else ()


def _unseen(spare: Sequence[Edit]) -> tuple[str, ...]:
    """What differs as well, and is not needed to reproduce the result."""
    return tuple(f"differs too, which this input does not show: {edit.what}" for edit in spare)


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
        edit.cause, edit.what, fix.text, reference, candidate, edit.key, edit.values, node.source, changes=fix.changes,
        block=edit.detail.get("block", ()),
    )  # fmt: skip
