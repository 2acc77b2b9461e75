"""Structure: skips and blocks that one side alone has, and steps that read another tensor."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from tracer import kinds, relations
from tracer.causes import masks, naming, operations
from tracer.causes.case import Case, Trial, distance
from tracer.causes.edit import Edit, both, feed, of_step
from tracer.causes.families.attention import before_softmax, is_mask
from tracer.causes.families.common import (
    HELPS,
    ahead,
    behind,
    fitted,
    inputs,
    is_last,
    made,
    ordered,
    snapped,
    telling,
    try_chain,
    try_step,
    twin,
    value,
    view,
)
from tracer.causes.registry import suggests
from tracer.causes.scores import SCALING, about_heads
from tracer.causes.settings import sides
from tracer.causes.step import GIVEN, Array, Step, Unknown
from tracer.errors import TraceError
from tracer.graph import Structure

_COMBINING = ("add", "sub", "mul", "div", "maximum", "minimum", "average")
_TWO = 2
_SHORT = 12
"""Steps of a program in which a skip is looked for behind each."""
_NEAREST = 48
"""Tensors of theirs that are tried in place of one."""
_ACTIVATIONS = ("relu", "relu6", "gelu", "silu", "tanh", "sigmoid", "leaky_relu", "elu")


@suggests("add", "sub", "average", "mul", "maximum")
def summed(case: Case, step: Step) -> Iterator[Edit]:
    """One term alone, in the other order, by another operation, with factors."""
    read = inputs(case, step)
    scores = step.kind in ("add", "sub") and masks.masks_scores(step, case.ours)
    for k, name in enumerate(step.inputs):
        if len(step.inputs) > 1:
            alone = Step(step.name, "identity", {}, {}, (name,), None)
            left = " and ".join(other for j, other in enumerate(step.inputs) if j != k)
            what = f"the {case.doer} leaves {left} out of {step.name}"
            cause = case.lacks("residual") if step.kind in ("add", "average") else case.lacks("block")
            fix = ""
            if scores:
                cause, what = "attention-mask", f"{what}: it is not added to the scores"
                fix = f"add {left} to the scores" if not case.turned_round else f"do not add {left} to the scores"
            yield from try_chain(case, step, (alone,), cause, what, 2.0, fix=fix)
    for k, name in enumerate(step.inputs) if len(step.inputs) > _TWO else ():
        fewer = replace(step, inputs=(*step.inputs[:k], *step.inputs[k + 1 :]))
        cause = case.lacks("residual") if step.kind in ("add", "average") else case.lacks("block")
        yield from try_step(case, step, fewer, cause, f"the {case.doer} leaves {name} out of {step.name}", 2.0)
    if len(step.inputs) == 1 and ("operand" in step.settings or "operand" in step.weights):
        alone = Step(step.name, "identity", {}, {}, step.inputs, None)
        what = f"the {case.doer} does not {step.kind} anything in {step.name}"
        stem, whole = naming.of_single(step, case.ours)
        yield from try_chain(case, step, (alone,), stem if whole else case.lacks(stem), what, 2.5)
    for kind in _COMBINING:
        if kind != step.kind:
            words = ordered(case, step.kind, kind)
            what = f"{step.name} is {words[0]} in the reference, {words[1]} in the candidate"
            yield from try_step(case, step, replace(step, kind=kind), "operation-kind", what, 3.0)
    if step.kind == "sub" and len(step.inputs) == 2:
        turned = replace(step, inputs=step.inputs[::-1])
        yield from try_step(case, step, turned, "operand-order", f"{step.name} is the other way round", 3.0)
    yield from _order(case, step)
    yield from _weighted(case, step, read)


def _order(case: Case, step: Step) -> Iterator[Edit]:
    """An activation before the sum: moved there from behind it, or one that only the other side has."""
    structure = case.ours.recording.structure
    behind_it = [structure.by_name[name].kind for name in structure.children.get(step.name, ())]
    likely = [kind for kind in behind_it if kind in kinds.ACTIVATIONS]
    for kind in dict.fromkeys((*likely, *_ACTIVATIONS)):
        for k in (k for k, values in enumerate(inputs(case, step)) if telling(values)):
            settings = {"approximate": "none"} if kind == "gelu" else {}
            what = f"the {case.doer} computes {kind} of {step.inputs[k]} before it is added in {step.name}"
            moved = kind in likely and len(step.inputs) == 2
            cause = "residual-order" if moved else case.has("activation")
            yield from try_chain(case, step, ahead(step, made(kind, **settings), k), cause, what, 3.0)


def _weighted(case: Case, step: Step, read: tuple[Array, ...]) -> Iterator[Edit]:
    """A factor on a term: scaled residuals."""
    if step.kind != "add" or len(read) != 2 or not is_last(case, step):
        return
    target = case.target
    if any(np.broadcast_shapes(x.shape, target.shape) != target.shape for x in read):
        return
    factors, left = fitted(read, target)
    if left > 4 * case.bar:
        return
    for k, factor in enumerate(factors):
        other = factors[1 - k]
        if abs(other - 1) > 1e-4 or abs(factor - 1) < 1e-5:
            continue
        number = snapped(float(factor), lambda n, j=k: distance(read[1 - j] + n * read[j], target) <= case.bar)  # type: ignore[misc]
        what = f"the {case.doer} multiplies {step.inputs[k]} by {naming.said(number)} before it is added"
        yield from try_chain(case, step, ahead(step, made("mul", operand=number), k), "scale", what, 3.0)


_BESIDE_SUMS = (
    "relu",
    "relu6",
    "gelu",
    "silu",
    "tanh",
    "leaky_relu",
    "elu",
    "hard_silu",
    *sorted(kinds.NORMALISATIONS),
)


@suggests(*_BESIDE_SUMS)
def of_one_term(case: Case, step: Step) -> Iterator[Edit]:
    """The activation or the norm of one term only, of a sum that is made in the same program."""
    steps = {other.name: other for other in case.program.steps}
    add = steps.get(step.inputs[0])
    if add is None or add.kind != "add" or len(add.inputs) != 2 or not is_last(case, step):
        return
    for k in (0, 1):
        first = replace(step, name=f"{step.name}~{k}", inputs=(add.inputs[k],))
        reads = tuple(first.name if j == k else name for j, name in enumerate(add.inputs))
        chain = (first, replace(add, name=step.name, inputs=reads))
        what = f"the {case.doer} computes {step.kind} of {add.inputs[k]} before the addition, not after it"
        yield from try_chain(case, step, chain, "residual-order", what, 2.5)


@suggests("add")
def of_the_sum(case: Case, step: Step) -> Iterator[Edit]:
    """The activation or the norm of the whole sum, where one term has it."""
    if not is_last(case, step) or len(step.inputs) != 2:
        return
    steps = {other.name: other for other in case.program.steps}
    for k, name in enumerate(step.inputs):
        term = steps.get(name)
        if term is None or term.kind not in _BESIDE_SUMS:
            continue
        reads = tuple(term.inputs[0] if j == k else other for j, other in enumerate(step.inputs))
        chain = (replace(step, name=f"{step.name}~0", inputs=reads),
                 replace(term, name=step.name, inputs=(f"{step.name}~0", *term.inputs[1:])))  # fmt: skip
        what = f"the {case.doer} computes {term.kind} after the addition {step.name}, not of {reads[k]} before it"
        yield from try_chain(case, step, chain, "residual-order", what, 2.5)


@suggests()
def bypassed(case: Case, step: Step) -> Iterator[Edit]:
    """A step that does nothing on the other side."""
    if step.kind in kinds.UNCHANGED | kinds.ACTIVATIONS or len(case.program.steps) < 1:
        return
    for k, x in enumerate(inputs(case, step)):
        if x.shape != value(case, step).shape or step.kind in ("add", "mul", *kinds.NORMALISATIONS):
            continue
        bare = Step(step.name, "identity", {}, {}, (step.inputs[k],), None)
        what = f"the {case.doer} leaves {step.name} ({step.kind}) out"
        single, whole = "residual" if step.kind == "add" else "block", False
        if step.kind in SCALING | {"rounded"} and len(step.inputs) == 1:
            single, whole = naming.of_single(step, case.ours)
        yield from try_chain(case, step, (bare,), single if whole else case.lacks(single), what, 4.0)


@suggests()
def skipped(case: Case, step: Step) -> Iterator[Edit]:
    """What a step reads, or any other tensor, added to what it gives."""
    if not is_last(case, step) or step.kind in kinds.LAYOUT_ONLY:
        return
    found, target = value(case, step), case.target
    if found.shape != target.shape or not np.all(np.isfinite(found)):
        return
    gap = target - found
    for k, x in enumerate(inputs(case, step)):
        if x.shape != found.shape:
            continue
        for sign, word in ((1, "adds"), (-1, "subtracts")):
            if distance(sign * x, gap) <= max(1e-3, 4 * case.bar):
                kind = "add" if sign > 0 else "sub"
                other = Step("", kind, {}, {}, (step.inputs[k],))
                chain = behind(case, step, other)
                what = f"the {case.doer} {word} what {step.name} reads to what it gives"
                gain = step.kind == "mul" and bool(step.weights)  # a weight that one is added to, and no skip
                yield from try_chain(case, step, chain, case.has("block" if gain else "residual"), what, 3.0)
    for name, tensor in _others(case, found.shape):
        if distance(tensor, gap) <= max(1e-3, 4 * case.bar):
            chain = behind(case, step, made("add", operand=tensor))
            what = f"the {case.doer} adds {name} to what {step.name} gives"
            cause = case.has("residual")
            if later := _added_later(case, step, name):
                cause, what = "residual-order", f"{what}, the {case.other} further on: {later}"
            yield from try_chain(case, step, chain, cause, what, 4.0)
            return


def _added_later(case: Case, step: Step, name: str) -> str:
    """Our sum of what a step gives and of what is made of the twin of their tensor alone; empty where there is none."""
    structure = case.ours.recording.structure
    twins = {mine for mine, its in case.ours.above.items() if its == name}
    for child in map(structure.by_name.__getitem__, structure.children.get(step.name, ())):
        others = [parent for parent in child.parents if parent != step.name]
        if child.kind == "add" and any(twins & _alone(structure, other) for other in others):
            return child.name
    return ""


def _alone(structure: Structure, name: str) -> set[str]:
    """Those nodes of which one is made by operations of one input each, without itself."""
    found = set[str]()
    while len(parents := structure.by_name[name].parents) == 1 and parents[0] not in found:
        name = parents[0]
        found.add(name)
    return found


@suggests()
def fed(case: Case, step: Step) -> Iterator[Edit]:
    """Another tensor of theirs in place of what a step reads."""
    if not is_last(case, step) and step is not case.program.steps[0]:
        return
    at = view(case, step) if is_last(case, step) else None
    if (
        step.kind in ("concat", "stack")
        and is_last(case, step)
        and relations.same_values(value(case, step), case.target)
    ):
        return  # the parts are the same, in another order
    for name in dict.fromkeys(step.inputs):
        if name not in case.tensors:
            continue
        now, place = case.tensors[name], step.inputs.index(name)
        for other, tensor in _others(case, now.shape, name):
            if tensor is now or np.array_equal(tensor, now):
                continue
            if at is not None and not _fits(step, tensor, place, at):
                continue
            change = feed(**{name: tensor})
            try:
                left = case.error(change(Trial(case.program, case.tensors)))
            except Unknown:
                continue
            if not left < HELPS * case.before:
                continue
            cause, what = _in_its_place(case, step, other, tensor) or _read(case, step, name, other)
            hidden = step.kind in ("add", "where", "masked_fill") and before_softmax(case, step) and _hides(tensor, now)
            hidden = hidden or (step.kind == "softmax" and is_mask(tensor) != is_mask(now))
            if hidden or masks.makes_mask(step, case.ours):
                cause = "attention-mask"
            reader, wanted = step.name, name
            if not case.turned_round:
                reader = next(iter(sorted(_readers(case, step, other))), case.theirs.node.name)
                wanted = case.ours.above[name]
            fix = f"let {reader} read {wanted}" if cause in _GENERAL else ""
            yield Edit(cause, what, change, step.name, twin(case, step), fix=fix, cost=4.0, detail={"fed": other})
            if left <= case.bar:
                return


@suggests("concat")
def blank(case: Case, step: Step) -> Iterator[Edit]:
    """One number in place of a tensor that a step joins."""
    read, axis = inputs(case, step), int(step.settings.get("axis", -1))
    if not is_last(case, step) or value(case, step).shape != case.target.shape:
        return
    parts = np.split(case.target, np.cumsum([x.shape[axis] for x in read])[:-1], axis=axis)
    for k, (name, x, part) in enumerate(zip(step.inputs, read, parts, strict=True)):
        if not part.size or not np.isfinite(part).all() or np.ptp(part) or not np.ptp(x):
            continue
        number, constant = naming.said(float(part.flat[0])), f"{step.name}~none"
        reads = (*step.inputs[:k], constant, *step.inputs[k + 1 :])
        joined = partial(replace, inputs=reads)
        change = both(feed(**{constant: part}), of_step(step.name, joined))
        what = f"the {case.doer} joins {number} in place of {name}"
        fix = f"join {number}" if case.turned_round else f"join what {name} of the reference gives"
        yield Edit(case.lacks("residual"), what, change, step.name, twin(case, step), fix=fix, cost=3.0)


@suggests()
def of_first_sample(case: Case, step: Step) -> Iterator[Edit]:
    """The first sample's tensor for all samples, in place of one that the program reads."""
    if not is_last(case, step) or len(case.tensors) < _TWO:
        return
    for name, tensor in case.tensors.items():
        samples = case.target.shape[:1]
        if not samples or samples[0] < _TWO or tensor.shape[:1] != samples or np.array_equal(tensor[:1], tensor[1:2]):
            continue
        change = feed(**{name: np.broadcast_to(tensor[:1], tensor.shape)})
        try:
            left = case.error(change(Trial(case.program, case.tensors)))
        except Unknown:
            continue
        if left <= case.bar:
            read = name if case.turned_round else case.ours.above[name]
            what = f"the {case.doer} takes {read} of the first sample for all samples"
            fix = f"give each sample its own {read}" if not case.turned_round else f"take the first sample's {read}"
            yield Edit("wiring", what, change, step.name, twin(case, step), fix=fix, cost=4.5)


@suggests()
def joined_within(case: Case, step: Step) -> Iterator[Edit]:
    """A tensor that the program reads, added to what a step on the way gives."""
    if is_last(case, step) or step.kind in kinds.LAYOUT_ONLY or len(case.program.steps) > _SHORT:
        return
    found = value(case, step)
    for name, tensor in case.tensors.items():
        if tensor.shape == found.shape and tensor.dtype.kind == "f":
            chain = behind(case, step, Step("", "add", {}, {}, (name,)))
            what = f"the {case.doer} adds {name} to what {step.name} gives"
            yield from try_chain(case, step, chain, case.has("residual"), what, 3.5)


def _in_its_place(case: Case, step: Step, other: str, tensor: Array) -> tuple[str, str] | None:
    """What it is called where an activation of ours does nothing to a tensor that an activation of theirs has been at
    already: that stands in its place."""
    if step.kind not in kinds.ACTIVATIONS | {"clip"} or len(step.inputs) != 1:
        return None
    try:
        idle = relations.alike(operations.run(step, [tensor]), tensor)
    except Unknown:
        return None
    structure, names = case.theirs.recording.structure, [other]
    for _ in range(_BEFORE):
        found = [structure.by_name[name] for name in names if name in structure.by_name]
        theirs = next((node for node in found if node.kind in kinds.ACTIVATIONS), None)
        if idle and theirs is not None:
            return "activation-kind", sides(case, "computes", step.kind, theirs.kind)
        names = [parent for node in found if node.kind in SCALING for parent in node.parents]
    return None


_BEFORE = 4
"""Operations between an activation and what is read of it."""


def _fits(step: Step, tensor: Array, place: int, at: object) -> bool:
    from tracer.causes.families.common import View

    assert isinstance(at, View)
    if at.whole:
        read = tuple(tensor if k == place else x for k, x in enumerate(at.inputs))
        narrowed = step
    else:
        read = tuple(tensor[: len(x)] if k == place else x for k, x in enumerate(at.inputs))
        narrowed = at.narrow(step)
    try:
        return distance(operations.run(narrowed, list(read)), at.target) < HELPS * at.before
    except Unknown:
        return False


def _others(case: Case, shape: tuple[int, ...], name: str = "") -> Iterator[tuple[str, Array]]:
    """Their recorded tensors that have that shape in our axes, those nearest by in running order first."""
    recording = case.theirs.recording
    order = {node.name: k for k, node in enumerate(recording.structure)}
    here = order[case.ours.above[name]] if name else order[case.theirs.node.name]
    move = case.ways[name] if name else case.way
    its = recording.structure.by_name[case.ours.above[name] if name else case.theirs.node.name].shape
    program = case.theirs.program
    # What stands for a step that cannot be computed would reproduce anything that is made of it.
    given = {one.name for one in (program.steps if program is not None else ()) if GIVEN in one.settings}
    fitting = [
        node.name
        for node in recording.structure
        if node.shape == its and node.alias_of is None and node.name not in {case.theirs.node.name, *given}
        and not (order[node.name] > order[case.theirs.node.name])
    ]  # fmt: skip
    fitting.sort(key=lambda other: abs(order[other] - here))
    kept: dict[str, Array] = case.__dict__.setdefault("_others", {})
    for other in itertools.islice(fitting, _NEAREST):
        if recording.stored(other) is None:
            continue
        if other not in kept:
            try:
                kept[other] = case.theirs.read(other)
            except TraceError:
                continue
        try:
            moved = move(kept[other])
        except ValueError:
            continue
        if moved.shape == shape:
            yield other, moved


def _hides(*tensors: Array) -> bool:
    """Whether one of some tensors hides scores: a mask, or what has been masked."""
    return any(values.dtype == np.bool_ or (values.dtype.kind == "f" and is_mask(values)) for values in tensors)


def _read(case: Case, step: Step, name: str, other: str) -> tuple[str, str]:
    """What reading another tensor is called: what lies between the two is left out, or gone through twice."""
    structure = case.theirs.recording.structure
    twin_of = case.ours.above[name]
    what = f"the {case.doer} gives {step.name} {other} to read, not {twin_of}"
    above, further = naming.above(structure, twin_of), naming.above(structure, other)
    late, early = (above | {twin_of}, further | {other}) if other in above else (further | {other}, above | {twin_of})
    between = {structure.by_name[one].kind for one in late - early}
    if (other in above or twin_of in further) and between <= kinds.ARRANGING:
        merges = step.kind in ("flatten", "reshape") or between & {"flatten", "reshape"}
        return "reshape-order" if merges else "axis-permutation", f"{what}: only the places of values are others"
    reads = _readers(case, step, other)
    if (other in above or twin_of in further) and _of_use_elsewhere(structure, late - early, {other, twin_of, *reads}):
        return "wiring", what
    if other in above:
        return case.lacks("block"), f"{what}: it leaves out what lies between"
    if twin_of in further:
        if between == {"dropout"}:
            return "dropout-mode", f"{what}: numbers are left out, as in training"
        if between & _POOLING and between <= _POOLING | kinds.LAYOUT_ONLY | {"concat", "stack"}:
            return "pool-kind", f"{what}: that is pooled"
        stem = "activation" if len(between) == 1 and between <= kinds.ACTIVATIONS else "block"
        return case.has(stem), f"{what}: it goes through more"
    of_heads = step.kind == "matmul" and about_heads(case.ours.recording.structure, step)
    of_heads = of_heads and bool(_projects(structure, twin_of) & _projects(structure, other))
    joined = step.kind in ("concat", "stack") and other in map(case.ours.above.get, step.inputs)
    return "qkv-order" if of_heads else "concat-order" if joined else "wiring", what


def _readers(case: Case, step: Step, other: str) -> set[str]:
    """The node of theirs that stands for a step, among those that read a tensor; where that is not known, the one that
    does."""
    children, own = {*case.theirs.recording.structure.children.get(other, ())}, twin(case, step)
    return children & {own} or (children if len(children) == 1 else set())


def _of_use_elsewhere(structure: Structure, between: set[str], ends: set[str]) -> bool:
    """Whether what a layer with weights that lies between two tensors gives is read by others than these: it is neither
    left out nor more, and another tensor is read. So are two parts of one tensor."""
    nodes = [structure.by_name[name] for name in between]
    weighted = {node.name for node in nodes if node.kind in kinds.WEIGHTED and node.params}
    for node in nodes:
        behind = node.name in weighted or weighted & naming.above(structure, node.name)
        if behind and not {*structure.children.get(node.name, ())} <= between | ends:
            return True
    parts = [structure.by_name[name] for name in ends]
    return any(part.role == "item" and {*part.parents} & ends for part in parts)


def _projects(structure: Structure, name: str) -> set[str]:
    """What the dense layer reads that makes a tensor, which may be laid out otherwise behind it."""
    node = structure.by_name.get(name)
    while node is not None and node.kind in kinds.LAYOUT_ONLY | {"item"} and node.parents:
        node = structure.by_name[node.parents[0]]
    return set(node.parents) if node is not None and node.kind == "dense" else set()


_POOLING = kinds.POOLS | kinds.REDUCTIONS
_GENERAL = ("wiring", "qkv-order", "block-missing", "block-extra", "pool-kind")
"""Causes of which the fix is to read the other tensor."""
