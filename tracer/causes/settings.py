"""What differs between two steps that do the same: the operation, its settings, its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tracer import kinds, relations
from tracer.causes import constants, masks, naming, preparing, weighing
from tracer.causes.case import Case
from tracer.causes.edit import Change, Edit, of_step
from tracer.causes.operations.kernels import PREFIX
from tracer.causes.scores import SCALING, about_heads
from tracer.causes.step import GIVEN, Array, Step, numbers, pairs_of
from tracer.errors import TraceError

_AXIS = ("channels", "axis")
_AXES = ("axes",)
_OWN_AXES = frozenset({"permutation", "shape"})
"""Settings that are written in the axes of a side, and cannot be compared one by one."""
_ONE = ({"mean", "global_avg_pool"}, {"amax", "global_max_pool"})


def _axes_at(case: Case, name: str) -> tuple[int | None, ...] | None:
    """Their axes for those of one of our tensors; of one within the program those of another of as many axes."""
    if (axes := case.axes.get(name)) is not None:
        return axes
    node = case.ours.recording.structure.by_name.get(name)
    rank = None if node is None or node.shape is None else len(node.shape)
    known = [axes for axes in case.axes.values() if axes is not None]
    return next((axes for axes in known if len(axes) == rank), case.axes.get(case.ours.node.name))


def translated(case: Case, step: Step, name: str) -> Step:
    """Their step in the axes of our tensor ``name``. Settings that are written in whole shapes stay."""
    axes = _axes_at(case, name)
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
    if step.kind == "slice" and (index := _of_all_axes(settings["index"], len(axes))) and None not in axes:
        settings["index"] = tuple(index[axis] for axis in axes if axis is not None)
    if isinstance(settings.get("operand"), np.ndarray):
        settings["operand"] = _turned(settings["operand"], axes)
    if isinstance(settings.get("parts"), dict):
        settings["parts"] = {name: _turned(np.asarray(part), axes) for name, part in settings["parts"].items()}
    along = ("alpha", "operand")
    weights = {role: _turned(value, axes) if role in along else value for role, value in step.weights.items()}
    return replace(step, settings=settings, weights=weights)


def _of_same_axes(mine: Any, its: Any) -> bool:
    """Whether two indices say of each axis what is taken, as many axes each."""
    return len(mine) == len(its) and not any(part is None or part == "..." for part in (*mine, *its))


def _window(mine: Step, its: Step) -> Step:
    """Their padding of as many axes as ours, where the axes that one side has more are not padded."""
    ours, theirs = mine.settings.get("padding", ()), its.settings.get("padding", ())
    if mine.kind != "pad" or its.kind != "pad" or len(ours) == len(theirs):
        return its
    more = len(theirs) - len(ours)
    padded = [tuple(pair) for pair in theirs]
    while more > 0 and (0, 0) in padded:
        padded.remove((0, 0))
        more -= 1
    padded = [(0, 0)] * -more + padded if more < 0 else padded
    return its.set(padding=tuple(padded)) if len(padded) == len(ours) else its


def _of_all_axes(index: Sequence[Any], rank: int) -> list[Any] | None:
    """What is taken of each axis; None where new axes come in."""
    parts = [part for part in index if part != "..."]
    if len(parts) > rank or any(part is None for part in parts):
        return None
    place = next((k for k, part in enumerate(index) if part == "..."), len(parts))
    return [*parts[:place], *[(None, None, None)] * (rank - len(parts)), *parts[place:]]


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
    if step.kind == "l2_normalize":
        settings.setdefault("order", 2.0)
    if step.kind == "slice":
        settings["index"] = tuple(naming.plain_index(settings["index"]))
    if step.kind in kinds.POOLS and "padding" in settings:
        more = numbers(settings.pop("ceil", 0), len(settings["padding"]))
        padding = zip(settings["padding"], more, strict=True)
        settings["padding"] = tuple((before, after + extra) for (before, after), extra in padding)
    return replace(step, settings=settings)


def between(case: Case, a: Step, b: Step) -> Iterator[Edit]:
    """What differs between a step of ours and its twin, as edits that make ours do as theirs does."""
    if GIVEN in a.settings or GIVEN in b.settings:
        return  # to put the one for the other would reproduce anything
    source = a.inputs[0] if a.inputs else case.ours.node.name
    given = _window(a, _pointwise(a, translated(case, b, source)))
    if ("operand" in a.weights) != ("operand" in given.weights):
        a, given = _written_out(a), _written_out(given)
    axes = _axes_at(case, source)
    mine_, other = (_plain(step, None if axes is None else len(axes)) for step in (a, given))
    if a.kind != given.kind and not _same_operation(a, given):
        cause = naming.of_exchange(a, given, case.ours)
        what, values = sides(case, "computes", a.kind, b.kind), _ordered(case, a.kind, b.kind)
        meant = {"average": "take the mean of the terms", "add": "add the terms"}.get(values[0], "")
        fix = f"{meant}, as the reference does" if {a.kind, given.kind} == {"add", "average"} else ""
        yield Edit(
            cause, what, _exchanged(a, given), a.name, b.name, "kind", values, fix=fix, seen=True,
            detail={"single": naming.of_single(a, case.ours)[0], "reads": {*a.inputs, *b.inputs}},
        )  # fmt: skip
        return
    if a.kind in SCALING and len(a.inputs) != len(given.inputs):
        if ("operand" in a.settings) != ("operand" in given.settings):
            cause = "input-normalisation" if preparing.of_input(a, case.ours) else "wiring"
            cause = "attention-mask" if masks.hides(a, case.ours) else cause
            what = f"{a.name} takes a constant on one side, a tensor that is computed on the other"
            if a.kind == "div" and _counted(case, a, b):
                cause, what = "attention-mask", f"{what}: how many places there are, and how many of them count"
            elif (told := _computed(case, a, b, given)) is not None:
                cause, what = told[0], f"{what}: {told[1]}"
            elif cause == "wiring" and _solved_for(case, a, b):
                cause = "operation-kind"
            yield Edit(cause, what, _exchanged(a, given), a.name, b.name, seen=True, cost=1.5)
        return
    yield from _of_use(case, a, given)
    for key in dict.fromkeys((*mine_.settings, *other.settings)):
        mine: Any = mine_.settings.get(key)
        its: Any = other.settings.get(key)
        if key in _OWN_AXES or key not in mine_.settings or key not in other.settings or same_value(mine, its):
            continue
        if key == "index" and (
            axes is None or not _of_same_axes(mine, its) or naming.plain_index(mine) == naming.plain_index(its)
        ):
            continue
        if key == "keepdims" or (key == "channels" and a.kind not in kinds.NORMALISATIONS):
            continue  # what axes are kept or where they stand is the alignment's matter
        cause = _of_another(mine_, other, key)
        if not cause and key == "operand":
            cause = _of_none(case, a, given) or naming.of_operand(a, case.ours)
            if cause == "scale" and any(map(constants.of_places, map(np.asarray, (mine, its)))):
                cause = "attention-mask"
        if key == "axes" and a.kind in kinds.REDUCTIONS | kinds.POOLS:
            cause = "norm-axis" if naming.normalises(a, case.ours) else "pool-kind"
        turned, reader, fix = key == "axes" and _turned_above(case, a, b), (a if case.turned_round else b).name, ""
        cause = cause or naming.of_setting(a.kind, key, *_ordered(case, mine, its))
        if key == "index" and about_heads(case.ours.recording.structure, a):
            cause = "head-layout"
        same = ("shift",) if cause == "pad-asymmetry" and a.kind == "pad" else ()
        if key == "operand" and cause == "shift" and (idle := _of_nothing(case, mine, its)):
            same = (idle,)
        values = _ordered(case, naming.plain(mine), naming.plain(its))
        told_as = _USES.get(key, key)
        what = f"{told_as} is {naming.said(values[0])} in the reference, {naming.said(values[1])} in the candidate"
        constant = key == "operand" or (key == "value" and a.kind not in kinds.ACTIVATIONS)
        if key == "value" and constant:
            cause = constants.of_table(np.asarray(mine), np.asarray(its))
        if turned:
            what = f"{source} has its axes in another order in the {case.doer}, and {a.name} is over the same ones"
            cause, same, fix = (
                "axis-permutation",
                (cause,),
                f"move the axes of what {reader} reads as the reference does",
            )
        if key == "parts":
            cause, what = _of_parts(case, a, mine, its)
            values = (None, None)
        elif values[0] == values[1] or (constant and min(np.asarray(mine).size, np.asarray(its).size) > 1):
            told = constants.of_constants(np.asarray(mine), np.asarray(its)) if constant else None
            what = f"{key} of {a.name} is {_apart(mine, its) if told is None else told[1]} in the {case.doer}"
            if cause == "attention-mask" and told is not None and told[0] != "scale" and _is_bias(mine):
                same = (told[0],)
            if cause in _PLAIN:
                cause = told[0] if told is not None else _of_other_table(cause, mine, its)
            values = (None, None)
        changed = {key: other.settings[key] if key == "order" else given.settings[key]}
        if "ceil" in {*a.settings, *given.settings} and key == "padding":
            changed["ceil"] = given.settings.get("ceil", 0)
        if key == "mask" and a.kind == "attention":
            changed |= {word: given.settings.get(word) for word in ("given", "given_as", "kept")}
        yield Edit(cause, what, _set(a.name, changed), a.name, b.name, key, values, fix=fix, seen=True, same=same)
    for edit in weighing.differences(case, a, given):
        regrouped = "kernel" in edit.key and not same_value(mine_.settings.get("groups"), other.settings.get("groups"))
        yield replace(edit, cause="groups") if regrouped else edit


def _of_parts(case: Case, a: Step, mine: Mapping[str, Array], its: Mapping[str, Array]) -> tuple[str, str]:
    """Constants that are joined with tensors and are others: cause and sentence."""
    both = [(value, its[name]) for name, value in mine.items() if name in its and not same_value(value, its[name])]
    told = constants.of_constants(*both[0]) if len(both) == 1 else None
    how = "another one" if told is None else told[1]
    return "weights-perturbed" if told is None else told[0], f"the constant in {a.name} is {how} in the {case.doer}"


def _of_none(case: Case, a: Step, b: Step) -> str:
    """The cause where one side adds nothing, or multiplies by one, where the other has something of its own; empty for
    anything else."""
    idle = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}.get(a.kind)
    mine, its = (np.asarray(step.settings["operand"]) for step in (a, b))
    if idle is None or (mine.size == its.size == 1) or a.kind != b.kind:
        return ""
    for step, side, other, told in ((a, case.ours, its, case.lacks), (b, case.theirs, mine, case.has)):
        if other.size == 1 and float(other.reshape(())) == idle:
            stem, whole = naming.of_single(step, side)
            return stem if whole else told(stem)
    return ""


def _turned_above(case: Case, a: Step, b: Step) -> bool:
    """Whether both sides state the same axes, of a tensor that has two axes of one length the other way round on one
    side: the axes of a picture in another convention are of other lengths."""
    node = case.ours.recording.structure.by_name.get(a.inputs[0]) if a.inputs else None
    axes = case.axes.get(a.inputs[0]) if a.inputs else None
    if node is None or node.shape is None or axes is None or None in axes or len(axes) != len(node.shape):
        return False
    if not all(isinstance(step.settings.get("axes"), tuple | list) for step in (a, b)):
        return False
    rank = len(axes)
    stated = [sorted(axis % rank for axis in step.settings["axes"]) for step in (a, b)]
    moved = [k for k, axis in enumerate(axes) if k != axis]
    return stated[0] == stated[1] and bool(moved) and len({node.shape[k] for k in moved}) == 1


def _of_nothing(case: Case, mine: Any, its: Any) -> str:
    """The other name of a number that is added where the other side adds zero; empty where it adds something."""
    for value, told in ((its, case.lacks), (mine, case.has)):
        if np.size(value) == 1 and not np.any(value):
            return told("bias")
    return ""


_USES = {
    "use_axes": "the axes over which the kernel is normalised", "use_ddof": "ddof of the kernel's variance",
    "use_epsilon": "epsilon of the kernel's deviation", "use_root": "epsilon under the root of the kernel's variance",
    "use_centred": "the mean taken from the kernel as it is used", "use_mask": "the mask of the kernel",
}  # fmt: skip


def _of_use(case: Case, a: Step, b: Step) -> Iterator[Edit]:
    """A kernel that only one side standardises, or makes positive, as it uses it."""
    forms = [step.settings.get("use_form", "plain") for step in (a, b)]
    if forms[0] == forms[1]:
        return
    said = {"plain": "as it is", "unit": "divided by its length"}
    mine, its = (said.get(form, form) for form in forms)
    what = f"the reference uses the kernel of {a.name} {{}}, the candidate {{}}".format(*_ordered(case, mine, its))
    keys = {key for key in (*a.settings, *b.settings) if key.startswith(PREFIX)}
    change = _set(a.name, {key: b.settings.get(key) for key in keys})
    fix = f"use the kernel of {a.name if case.turned_round else b.name} as the reference does"
    values = _ordered(case, *forms)
    yield Edit("weights-perturbed", what, change, a.name, b.name, "use_form", values, fix=fix, seen=True)


_PLAIN = ("shift", "scale", "operation-kind")
"""Causes that an operand of one number is."""
_NEAR = 0.5
"""Correlation from which on a table is another one with other numbers here and there."""


def _is_bias(values: Any) -> bool:
    """Whether what is added to scores weighs them, and hides none."""
    added = np.asarray(values)
    return added.dtype.kind == "f" and bool(added.min(initial=0.0) > masks.LOW) and len(np.unique(added)) > _TWO


_TWO = 2
"""Numbers of which a mask is made."""


def _of_other_table(cause: str, mine: Any, its: Any) -> str:
    """The cause where a tensor that is added or multiplied has nothing of the other's, or differs a little."""
    a, b = np.asarray(mine), np.asarray(its)
    if min(a.size, b.size) < 2 or sum(length > 1 for length in a.shape) < 2:
        return cause
    near = a.size == b.size and relations.correlation(a.reshape(-1), b.reshape(-1)) > _NEAR
    return "weights-perturbed" if near else "operation-kind"


def _computed(case: Case, a: Step, b: Step, given: Step) -> tuple[str, str] | None:
    """What a constant of one side is beside the tensor that the other computes for it."""
    constant = np.asarray((a if "operand" in a.settings else given).settings["operand"])
    side, names = (case.theirs, b.inputs) if "operand" in a.settings else (case.ours, a.inputs)
    for name in names if constant.ndim > 1 else ():
        try:
            values = side.read(name)
        except (TraceError, KeyError):
            continue
        if values.size == constant.size:
            both = (values, constant) if side is case.ours else (constant, values)
            return constants.of_constants(*both)
    return None


def _counted(case: Case, a: Step, b: Step) -> bool:
    """Whether a sum is divided by its number of terms on one side, by the sum of zeros and ones on the other."""
    fixed, side, other, computing = (a, case.ours, b, case.theirs) if "operand" in a.settings else (
        b, case.theirs, a, case.ours
    )  # fmt: skip
    known, number = side.recording.structure.by_name, np.asarray(fixed.settings["operand"], np.float64)
    above = known.get(fixed.inputs[0]) if fixed.inputs else None
    terms = [known[name].shape for name in above.parents if name in known] if above is not None else []
    summed = above is not None and above.kind == "sum" and any(number.size == 1 and float(number.reshape(())) in shape
                                                               for shape in terms if shape)  # fmt: skip
    whole = computing.program
    counts = [step for step in (whole.steps if whole is not None else ()) if step.name == other.inputs[-1]]
    if not summed or len(other.inputs) != 2 or not counts or counts[0].kind not in ("sum", "count_nonzero"):
        return False
    try:
        return bool(np.isin(computing.read(counts[0].inputs[0]), (0, 1)).all())
    except (TraceError, KeyError):
        return False


def _solved_for(case: Case, a: Step, b: Step) -> bool:
    """Whether a constant stands for a tensor that its node does read, of which it makes something else."""
    one, side = (a, case.ours) if "operand" in a.settings else (b, case.theirs)
    node = side.recording.structure.by_name.get(one.name)
    return node is not None and len(node.parents) > len(one.inputs)


def _written_out(step: Step) -> Step:
    """The step with a tensor that it keeps as a weight in place of a constant, as the other side may have it."""
    operand = step.weights.get("operand")
    return step if operand is None else step.weigh(operand=None).set(operand=operand)


def _set(name: str, settings: Mapping[str, Any]) -> Change:
    return of_step(name, lambda step: _written_out(step).set(**settings))


def _apart(first: Any, second: Any) -> str:
    """What one array of numbers or flags is beside another."""
    mine, its = np.asarray(first), np.asarray(second)
    if mine.shape != its.shape:
        return f"another one, of shape {its.shape} and not {mine.shape},"
    if mine.dtype == np.bool_ and np.array_equal(mine, ~its):
        return "the other way round"
    return f"another one, at {int(np.count_nonzero(mine != its))} of {mine.size} places,"


def _of_another(a: Step, b: Step, key: str) -> str:
    """The cause where a setting differs because another one does; empty where it differs for itself."""

    def differs(name: str) -> bool:
        return name in a.settings and name in b.settings and not same_value(a.settings[name], b.settings[name])

    if key in ("align_corners", "coordinates") and differs("mode"):
        modes = {str(step.settings["mode"]) for step in (a, b)}
        return "resize-mode" if any(mode.startswith("nearest") for mode in modes) else ""
    if key == "padding" and differs("pool_size"):
        return "pool-kind"  # a wider window is centred by a wider padding
    kernel = a.weights.get("kernel")
    if key == "padding" and differs("strides") and _goes_with_stride(a, b):
        return "stride-position"
    if key == "padding" and differs("dilation") and kernel is not None and kernel.ndim > 2:
        rank = kernel.ndim - 2
        (mine, wide), (its, wider) = (
            (step.settings["padding"], numbers(step.settings["dilation"], rank)) for step in (a, b)
        )
        more = [(size - 1) * (d - e) for size, d, e in zip(kernel.shape, wide, wider, strict=False)]
        if len(mine) == len(its) == rank and all(
            sum(x) - sum(y) == extra and (x[1] - x[0] == y[1] - y[0] or x[0] == y[0] == 0 or x[1] == y[1] == 0)
            for x, y, extra in zip(mine, its, more, strict=True)
        ):
            return "dilation"  # the padding that keeps the length is another one for a wider kernel
    return ""


def _goes_with_stride(a: Step, b: Step) -> bool:
    """Whether paddings differ only where strides do, and by less than these: what keeps the places is another one."""
    mine, its = (pairs_of(step.settings["padding"]) for step in (a, b))
    steps = [numbers(step.settings["strides"], len(mine)) for step in (a, b)]
    apart = [k for k, (ours, theirs) in enumerate(zip(mine, its, strict=False)) if ours != theirs]
    return len(mine) == len(its) and all(
        steps[0][k] != steps[1][k] and abs(sum(mine[k]) - sum(its[k])) < max(steps[0][k], steps[1][k]) for k in apart
    )


def _same_operation(a: Step, b: Step) -> bool:
    """Whether two kinds are names of one operation that settings tell apart."""
    stems = ("conv", "depthwise_conv")
    if a.kind.startswith(stems) and b.kind.startswith(stems) and "transpose" not in a.kind + b.kind:
        return a.kind[-2:] == b.kind[-2:] and set(a.settings) == set(b.settings)
    both = {a.kind, b.kind}
    if both in _ONE and a.settings.get("mask") is b.settings.get("mask") is None:
        return True
    return both <= {"resize", "upsample"} or both <= {"flatten", "reshape"}


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


def sides(case: Case, verb: str, mine: str, its: str) -> str:
    reference, candidate = _ordered(case, mine, its)
    return f"the reference {verb} {reference}, the candidate {candidate}"


def _ordered(case: Case, mine: Any, its: Any) -> tuple[Any, Any]:
    """The reference's value first."""
    return (its, mine) if case.turned_round else (mine, its)


def same_value(a: Any, b: Any) -> bool:
    """Whether two settings say the same, numbers up to rounding."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape and x.size == y.size:
            y = y.reshape(x.shape)
        return x.shape == y.shape and np.allclose(x, y, rtol=1e-6, atol=1e-12)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_value(value, b[key]) for key, value in a.items())
    if isinstance(a, bool) or isinstance(b, bool):
        return bool(a) == bool(b)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-300)
    return bool(a == b)
