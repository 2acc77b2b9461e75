"""A pair that is to be explained: what both sides compute there, and the data to try it on.

The nodes between a pair's tensor and the nearest tensors above that are known on both sides are read as a program, for
each side. The reference's program is run on the candidate's own tensors, axes moved: where the two compute the same it
gives what the candidate gave, whatever went wrong above. Turned round (:meth:`Case.turned`) it is the candidate's
program on the reference's tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np

from tracer import dtypes, kinds
from tracer.alignment.consistency import MASKED
from tracer.causes.edges import as_padding
from tracer.causes.failing import Failure
from tracer.causes.folding import folded
from tracer.causes.forms import by_channel, in_two, sized
from tracer.causes.reading import read
from tracer.causes.reading.masking import steps_read
from tracer.causes.repeated import Repeated, repeated
from tracer.causes.scores import of_scores
from tracer.causes.simplify import as_attention, simplified, unmerged
from tracer.causes.step import GIVEN, Array, Program, Ran, Step, Unknown
from tracer.causes.sums import in_one
from tracer.compare.pair import PairDiff
from tracer.errors import TraceError
from tracer.graph import Node, Structure
from tracer.rerun.cuts import Cut, Way
from tracer.rerun.measuring import apart
from tracer.store import Recording

LONGEST = 64
"""Nodes of a program at most."""


@dataclass(frozen=True)
class Side:
    """One recording's part: its program, or why there is none, and its own tensors.

    Attributes:
        recording: whose.
        node: that makes the tensor in question, as it is stored.
        nodes: of the program, in running order.
        above: the nodes at which it begins, with those of the other side whose tensors are theirs.
        problem: why there is no program; empty where there is.
        named: the node that stands for a tensor in the program.
    """

    recording: Recording
    node: Node
    nodes: tuple[str, ...]
    above: Mapping[str, str]
    program: Program | None
    problem: str = ""
    named: Callable[[str], str] = str

    def read(self, name: str) -> Array:
        """A recorded tensor, floating ones in float64. Raises TraceError."""
        values = self.recording.read(name)
        return values if values.dtype.kind in "biu" else dtypes.as_float64(values)


@dataclass(frozen=True)
class Trial:
    """A program with the tensors that it is run on."""

    program: Program
    tensors: Mapping[str, Array]

    def run(self, ran: Mapping[str, Ran] | None = None) -> Array:
        """Raises Unknown. What ``ran`` already is not computed again."""
        return self.program.run(self.tensors, ran)


@dataclass(frozen=True)
class Case:
    """What is edited is the program of ``ours``, until it does to the tensors of ``theirs`` what ``theirs`` did.

    Attributes:
        index: of the pair among the diff's.
        pair: itself.
        ours, theirs: the two sides; the reference and the candidate, or the other way round where it is turned.
        ways: how each tensor of ``theirs`` above, by the name of ours, becomes ours; ``way`` the same of the result.
        turned_round: whether ``ours`` is the candidate.
        failed: families that raised while hypotheses were looked for or tried, by name.
    """

    index: int
    pair: PairDiff
    ours: Side
    theirs: Side
    ways: Mapping[str, Callable[[Array], Array]]
    way: Callable[[Array], Array]
    axes: Mapping[str, tuple[int | None, ...] | None]
    turned_round: bool = False
    failed: dict[str, Failure] = field(default_factory=dict, compare=False)

    @property
    def doer(self) -> str:
        """Who does what an edit says: the side whose result is reproduced."""
        return "reference" if self.turned_round else "candidate"

    @property
    def other(self) -> str:
        """Whose program is edited."""
        return "candidate" if self.turned_round else "reference"

    def lacks(self, what: str) -> str:
        """The cause where something of our program is left out: ``activation-missing``, or ``-extra`` if turned."""
        return f"{what}-{'extra' if self.turned_round else 'missing'}"

    def has(self, what: str) -> str:
        """The cause where something is put into our program."""
        return f"{what}-{'missing' if self.turned_round else 'extra'}"

    @cached_property
    def program(self) -> Program:
        """Our program for their tensors, whose lengths may be others. Raises Unknown where our nodes cannot be read."""
        if self.ours.program is None:
            raise Unknown(self.ours.problem)
        return simplified(_adapted(self.ours, self.tensors, self._lengths)) if self._reshaped else self.ours.program

    @property
    def _reshaped(self) -> bool:
        known = self.ours.recording.structure.by_name
        return any(known[name].shape != values.shape for name, values in self.tensors.items() if name in known)

    @property
    def _lengths(self) -> list[tuple[int, ...]]:
        """Shapes of their tensors here, that of the result in our axes first."""
        try:
            found = [self.target.shape]
        except Unknown:
            found = []
        known = self.theirs.recording.structure.by_name
        shapes = (known[name].shape for name in (self.theirs.node.name, *self.theirs.nodes, *self.theirs.above))
        return [*found, *(shape for shape in shapes if shape is not None)]

    @cached_property
    def tensors(self) -> dict[str, Array]:
        """Their tensors in our axes, by our names. Raises Unknown."""
        found = {}
        for name, twin in self.ours.above.items():
            try:
                found[name] = self.ways[name](self.theirs.read(twin))
            except (TraceError, ValueError) as error:
                raise Unknown(f"{twin}: {error}") from error
        return found

    @cached_property
    def own(self) -> dict[str, Array]:
        """Our own tensors by name. Raises Unknown."""
        try:
            return {name: self.ours.read(name) for name in self.ours.above}
        except (TraceError, KeyError) as error:
            raise Unknown(str(error)) from error

    @cached_property
    def target(self) -> Array:
        """What they made, in our axes. Raises Unknown."""
        try:
            return self.way(self.theirs.read(self.theirs.node.name))
        except (TraceError, KeyError, ValueError) as error:
            raise Unknown(f"{self.theirs.node.name}: {error}") from error

    @cached_property
    def recorded(self) -> Array:
        """What we made ourselves. Raises Unknown."""
        try:
            return self.ours.read(self.ours.node.name)
        except (TraceError, KeyError) as error:
            raise Unknown(str(error)) from error

    @cached_property
    def faithful(self) -> float:
        """How far our program is from what we recorded on our own tensors, relative: how well it was read.

        Raises Unknown.
        """
        if self.ours.program is None:
            raise Unknown(self.ours.problem)
        return distance(self.ours.program.run(self.own), self.recorded)

    @cached_property
    def coarse(self) -> float:
        """Unit roundoff of the coarser arithmetic of the two sides' tensors."""
        found = [dtypes.epsilon(node.dtype) for node in (self.ours.node, self.theirs.node) if node.dtype]
        return max([*found, dtypes.epsilon("float32") * 1e-6])

    @property
    def bar(self) -> float:
        """The relative error below which a result counts as reproduced. Raises Unknown.

        A multiple of what rounding was when our own result was computed again, and of one roundoff; where a step
        stands for what it gave, also of how far off tensors above are that count as the same.
        """
        read, unread = self._roundoffs
        return max(read * self.coarse, 4 * min(self.faithful, unread * self.coarse), 4 * self._off_above)

    @cached_property
    def _off_above(self) -> float:
        """How far tensors are off that count as the same on both sides, where a step stands for what it gave."""
        if self.ours.program is None or not any(GIVEN in step.settings for step in self.ours.program.steps):
            return 0.0
        off = (distance(self.tensors[name], own) for name, own in self.own.items())
        return max((one for one in off if one <= UNREAD * self.coarse), default=0.0)

    @property
    def _roundoffs(self) -> tuple[float, float]:
        return COARSE if self.coarse > dtypes.epsilon("float32") else (READ, UNREAD)

    @property
    def read_right(self) -> bool:
        """Whether our program does what we recorded. Raises Unknown."""
        return self.faithful <= self._roundoffs[1] * self.coarse

    def error(self, trial: Trial) -> float:
        """How far a trial is from what they made, relative to their largest value; infinite where shapes differ.

        Raises Unknown.
        """
        return self.off(trial.run(self.ran))

    def off(self, found: Array) -> float:
        """How far a result is from what they made where it is read at all. Raises Unknown."""
        where = self._read
        if where is None or not found.shape == self.target.shape == np.broadcast_shapes(where.shape, found.shape):
            return distance(found, self.target)
        return distance(np.where(where, found, 0), np.where(where, self.target, 0))

    @cached_property
    def _read(self) -> Array | None:
        """The steps of the result that are read, by our axes; None where all are."""
        axes = self.axes.get(self.ours.node.name)
        places = None if axes is None or not {0, 1} <= {*axes} else (axes.index(0), axes.index(1))
        for side, at in ((self.ours, (0, 1)), (self.theirs, places)):
            mask = None if at is None or side.recording.framework != "tensorflow" else _steps_read(side)
            if mask is not None and at is not None and side.node.shape is not None:
                if side.node.shape[:2] != mask.shape:
                    return None
                mask = mask if at[0] < at[1] else mask.T
                rank = len(side.node.shape) if axes is None else len(axes)
                return np.expand_dims(mask, tuple(axis for axis in range(rank) if axis not in at))
        return None

    @cached_property
    def ran(self) -> dict[str, Ran]:
        """What each step of our program makes of their tensors. Raises Unknown."""
        return self.program.trace(self.tensors)

    def edited(self, trial: Trial) -> Case:
        """The case with another program, that counts as read as well as ours is."""
        found = replace(self, ours=replace(self.ours, program=trial.program))
        found.__dict__.update(program=trial.program, tensors=trial.tensors, faithful=self.faithful, target=self.target)
        return found

    @cached_property
    def start(self) -> Trial:
        """Our program as it is. Raises Unknown."""
        return Trial(self.program, self.tensors)

    @cached_property
    def before(self) -> float:
        """The error of our program as it is. Raises Unknown."""
        return self.error(self.start)


READ = 24.0
"""Roundoffs of the largest value that a reproduced result may be off."""
UNREAD = 512.0
"""Roundoffs beyond which a program does not do what was recorded: sums over long kernels stay below it."""
COARSE = (2.0, 4.0)
"""The same two of types coarser than float32: sums are mostly made in float32, and the result rounded once."""


def _steps_read(side: Side) -> Array | None:
    try:
        return steps_read(side.recording, side.node.name)
    except Unknown:
        return None


def distance(found: Array, target: Array) -> float:
    """Largest |found − target| relative to the largest finite |target|; infinite where shapes differ."""
    if found.shape != target.shape:
        return float("inf")
    # How far below a masked score lies is of no matter to the softmax that reads it.
    masks = target.dtype.kind == "f" and target.size > 0 and float(np.min(target)) <= MASKED < -float(np.max(target))
    error, _, scale = apart(target, found, masks=masks)
    return error / scale if scale else error


def cases(
    made: Mapping[str, Cut], reference: Recording, candidate: Recording
) -> Callable[[int, PairDiff, frozenset[str]], tuple[Case, Case]]:
    """A function that makes the case of a pair, and the same turned round. It raises Unknown where there is none.

    It is given the pair's index, the pair, and the candidate's tensors that are not to be relied on.
    """
    by_index = {cut.index: (cut, cut.reference) for cut in made.values()}
    by_index |= {index: (cut, name) for cut in made.values() for index, name in cut.same}
    by_reference: dict[str, Cut] = {}
    for cut in made.values():
        by_reference.setdefault(cut.reference, cut)
    turned = {name for name, cut in made.items() if _transposed(cut, reference.structure)}
    made = {name: _untransposed(cut) if name in turned else cut for name, cut in made.items()}
    usable = {name for name, cut in made.items() if candidate.stored(name) is not None and _usable(cut)} - turned
    moved = _moved_only(usable, made, reference, candidate)
    made = {**moved, **made}
    again = {id(side): repeated(side) for side in (reference, candidate)}

    @cache
    def agrees(name: str) -> bool:
        """Whether the candidate has the reference's values there."""
        cut = made[name]
        try:
            its, ours = cut.ways[0].to_reference(candidate.read(name)), reference.read(cut.reference)
        except (TraceError, ValueError):
            return False
        return cut.ways[0].fits and distance(dtypes.as_float64(its), dtypes.as_float64(ours)) <= UNREAD * cut.epsilon

    def make(index: int, pair: PairDiff, apart: frozenset[str]) -> tuple[Case, Case]:
        if index not in by_index:
            raise Unknown("it has no tensor of its own")
        cut, wanted = by_index[index]
        fits = (usable | {name for name, one in moved.items() if one.candidate not in apart}) - apart
        own = by_reference.get(wanted)
        if wanted != cut.reference and cut.candidate not in apart:  # the candidate has here what it had above
            theirs = _passing(candidate, cut.candidate, cut.reference)
        else:
            twin = {name: made[name].reference for name in fits}
            theirs = _side(again[id(candidate)], cut.candidate, twin, agrees, made)
        early = own.candidate if own is not None and own.candidate in fits - {cut.candidate} else None
        if early is not None and ("output" in pair.pair.evidence or early in theirs.above):
            ours = _passing(reference, wanted, early)  # the reference has here what it had above
        else:
            twin = {name: one.candidate for name, one in by_reference.items() if one.candidate in fits}
            ours = _side(again[id(reference)], wanted, twin, lambda name: agrees(twin[name]), by_reference)
        # What one side reads in addition the other may have to be given.
        more = {by_reference[twin].reference: name for name, twin in theirs.above.items() if twin not in ours.nodes}
        ours = replace(ours, above={**more, **ours.above})
        more = {twin: name for name, twin in ours.above.items() if twin not in theirs.nodes}
        theirs = replace(theirs, above={**more, **theirs.above})
        ours, theirs = _alike(ours, theirs), _alike(theirs, ours)
        return _case(index, pair, ours, theirs, made, cut, False), _case(index, pair, theirs, ours, made, cut, True)

    return make


def _alike(side: Side, other: Side) -> Side:
    """A side's attention that is written out as one step, where the other side calls a function for it; its two
    directions beside one another where the other's are; its normalisation in the layer where the other has none; its
    terms in one sum where the other's are; its ends as a padding where the other pads; its norms and activations in
    the other's form."""
    if side.program is None or other.program is None:
        return side
    if (whole := folded(side.program, other.program)) is not None:
        return replace(side, program=whole)
    if (whole := unmerged(side.program, other.program)) is not None:
        return replace(side, program=whole)
    for form in (in_one, as_padding, by_channel, in_two, sized):
        if (whole := form(side.program, other.program)) is not None:
            return replace(side, program=whole)
    if _attention(side.program) or not _attention(other.program):
        return side
    known = side.recording.structure.by_name
    whole = as_attention(side.program, lambda name: known[name].shape if name in known else None)
    return side if whole is None else replace(side, program=whole)


def _attention(program: Program) -> bool:
    return any(step.kind == "attention" and not step.weights for step in program.steps)


def _transposed(cut: Cut, structure: Structure) -> bool:
    """Whether scores are taken for the other side's transposed, as where queries and keys have changed places: as many
    of the one as of the other, any order of their axes fits."""
    axes, shape = cut.ways[0].axes, structure.by_name[cut.reference].shape
    if axes is None or shape is None or len(shape) < 3 or len(axes) != len(shape) or shape[-1] != shape[-2]:
        return False
    turned = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    return axes == turned and of_scores([cut.reference], structure)


def _untransposed(cut: Cut) -> Cut:
    axes = cut.ways[0].axes
    assert axes is not None
    return replace(cut, ways=(Way(tuple(range(len(axes)))), *cut.ways))


def _moved_only(
    usable: Container[str], made: Mapping[str, Cut], reference: Recording, candidate: Recording
) -> dict[str, Cut]:
    """The candidate's tensors that only move the axes of a twin, and then are the reference's as it stands: what reads
    them reads the twin."""
    found: dict[str, Cut] = {}
    for name, cut in made.items():
        own = reference.structure.by_name[cut.reference].shape
        if own is None or name not in usable:
            continue
        for child in candidate.structure.children.get(name, ()):
            node = candidate.structure.by_name[child]
            if node.kind not in kinds.LAYOUT_ONLY or node.shape != own or child in made or len(node.parents) != 1:
                continue
            try:
                same = np.array_equal(cut.ways[0].to_reference(candidate.read(name)), candidate.read(child))
            except (TraceError, ValueError):
                continue
            if same and candidate.resolve(child) == child:
                found[child] = replace(cut, ways=(Way(tuple(range(len(own)))),))
    return found


def _usable(cut: Cut) -> bool:
    """Whether one side's tensor may be given to the other; where lengths differ, with axes known to be the same."""
    axes = cut.ways[0].axes
    return cut.ways[0].fits or (axes is not None and None not in axes and len(axes) > 2)


def _case(
    index: int,
    pair: PairDiff,
    ours: Side,
    theirs: Side,
    made: Mapping[str, Cut],
    cut: Cut,
    turned: bool,
) -> Case:
    ways: dict[str, Callable[[Array], Array]] = {}
    axes: dict[str, tuple[int | None, ...] | None] = {}
    for name, twin in ours.above.items():
        way = made[name if turned else twin].ways[0]
        ways[name] = _mover(way, ours.recording, name, turned)
        axes[name] = _axes(way, turned)
    last = _mover(cut.ways[0], ours.recording, ours.node.name, turned)
    axes[ours.node.name] = _axes(cut.ways[0], turned)
    return Case(index, pair, ours, theirs, ways, last, axes, turned)


def _axes(way: Way, turned: bool) -> tuple[int | None, ...] | None:
    """Their axis for each of ours."""
    if way.axes is None or not turned:
        return way.axes
    found: list[int | None] = [None] * (1 + max((a for a in way.axes if a is not None), default=-1))
    for ours, theirs in enumerate(way.axes):
        if theirs is not None:
            found[theirs] = ours
    return tuple(found)


def _mover(way: Way, recording: Recording, name: str, turned: bool) -> Callable[[Array], Array]:
    if not turned:
        return way.to_reference
    shape = recording.structure.by_name[name].shape
    rank = len(shape) if shape is not None else recording.read(name).ndim
    return lambda values: way.to_candidate(values, rank)


def _side(
    again: Repeated, name: str, twin: Mapping[str, str], agrees: Callable[[str], bool], paired: Container[str]
) -> Side:
    """The part of a recording that makes a tensor of tensors that both sides have, the names of which are given.

    What cannot be read is what it gave where all that it is made of ``agrees``, for it would give that again; not what
    is ``paired``, which may be where the two part.
    """
    recording = again.recording
    structure = recording.structure

    def named(parent: str) -> str:
        # What is asked for is itself, though it may be computed above as well.
        return name if recording.resolve(parent) == name else again.resolve(parent, twin)

    above: dict[str, str] = {}
    inside, queue, problem = {name}, [name], ""
    while queue and not problem:
        for parent in dict.fromkeys(map(named, layer_of(structure, queue.pop()).parents)):
            other = twin.get(parent)
            if other is not None:
                above[parent] = other
            elif parent not in inside:
                inside.add(parent)
                queue.append(parent)
                if structure.by_name[parent].role == "input":
                    problem = f"{parent} is not compared"
                elif len(inside) > LONGEST:
                    problem = f"more than {LONGEST} operations lie between it and what both sides have"
    nodes = tuple(node.name for node in structure if node.name in inside)
    program = None
    if not problem:
        lasting = {one for one in above if agrees(one)}
        try:
            steps = []
            for node in nodes:
                given = {*map(named, layer_of(structure, node).parents)} <= lasting
                lasting |= {node} if given else set()
                step = _given if given and node != name and node not in paired else _step
                steps.append(step(recording, node, named))
            program = simplified(Program(tuple(steps)))
        except Unknown as error:
            problem = str(error)
    return Side(recording, structure.by_name[name], nodes, above, program, problem, named)


def _given(recording: Recording, name: str, named: Callable[[str], str]) -> Step:
    """A step that is given what it was given when it was recorded: where it cannot be read, what it gave.

    Raises Unknown.
    """
    try:
        return _step(recording, name, named)
    except Unknown:
        node = recording.structure.by_name[name]
        if node.kind == "dropout":
            raise  # it draws other numbers
        try:
            value = recording.read(name)
        except (TraceError, KeyError) as error:
            raise Unknown(str(error)) from error
        value = value if value.dtype.kind in "biu" else dtypes.as_float64(value)
        return Step(name, "full", {"value": value, "inferred": True, GIVEN: True}, shape=node.shape, source=node.source)


def layer_of(structure: Structure, name: str) -> Node:
    """The layer that a further output is of, such as its last state; of any other node itself."""
    node = structure.by_name[name]
    whole = structure.by_name.get(node.parents[0]) if node.role == "item" and node.parents else None
    return node if whole is None or whole.kind not in _GIVING_MORE else whole


_GIVING_MORE = kinds.RECURRENT | {"attention"}


def _passing(recording: Recording, name: str, twin: str) -> Side:
    """The part of a recording that hands on a tensor that both sides have."""
    node = recording.structure.by_name[name]
    program = Program((Step(f"{name} itself", "identity", inputs=(name,), shape=node.shape),))
    return Side(recording, node, (), {name: twin}, program)


def _adapted(side: Side, tensors: Mapping[str, Array], seen: Sequence[tuple[int, ...]]) -> Program:
    """A side's program for tensors of other lengths: how much SAME pads and what a reshape makes depend on them.

    ``seen`` are shapes of the other side. Raises Unknown.
    """
    known, steps = {name: values.shape for name, values in tensors.items()}, []
    ran = dict(tensors)
    for name in side.nodes:
        step = _step(side.recording, name, side.named)
        shapes = [known[source] for source in step.inputs]
        try:
            if tuple(shapes) != tuple(side.recording.structure.by_name[source].shape for source in step.inputs):
                step = _step(side.recording, name, side.named, shapes, seen)
            ran[name] = Program((step,)).run(ran)
        except Unknown:
            assert side.program is not None
            return side.program
        known[name] = ran[name].shape
        steps.append(step)
    return Program(tuple(steps))


def _step(
    recording: Recording,
    name: str,
    named: Callable[[str], str],
    shapes: Sequence[tuple[int, ...]] | None = None,
    seen: Sequence[tuple[int, ...]] = (),
) -> Step:
    step = read(recording, name, shapes, seen)
    return replace(step, inputs=tuple(map(named, step.inputs)))
