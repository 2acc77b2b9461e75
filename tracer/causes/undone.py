"""Differences that what comes next takes back: one side multiplies a mask, the other fills it in, before a softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from tracer import kinds
from tracer.causes.case import Case, cases, distance
from tracer.causes.ends import at_ends, in_turn
from tracer.causes.step import GIVEN, Program, Unknown
from tracer.causes.straight import straightened
from tracer.compare.pair import PairDiff
from tracer.compare.verdict import Tolerance, Verdict
from tracer.errors import TraceError
from tracer.rerun.cuts import Cut, cuts
from tracer.store import Recording

Make = Callable[[int, PairDiff, frozenset[str]], tuple[Case, Case]]

FAR = 4
"""Tensors on which values may be moved back to where they were, or cut to the same lengths."""
_LOSING = kinds.POOLS | kinds.REDUCTIONS


class Undone:
    """Says of pairs, by their index, whether what reads them takes their difference back; what that needs is made when
    it is first asked for."""

    def __init__(self, pairs: Sequence[PairDiff], reference: Recording, candidate: Recording) -> None:
        self._pairs, self._sides = pairs, (reference, candidate)

    def __call__(self, index: int) -> bool:
        """Raises TraceError where a recording cannot be read."""
        made, make = self._made
        own = next((cut for cut in made.values() if cut.index == index), None)
        if own is None:
            return False
        more = uneven(made) if not own.ways[0].fits else frozenset[str]()
        return undone(own, made, self._pairs, make, far=FAR if more else 1, more=more)

    @cached_property
    def _made(self) -> tuple[Mapping[str, Cut], Make]:
        made = met(self._pairs, *self._sides)
        return made, cases(made, *self._sides)


def uneven(made: Mapping[str, Cut]) -> frozenset[str]:
    """The candidate's tensors of other lengths than their twins': one side may cut off further on what the other does
    at once, of several that are added in between."""
    return frozenset(name for name, cut in made.items() if not cut.ways[0].fits)


def met(pairs: Sequence[PairDiff], reference: Recording, candidate: Recording) -> dict[str, Cut]:
    """Where two recordings meet, by the candidate's node; values that rightly come in another order in that order, and
    layers that one side writes in several operations where these end. What both models give has no readers: nothing
    that is made of it makes up for it."""
    made, _ = cuts([pair.pair for pair in pairs], reference, candidate)
    for name, cut in made.items():
        if pairs[cut.index].reordered and pairs[cut.index].verdict is not Verdict.DIVERGED:
            ways = sorted(cut.ways, key=lambda way: way.arrangement is None)
            made[name] = replace(cut, ways=tuple(ways))
    ends = at_ends(straightened(made, pairs, reference, candidate), pairs, reference, candidate)
    found = in_turn(ends, pairs, reference, candidate)
    given = [{*map(side.resolve, side.structure.outputs)} for side in (reference, candidate)]
    return {
        name: replace(cut, readers=()) if cut.heal in given[0] and name in given[1] else cut
        for name, cut in found.items()
    }


def undone(
    cut: Cut,
    made: Mapping[str, Cut],
    pairs: Sequence[PairDiff],
    make: Make,
    apart: frozenset[str] = frozenset(),
    far: int = 1,
    more: frozenset[str] = frozenset(),
) -> bool:
    """Whether everything that reads a pair's tensors agrees when it is computed from what is above the pair.

    The two tensors are then steps on two ways to the same result, and no defect. What reads them may itself be such a
    step, ``far`` tensors on at most, but for one that only loses what differs, as a mean does; nor are those in
    ``apart`` relied on, which were looked at, nor in ``more``. False where nothing reads them, and where that cannot be
    computed.
    """
    apart |= {cut.candidate}
    steps = [cut]
    for _ in range(far):
        following: dict[str, Cut] = {}
        for step in steps:
            if not step.readers:
                return False
            for other in (made[reader] for reader in step.readers if reader not in apart):
                try:
                    agrees, kind = _computed(step, make(other.index, pairs[other.index], apart | more))
                except Unknown:
                    return False
                if not agrees:
                    following[other.candidate] = other
                elif far > 1 and kind in _LOSING:
                    return False
        if not following:
            return True
        apart |= following.keys()
        steps = list(following.values())
    return False


def _computed(step: Cut, both: tuple[Case, Case]) -> tuple[bool, str]:
    """Whether what reads a pair agrees when it is computed from above that, by the side that can be, and the kind of
    operation that it is. Raises Unknown where neither can."""
    case, turned = both
    for one, passed in ((case, step.reference), (turned, step.candidate)):
        try:
            if not one.read_right or any(GIVEN in step.settings for step in one.program.steps):
                continue
            agrees = one.before <= one.bar
        except Unknown:
            continue
        if passed not in one.ours.nodes:
            break
        return agrees, case.theirs.node.kind
    raise Unknown(f"what reads {step.candidate} cannot be computed from above it")


def given_alike(pairs: Sequence[PairDiff], reference: Recording, candidate: Recording) -> bool:
    """Whether all that the two models give agrees: values that stand elsewhere on the way were put back, however far
    on, as where a token is joined at the other end and taken from there."""
    given = {*map(reference.resolve, reference.structure.outputs)}, _moved_last(candidate)
    ends = [pair for pair in pairs if pair.node.name in given[0] and pair.candidate_node.name in given[1]]
    alike = all(_agrees(pair) for pair in ends)
    return alike and bool(ends) and {pair.node.name for pair in ends} == given[0]


def put_right(cut: Cut, made: Mapping[str, Cut], pairs: Sequence[PairDiff]) -> bool:
    """Whether all that is made of a pair's tensor agrees further on, by no step that merely loses what differs."""
    seen, queue = {cut.candidate}, [cut]
    while queue:
        step = queue.pop()
        if not step.readers:
            return False
        for other in (made[reader] for reader in step.readers if reader not in seen):
            seen.add(other.candidate)
            pair = pairs[other.index]
            if not _agrees(pair):
                queue.append(other)
            elif pair.candidate_node.kind in _LOSING:
                return False
    return True


def _agrees(pair: PairDiff) -> bool:
    """Whether a pair is the same but for rounding, whatever tolerance a person set."""
    if pair.reordered or pair.verdict not in (Verdict.MATCH, Verdict.NOISE):
        return False
    if pair.verdict is Verdict.NOISE or pair.stats is None:
        return True
    return pair.stats.passes(Tolerance.atol, Tolerance.rtol)


def _moved_last(side: Recording) -> set[str]:
    """What a model gives, and that of which it only moves the axes."""
    found, queue = set[str](), [*side.structure.outputs]
    while queue:
        name = side.resolve(queue.pop())
        node = side.structure.by_name[name]
        queue += node.parents if name not in found and node.kind in kinds.UNCHANGED | {"permute"} else ()
        found.add(name)
    return found


def computed_elsewhere(case: Case) -> bool:
    """Whether their model computes what ours does here at a tensor above theirs, of the same operation, that has no
    twin: of two places that compute alike the wrong one was taken for the pair. Raises Unknown.

    It is so too where nothing on the way has weights, and they have as many operations as ours up to such a tensor.
    """
    own, theirs = case.ours.node, case.theirs
    if theirs.program is None or own.kind != theirs.node.kind or _gives(case):
        return False
    plain = not any(step.weights for step in (*case.program.steps, *theirs.program.steps))
    for name in theirs.nodes:
        node = theirs.recording.structure.by_name[name]
        if name == theirs.node.name or node.kind != own.kind or node.shape != theirs.node.shape:
            continue
        if plain and _length(theirs.program, name) == len(case.program.steps):
            return True
        try:
            if distance(case.start.run(case.ran), case.way(theirs.read(name))) <= case.bar:
                return True
        except (TraceError, ValueError):
            continue
    return False


def _length(program: Program, name: str) -> int:
    """The steps that make one of a program's tensors; 0 where none does."""
    steps = {step.name: step for step in program.steps}
    found, queue = set[str](), [name]
    while queue:
        step = steps.get(queue.pop())
        if step is not None and step.name not in found:
            found.add(step.name)
            queue += step.inputs
    return len(found)


def _gives(case: Case) -> bool:
    """Whether the pair is of what a model gives: nothing else would say what differs."""
    return any(
        side.node.name in map(side.recording.resolve, side.recording.structure.outputs)
        for side in (case.ours, case.theirs)
    )
