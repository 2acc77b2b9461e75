"""Programs in a plain form: what two frameworks write differently and compute alike is written one way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from tracer import kinds
from tracer.causes import operations
from tracer.causes.cropped import uncropped
from tracer.causes.step import GIVEN, Array, Program, Step, Unknown, numbers, pairs_of
from tracer.causes.written import as_operations, multiplier, without_idle

_LOWEST = -1e4
"""A number of padding that no maximum ever is; of a score, that it is masked."""
_NOTHING = 1e-6
"""What is added to scores, at most, where nothing is."""


def simplified(program: Program) -> Program:
    """The program with padding that a layer of its own does as part of the convolution or pooling that reads it, a
    convolution that is cropped as one that is padded less, activations and deviations that are written out as such;
    what is computed of constants alone is one."""
    program = as_operations(_with_constants(program))
    for step in program.steps:
        if step.kind != "pad":
            continue
        readers = [other for other in program.steps if step.name in other.inputs]
        if len(readers) != 1 or step is program.last:
            continue
        whole = _padded(step, readers[0])
        if whole is not None:
            kept = (whole if other is readers[0] else other for other in program.steps if other is not step)
            program = Program(tuple(kept))
    for step in program.steps:
        if step.kind == "slice" and step.inputs[0] in {one.name for one in program.steps}:
            program = uncropped(program, step)
    return _stacked(program)


def _stacked(program: Program) -> Program:
    """The program with stacks that are joined along the axis that they make as one stack of all."""
    for step in program.steps:
        parts = [one for name in step.inputs for one in program.steps if one.name == name and one.kind == "stack"]
        if step.kind != "concat" or len(parts) != len(step.inputs) or step.shape is None or not parts:
            continue
        axes = {int(one.settings["axis"]) % len(step.shape) for one in (step, *parts)}
        readers = [one.name for one in program.steps for name in one.inputs if name in step.inputs]
        if len(axes) == 1 and len(readers) == len(parts):
            whole = replace(step, kind="stack", inputs=tuple(name for one in parts for name in one.inputs))
            program = Program(tuple(whole if one is step else one for one in program.steps if one not in parts))
    return program


def _with_constants(program: Program) -> Program:
    """With what is made of constants alone as a constant, which is the operand of what it is added to or multiplied
    by: one side may have the sines of the places as a table, where the other computes them."""
    made: dict[str, Array] = {}
    steps: list[Step] = []
    for step in program.steps:
        some = step.kind == "full" or (bool(step.inputs) and all(name in made for name in step.inputs))
        if some and not step.weights and step is not program.last and GIVEN not in step.settings:
            try:
                made[step.name] = operations.run(step, [made[name] for name in step.inputs if name in made])
                step = Step(step.name, "full", {"value": made[step.name], "inferred": True}, shape=step.shape)
            except Unknown:
                pass
        steps.append(_on_constant(step, made))
    return without_idle(Program(tuple(steps))) if made else program


def _on_constant(step: Step, made: Mapping[str, Array]) -> Step:
    fixed = [name in made for name in step.inputs]
    if step.kind == "matmul" and "equation" in step.settings and sum(fixed) == 1 and len(fixed) == len(_BOTH):
        operand, left = made[step.inputs[fixed.index(True)]], step.inputs[fixed.index(False)]
        return replace(step, inputs=(left,)).set(operand=operand, side=_BOTH[fixed.index(True)], inferred=True)
    if step.kind not in ("add", "sub", "mul", "div") or len(fixed) != 2 or sum(fixed) != 1 or "order" in step.settings:
        return step
    side, other = ("left", 1) if fixed[0] else ("right", 0)
    operand = made[step.inputs[1 - other]]
    if step.shape is not None and np.broadcast_shapes(operand.shape, step.shape) != step.shape:
        return step
    return replace(step, inputs=(step.inputs[other],)).set(operand=operand, side=side, inferred=True)


_BOTH = ("left", "right")


def _padded(pad: Step, step: Step) -> Step | None:
    """A convolution or pooling that pads as ``pad`` does before it; None where it cannot."""
    if not step.kind.startswith(("conv", "depthwise_conv", "separable_conv", "max_pool", "avg_pool")):
        return None
    if step.kind.startswith("conv_transpose") or len(step.inputs) != 1:
        return None
    rank, settings = int(step.kind[-2]), step.settings
    around, mode = pairs_of(pad.settings["padding"]), str(pad.settings.get("padding_mode", "zeros"))
    own = pairs_of(settings.get("padding") or [(0, 0)] * rank)
    channels = int(settings.get("channels", -1)) % len(around)
    spatial = [pair for axis, pair in enumerate(around) if axis not in (0, channels)]
    if len(around) != rank + 2 or around[0] != (0, 0) or around[channels] != (0, 0):
        return None
    plain = not any(map(any, own)) and not any(numbers(settings.get("ceil", 0), rank))
    value = float(pad.settings.get("value") or 0.0) if mode in ("zeros", "constant") else 0.0
    zeros = mode in ("zeros", "constant") and not value
    if step.kind.startswith("max_pool") and value <= _LOWEST and plain:
        return replace(step, inputs=pad.inputs, settings={**settings, "padding": tuple(spatial)})
    if value:
        return None
    if step.kind.startswith(("max_pool", "avg_pool")):
        if not (zeros and plain):
            return None
        counts = {"pad_value": 0.0} if step.kind.startswith("max") else {"count_include_pad": True}
        return replace(step, inputs=pad.inputs, settings={**settings, "padding": tuple(spatial), **counts})
    if not zeros and not plain:
        return None
    if zeros and str(settings.get("padding_mode", "zeros")) != "zeros" and not plain:
        return None
    together = tuple((a + c, b + d) for (a, b), (c, d) in zip(spatial, own, strict=True))
    mode = "zeros" if zeros else mode
    return replace(step, inputs=pad.inputs, settings={**settings, "padding": together, "padding_mode": mode})


def as_attention(program: Program, shape: Callable[[str], tuple[int, ...] | None]) -> Program | None:
    """The program with products of queries and keys, their softmax and the product with the values as one step, as the
    function that a framework has for it; None where there are none. ``shape`` knows the shapes of tensors.

    Heads stand before steps and features; what is added to the scores is taken for their mask.
    """
    steps = {step.name: step for step in program.steps}
    for last in program.steps:
        if last.kind == "matmul" and len(last.inputs) == 2 and not last.settings.get("equation"):
            chain = _to_scores(steps, last)
            whole = None if chain is None else _attending(steps, last, chain, shape)
            if whole is not None:
                return without_idle(Program(tuple(whole if step is last else step for step in program.steps)))
    return None


def _to_scores(steps: dict[str, Step], last: Step) -> list[Step] | None:
    """From the product with the values back to that of queries and keys, which comes last; None where there is none."""
    if last.settings.get("transpose_a") or last.settings.get("transpose_b"):
        return None
    chain, name = [last], last.inputs[0]
    while name in steps and len(chain) < _LONG:
        step = steps[name]
        chain.append(step)
        if step.kind == "matmul":
            return chain if any(one.kind == "softmax" for one in chain) else None
        if not step.inputs:
            return None
        name = step.inputs[0]
    return None


_LONG = 12


def _attending(
    steps: dict[str, Step], last: Step, chain: list[Step], shape: Callable[[str], tuple[int, ...] | None]
) -> Step | None:
    product = chain[-1]
    if len(product.inputs) != 2 or product.settings.get("transpose_a") or product.settings.get("equation"):
        return None
    query, key = product.inputs
    if not product.settings.get("transpose_b"):
        turned = steps.get(key)
        if turned is None or turned.kind != "permute":
            return None
        order = tuple(turned.settings["permutation"])
        if order != (*range(len(order) - 2), len(order) - 1, len(order) - 2):
            return None
        key = turned.inputs[0]
    scale, mask, over = 1.0, np.zeros(()), ""
    scaled = steps.get(query)
    if scaled is not None and (factor := multiplier(scaled)) is not None:
        scale, query = factor, scaled.inputs[0]
    softmax = next(place for place, step in enumerate(chain) if step.kind == "softmax")
    for place, step in reversed(list(enumerate(chain[1:-1], 1))):
        factor = multiplier(step)
        operand = step.settings.get("operand")
        if step.kind in kinds.UNCHANGED:
            continue
        if place == softmax and (over := _over(step, len(last.shape or ()))):
            continue
        if place < softmax or len(step.inputs) != 1:
            return None
        if factor is not None and not np.any(mask):
            scale *= factor
        elif step.kind == "add" and operand is not None:
            mask = mask + np.asarray(operand, np.float64)
        else:
            return None
    width = shape(query)
    usual = width is not None and abs(scale * np.sqrt(width[-1]) - 1) < 1e-5
    settings = {
        "scale": None if usual else scale, "layout": "heads_first", "order": ("query", "key", "value"), "over": over,
    }  # fmt: skip
    return Step(
        last.name, "attention", {**settings, **_masking(mask)}, {}, (query, key, last.inputs[1]), last.shape,
        last.source,
    )  # fmt: skip


def unmerged(program: Program, other: Program) -> Program | None:
    """The program with the two directions of a recurrent layer beside one another where they are added, averaged or
    multiplied, and then that of their halves, where ``other`` has it so; None where nothing is merged."""
    beside = any(step.settings.get("merge_mode") == "concat" for step in other.steps)
    for step in program.steps if beside else ():
        joining = _MERGED.get(str(step.settings.get("merge_mode")), ())
        if step.settings.get("bidirectional") and any(one.kind in joining for one in other.steps):
            parts = _in_halves(step)
            last = {step.name: parts[-1].name}
            behind = program.steps.index(step)
            read = (replace(one, inputs=tuple(last.get(name, name) for name in one.inputs))
                    for one in program.steps[behind + 1 :])  # fmt: skip
            return Program((*program.steps[:behind], *parts, *read))
    return None


_MERGED = {"sum": ("add",), "ave": ("add", "average"), "mul": ("mul",)}


def _in_halves(step: Step) -> tuple[Step, ...]:
    width = (step.shape or step.weights["recurrent_kernel"].shape)[-1]
    mode = step.settings["merge_mode"]
    halves = [
        Step(f"{step.name}, {word}", "split", {"axis": -1, "start": start, "stop": start + width}, {}, (step.name,))
        for word, start in (("forward", 0), ("backward", width))
    ]
    names = tuple(half.name for half in halves)
    joined = Step(f"{step.name}, {mode}", "mul" if mode == "mul" else "add", {}, {}, names, step.shape, step.source)
    whole = (replace(step.set(merge_mode="concat"), shape=None), *halves, joined)
    if mode != "ave":
        return whole
    half = {"operand": 2.0, "side": "right"}
    return *whole, Step(f"{step.name}, mean", "div", half, {}, (joined.name,), step.shape, step.source)


def _over(softmax: Step, rank: int) -> str:
    """Whether scores are made one over the keys of each query, or over the queries; empty for anything else."""
    axis = softmax.settings.get("axis")
    return "keys" if axis in (-1, rank - 1) else "queries" if axis in (-2, rank - 2) else ""


def _masking(mask: Array) -> dict[str, object]:
    if np.abs(mask).max(initial=0.0) < _NOTHING:
        return {"mask": "none"}
    if mask.ndim > 1 and mask.shape[-1] == mask.shape[-2]:
        hidden = np.broadcast_to(~np.tri(mask.shape[-1], dtype=bool), mask.shape)
        if np.array_equal(mask <= _LOWEST, hidden) and np.abs(mask[~hidden]).max() < _NOTHING:
            return {"mask": "causal"}
    return {"mask": "given", "given": mask, "given_as": "add"}
