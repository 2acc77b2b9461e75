"""The search for the causes of one pair: what differs by the books first, then what might be hidden.

1. Both sides' programs are read, and what differs between them is listed (:mod:`tracer.causes.differences`). If our
   program with all of that does what they did, the causes are the differences that it cannot do without.
2. Otherwise something is at work that no recording states: hypotheses of the families are tried on top of that,
   cheapest first, one at a time and then two.
3. The same turned round, where the other side's program is the one that can be computed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from tracer.causes import naming, registry
from tracer.causes.case import Case, Trial, distance
from tracer.causes.condense import pooling
from tracer.causes.differences import differences
from tracer.causes.edit import Edit
from tracer.causes.failing import failure
from tracer.causes.families.common import of_mask
from tracer.causes.settings import same_value
from tracer.causes.step import Unknown

MOST = 400
"""Hypotheses that are tried at a pair."""
THINKING = 0.6
"""Of the time of a pair, what hypotheses may be looked for in."""
RIVALS = 8
"""Other hypotheses that do as well as the best, of which it is asked what tells them apart."""
PAIRS = 12
"""Hypotheses that help on their own, of which two are tried together."""
DEEP = 6
"""Of these, those on top of which another one is looked for."""

_PLAIN = 2
"""Stated differences from which on it is asked whether the other side's program needs fewer."""
OVER = "the time for this pair was over"
"""What the note begins with that says that more might be found."""
_WAITING = 4.0
"""Seconds of the clock that count as one of work."""
AGAIN = 1.0
"""Seconds to think of a hypothesis anew."""


class Spent(Exception):
    """The time for a pair is over."""


@dataclass
class Budget:
    """Seconds and trials that are left to a pair: of this thread's work, that a busy machine changes nothing of what is
    found; waiting may take a few times as long."""

    seconds: float
    trials: int = MOST
    _began: tuple[float, float] = field(default_factory=lambda: (time.thread_time(), time.monotonic()))

    def take(self) -> None:
        """Count a trial. Raises Spent."""
        self.trials -= 1
        if self.trials < 0 or self.gone(1.0):
            raise Spent

    def gone(self, share: float) -> bool:
        """Whether that part of the time is over."""
        return self._spent() > share * self.seconds

    def rest(self) -> Budget:
        """What is left of the time, and trials anew."""
        return Budget(max(0.0, self.seconds - self._spent()))

    def _spent(self) -> float:
        worked, waited = time.thread_time() - self._began[0], time.monotonic() - self._began[1]
        return max(worked, waited / _WAITING)


@dataclass(frozen=True)
class Tried:
    """Edits that were made together, and the error they leave."""

    edits: tuple[Edit, ...]
    error: float


@dataclass(frozen=True)
class Outcome:
    """What the search came to.

    Attributes:
        case: in which it was found; turned round where the candidate's program was edited.
        best: the edits that reproduce the result, with the error that is left; None where nothing does.
        without: for each of the best's edits, the error when it alone is left out.
        rivals: other edits that do as well, the last of each in place of the best's last.
        spare: differences that are not needed: this data does not show them.
        before: error before any edit.
        nearest: the closest that was come to, where nothing reproduces it.
        notes: what was not tried, and why.
    """

    case: Case
    best: Tried | None
    without: tuple[float, ...] = ()
    rivals: tuple[Tried, ...] = ()
    spare: tuple[Edit, ...] = ()
    before: float = 0.0
    nearest: Tried | None = None
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether both sides compute the same here, as far as this data shows."""
        return self.best is not None and not self.best.edits


def search(case: Case, turned: Case, budget: Budget) -> Outcome:
    """Why the two sides of a case part. Raises Unknown where neither side can be computed."""
    notes: list[str] = []
    outcomes: list[Outcome] = []
    problems: list[str] = []
    plain: list[Outcome] = []
    stated: list[tuple[Case, tuple[Edit, ...]]] = []
    for one in (case, turned):
        try:
            if not one.read_right:
                raise Unknown(f"computed again, {one.ours.node.name} is not what was recorded")
            before, seen = one.before, tuple(differences(one))
            agrees = before <= one.bar
            found = Outcome(one, Tried((), before), spare=seen, before=before) if agrees else _read(one, seen, before)
        except Unknown as error:
            problems.append(f"the {one.other}: {error}")
            continue
        if found.best is not None and (pooling(found.best.edits) or not _rebuilt(found.best.edits)):
            if len(found.best.edits) < _PLAIN:
                return _doubted(found, budget)
            plain.append(found)
            continue
        outcomes.append(found)
        stated.append((one, seen))
    if plain:  # of one side's program and the other's that which needs fewer differences
        return _doubted(min(plain, key=lambda found: len(found.best.edits) if found.best else 0), budget)
    if not outcomes:
        raise Unknown("; ".join(dict.fromkeys(problems)))
    for one, seen in stated:
        try:
            deeper = _hypotheses(one, seen, one.before, budget)
        except Spent:
            notes.append(f"{OVER} before everything was tried")
            break
        outcomes.append(deeper)
        if deeper.best is not None:
            break
    known = [found for found in outcomes if found.best is not None]
    if known:
        return min(known, key=_price)
    closest = min(outcomes, key=lambda o: o.nearest.error if o.nearest is not None else o.before)
    return Outcome(
        closest.case, None, spare=closest.spare, before=closest.before, nearest=closest.nearest,
        notes=(*problems, *notes),
    )  # fmt: skip


def _rebuilt(edits: Sequence[Edit]) -> bool:
    """Whether so many operations are other ones that anything might be reproduced by them."""
    return _exchanged(edits) or _many(edits)


def _exchanged(edits: Sequence[Edit]) -> bool:
    """Whether operations of ours make room for operations of theirs: with enough of that any two programs agree."""
    return any(edit.step and not edit.twin for edit in edits) and any(edit.twin and not edit.step for edit in edits)


def _many(edits: Sequence[Edit]) -> bool:
    """Whether several operations are other ones: one that is not stated may do."""
    return sum(edit.key == "kind" or bool(edit.detail.get("alone")) for edit in edits) > 1


def attempt(case: Case, edits: Iterable[Edit]) -> float:
    """The error after some edits; infinite where they cannot be made. What a family raises is noted with the case."""
    trial, family = case.start, ""
    try:
        for edit in edits:
            family = edit.family or family
            trial = edit.change(trial)
        return case.error(trial)
    except (Unknown, ValueError, KeyError):
        return float("inf")
    except Exception as error:
        if not family:
            raise
        case.failed.setdefault(family, failure(family, error))
        return float("inf")


def possible(case: Case, edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Those of the edits that can be made one after the other."""
    trial, found = case.start, []
    for edit in edits:
        try:
            trial = edit.change(trial)
        except (Unknown, ValueError, KeyError):
            continue
        found.append(edit)
    return tuple(found)


def _read(case: Case, seen: Sequence[Edit], before: float) -> Outcome:
    """The smallest set of stated differences that reproduces the result, if all of them together do."""
    everything = possible(case, seen)
    error = attempt(case, everything)
    if not error <= case.bar:
        smaller = _largest_that_works(case, everything)
        nearest = Tried(everything, error) if error < before else None
        if smaller is None:
            return Outcome(case, None, before=before, spare=everything, nearest=nearest)
        everything, error = smaller.edits, smaller.error
    kept, spare = list(everything), [edit for edit in seen if edit not in everything]
    # Dear edits go first, so that what stays are the plain ones.
    count = len(kept) + 1
    while len(kept) < count:  # what one edit needed is of no use without it
        count = len(kept)
        for edit in sorted(kept, key=lambda e: -e.cost):
            fewer = [other for other in kept if other is not edit]
            left = attempt(case, fewer)
            if left <= case.bar:
                kept, error = fewer, left
                spare.append(edit)
    # Two that take each other back, such as a factor that stands elsewhere, can only be left out together.
    for one, two in combinations(kept, 2) if 2 < len(kept) <= PAIRS else ():
        fewer = [other for other in kept if other is not one and other is not two]
        if one in kept and two in kept and (left := attempt(case, fewer)) <= case.bar:
            kept, error = fewer, left
    return _outcome(case, tuple(kept), error, tuple(spare), before)


def _doubted(found: Outcome, budget: Budget) -> Outcome:
    """With what does as well, where what the other side computes was itself read off its values."""
    if found.best is None or not any(deduced(found.case, edit.twin) for edit in found.best.edits):
        return found
    try:
        more = _hypotheses(found.case, (), found.before, budget)
    except (Spent, Unknown):
        return found
    if more.best is None:
        return found
    stated = {step.name for edit in found.best.edits for step in edit.detail.get("steps", ())}
    told = {(edit.cause, edit.step) for edit in found.best.edits}
    rivals = [
        one for one in (more.best, *more.rivals)
        if one.edits[-1].detail.get("fed") not in stated and {(edit.cause, edit.step) for edit in one.edits} != told
    ]  # fmt: skip
    return replace(found, rivals=tuple(rivals[:RIVALS]))


def deduced(case: Case, name: str) -> bool:
    """Whether what a node of the other side computes was read off the values that it recorded."""
    program, node = case.theirs.program, case.theirs.recording.structure.by_name.get(name)
    if program is None or node is None:
        return False
    inferred = any(step.settings.get("inferred") for step in program.steps if step.name == name)
    return inferred or node.kind.startswith("other")


def _outcome(case: Case, kept: tuple[Edit, ...], error: float, spare: tuple[Edit, ...], before: float) -> Outcome:
    without = tuple(attempt(case, [e for e in kept if e is not edit]) for edit in kept)
    return Outcome(case, Tried(kept, error), without, spare=spare, before=before)


def _largest_that_works(case: Case, edits: tuple[Edit, ...]) -> Tried | None:
    """One or two of the stated differences that do alone, where not all can be made together."""
    for count, some in ((1, edits), (2, edits[:PAIRS])):
        for chosen in combinations(some, count):
            error = attempt(case, chosen)
            if error <= case.bar:
                return Tried(chosen, error)
    return None


def _hypotheses(case: Case, seen: Sequence[Edit], before: float, budget: Budget) -> Outcome:
    """Hypotheses on top of what is stated, and alone; then two at once.

    One on top of stated differences may hold them, or be the same program written anew: what costs less is believed.
    Raises Spent where nothing is found in time.
    """
    bases: list[tuple[Edit, ...]] = [()]
    useful = possible(case, seen)
    if useful:
        bases.insert(len(bases) if _exchanged(useful) else 0, useful)
    helped: list[Tried] = []
    found: list[Outcome] = []
    try:
        for base in bases:
            one = _on_top(case, base, before, budget, helped, min(map(_price, found), default=float("inf")))
            if one is not None:
                found.append(one)
    except Spent:
        if not found:
            raise
    if found:
        return min(found, key=_price)
    helped.sort(key=lambda tried: tried.error)
    nearest = helped[0] if helped else None
    telling = not of_mask(case.target)
    two = telling and (_both(case, helped, before, budget) or _beyond(case, helped, before, budget))
    return two or Outcome(case, None, before=before, spare=tuple(seen), nearest=nearest)


def _both(case: Case, helped: Sequence[Tried], before: float, budget: Budget) -> Outcome | None:
    """Two hypotheses of which each helps."""
    for a, b in combinations(helped[:PAIRS], 2):
        if budget.gone(1.0):
            break
        edits = tuple(dict.fromkeys((*a.edits, *b.edits)))
        error = attempt(case, edits)
        if error <= case.bar:
            return _settled(case, [Tried(edits, error)], before)
    return None


def _beyond(case: Case, helped: Sequence[Tried], before: float, budget: Budget) -> Outcome | None:
    """A second hypothesis, thought of where one that helps is made: numbers are solved for anew there."""
    found: list[Outcome] = []
    for tried in helped[:DEEP]:
        if budget.gone(1.0):
            raise Spent
        try:
            most = min(map(_price, found), default=float("inf")) - _cost(tried.edits)
            one = _on_top(case, tried.edits, before, budget.rest(), [], most)
        except Spent:
            continue
        if one is not None:
            found.append(one)
    return min(found, key=_price) if found else None


def _made(case: Case, edits: Sequence[Edit]) -> Case:
    """The case with some edits made."""
    trial = case.start
    for edit in edits:
        trial = edit.change(trial)
    return case.edited(trial) if edits else case


def _cost(edits: Sequence[Edit]) -> float:
    return sum(edit.cost for edit in edits)


def _price(found: Outcome) -> float:
    assert found.best is not None
    return _cost(found.best.edits)


def _on_top(
    case: Case, base: tuple[Edit, ...], before: float, budget: Budget, helped: list[Tried], most: float
) -> Outcome | None:
    """The hypothesis that does with some stated differences made, of those that cost less than ``most``; those that
    help are put to ``helped``."""
    at = _made(case, base)
    left = attempt(at, [])
    if left <= case.bar:
        return None
    good: list[Tried] = []
    cost = most
    for edit in _suggested(at, budget):
        if edit.cost > cost or (good and budget.gone(1.0)):
            break
        budget.take()
        error = attempt(at, [edit])
        if error <= case.bar:
            good.append(Tried((*base, edit), error))
            # What is as cheap is tried as well: it may be the same function.
            cost = min(cost, edit.cost + 0.5)
        elif error < 0.7 * left:
            helped.append(Tried((*base, edit), error))
    return _settled(case, good, before) if good else None


def _settled(case: Case, good: Sequence[Tried], before: float) -> Outcome:
    """The plainest of several sets that reproduce the result, without what it does not need."""
    good = sorted(good, key=lambda tried: (tried.edits[-1].cost, tried.error))
    best = good[0]
    hidden = best.edits[-1]
    kept, error = list(best.edits), best.error
    for edit in best.edits[:-1]:
        fewer = _doing_without(case, kept, edit)
        if fewer is not None:
            kept, error = fewer, attempt(case, fewer)
    spare = tuple(edit for edit in best.edits[:-1] if edit not in kept)
    kept = [_passed_over(case, edit) for edit in kept]
    rivals: dict[tuple[str, str], Tried] = {}
    for tried in good[1:]:
        other = tried.edits[-1]
        if (other.cause, other.what) != (hidden.cause, hidden.what) and tried.error <= 4 * case.bar:
            rivals.setdefault((other.cause, other.what), tried)
    found = _outcome(case, tuple(kept), error, spare, before)
    return Outcome(found.case, found.best, found.without, tuple(rivals.values())[:RIVALS], spare, before)


def _doing_without(case: Case, edits: Sequence[Edit], edit: Edit) -> list[Edit] | None:
    """The edits without one that the last, a hypothesis, does not need; None where it needs it.

    A hypothesis about the same step was thought of for the step as the edit left it, and may hold it: without the edit
    it is thought of anew, and needs it where that cannot be.
    """
    fewer = [other for other in edits if other is not edit]
    if not attempt(case, fewer) <= case.bar:
        return None
    hidden = edits[-1]
    if not edit.step or edit.step != hidden.step:
        return fewer
    trial = case.start
    try:
        for other in fewer[:-1]:
            trial = other.change(trial)
        at = case.edited(trial)
        for again in _suggested(at, Budget(AGAIN)):
            if (again.cause, again.step) == (hidden.cause, hidden.step) and attempt(at, [again]) <= case.bar:
                return [*fewer[:-1], again]
        held = _holds(trial, edit, hidden)
    except (Unknown, ValueError, KeyError):
        return fewer
    return None if held else fewer


def _passed_over(case: Case, edit: Edit) -> Edit:
    """A term that is left out where the program has no sum: what was made one on the way, and then left out, is the
    step itself."""
    own = next((step for step in case.program.steps if step.name == edit.step), None)
    if edit.cause not in ("residual-missing", "residual-extra") or own is None or own.kind in ("add", "average"):
        return edit
    made = next((step for step in edit.change(case.start).program.steps if step.name == edit.step), None)
    if made is None or made.kind != "identity":
        return edit
    what = f"the {case.doer} gives {made.inputs[0]} where {own.name} ({own.kind}) stands: it leaves that out"
    stem, whole = naming.of_single(own, case.ours)
    return replace(edit, cause=stem if whole else case.lacks(stem), what=what, fix="")


def _holds(trial: Trial, edit: Edit, hidden: Edit) -> bool:
    """Whether a hypothesis, made without an edit of the same step, puts what that changes into the step all the same.
    Raises Unknown, ValueError or KeyError where one of them cannot be made."""
    plain, changed = trial.program.step(edit.step), edit.change(trial).program.step(edit.step)
    roles = [
        role
        for role in plain.weights.keys() & changed.weights.keys()
        if plain.weights[role].shape == changed.weights[role].shape
        and not np.array_equal(plain.weights[role], changed.weights[role])
    ]
    told = [key for key, value in changed.settings.items() if not same_value(value, plain.settings.get(key))]
    ours = {"identity", *(step.kind for step in trial.program.steps)}
    for step in hidden.change(trial).program.steps:
        if step.kind == changed.kind and step.kind not in ours:
            return True
        if step.name == changed.name and step.kind == changed.kind and told:
            return all(same_value(step.settings.get(key), changed.settings[key]) for key in told)
        for role in roles:
            found = step.weights.get(role)
            if step.kind == changed.kind and found is not None and found.shape == changed.weights[role].shape:
                return distance(found, changed.weights[role]) < distance(found, plain.weights[role])
    return False


def _suggested(case: Case, budget: Budget) -> Iterator[Edit]:
    """All hypotheses for the steps of a program, by cost; those that there was time to think of."""
    found: list[Edit] = []
    for step in reversed(case.program.steps):
        for suggest in registry.suggestions(step):
            family = suggest.__module__
            try:
                for edit in suggest(case, step):
                    found.append(replace(edit, family=family))
                    if budget.gone(THINKING):
                        break
            except (Unknown, ValueError):
                pass
            except Exception as error:  # a family of others, or a fault of ours: the rest is looked for all the same
                case.failed.setdefault(family, failure(family, error))
            if budget.gone(THINKING):
                break
    yield from sorted(found, key=lambda edit: edit.cost)
