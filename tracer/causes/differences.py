"""What differs between two programs by what the recordings state: settings, weights, operations, steps."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes import naming, weighing
from tracer.causes.case import Case, Side
from tracer.causes.edit import Change, Edit, of_program, of_step, setting
from tracer.causes.step import Array, Program, Step, numbers
from tracer.graph import Structure

_AXIS = ("channels", "axis")
_AXES = ("axes",)
_OWN_AXES = frozenset({"permutation", "shape", "index"})
"""Settings that are written in the axes of a side, and cannot be compared one by one."""
_PASSING = kinds.UNCHANGED
_ALIKE = 0.55
_LAST = 0.1
"""How much likelier the steps that give the result belong together."""
BLOCK = 3
"""Operations of one side alone that are a block."""

_SYMMETRIC = frozenset({"add", "mul", "maximum", "minimum", "average"})
Names = dict[str, Step]


def differences(case: Case) -> Iterator[Edit]:
    """What differs, as edits of our program. Empty where their program could not be read."""
    if case.theirs.program is None:
        return
    ours = [step for step in case.program.steps if step.kind not in _PASSING]
    theirs = [step for step in case.theirs.program.steps if step.kind not in _PASSING]
    pairs = matched(ours, theirs)
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
    for step in reversed(ours):
        if step.name not in alone or step.name in gone:
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
        yield from _between(case, a, b)


def may_show(case: Case, edit: Edit) -> bool:
    """Whether a difference that makes none on this input may make one on another.

    Operations written in two ways, and axes and operands that come to the same, do not.
    """
    if edit.key != "kind":
        return edit.key in naming.SHOWING
    if case.theirs.program is None or edit.cause not in ("activation-kind", "pool-kind"):
        return False
    return all(
        sum(step.kind not in _PASSING for step in program.steps) == 1 for program in (case.program, case.theirs.program)
    )


def matched(ours: Sequence[Step], theirs: Sequence[Step]) -> list[tuple[Step, Step]]:
    """Steps that do the same, in order; the last ones belong together wherever they are not alone."""
    rows, columns = len(ours), len(theirs)
    score_of = [[_score(a, b) for b in theirs] for a in ours]
    if rows and columns and score_of[-1][-1] > 0:
        score_of[-1][-1] += _LAST
    best = np.zeros((rows + 1, columns + 1))
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            best[i, j] = max(best[i + 1, j], best[i, j + 1], best[i + 1, j + 1] + score_of[i][j])
    found, i, j = [], 0, 0
    while i < rows and j < columns:
        score = score_of[i][j]
        if score > 0 and best[i, j] == best[i + 1, j + 1] + score:
            found.append((ours[i], theirs[j]))
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            i += 1
        else:
            j += 1
    return found or ([(ours[-1], theirs[-1])] if rows == columns == 1 and _comparable(ours[-1], theirs[-1]) else [])


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
            if b.name in taken or any(b is other for _, other in found) or not _exchangeable(a.kind, b.kind):
                continue
            last = (a is case.program.last, case.theirs.program is not None and b is case.theirs.program.last)
            read = _mapped(case, b.inputs, taken, above)
            reads = [{taken[s.name].name for s in theirs if b.name in s.inputs and s.name in taken}]
            reads += [{s.name for s in ours if a.name in s.inputs and s.name in twins}]
            if last[0] == last[1] and read == mine and reads[0] == reads[1]:
                found.append((a, b))
                break
    return found


def _exchangeable(a: str, b: str) -> bool:
    """Whether a person might have written the one operation for the other."""
    groups = (kinds.ACTIVATIONS | kinds.ELEMENTWISE | {"clip"}, kinds.POOLS | kinds.REDUCTIONS | {"slice", "gather"},
              _SYMMETRIC | {"sub", "div", "concat", "stack"}, kinds.POOLS | {"flatten", "reshape"})  # fmt: skip
    return any(a in group and b in group for group in groups)


def _comparable(a: Step, b: Step) -> bool:
    """Whether one may stand for the other: neither only moves values where the other computes, or has weights alone."""
    return all((a.kind in group) == (b.kind in group) for group in (kinds.LAYOUT_ONLY, kinds.WEIGHTED))


def _score(a: Step, b: Step) -> float:
    """How far two steps are the same one: of a block that stands twice it is the one with the same weights."""
    alike = kinds.similarity(a.kind, b.kind)
    if alike < _ALIKE:
        return 0.0
    if not a.weights or set(a.weights) != set(b.weights):
        return alike
    equal = all(weighing.alike(value, b.weights[role]) for role, value in a.weights.items())
    return alike + (1.0 if equal else 0.2)


# --- steps of one side alone ---------------------------------------------------------------------------------------


def _missing(case: Case, step: Step, instead: str | None, twins: Names) -> Edit:
    stem, whole = naming.of_single(step, case.ours)
    if naming.moved_before_sum(step, case.ours, case.theirs, {name: b.name for name, b in twins.items()}):
        stem, whole = "residual-order", True
    cause = stem if whole else case.lacks(stem)
    what = f"{step.name} ({step.kind}) is in the {case.other} only"
    return Edit(
        cause, what, of_program(lambda program: program.without(step.name, instead)), step.name, seen=True, cost=1.5,
        detail={"alone": True, **_about(case.ours, step)},
    )  # fmt: skip


def _block_missing(case: Case, chain: Sequence[str], instead: str | None) -> Edit:
    what = f"{len(chain)} operations are in the {case.other} only: {chain[0]} to {chain[-1]}"
    change = of_program(lambda program: program.without(chain[-1], instead))
    those = f"{chain[0]} to {chain[-1]}"
    fix = f"leave out {those}" if case.turned_round else f"add the reference's {those}"
    steps = [case.program.step(name) for name in chain]
    about = _about(case.ours, *steps)
    cause = "input-normalisation" if naming.of_input(steps, about["begins"]) else case.lacks("block")
    return Edit(
        cause, what, change, chain[-1], fix=fix, seen=True, cost=1.5, detail={"block": tuple(chain), **about}
    )  # fmt: skip


def _each_at_input(case: Case, chain: Sequence[str]) -> bool:
    """Whether operations on the model's input are mistakes of their own: scaled and turned."""
    steps = [case.program.step(name) for name in chain]
    moving = [step for step in steps if step.kind in kinds.ARRANGING]
    others = [step for step in steps if step not in moving]
    begins = [node for node in _about(case.ours, *steps)["begins"] if node.role == "input"]
    plain = all(len(step.inputs) == 1 and step.kind in naming.SCALING for step in others)
    return bool(moving and others and begins) and plain


def _about(side: Side, *steps: Step) -> dict[str, Any]:
    """What is kept of operations of one side alone: themselves, and what they begin with."""
    made = {step.name for step in steps}
    known = side.recording.structure.by_name
    begins = tuple(known[name] for step in steps for name in step.inputs if name not in made and name in known)
    return {"steps": steps, "begins": begins, "result": known.get(steps[-1].name)}


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
    if naming.moved_before_sum(step, case.theirs, case.ours, {name: a.name for name, a in taken.items()}):
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
        detail={"alone": True, **_about(case.theirs, step)},
    )  # fmt: skip


def _wiring(case: Case, a: Step, b: Step, taken: Names, above: dict[str, str], alone: Sequence[str]) -> Iterator[Edit]:
    """Two steps that do the same with other tensors."""
    read = _mapped(case, b.inputs, taken, above)
    mine = [_through(name, _passing(case.program)) for name in a.inputs]
    if a.kind in kinds.RECURRENT and a.kind == b.kind and len(read) != len(mine):
        yield from _states(case, a, b, mine, read)
        return
    if len(read) != len(mine) or read == mine or any(name in alone for name in mine):
        return
    if not all(name is not None and _ours(case, name) for name in read):
        return
    names = tuple(name for name in read if name is not None)
    if sorted(names) == sorted(mine):
        if a.kind in _SYMMETRIC:
            return
        cause = "concat-order" if a.kind in ("concat", "stack") else "operand-order"
        what = f"{a.name} reads its inputs in another order in the {case.doer}"
    else:
        cause = _rewired(case, a, mine, names)
        other = [name for name in names if name not in mine]
        what = f"{b.name} of the {case.doer} reads the twin of {', '.join(other)}, not of {', '.join(mine)}"
    yield Edit(
        cause, what, of_step(a.name, lambda step: replace(step, inputs=names)), a.name, b.name, seen=True, cost=1.5
    )


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
    if (part := _other_part(structure, mine, its)) and not naming.about_heads(structure, step):
        return part
    if naming.makes_mask(step, case.ours):
        return "attention-mask"
    if step.kind in _SYMMETRIC and len(its) > 1:
        return "residual-order"
    if step.kind in ("matmul", "permute", "reshape", "attention") and naming.about_heads(structure, step):
        return "qkv-order"
    sums = [structure.by_name[name] for name in (*mine, *its) if name in structure.by_name]
    terms = {parent for node in sums if node.kind == "add" for parent in node.parents}
    for node in sums:  # a norm or an activation of the sum, or the sum itself
        behind = node.kind in kinds.NORMALISATIONS | kinds.ACTIVATIONS
        above = [structure.by_name[name] for name in node.parents if behind]
        terms |= {one.name for one in above if one.kind == "add"}
    return "residual-order" if terms & {*mine, *its} else "wiring"


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


def _passing(program: Program) -> dict[str, str]:
    """What each step that only passes a tensor on reads."""
    return {step.name: step.inputs[0] for step in program.steps if step.kind in _PASSING and step.inputs}


def _through(name: str, passing: Mapping[str, str], known: Container[str] = ()) -> str:
    """The tensor that a name stands for, back through what only passes it on, up to one that is ``known``."""
    while name in passing and name not in known:
        name = passing[name]
    return name


# --- steps of both ---------------------------------------------------------------------------------------------------


def translated(case: Case, step: Step, name: str) -> Step:
    """Their step in the axes of our tensor ``name``. Settings that are written in whole shapes stay."""
    axes = case.axes.get(name) or case.axes.get(case.ours.node.name)
    if axes is None:
        return step
    back = {theirs: ours for ours, theirs in enumerate(axes) if theirs is not None}
    settings = dict(step.settings)
    for key in _AXIS:
        if isinstance(settings.get(key), int):
            settings[key] = back.get(settings[key] % len(axes), settings[key])
    for key in _AXES:
        if isinstance(settings.get(key), tuple | list):
            settings[key] = tuple(sorted(back.get(axis % len(axes), axis) for axis in settings[key]))
    if step.kind == "pad" and len(settings.get("padding", ())) == len(axes):
        settings["padding"] = tuple(settings["padding"][axis] if axis is not None else (0, 0) for axis in axes)
    if isinstance(settings.get("operand"), np.ndarray):
        settings["operand"] = _turned(settings["operand"], axes)
    weights = {role: _turned(value, axes) if role == "alpha" else value for role, value in step.weights.items()}
    return replace(step, settings=settings, weights=weights)


def _turned(values: Array, axes: tuple[int | None, ...]) -> Array:
    """What is broadcast against their tensor, in our axes; the batch may be left out."""
    if values.ndim < 2 or None in axes:
        return values
    order = [axis for axis in axes if axis is not None]
    if values.ndim == len(order) - 1 and order[0] == 0:
        order = [axis - 1 for axis in order[1:]]
    return values.transpose(order) if len(order) == values.ndim and sorted(order) == list(range(len(order))) else values


def _plain(step: Step, rank: int | None) -> Step:
    """The step with settings that mean the same written the same way."""
    settings = dict(step.settings)
    for key in _AXIS:
        if rank and isinstance(settings.get(key), int):
            settings[key] %= rank
    for key in _AXES:
        if rank and isinstance(settings.get(key), tuple | list):
            settings[key] = tuple(sorted(axis % rank for axis in settings[key]))
    if step.kind in kinds.POOLS and "padding" in settings:
        more = numbers(settings.pop("ceil", 0), len(settings["padding"]))
        padding = zip(settings["padding"], more, strict=True)
        settings["padding"] = tuple((before, after + extra) for (before, after), extra in padding)
    return replace(step, settings=settings)


def _between(case: Case, a: Step, b: Step) -> Iterator[Edit]:
    source = a.inputs[0] if a.inputs else case.ours.node.name
    given = _pointwise(a, translated(case, b, source))
    axes = case.axes.get(source) or case.axes.get(case.ours.node.name)
    mine_, other = (_plain(step, None if axes is None else len(axes)) for step in (a, given))
    if a.kind != given.kind and not _same_operation(a, given):
        cause = naming.of_kinds(a.kind, b.kind)
        if {a.kind, b.kind} == {"slice", "gather"}:  # another step of a sequence
            cause = "rnn-last-step"
        if {a.kind, b.kind} & {"where", "masked_fill"} and naming.masks_scores(a, case.ours):
            cause = "attention-mask"
        what = _sides(case, "computes", a.kind, b.kind)
        yield Edit(
            cause, what, _exchanged(a, given), a.name, b.name, "kind", _ordered(case, a.kind, b.kind), seen=True,
        )  # fmt: skip
        return
    for key in dict.fromkeys((*mine_.settings, *other.settings)):
        mine, its = mine_.settings.get(key), other.settings.get(key)
        if key in _OWN_AXES or key not in mine_.settings or key not in other.settings or _equal(mine, its):
            continue
        if key == "keepdims" or (key == "channels" and a.kind not in kinds.NORMALISATIONS):
            continue  # what axes are kept or where they stand is the alignment's matter
        cause = _of_another(mine_, other, key)
        if not cause and key == "operand":
            cause = naming.of_operand(a, case.ours)
        cause = cause or naming.of_setting(a.kind, key, *_ordered(case, mine, its))
        values = _ordered(case, naming.plain(mine), naming.plain(its))
        what = f"{key} is {naming.said(values[0])} in the reference, {naming.said(values[1])} in the candidate"
        if values[0] == values[1]:
            what = f"{key} of {a.name} is {_apart(mine, its)} in the {case.doer}"
        changed = {key: given.settings[key]}
        if "ceil" in {*a.settings, *given.settings} and key == "padding":
            changed["ceil"] = given.settings.get("ceil", 0)
        yield Edit(cause, what, setting(a.name, **changed), a.name, b.name, key, values, seen=True)
    for edit in weighing.differences(case, a, given):
        regrouped = "kernel" in edit.key and not _equal(mine_.settings.get("groups"), other.settings.get("groups"))
        yield replace(edit, cause="groups") if regrouped else edit


def _apart(first: Any, second: Any) -> str:
    """What one array of numbers or flags is beside another of its shape."""
    mine, its = np.asarray(first), np.asarray(second)
    if mine.dtype == np.bool_ and np.array_equal(mine, ~its):
        return "the other way round"
    return f"another one, at {int(np.count_nonzero(mine != its))} of {mine.size} places,"


def _of_another(a: Step, b: Step, key: str) -> str:
    """The cause where a setting differs because another one does; empty where it differs for itself."""

    def differs(name: str) -> bool:
        return name in a.settings and name in b.settings and not _equal(a.settings[name], b.settings[name])

    if key in ("align_corners", "coordinates") and differs("mode"):
        modes = {str(step.settings["mode"]) for step in (a, b)}
        return "resize-mode" if any(mode.startswith("nearest") for mode in modes) else ""
    if key == "padding" and differs("pool_size"):
        return "pool-kind"  # a wider window is centred by a wider padding
    kernel = a.weights.get("kernel")
    if key == "padding" and differs("dilation") and kernel is not None and kernel.ndim > 2:
        rank = kernel.ndim - 2
        (mine, wide), (its, wider) = (
            (step.settings["padding"], numbers(step.settings["dilation"], rank)) for step in (a, b)
        )
        more = [(size - 1) * (d - e) for size, d, e in zip(kernel.shape, wide, wider, strict=False)]
        if len(mine) == len(its) == rank and all(
            sum(x) - sum(y) == extra and x[1] - x[0] == y[1] - y[0] for x, y, extra in zip(mine, its, more, strict=True)
        ):
            return "dilation"  # the padding that keeps the length is another one for a wider kernel
    return ""


def _same_operation(a: Step, b: Step) -> bool:
    """Whether two kinds are names of one operation that settings tell apart."""
    stems = ("conv", "depthwise_conv")
    if a.kind.startswith(stems) and b.kind.startswith(stems) and "transpose" not in a.kind + b.kind:
        return a.kind[-2:] == b.kind[-2:] and set(a.settings) == set(b.settings)
    return {a.kind, b.kind} <= {"resize", "upsample"} or {a.kind, b.kind} <= {"flatten", "reshape"}


def _pointwise(ours: Step, theirs: Step) -> Step:
    """Their dense layer as our convolution with a window of one place, or theirs as our dense layer."""
    mine, its = ours.weights.get("kernel"), theirs.weights.get("kernel")
    if mine is None or its is None or "dense" not in (ours.kind, theirs.kind) or ours.kind == theirs.kind:
        return theirs
    window = ours if theirs.kind == "dense" else theirs
    kernel = window.weights["kernel"]
    padded = any(map(any, window.settings.get("padding", ())))
    plain = window.kind in ("conv1d", "conv2d", "conv3d") and window.settings.get("groups", 1) == 1 and not padded
    if not plain or mine.size != its.size or any(length != 1 for length in kernel.shape[:-2]):
        return theirs
    settings = {key: value for key, value in ours.settings.items() if not key.startswith("activation")}
    settings |= {key: value for key, value in theirs.settings.items() if key.startswith("activation")}
    found = {**theirs.weights, "kernel": its.reshape(mine.shape)}
    return replace(theirs, kind=ours.kind, settings=settings, weights=found)


def _exchanged(ours: Step, theirs: Step) -> Change:
    return of_step(ours.name, lambda step: replace(theirs, name=step.name, inputs=step.inputs[: len(theirs.inputs)]))


def _sides(case: Case, verb: str, mine: str, its: str) -> str:
    reference, candidate = _ordered(case, mine, its)
    return f"the reference {verb} {reference}, the candidate {candidate}"


def _ordered(case: Case, mine: Any, its: Any) -> tuple[Any, Any]:
    """The reference's value first."""
    return (its, mine) if case.turned_round else (mine, its)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape and x.size == y.size:
            y = y.reshape(x.shape)
        return x.shape == y.shape and np.allclose(x, y, rtol=1e-6, atol=1e-12)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool):
        return bool(a) == bool(b)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-300)
    return bool(a == b)
