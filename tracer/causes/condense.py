"""Many statements of one mistake as one: operations of a block, a setting of every layer, what was said above."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from tracer import kinds
from tracer.causes import naming
from tracer.causes.case import Case
from tracer.causes.differences import BLOCK
from tracer.causes.edit import Edit
from tracer.causes.finding import Cause, Finding, plain
from tracer.causes.moves import MOVING, of_moves
from tracer.causes.settings import same_value
from tracer.causes.step import Step
from tracer.causes.written import addend, multiplier, without_idle

_ARITHMETIC = kinds.ELEMENTWISE | {"add", "sub", "mul", "div", "power", "exponential", "clip"}
_JOINING = frozenset(["add", "sub", "mul", "div", "average", "maximum", "concat", "slice", "split"])
_WHOLE = ("residual", "activation", "block")


def in_blocks(edits: Sequence[Edit], causes: Sequence[Cause], idle: Sequence[Step] = ()) -> tuple[Cause, ...]:
    """The causes of a pair, with the operations that one side has alone as one block where there are several; ``idle``
    are steps of ours that are of no use without those left out."""
    for told in (_by_hand, _stands_elsewhere, _pooled, _scaled_elsewhere, _rearranged):
        if (at_once := told(edits, causes)) is not None:
            return at_once
    cropped = any(cause.id == "transposed-conv-shift" for cause in causes)
    stepped = any(cause.id == "rnn-last-step" for cause in causes)
    parted = any(cause.key == "index" for cause in causes)
    strided = any(cause.key == "strides" for cause in causes)
    joined = any(cause.key == "merge_mode" for cause in causes)
    alone: dict[str, list[Cause]] = {}
    steps: dict[str, list[Edit]] = {}
    found = []
    for edit, cause in zip(edits, causes, strict=True):
        if edit.detail.get("alone"):
            if len(edits) > 1 and edit.detail["steps"][0].kind == "full":
                continue  # a constant, of which what reads it tells more
            if len(edits) > 1 and (dtype := getattr(edit.detail["result"], "dtype", None)) and "int" in dtype:
                continue  # a number of a place, of which what takes it tells more
            if cropped and edit.detail["steps"][0].kind in ("pad", "slice", "crop"):
                continue  # the other half of the same crop
            if strided and _strides(edit.detail["steps"][0]):
                continue  # every so many are taken, before the layer and not by it
            if parted and edit.detail["steps"][0].kind in ("slice", "split"):
                continue  # the same part, in two cuts
            if stepped and edit.detail["steps"][0].kind in kinds.POOLS | kinds.RECURRENT | _TAKEN:
                continue  # what is taken of the steps in place of the last
            if joined and edit.detail["steps"][0].kind in _JOINING:
                continue  # how the two directions are joined
            side = "reference" if cause.reference else "candidate"
            alone.setdefault(side, []).append(cause)
            steps.setdefault(side, []).append(edit)
        elif cause.block and (name := of_moves([edit])):
            cause = replace(cause, id=name)
        found.append(cause)
    found = _branches(_sum_moved(found), edits, idle)
    for side, several in alone.items():
        serving = idle if steps[side][0].step else ()
        moves = of_moves(steps[side], serving) if len(several) + len(serving) > 1 else ""
        if moves:
            nodes = [getattr(cause, side) for cause in several]
            what = f"what only moves values is in the {side} only: {', '.join(nodes)}"
            whole = replace(several[0], id=moves, what=what, block=tuple(nodes))
            found = [cause for cause in found if cause not in several]
            found.insert(0, whole)
            continue
        if len(several) > 1 and (found_ := _of_input(side, several, steps[side], found)) is not None:
            found = found_
            continue
        names = {cause.id for cause in several}
        first = several[0]
        if len(several) >= BLOCK:
            nodes = [getattr(cause, side) for cause in several]
            scope = _scope(nodes)
            known = {name for name in names if name.startswith(_WHOLE)}
            ending = "missing" if side == "reference" else "extra"
            others = names - known
            if len(others) == 1 and not known:
                continue
            what = f"{len(several)} operations are in the {side} only: {scope}… ({nodes[0]} to {nodes[-1]})"
            name = first.id if len(names) == 1 else f"block-{ending}"
            whole = replace(first, id=name, what=what, fix="", block=tuple(nodes))
        else:
            continue
        found = [cause for cause in found if cause not in several]
        found.insert(0, whole)
    return tuple(found)


def _strides(step: Step) -> bool:
    """Whether a slice takes every so many of what it reads."""
    index = step.settings.get("index", ()) if step.kind == "slice" else ()
    return any(isinstance(part, tuple) and (part[2] or 1) > 1 for part in index)


_TAKEN = frozenset({"slice", "split", "concat", "permute", "reshape", "flatten"})
"""What is done to steps or states of a sequence before they are read."""


def exchanged(case: Case, edits: Sequence[Edit], causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
    """One cause where all that one side computes gives way to all that the other does: that reproduces anything, and
    says no more than that something else is computed.

    What is scaled and taken away from the input by one side is its normalisation, in one. None where weights are among
    what gives way.
    """
    names = {cause.id for cause in causes}
    if names == {"input-scale", "input-normalisation"}:
        what = "; ".join(dict.fromkeys(cause.what for cause in causes))
        first = next(cause for cause in causes if cause.id == "input-normalisation")
        return (replace(first, what=what),)
    if (norm := _another_norm(case, edits, causes)) is not None:
        return norm
    if _weights_exchanged(case, edits):
        return ()
    if len(names) < _SIDES or not all(name.startswith(_WHOLE) for name in names) or case.theirs.program is None:
        return causes
    both = [[step.name for step in program.steps if step.kind not in kinds.UNCHANGED | {"permute"}]
            for program in (case.program, case.theirs.program)]  # fmt: skip
    trial = case.start
    for edit in edits:
        trial = edit.change(trial)
    left = {step.name for step in without_idle(trial.program).steps if step.kind != "identity"}
    if not all(both) or left & {*both[0]}:
        return causes
    mine, its = (", ".join(side) for side in (both[::-1] if case.turned_round else both))
    what = f"the reference computes {mine} here, the candidate {its}"
    node = next((cause for cause in causes if cause.candidate), causes[0])
    fix = f"{node.source + ': ' if node.source else ''}compute what the reference does: {mine}"
    name = "norm-axis" if _both_normalise(case) else "operation-kind"
    return (replace(node, id=name, what=what, fix=fix, changes=(), block=()),)


def _another_norm(case: Case, edits: Sequence[Edit], causes: tuple[Cause, ...]) -> tuple[Cause, ...] | None:
    """A norm that stands where the other side normalises by arithmetic, which the norm makes idle or takes out."""
    put = [edit for edit in edits if edit.detail.get("alone") and not edit.step]
    out = [edit for edit in edits if edit.step and edit.detail.get("alone")]
    if len(put) != 1 or not out or len(put) + len(out) < len(edits) or not _both_normalise(case):
        return None
    norm = put[0].detail["steps"][0]
    arithmetic = all(step.kind in _ARITHMETIC for edit in out for step in edit.detail["steps"])
    if norm.kind not in kinds.NORMALISATIONS or not arithmetic:
        return None
    words = f"normalises by hand at {out[0].step}", f"by {norm.name} ({norm.kind})"
    first, second = words[::-1] if case.turned_round else words
    node = next((cause for cause in causes if cause.candidate), causes[0])
    return (replace(node, id="norm-axis", what=f"the reference {first}, the candidate {second}", changes=(), block=()),)


def _both_normalise(case: Case) -> bool:
    """Whether both sides normalise, each in its own way."""
    sides = ((case.program, case.ours), (case.theirs.program, case.theirs))
    return all(
        program is not None
        and any(
            step.kind in kinds.NORMALISATIONS
            or (step.kind in kinds.REDUCTIONS | kinds.POOLS and naming.normalises(step, side))
            for step in program.steps
        )
        for program, side in sides
    )


def _weights_exchanged(case: Case, edits: Sequence[Edit]) -> bool:
    """Whether a layer of theirs, with its weights, stands for an operation of ours without any, and layers of ours that
    have weights give way: of the weights, which may be all that differs, nothing is known."""
    mine = {step.name: step for step in case.program.steps}
    its = {step.name: step for step in case.theirs.program.steps} if case.theirs.program is not None else {}
    brought = (edit for edit in edits if edit.key == "kind" and edit.step in mine and edit.twin in its)
    gone = (step for edit in edits if edit.step and edit.detail.get("alone") for step in edit.detail["steps"])
    return any(step.weights for step in gone) and any(
        its[edit.twin].weights and not mine[edit.step].weights for edit in brought
    )


_SIDES = 2


def _of_input(
    side: str, several: Sequence[Cause], edits: Sequence[Edit], causes: Sequence[Cause]
) -> list[Cause] | None:
    """What is done to the model's input by one side alone as one, beside what only moves it; None for anything else."""
    moving = {"channel-order", "axis-permutation"}
    rest = [(cause, edit) for cause, edit in zip(several, edits, strict=True) if cause.id not in moving]
    if not rest or not all(edit.detail["prepares"] for _, edit in rest):
        return None
    if len(rest) == 1:
        return list(causes) if len(rest) < len(several) else None
    read = {name for _, edit in rest for step in edit.detail["steps"] for name in step.inputs}
    last = next((cause for cause, _ in rest if getattr(cause, side) not in read), rest[0][0])  # whose fix is of all
    told = list(dict.fromkeys(cause.what for cause, _ in rest))
    whole = replace(last, id="input-normalisation", what="; ".join(told))
    if len(rest) >= BLOCK:
        nodes = [getattr(cause, side) for cause, _ in rest]
        what = f"{len(rest)} operations on the input are in the {side} only: {nodes[0]} to {nodes[-1]}"
        whole = replace(whole, what=what, block=tuple(nodes))
    gone = [cause for cause, _ in rest]
    return [whole, *(cause for cause in causes if not any(cause is one for one in gone))]


def _branches(causes: Sequence[Cause], edits: Sequence[Edit], idle: Sequence[Step]) -> list[Cause]:
    """A sum that one side leaves out as a block, where nothing reads the operations of one of its terms any more: the
    whole branch is left out."""
    made = [step.name for step in idle if step.kind not in kinds.LAYOUT_ONLY]
    sums = [cause for cause in causes if cause.id in ("residual-missing", "residual-extra")]
    if len(edits) != 1 or len(causes) != 1 or not sums or not edits[0].step or len(made) + 1 < BLOCK:
        return list(causes)
    (cause,) = sums
    side = "reference" if cause.reference else "candidate"
    nodes = (*made, edits[0].step)
    scope = f"{nodes[0]} to {nodes[-1]}"
    what = f"{len(nodes)} operations are in the {side} only: {scope}"
    does = "add the reference's operations" if side == "reference" else "leave out"
    fix = f"{cause.source + ': ' if cause.source else ''}{does} {scope}"
    return [replace(cause, id=cause.id.replace("residual", "block"), what=what, fix=fix, changes=(), block=nodes)]


def _sum_moved(causes: Sequence[Cause]) -> list[Cause]:
    """A skip connection that one side adds here and the other there, as one."""
    there, here = (next((c for c in causes if c.id == f"residual-{end}"), None) for end in ("missing", "extra"))
    if there is None or here is None:
        return list(causes)
    what = f"the sum {there.reference} of the reference is made at another place in the candidate: {here.candidate}"
    fix = f"{here.source + ': ' if here.source else ''}add the skip connection where the reference does, before or "
    fix += "after the norm or the activation"
    # What is done to each term was done to their sum.
    causes = [one for one in causes if not one.id.startswith("activation-") or (one.reference and one.candidate)]
    one = replace(here, id="residual-order", what=what, reference=there.reference, fix=fix, changes=())
    return [one if cause is here else cause for cause in causes if cause is not there]


def _by_hand(edits: Sequence[Edit], causes: Sequence[Cause]) -> tuple[Cause, ...] | None:
    """An activation for which one side has arithmetic of its own that computes another."""
    kind = next((k for k, edit in enumerate(edits) if edit.key == "kind" and edit.cause == "activation-kind"), None)
    rest = [edit for k, edit in enumerate(edits) if k != kind]
    if kind is None or not rest:
        return None
    if not all(edit.detail.get("alone") and edit.detail["steps"][0].kind in _ARITHMETIC for edit in rest):
        return None
    near = {edits[kind].step, edits[kind].twin, *edits[kind].detail.get("reads", ())}
    for _ in rest:
        for edit in rest:
            (step,) = edit.detail["steps"]
            near |= {step.name, *step.inputs} if near & {step.name, *step.inputs} else set()
    if any(edit.detail["steps"][0].name not in near for edit in rest):
        return None  # a mistake of its own elsewhere
    nodes = ", ".join(cause.reference or cause.candidate for k, cause in enumerate(causes) if k != kind)
    side = "reference" if causes[0 if kind else 1].reference else "candidate"
    return (replace(causes[kind], what=f"{causes[kind].what} and more in the {side}: {nodes}"),)


def _scaled_elsewhere(edits: Sequence[Edit], causes: Sequence[Cause]) -> tuple[Cause, ...] | None:
    """The same number by which one side multiplies here and the other there, or that is added: scores before the
    softmax or behind it, words before their places are added or with them, an epsilon under the root or beside it."""
    if len(edits) != 2:
        return None
    if all(edit.key == "kind" and "single" in edit.detail for edit in edits):
        return _in_turn(edits, causes)
    if not all(edit.detail.get("alone") for edit in edits) or bool(causes[0].reference) == bool(causes[1].reference):
        return None
    numbers, does = [multiplier(edit.detail["steps"][0]) for edit in edits], ("multiplies by", "multiply")
    if numbers == [None, None]:
        numbers, does = [addend(edit.detail["steps"][0]) for edit in edits], ("adds", "add")
    if numbers[0] is None or numbers[1] is None or not math.isclose(numbers[0], numbers[1], rel_tol=1e-4):
        return None
    mine, its = sorted(causes, key=lambda cause: not cause.reference)
    what = f"the reference {does[0]} {numbers[0]:.6g} at {mine.reference}, the candidate at {its.candidate}"
    fix = f"{its.source + ': ' if its.source else ''}{does[1]} it where the reference does: as at {mine.reference}"
    name = its.id if mine.id == its.id else _factor(causes) if does[1] == "multiply" else "shift"
    return (replace(its, id=name, what=what, fix=fix, reference=mine.reference, changes=()),)


def _rearranged(edits: Sequence[Edit], causes: Sequence[Cause]) -> tuple[Cause, ...] | None:
    """What both sides only lay out, each by operations of its own: the same values in another order."""
    steps = [step for edit in edits if edit.detail.get("alone") for step in edit.detail["steps"]]
    if len(edits) < _TWO or len(steps) < len(edits) or len({bool(cause.reference) for cause in causes}) < _TWO:
        return None
    laid = {step.kind for step in steps}
    if not laid <= MOVING or not laid & _LAYING:
        return None
    mine, its = [[getattr(cause, side) for cause in causes if getattr(cause, side)] for side in _SIDE_NAMES]
    last = next(cause for cause in causes if cause.candidate)
    what = f"the reference lays values out by {', '.join(mine)}, the candidate in another order by {', '.join(its)}"
    fix = f"{last.source + ': ' if last.source else ''}lay them out as {', '.join(mine)} of the reference does"
    return (replace(last, id="reshape-order", what=what, fix=fix, reference=mine[-1], changes=(), block=()),)


_TWO = 2
_SIDE_NAMES = ("reference", "candidate")
_LAYING = frozenset({"reshape", "flatten", "concat", "stack"})


def _stands_elsewhere(edits: Sequence[Edit], causes: Sequence[Cause]) -> tuple[Cause, ...] | None:
    """An operation that each side has alone as one that stands elsewhere: a mean behind a norm and before it."""
    if len(edits) != 2 or not all(edit.detail.get("alone") and not edit.detail.get("block") for edit in edits):
        return None
    (one,), (other,) = (edit.detail["steps"] for edit in edits)
    elsewhere = bool(causes[0].reference) != bool(causes[1].reference) and not (one.weights or other.weights)
    if not elsewhere or one.kind not in _STANDING or kinds.similarity(one.kind, other.kind) < _ALIKE:
        return None
    if _begun(one) != _begun(other):
        return None  # other parts are cut off
    mine, its = sorted(causes, key=lambda cause: not cause.reference)
    what = f"{mine.reference} of the reference is computed at another place in the candidate: {its.candidate}"
    fix = f"{its.source + ': ' if its.source else ''}compute it where the reference does"
    moved = replace(its, id="residual-order", what=what, fix=fix, reference=mine.reference, changes=())
    here, there = (one, other) if causes[0].reference else (other, one)
    return moved, *_set_otherwise(moved, here, there)


def _begun(step: Step) -> list[object]:
    """Where a slice begins and how it goes on, of each axis of which it leaves something out; in any order."""
    parts = naming.plain_index(step.settings.get("index", ()))
    taken = [(part[0], part[2]) if isinstance(part, tuple) else part for part in parts if part != (0, None, 1)]
    return sorted(taken, key=str)


def _set_otherwise(moved: Cause, here: Step, there: Step) -> Iterator[Cause]:
    """What an operation that stands elsewhere does otherwise there, as it is set."""
    for key in naming.SHOWING & here.settings.keys() & there.settings.keys() if here.kind == there.kind else ():
        values = naming.plain(here.settings[key]), naming.plain(there.settings[key])
        if not same_value(*values):
            what = f"{key} is {naming.said(values[0])} in the reference, {naming.said(values[1])} in the candidate"
            fix = f"{moved.source + ': ' if moved.source else ''}with {key}={values[0]!r}"
            name = naming.of_setting(here.kind, key, *values)
            yield replace(moved, id=name, what=what, fix=fix, key=key, values=values)


_ALIKE = 0.9
_STANDING = kinds.POOLS | kinds.REDUCTIONS | kinds.ACTIVATIONS | kinds.NORMALISATIONS | {"slice", "resize", "upsample"}
"""What is an operation of its own, wherever it stands."""
_FACTORS = ("embedding-scale", "attention-scale", "input-scale", "scale")


def _factor(causes: Sequence[Cause]) -> str:
    """What a factor is called that has several names, the most exact one."""
    return next((name for name in _FACTORS if any(cause.id == name for cause in causes)), "scale")


def _in_turn(edits: Sequence[Edit], causes: Sequence[Cause]) -> tuple[Cause, ...] | None:
    """Two operations that have changed places."""
    if edits[0].values != edits[1].values[::-1]:
        return None
    named = {edit.detail["single"] for edit in edits}.intersection(_FACTORS)
    first, second = causes
    what = f"{first.reference} comes before {second.reference} in the reference, behind it in the candidate"
    fix = f"{first.source + ': ' if first.source else ''}compute {first.reference} first, as the reference does"
    name = next((name for name in _FACTORS if name in named), "residual-order")
    kinds_ = {str(kind) for kind in edits[0].values}
    if not named and not ("add" in kinds_ and kinds_ & (kinds.ACTIVATIONS | kinds.NORMALISATIONS)):
        return None
    return (replace(first, id=name, what=what, fix=fix, changes=()),)


def _pooled(edits: Sequence[Edit], causes: Sequence[Cause]) -> tuple[Cause, ...] | None:
    """A pooling of one side, for which the other has arithmetic of its own: a mean that leaves padding out."""
    single = pooling(edits)
    if single is None:
        return None
    one = next(cause for edit, cause in zip(edits, causes, strict=True) if edit is single)
    has, other = ("reference", "candidate") if one.reference else ("candidate", "reference")
    nodes = ", ".join(cause.reference or cause.candidate for cause in causes if cause is not one)
    what = f"the {has} computes {single.detail['steps'][0].kind}, the {other} something else by hand: {nodes}"
    first = replace(one, id="pool-kind", what=what)
    return (replace(first, fix="") if not one.reference else first,)


def pooling(edits: Sequence[Edit]) -> Edit | None:
    """The one pooling that a side has alone, where all else is the other's arithmetic in place of it; else None."""
    if not all(edit.detail.get("alone") for edit in edits):
        return None
    ours, theirs = [edit for edit in edits if edit.step], [edit for edit in edits if not edit.step]
    for mine, its in ((ours, theirs), (theirs, ours)):
        used = {step.kind for edit in its for step in edit.detail["steps"]}
        if len(mine) != 1 or mine[0].detail["steps"][0].kind not in _TAKING or not used & _POOLING:
            continue
        if used <= _ARITHMETIC | _POOLING | _MASKING:
            return mine[0]
    return None


_TAKING = kinds.POOLS | {"slice", "gather"}
_POOLING = kinds.POOLS | kinds.REDUCTIONS
_MASKING = kinds.COMPARISONS | kinds.LOGICAL | {"full", "cast", "expand_dims", "squeeze", "reshape"}


def _scope(nodes: Sequence[str]) -> str:
    """What the names of nodes begin with, up to a whole part of a path."""
    same = "".join(
        letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*nodes, strict=False))
    )
    return same.rstrip("./_0123456789") or nodes[0]


def said_once(found: Sequence[Finding]) -> Iterator[Finding]:
    """Findings without what one before them has stated of the very same nodes."""
    stated: set[tuple[str, str, str, str]] = set()
    blocks: set[tuple[bool, str]] = set()
    elsewhere = {
        name: cause for one in found for cause in one.causes if cause.id == "residual-order"
        for name in (cause.reference, cause.candidate)
    }  # fmt: skip
    apart = [cause for cause in elsewhere.values() if bool(cause.reference) != bool(cause.candidate)]
    both = any(cause.reference for cause in apart) and any(cause.candidate for cause in apart)
    for one in found:
        if both:  # each norm is held against the one that has its place
            one = replace(one, causes=tuple(apart[0] if _of_norms(cause) else cause for cause in one.causes))
        one = replace(one, causes=tuple(_made_elsewhere(cause, elsewhere) for cause in one.causes))
        if one.status not in ("proven", "ambiguous") or not one.causes:
            yield one
            continue
        kept = tuple(cause for cause in one.causes if _key(cause) not in stated and not _part_of(cause, blocks))
        if not kept:
            continue
        blocks.update((bool(cause.reference), name) for cause in kept for name in cause.block)
        stated |= {_key(cause) for cause in kept}
        yield replace(one, causes=kept)


def _of_norms(cause: Cause) -> bool:
    """Whether a norm is said to have the weights of another."""
    return cause.id == "weights-swapped" and bool(cause.key) and {*cause.key.split(", ")} <= {"gamma", "beta"}


def _made_elsewhere(cause: Cause, elsewhere: Mapping[str, Cause]) -> Cause:
    """A sum that one side has alone as what another finding says of it: that it is made at another place."""
    alone = cause.id.startswith("residual-") and not (cause.reference and cause.candidate)
    return elsewhere.get(cause.reference or cause.candidate, cause) if alone else cause


def _part_of(cause: Cause, blocks: Container[tuple[bool, str]]) -> bool:
    """Whether what one side has alone is of a block that was stated; ``blocks``: whether of the reference, the node."""
    if cause.reference and cause.candidate:
        return False
    nodes = cause.block or (cause.reference or cause.candidate,)
    return all((bool(cause.reference), name) in blocks for name in nodes)


def _key(cause: Cause) -> tuple[str, str, str, str]:
    return cause.id, cause.reference, cause.candidate, cause.key


def merged(found: Sequence[Finding]) -> Iterator[Finding]:
    """One finding for the same mistake in many layers, where the first of them stands."""
    groups: dict[object, list[Finding]] = {}
    for number, one in enumerate(said_once(found)):
        groups.setdefault(_mistake(one) or number, []).append(one)
    yield from map(as_one, groups.values())


def as_one(group: Sequence[Finding]) -> Finding:
    """The first of some findings, for the pairs of all, with the largest errors."""
    return replace(
        group[0],
        pairs=tuple(pair for one in group for pair in one.pairs or (one.pair,)),
        before=max((one.before for one in group if one.before is not None), default=None),
        after=max((one.after for one in group if one.after is not None), default=None),
        seconds=sum(one.seconds for one in group),
    )


def _mistake(one: Finding) -> object | None:
    """What is the same for all layers with the same setting that differs."""
    if not one.causes or any(not cause.key or cause.values == (None, None) for cause in one.causes):
        return None
    return one.status, tuple((c.id, c.key, str(plain(c.values))) for c in one.causes)
