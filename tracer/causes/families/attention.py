"""Attention: scale, mask, heads, and which projection is which."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tracer.causes import naming, operations
from tracer.causes.case import Case, distance
from tracer.causes.edit import Edit
from tracer.causes.families.common import (
    ahead,
    behind,
    inputs,
    is_last,
    made,
    ordered,
    sides,
    snapped,
    solved,
    try_chain,
    try_settings,
    try_step,
    try_weights,
    value,
)
from tracer.causes.operations.attention import PARTS
from tracer.causes.registry import suggests
from tracer.causes.scores import about_heads
from tracer.causes.step import Array, Step

_HIDDEN = -50.0
"""Scores that are lower by so much count for nothing after a softmax."""
_FAR = -1e4
"""Below that a number only says that something is masked."""


@suggests("attention")
def settings(case: Case, step: Step) -> Iterator[Edit]:
    """Another scale, another mask, other heads."""
    own, read = step.settings, inputs(case, step)
    for mask in ("none", "causal"):
        if mask != own.get("mask", "none"):
            yield from try_settings(case, step, "attention-mask", 2.0, {"mask": mask, "kept": None})
    if own.get("mask") == "given":
        for how in ("keep", "drop", "add", "keep_keys", "drop_keys"):
            if how != own.get("given_as"):
                yield from try_settings(case, step, "attention-mask", 2.5, {"given_as": how})
    width = _width(step, read)
    now = own.get("scale")
    usual = [1.0, 1 / math.sqrt(width), 1 / width, *([1 / math.sqrt(read[0].shape[-1])] if read else [])]

    def result(scale: float) -> Array:
        return operations.run(step.set(scale=scale), list(read))

    if is_last(case, step):
        found = solved(result, case.target, usual)
        if found is not None and found[1] <= max(4 * case.bar, 0.3 * case.before):
            bar = max(case.bar, 2 * found[1])
            scale = snapped(found[0], lambda n: distance(result(n), case.target) <= bar, usual)
            what = sides(case, f"the scale of {step.name}", now or 1 / math.sqrt(width), scale)
            yield from try_settings(case, step, "attention-scale", 2.0, {"scale": scale}, what)
    else:
        for scale in dict.fromkeys(usual):
            if not math.isclose(scale, now or 1 / math.sqrt(width)):
                what = sides(case, f"the scale of {step.name}", now or 1 / math.sqrt(width), scale)
                yield from try_settings(case, step, "attention-scale", 2.0, {"scale": scale}, what)
    heads = own.get("heads")
    if isinstance(heads, int) and "query_kernel" not in step.weights:
        features = read[0].shape[-1]
        for count in (n for n in range(1, features + 1) if features % n == 0 and n != heads):
            yield from try_settings(case, step, "head-layout", 2.5, {"heads": count})


def _width(step: Step, read: tuple[Array, ...]) -> int:
    kernel = step.weights.get("query_kernel")
    if kernel is not None:
        return int(kernel.shape[-1])
    heads = int(step.settings.get("heads", 1) or 1) if step.settings.get("layout", "joined") == "joined" else 1
    return max(1, int(read[0].shape[-1]) // heads)


@suggests("attention")
def projections(case: Case, step: Step) -> Iterator[Edit]:
    """Queries, keys and values exchanged; heads and their features the other way round."""
    who = case.doer
    given = tuple(step.settings.get("order", PARTS))
    for order in itertools.permutations(given):
        if order != given and len(step.inputs) >= len(given):
            what = f"the {who} gives {step.name} {', '.join(order)} in place of {', '.join(given)}"
            yield from try_settings(case, step, "qkv-order", 2.5, {"order": order}, what)
    for order in itertools.permutations(PARTS):
        pairs = [(a, b) for a, b in zip(PARTS, order, strict=True) if a != b]
        changed: dict[str, Array | None] = {}
        for a, b in pairs:
            for role in ("kernel", "bias"):
                mine, other = step.weights.get(f"{a}_{role}"), step.weights.get(f"{b}_{role}")
                if mine is not None and other is not None and mine.shape == other.shape:
                    changed[f"{a}_{role}"] = other
        if changed:
            taken, place = (", ".join(words) for words in zip(*((b, a) for a, b in pairs), strict=True))
            what = f"the {who} takes the {taken} of {step.name} for {place}"
            yield from try_weights(case, step, "qkv-order", 2.5, what, changed)
    for part in (*PARTS, "output"):
        bias = step.weights.get(f"{part}_bias")
        if bias is not None and np.any(bias):
            cause, whole = case.lacks("bias"), "outputs" if part == "output" else f"{part} projection"
            fix = f"add the reference's bias to the {whole}" if cause.endswith("missing") else f"{whole} without a bias"
            what, none = f"the {who} adds no bias to the {whole} of {step.name}", {f"{part}_bias": np.zeros_like(bias)}
            yield from try_weights(case, step, cause, 2.4, what, dict(none), fix=fix)
    for parts in (PARTS, ("query",), ("key",), ("value",), ("query", "key"), ("output",), (*PARTS, "output")):
        changed = {}
        for part in parts:
            for role in ("kernel", "bias"):
                weight = step.weights.get(f"{part}_{role}")
                if weight is None or (part == "output" and role == "bias"):
                    continue
                start = 0 if role == "bias" or part == "output" else 1
                heads, features = weight.shape[start : start + 2]
                flat = weight.reshape(*weight.shape[:start], features, heads, *weight.shape[start + 2 :])
                changed[f"{part}_{role}"] = np.swapaxes(flat, start, start + 1)
        if changed:
            what = (
                f"the {who} takes heads and features of a head the other way round in {step.name} ({', '.join(parts)})"
            )
            yield from try_weights(case, step, "head-layout", 3.0, what, changed)


def before_softmax(case: Case, step: Step, far: int = 4) -> bool:
    """Whether what a step gives reaches a softmax soon: it is about scores then."""
    structure = case.ours.recording.structure
    front = {step.name}
    for _ in range(far):
        front = {child for name in front for child in structure.children.get(name, ())}
        if any(structure.by_name[name].kind in ("softmax", "log_softmax") for name in front):
            return True
    return False


def is_mask(values: Array) -> bool:
    """Whether what is added to scores hides some of them: lower than any score, or nothing where it is not low."""
    hidden = values <= _HIDDEN
    return bool(hidden.any() and (values.min() <= _FAR or not np.any(values[~hidden])))


@suggests("softmax", "matmul", "add", "where", "masked_fill", "mul", "div")
def scores(case: Case, step: Step) -> Iterator[Edit]:
    """Hand-written attention: a mask that only one side has, a scale that only one side applies."""
    if step.kind != "softmax" and not before_softmax(case, step):
        return
    read, who = inputs(case, step), case.doer
    if step.kind == "softmax":
        yield from _causal(case, step, read[0])
        return
    for k, name in enumerate(step.inputs):
        others = [x for j, x in enumerate(read) if j != k and x.dtype.kind == "f"]
        given = step.settings.get("operand")
        others += [np.asarray(given, np.float64)] if given is not None else []
        masks = step.kind in ("where", "masked_fill") or (step.kind == "add" and any(map(is_mask, others)))
        if read[k].shape == value(case, step).shape and read[k].dtype.kind == "f":
            if step.kind in ("where", "masked_fill"):
                yield from _otherwise(case, step, name)
            cause = "attention-mask" if masks else "attention-scale"
            if not masks and step.kind == "add":
                continue
            bare = Step(step.name, "identity", {}, {}, (name,), None)
            what = f"the {who} leaves out the {'mask' if masks else 'scale'} {step.name}"
            yield from try_chain(case, step, (bare,), cause, what, 1.9)
    if is_last(case, step) and value(case, step).shape == case.target.shape:
        yield from _factor(case, step)


def _otherwise(case: Case, step: Step, name: str) -> Iterator[Edit]:
    """A mask the other way round, of queries in place of keys, or multiplied in place of filled in."""
    condition = step.settings.get("condition")
    if condition is None or "inferred" not in step.settings:
        return
    hidden, who = np.asarray(condition, bool), case.doer
    far = step.settings.get("other", -np.inf)
    bottom = float(np.min(np.asarray(far, np.float64), initial=0.0))
    if bottom > _HIDDEN:
        return
    scores = value(case, step)
    hidden = np.broadcast_to(scores <= bottom, scores.shape) if scores.shape == hidden.shape else hidden
    tries = [("the other way round", ~hidden)]
    if hidden.ndim > 1 and hidden.shape[-1] == hidden.shape[-2]:
        tries.append(("of queries in place of keys", np.swapaxes(hidden, -1, -2)))
        tries.append(("of what lies ahead as well", hidden | ~np.tri(hidden.shape[-1], dtype=bool)))
    for words, changed in tries:
        chain = (Step(step.name, "where", {"condition": changed, "chosen": bottom, "order": ("other",)}, {}, (name,)),)
        yield from try_chain(case, step, chain, "attention-mask", f"the {who} has the mask {step.name} {words}", 2.2)
    chain = (Step(step.name, "mul", {"operand": np.where(hidden, 0.0, 1.0)}, {}, (name,)),)
    what = f"the {who} multiplies the scores by the mask, where the {case.other} fills in {naming.said(bottom)}"
    yield from try_chain(case, step, chain, "attention-mask", what, 2.2)


def _factor(case: Case, step: Step) -> Iterator[Edit]:
    found, target = value(case, step), case.target
    usable = np.isfinite(found) & np.isfinite(target) & (np.abs(found) < -_FAR) & (np.abs(target) < -_FAR)
    size = float(np.vdot(found[usable], found[usable]))
    if not size:
        return
    factor = float(np.vdot(found[usable], target[usable])) / size
    if distance(found[usable] * factor, target[usable]) > 4 * case.bar or abs(factor - 1) < 1e-6:
        return
    factor = snapped(factor, lambda n: distance(found[usable] * n, target[usable]) <= case.bar)
    square = max(factor, 1 / factor) ** 2 if factor > 0 else 0.5
    how = ""
    if abs(square - round(square)) < 1e-4 * square:
        how = f" = {'' if factor > 1 else '1/'}√{round(square)}"
    what = f"the {case.doer} multiplies the scores {step.name} by {naming.said(factor)}{how}"
    chain = (replace(step, name=f"{step.name}~0"), Step(step.name, "mul", {"operand": factor}, {}, (f"{step.name}~0",)))
    yield from try_chain(case, step, chain, "attention-scale", what, 3.0)


def _causal(case: Case, step: Step, x: Array) -> Iterator[Edit]:
    if x.ndim < 3 or not isinstance(step.settings.get("axis"), int) or step.settings["axis"] % x.ndim != x.ndim - 1:
        return
    keep = np.tri(x.shape[-2], x.shape[-1], dtype=bool)
    mask = np.where(keep, 0.0, -np.inf)
    what = f"the {case.doer} masks what lies ahead in {step.name} (causal)"
    yield from try_chain(case, step, ahead(step, made("add", operand=mask)), "attention-mask", what, 2.5)


@suggests("matmul", "dot")
def products(case: Case, step: Step) -> Iterator[Edit]:
    """A factor of a product transposed, or the other way round."""
    cause = "head-layout" if about_heads(case.ours.recording.structure, step) else "axis-permutation"
    for key in ("transpose_a", "transpose_b"):
        if key in step.settings or step.settings.get("equation") is None:
            now = bool(step.settings.get(key))
            what = sides(case, f"{key} of {step.name}", now, not now)
            yield from try_settings(case, step, cause, 2.5, {key: not now}, what)
    shape = value(case, step).shape
    if len(shape) > 1 and shape[-1] == shape[-2] and before_softmax(case, step):
        order = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
        chain = behind(case, step, made("permute", permutation=order))
        what = f"the {case.doer} takes queries for keys in {step.name}: its scores are the transposed ones"
        yield from try_chain(case, step, chain, "qkv-order", what, 2.5)
    if len(step.inputs) == 2:
        turned = replace(step, inputs=step.inputs[::-1])
        values = ordered(case, "a · b", "b · a")
        yield from try_step(case, step, turned, "qkv-order", f"{step.name} is {values[0]} in the reference, {values[1]} in the candidate", 3.0)  # noqa: E501  # fmt: skip
