"""What differs between two programs by what the recordings state: settings, weights, operations, steps."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes import masks, namesakes, naming, preparing
from tracer.causes.axes import counts
from tracer.causes.case import Case, Side
from tracer.causes.edit import Edit, of_program, of_step
from tracer.causes.matching import SYMMETRIC, exchangeable, matched, two_things
from tracer.causes.reading import read
from tracer.causes.scores import SCALING, about_heads
from tracer.causes.settings import between, sides, translated
from tracer.causes.step import GIVEN, Program, Step, Unknown
from tracer.causes.sums import SUMS, following, in_their_order, sums, terms_apart
from tracer.graph import Node, Structure

_PASSING = kinds.UNCHANGED
BLOCK = 3
"""Operations of one side alone that are a block."""

_SEVERAL = SUMS | {"concat", "stack", "maximum", "minimum", "mul"}
"""Operations of any number of tensors."""
Names = dict[str, Step]


def differences(case: Case) -> Iterator[Edit]:
    """What differs, as edits of our program. Empty where their program could not be read."""
    if case.theirs.program is None:
        return
    ours = [step for step in case.program.steps if step.kind not in _PASSING]
    theirs = [step for step in case.theirs.program.steps if step.kind not in _PASSING]
    pairs = _paired(case, ours, theirs)
    twins = {a.name: b for a, b in pairs}
    taken = {b.name: a for a, b in pairs}
    # Two tensors of theirs may be one of ours, in other shapes.
    above = {twin: name for twin, name in case.theirs.above.items() if name in case.ours.above}
    above |= {twin: name for name, twin in case.ours.above.items()}
    _as_one(case, ours, theirs, twins, taken)
    for a, b in _in_place(case, ours, theirs, twins, taken, above):
        pairs.append((a, b))
        twins[a.name], taken[b.name] = b, a
    alone = [step.name for step in ours if step.name not in twins]
    gone: set[str] = set()
    for a, b in pairs:
        if a.inputs and a.inputs[0] in alone:
            crossed = namesakes.crosswise(case, a, b, _mapped(case, b.inputs, taken, above))
            if crossed is not None:
                gone |= crossed[1]
                yield crossed[0]
    if not theirs and len(alone) >= BLOCK and any(step.weights for step in ours):
        (read,) = _mapped(case, case.theirs.program.inputs[:1], taken, above) or (None,)
        if read is not None:  # they compute nothing: one layer or another of ours may make no difference on this input
            yield _block_missing(case, alone, read)
            return
    for step in reversed(ours):
        if step.name not in alone or step.name in gone or _unseen(case, step):
            continue
        instead = _instead(case, step, twins, taken, above)
        chain = _chain(case.program, step.name, instead, alone)
        if len(chain) >= BLOCK and not _each_at_input(case, chain):
            gone |= set(chain)
            yield _block_missing(case, chain, instead)
        else:
            yield _missing(case, step, instead if len(chain) < 2 else None, twins)
    for step in theirs:
        if step.name not in taken:
            found = _extra(case, step, taken, above)
            if found is not None:
                yield found
    for a, b in pairs:
        yield from _wiring(case, a, b, taken, above, alone)
    for a, b in pairs:
        yield from between(case, a, b)


def _paired(case: Case, ours: Sequence[Step], theirs: Sequence[Step]) -> list[tuple[Step, Step]]:
    """Steps that do the same. What masks scores is one another's, however that is written on either side."""
    mine, its = ([step for step in steps if masks.hides(step, side)]
                 for steps, side in ((ours, case.ours), (theirs, case.theirs)))  # fmt: skip
    if len(mine) != 1 or len(its) != 1 or mine[0].kind == its[0].kind:
        return matched(ours, theirs)
    making: list[list[Step]] = []
    others: list[list[Step]] = []
    for steps, one, side in ((ours, mine[0], case.ours), (theirs, its[0], case.theirs)):
        rest = [step for step in steps if step is not one]
        making.append([step for step in rest if masks.makes_mask(step, side)])
        others.append([step for step in rest if step not in making[-1]])
    return [*matched(others[0], others[1]), *matched(making[0], making[1]), (mine[0], its[0])]


def may_show(case: Case, edit: Edit) -> bool:
    """Whether a difference that makes none on this input may make one on another.

    Operations written in two ways, and axes and operands that come to the same, do not.
    """
    if edit.key != "kind":
        return edit.values != (None, None) and edit.key in naming.SHOWING and not _guessed(case, edit)
    if case.theirs.program is None or edit.cause not in ("activation-kind", "pool-kind"):
        return False
    return all(
        sum(step.kind not in _PASSING for step in program.steps) == 1 for program in (case.program, case.theirs.program)
    )


def _guessed(case: Case, edit: Edit) -> bool:
    """Whether a setting is what gives the recorded values, of which others may do that as well."""
    sides = ((case.program, edit.step), (case.theirs.program, edit.twin))
    steps = (step for program, name in sides if program is not None for step in program.steps if step.name == name)
    return edit.key == "epsilon" and any(step.settings.get("inferred") for step in steps)


def _as_one(case: Case, ours: Sequence[Step], theirs: Sequence[Step], twins: Names, taken: Names) -> None:
    """Take what the alignment has as one pair, a layer and its arithmetic, for each other where a side has more."""
    pair = case.pair.pair
    mine, its = (pair.candidate, pair.reference) if case.turned_round else (pair.reference, pair.candidate)
    group, other = [a for a in ours if a.name in mine], [b for b in theirs if b.name in its]
    if 1 not in (len(group), len(other)) or len(group) + len(other) < 3:
        return
    known = any(a.name in twins for a in group) or any(b.name in taken for b in other)
    if not known and len(group) + len(other) < len(ours) + len(theirs):
        twins.update((a.name, other[-1]) for a in group)
        taken.update((b.name, group[-1]) for b in other)


def _in_place(
    case: Case, ours: Sequence[Step], theirs: Sequence[Step], twins: Names, taken: Names, above: dict[str, str]
) -> list[tuple[Step, Step]]:
    """Steps of one side alone that stand in one place of the same two neighbours, and may stand for each other."""
    found: list[tuple[Step, Step]] = []
    passing = _passing(case.program)
    for a in ours:
        if a.name in twins or not a.inputs:
            continue
        mine = [_through(name, passing) for name in a.inputs]
        for b in theirs:
            if b.name in taken or any(b is other for _, other in found) or not exchangeable(a.kind, b.kind):
                continue
            if two_things(a, b):
                continue
            last = (a is case.program.last, case.theirs.program is not None and b is case.theirs.program.last)
            read = _mapped(case, b.inputs, taken, above)
            reads = [{taken[s.name].name for s in theirs if b.name in s.inputs and s.name in taken}]
            reads += [{s.name for s in ours if a.name in s.inputs and s.name in twins}]
            if last[0] == last[1] and read == mine and reads[0] == reads[1]:
                found.append((a, b))
                break
    return found


# --- steps of one side alone ---------------------------------------------------------------------------------------


def _missing(case: Case, step: Step, instead: str | None, twins: Names) -> Edit:
    stem, whole = naming.of_single(step, case.ours)
    if naming.moved_before_sum(
        step, case.ours, case.theirs, {name: b.name for name, b in twins.items()}
    ) or naming.beside_another_sum(step, case.ours, case.theirs):
        stem, whole = "residual-order", True
    cause = stem if whole else case.lacks(stem)
    what = f"{step.name} ({step.kind}) is in the {case.other} only"
    passed = _passed_by(case, (step,), instead)
    if passed:
        cause, what = "wiring", f"the {case.doer} reads the twin of {instead} where the {case.other} reads {step.name}"
    other = case.ours.recording.structure.by_name.get(instead or "")
    if other is not None and exchangeable(step.kind, other.kind) and other.parents == step.inputs:
        cause = naming.of_exchange(step, Step(other.name, other.kind, inputs=other.parents), case.ours)
        what = sides(case, "computes", step.kind, other.kind)
    elif other is not None and step.kind in ("slice", "gather") and _of_same_split(case, other, step):
        cause = "head-layout" if about_heads(case.ours.recording.structure, step) else "channel-order"
        what = f"{step.name} takes another part of {step.inputs[0]} than the {case.doer}"
    return Edit(
        cause, what, of_program(lambda program: program.without(step.name, instead)), step.name, seen=True, cost=1.5,
        detail={"alone": not passed, **_about(case.ours, step)}, same=_bias(cause, case.lacks),
    )  # fmt: skip


def _of_same_split(case: Case, part: Node, step: Step) -> bool:
    """Whether a tensor is a part of what a step takes some of."""
    whole = case.ours.recording.structure.by_name.get(part.parents[0]) if part.parents else None
    splits = [node for node in (part, whole) if node is not None and node.kind == "split"]
    return any(node.parents == step.inputs for node in splits)


def _passed_by(case: Case, steps: Sequence[Step], instead: str | None) -> bool:
    """Whether what is read in place of layers of ours is another tensor, and not what they are made of."""
    structure = case.ours.recording.structure
    moves = all(step.kind in kinds.ARRANGING for step in steps)
    if instead not in structure.by_name or not (moves or any(step.kind in kinds.WEIGHTED for step in steps)):
        return False
    return instead not in naming.above(structure, steps[-1].name)


def _block_missing(case: Case, chain: Sequence[str], instead: str | None) -> Edit:
    what = f"{len(chain)} operations are in the {case.other} only: {chain[0]} to {chain[-1]}"
    change = of_program(lambda program: program.without(chain[-1], instead))
    those = f"{chain[0]} to {chain[-1]}"
    fix = f"leave out {those}" if case.turned_round else f"add the reference's {those}"
    steps = [case.program.step(name) for name in chain]
    about = _about(case.ours, *steps)
    cause = "input-normalisation" if about["prepares"] else case.lacks("block")
    cause = "wiring" if _passed_by(case, steps, instead) else cause
    masked = naming.of_single(steps[-1], case.ours) == ("attention-mask", True)
    by = masks.lowers(steps[-1], case.ours)
    making = {by, *naming.above(case.ours.recording.structure, by)} if by is not None else set()
    if (masked and all(step.name in making or masks.makes_mask(step, case.ours) for step in steps[:-1])) or (
        steps[-1].kind == "mul" and masks.of_comparison(steps[:-1])
    ):
        cause = "attention-mask"
    return Edit(
        cause, what, change, chain[-1], fix=fix, seen=True, cost=1.5, detail={"block": tuple(chain), **about}
    )  # fmt: skip


def _each_at_input(case: Case, chain: Sequence[str]) -> bool:
    """Whether operations on the model's input are mistakes of their own: scaled and turned."""
    steps = [case.program.step(name) for name in chain]
    moving = [step for step in steps if step.kind in kinds.ARRANGING]
    others = [step for step in steps if step not in moving]
    begins = [node for node in _about(case.ours, *steps)["begins"] if node.role == "input"]
    plain = all(len(step.inputs) == 1 and step.kind in SCALING for step in others)
    return bool(moving and others and begins) and plain


def _about(side: Side, *steps: Step) -> dict[str, Any]:
    """What is kept of operations of one side alone: themselves, and what they begin with."""
    made = {step.name for step in steps}
    known = side.recording.structure.by_name
    begins = tuple(known[name] for step in steps for name in step.inputs if name not in made and name in known)
    prepares = all(preparing.of_input(step, side) for step in steps if step.inputs)
    return {"steps": steps, "begins": begins, "result": known.get(steps[-1].name), "prepares": prepares}


def _chain(program: Program, name: str, instead: str | None, alone: Sequence[str]) -> list[str]:
    """Steps that are of no use any more when ``instead`` is read in place of one, in order, that one last."""
    if instead is None:
        return [name]
    gone = {name}
    for step in reversed(program.steps):
        readers = [other.name for other in program.steps if step.name in other.inputs]
        if readers and all(reader in gone for reader in readers) and step.name != instead:
            gone.add(step.name)
    found = [step.name for step in program.steps if step.name in gone and step.kind not in _PASSING]
    return found if all(step in alone for step in found) else [name]


def _instead(case: Case, step: Step, twins: Names, taken: Names, above: dict[str, str]) -> str | None:
    """What is read in place of a step that they have not: what the twin of its reader reads."""
    for reader in case.program.steps:
        if step.name in reader.inputs and reader.name in twins:
            read = _mapped(case, twins[reader.name].inputs, taken, above)
            free = [n for n in read if n is not None and n not in reader.inputs and n != step.name and _ours(case, n)]
            if free:
                return free[0]
        elif step.name in reader.inputs and len(step.inputs) > 1 and len(reader.inputs) == 1:
            # A factor behind a sum that they have not either: one of its terms is read.
            found = _instead(case, reader, twins, taken, above)
            if found in step.inputs:
                return found
    return None


def _mapped(case: Case, inputs: Sequence[str], taken: Names, above: dict[str, str]) -> list[str | None]:
    """Our names of tensors of theirs, through what only passes a tensor on."""
    assert case.theirs.program is not None
    passing = _passing(case.theirs.program)
    made = {step.name for step in case.theirs.program.steps}
    found: list[str | None] = []
    for name in inputs:
        name = _through(name, passing, {**taken, **above})
        own = _of_theirs(case, name) if name in made else None
        found.append(taken[name].name if name in taken else above.get(name, own))
    return found


def _ours(case: Case, name: str) -> bool:
    return name in case.ours.above or any(step.name == name for step in case.program.steps)


def _of_theirs(case: Case, name: str) -> str:
    """What a step that they have alone is called in our program."""
    return f"{name} of the {case.doer}"


def _extra(case: Case, step: Step, taken: Names, above: dict[str, str]) -> Edit | None:
    """A step that they have alone, put in behind the twin of what it reads."""
    read = _mapped(case, step.inputs, taken, above)
    if _unseen(case, step) or (GIVEN in step.settings and np.asarray(step.settings["value"]).dtype != np.bool_):
        return None
    if step.kind == "full" and not step.inputs:
        constant = replace(step, name=_of_theirs(case, step.name))
        return Edit(
            "operation-kind", f"{step.name} is a constant of the {case.doer}",
            of_program(lambda program: Program((constant, *program.steps))), twin=step.name, seen=True, cost=0.1,
            detail={"alone": True, **_about(case.theirs, step)},
        )  # fmt: skip
    if not read or None in read:
        return None
    names = [name for name in read if name is not None]
    source = next((name for name in reversed(names) if _ours(case, name)), case.ours.node.name)
    stem, whole = naming.of_single(step, case.theirs)
    if naming.moved_before_sum(
        step, case.theirs, case.ours, {name: a.name for name, a in taken.items()}
    ) or naming.beside_another_sum(step, case.theirs, case.ours):
        stem, whole = "residual-order", True
    cause = stem if whole else case.has(stem)
    own = replace(translated(case, step, source), name=_of_theirs(case, step.name), inputs=tuple(names))

    def put(program: Program) -> Program:
        # What read the input of it that is computed last reads the step now.
        order = {one.name: place for place, one in enumerate(program.steps)}
        after = max(names, key=lambda name: order.get(name, -1))
        return Program((*program.steps, own)) if after == program.output else program.insert(own, after=after)

    what = f"{step.name} ({step.kind}) is in the {case.doer} only"
    return Edit(
        cause, what, of_program(put), twin=step.name, seen=True, cost=1.5,
        detail={"alone": True, **_about(case.theirs, step)}, same=_bias(cause, case.has),
    )  # fmt: skip


def _unseen(case: Case, step: Step) -> bool:
    """Whether a step stands for what was computed of the samples out of sight: of it no more is known than that."""
    value = np.asarray(step.settings.get("value", 0.0))
    if step.kind != "full" or step.inputs or value.dtype.kind != "f" or value.ndim < 2:
        return False
    samples = case.target.shape[:1]
    return value.shape[:1] == samples != (1,) and bool(np.any(value != value[:1]))


def _bias(cause: str, stem: Callable[[str], str]) -> tuple[str, ...]:
    """The other name of a number that one side alone adds."""
    return (stem("bias"),) if cause == "shift" else ()


def _wiring(case: Case, a: Step, b: Step, taken: Names, above: dict[str, str], alone: Sequence[str]) -> Iterator[Edit]:
    """Two steps that do the same with other tensors."""
    read = _mapped(case, b.inputs, taken, above)
    mine = [_through(name, _passing(case.program)) for name in a.inputs]
    if a.kind in kinds.RECURRENT and a.kind == b.kind and len(read) != len(mine):
        yield from _states(case, a, b, mine, read)
        return
    if a.kind in _SEVERAL and a.kind == b.kind and len(read) != len(mine):
        yield from _terms(case, a, b, mine, read)
        return
    if len(read) != len(mine) or read == mine or any(name in alone for name in mine):
        return
    if None in read:
        return
    names = tuple(name for name in read if name is not None)
    own = {name: _begins(case, name, taken, above) for name in names if not _ours(case, name)}
    begun = tuple(_only(own[name]) or name if name in own else name for name in names)
    instead: dict[str, str] = {}
    if own and begun != tuple(mine) and sorted(begun) == sorted(mine):
        names, own = begun, {}  # what they have alone is put in between, and the order is another one
    if own and all(a_ == b_ or b_ in own.get(a_, ()) for a_, b_ in zip(names, mine, strict=True)):
        return  # what they have alone is put in between
    if own:
        cause, what = "wiring", f"{b.name} of the {case.doer} does not read the twin of {', '.join(mine)}"
        known = case.ours.recording.structure.by_name
        if masks.hides(a, case.ours) or masks.makes_mask(a, case.ours):
            cause = "attention-mask"
        elif all(name in known and known[name].kind in kinds.RECURRENT for name in mine if name not in names):
            cause = "rnn-last-step"
    elif sorted(names) == sorted(mine):
        if a.kind in SYMMETRIC:
            return
        cause = "concat-order" if a.kind in ("concat", "stack") else "operand-order"
        cause = "qkv-order" if a.kind == "attention" else cause
        what = f"{a.name} reads its inputs in another order in the {case.doer}"
    else:
        if a.kind in ("concat", "stack") and (turned := in_their_order(mine, names)) is not None:
            what = f"{a.name} reads its inputs in another order in the {case.doer}"
            order = tuple(mine.index(name) for name in turned)
            change = of_step(a.name, lambda step: replace(step, inputs=tuple(step.inputs[k] for k in order)))
            yield Edit("concat-order", what, change, a.name, b.name, "order", seen=True, cost=1.5)
            mine, instead = list(turned), dict(zip(turned, names, strict=True))
        cause = _rewired(case, a, mine, names)
        other = [name for name in names if name not in mine] or names
        what = f"{b.name} of the {case.doer} reads the twin of {', '.join(other)}, not of {', '.join(mine)}"
    change = of_step(a.name, lambda step: replace(step, inputs=names))
    if instead:  # the order is a difference of its own
        change = of_step(a.name, lambda step: replace(step, inputs=tuple(instead.get(n, n) for n in step.inputs)))
    if not own and (both := namesakes.exchanged(case, a, b, mine, names, {n: t.name for n, t in taken.items()})):
        yield namesakes.edit_of(case, both, change)
        return
    here, there = (a.name, b.name) if case.turned_round else (b.name, a.name)
    fix = f"let {here} read the tensor that the reference's {there} reads" if cause.startswith("block-") else ""
    yield Edit(cause, what, change, a.name, b.name, seen=True, cost=1.5, fix=fix)


def _only(names: set[str | None]) -> str | None:
    """The one of some names; None where there are several."""
    return next(iter(names)) if len(names) == 1 else None


def _terms(case: Case, a: Step, b: Step, mine: Sequence[str], read: Sequence[str | None]) -> Iterator[Edit]:
    """A sum, or tensors that are joined, of which one side has more than the other."""
    names = tuple(name for name in read if name is not None)
    if len(names) < len(read) or any(step.settings.get("order") or step.weights for step in (a, b)):
        return
    gone, new = terms_apart(mine, names)
    those = " and ".join(gone or new)
    stem = "residual" if a.kind in SUMS else "block"
    if gone and new:
        cause, what = "wiring", f"{b.name} of the {case.doer} reads {', '.join(names)}, not {', '.join(mine)}"
    elif gone:
        cause, what = case.lacks(stem), f"the {case.doer} leaves {those} out of {a.name}"
    else:
        cause, what = case.has(stem), f"the {case.doer} reads {those} in {a.name} as well"
    change = of_step(a.name, lambda step: replace(step, inputs=names))
    fix = f"read {', '.join(mine if not case.turned_round else names)} at {a.name if not case.turned_round else b.name}"
    yield Edit(cause, what, change, a.name, b.name, seen=True, cost=1.5, fix=fix + " as the reference does")


def _begins(case: Case, name: str, taken: Names, above: dict[str, str]) -> set[str | None]:
    """Our names of what one of their own steps is made of, through others that they have alone."""
    assert case.theirs.program is not None
    begins: set[str | None] = set()
    for step in reversed(case.theirs.program.steps):
        if _of_theirs(case, step.name) == name:
            for source in _mapped(case, step.inputs, taken, above):
                inside = source is not None and not _ours(case, source)
                begins |= _begins(case, source, taken, above) if inside and source is not None else {source}
    return begins


def _states(case: Case, a: Step, b: Step, mine: Sequence[str], read: Sequence[str | None]) -> Iterator[Edit]:
    """A recurrent layer that begins in a state that it is given, where its twin begins with zeros."""
    names = tuple(name for name in (read if len(read) > len(mine) else mine[: len(read)]) if name is not None)
    if None in read or not names or names[0] != mine[0]:
        return
    given, other = (case.doer, case.other) if len(read) > len(mine) else (case.other, case.doer)
    states = read[len(mine) :] if len(read) > len(mine) else mine[len(read) :]
    what = f"{a.name} begins in a state that it is given in the {given} ({', '.join(map(str, states))}), with zeros in "
    what += f"the {other}"
    fix = "begin with zeros, as the reference does" if given == "candidate" else "give it the reference's initial state"
    change = of_step(a.name, lambda step: replace(step, inputs=names))
    yield Edit("wiring", what, change, a.name, b.name, seen=True, cost=1.5, fix=fix)


def _rewired(case: Case, step: Step, mine: Sequence[str], its: Sequence[str]) -> str:
    """What it is that a step reads other tensors."""
    structure = case.ours.recording.structure
    part = _other_part(structure, mine, its)
    if (state := _of_states(structure, mine, its)) and (part or state > 1):
        return "rnn-last-step"
    if part and not about_heads(structure, step):
        others = any(map(counts, _known(structure, mine))) or any(_no_channel(case, name) for name in {*mine} - {*its})
        return "wiring" if others else part
    if masks.makes_mask(step, case.ours):
        return "attention-mask"
    if step.kind in SUMS and len(its) > 1:
        return "residual-order" if naming.on_one_path(structure, mine, its) else "wiring"
    if step.kind in ("matmul", "permute", "reshape", "attention", *SCALING) and about_heads(structure, step):
        return "qkv-order" if naming.multiplied(structure, step) else "wiring"
    sums = [structure.by_name[name] for name in (*mine, *its) if name in structure.by_name]
    terms = {parent for node in sums if node.kind == "add" and len(node.parents) > 1 for parent in node.parents}
    for node in sums:  # a norm or an activation of the sum, or the sum itself
        behind = node.kind in kinds.NORMALISATIONS | kinds.ACTIVATIONS
        above = [structure.by_name[name] for name in node.parents if behind]
        terms |= {one.name for one in above if one.kind == "add" and len(one.parents) > 1}
    moved = len(its) == 1 and bool(terms & {*mine, *its})
    if moved and (told := _without_sum(case, step, mine, its)):
        return told
    return "residual-order" if moved else _around_activation(case, mine, its) or "wiring"


def _without_sum(case: Case, step: Step, mine: Sequence[str], its: Sequence[str]) -> str:
    """The cause where a term is read in place of the sum that it is of, or the sum for the term, and the sum is not
    made behind instead; empty where it is, and where it is about anything else."""
    ours, theirs = case.ours.recording.structure, case.theirs.recording.structure
    here, there = sums(ours), sums(theirs)
    behind = len(there & following(theirs, case.theirs.node.name)) - len(here & following(ours, step.name))
    more = len(there) - len(here)
    if mine[0] in here and its[0] in ours.by_name[mine[0]].parents and behind <= 0:
        return case.lacks("residual") if more < 0 else "wiring"
    if its[0] in here and mine[0] in ours.by_name[its[0]].parents and behind >= 0:
        return case.has("residual") if more > 0 else "wiring"
    return ""


def _known(structure: Structure, names: Sequence[str]) -> list[Node]:
    return [structure.by_name[name] for name in names if name in structure.by_name]


def _around_activation(case: Case, mine: Sequence[str], its: Sequence[str]) -> str:
    """The cause where what is read in place of another tensor is that one but for an activation, or another function of
    each value; else nothing."""
    structure = case.ours.recording.structure
    gone, new = [name for name in mine if name not in its], [name for name in its if name not in mine]
    if len(gone) != 1 or len(new) != 1:
        return ""
    for (early, late), cause in (((new[0], gone[0]), case.lacks), ((gone[0], new[0]), case.has)):
        passed = naming.passed(structure, early, late)
        if passed and all(node.kind in kinds.ACTIVATIONS for node in passed):
            return cause("activation")
        # What nothing else reads is left out; else another tensor is read.
        alone = len(mine) == len(its) == 1 and len(structure.children.get(late, ())) == 1
        if alone and passed and all(node.kind in kinds.ELEMENTWISE and len(node.parents) == 1 for node in passed):
            return cause("block")
    return ""


def _of_states(structure: Structure, mine: Sequence[str], its: Sequence[str]) -> int:
    """1 where all that is read are states of recurrent layers; 2 where they are states on one side, and all steps of
    the same layer on the other; else 0."""

    def layer(name: str) -> str:
        node = structure.by_name.get(name)
        return node.parents[0] if node is not None and node.role == "item" and node.parents else name

    names = {*mine, *its}
    layers = {layer(name) for name in names}
    if any(name not in structure.by_name or structure.by_name[name].kind not in kinds.RECURRENT for name in layers):
        return 0
    states = {name for name in names if layer(name) != name}
    return 1 if states == names else 2 if states and len(layers) == 1 else 0


def _other_part(structure: Structure, mine: Sequence[str], its: Sequence[str]) -> str:
    """``channel-order`` where other parts of what was split are read: the gate of a GLU is the other half."""
    gone, new = [name for name in mine if name not in its], [name for name in its if name not in mine]

    def source(name: str) -> str | None:
        node = structure.by_name.get(name)
        if node is None or not node.parents or not (node.role == "item" or node.kind in ("split", "slice")):
            return None
        above = structure.by_name.get(node.parents[0])
        return above.parents[0] if above is not None and node.role == "item" and above.parents else node.parents[0]

    sources = {source(name) for name in new} | {source(name) for name in gone if source(name) is not None}
    known = [name for name in gone if source(name) is not None]
    return "channel-order" if new and known and len(sources) == 1 and None not in sources else ""


def _no_channel(case: Case, name: str) -> bool:
    """Whether a tensor is one place along an axis that is not that of the channels, such as one field of several."""
    structure = case.ours.recording.structure
    node = structure.by_name.get(name)
    whole = structure.by_name.get(node.parents[0]) if node is not None and node.kind == "slice" else None
    if whole is None or whole.shape is None:
        return False
    try:
        index = read(case.ours.recording, name).settings.get("index", ())
    except Unknown:
        return False
    rank = len(whole.shape)
    channels = rank - 1
    if case.ours.recording.framework != "tensorflow" and (
        rank >= _IMAGE or any(one.kind in kinds.CONVOLUTIONS for one in structure)
    ):
        channels = 1
    at = [axis for axis, part in enumerate(index) if isinstance(part, int)]
    return bool(at) and channels not in at and "..." not in map(str, index)


_IMAGE = 4
"""Axes of images, the second of which has the channels in PyTorch."""


def _passing(program: Program) -> dict[str, str]:
    """What each step that only passes a tensor on reads."""
    return {step.name: step.inputs[0] for step in program.steps if step.kind in _PASSING and step.inputs}


def _through(name: str, passing: Mapping[str, str], known: Container[str] = ()) -> str:
    """The tensor that a name stands for, back through what only passes it on, up to one that is ``known``."""
    while name in passing and name not in known:
        name = passing[name]
    return name
