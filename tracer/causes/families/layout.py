"""Order: of axes, of what is flattened or joined, of channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from tracer import kinds, relations
from tracer.causes import masks
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
    try_chain,
    try_settings,
    value,
)
from tracer.causes.registry import suggests
from tracer.causes.scores import about_heads
from tracer.causes.step import Array, Step

_MOST = 24
_FEW = 6
"""Parts that are joined, of which every order is tried."""


def _orders(rank: int) -> list[tuple[int, ...]]:
    """All orders of the axes behind the batch."""
    return [(0, *order) for order in itertools.permutations(range(1, rank))] if rank <= 5 else []


def _same_values(case: Case, step: Step) -> bool:
    """Whether what is to come out holds the same numbers; nothing of order is asked where it does not."""
    found = value(case, step)
    return is_last(case, step) and relations.same_values(found, case.target)


_QKV = 3
"""Queries, keys and values that lie in one tensor."""


@suggests("flatten", "reshape")
def flattened(case: Case, step: Step) -> Iterator[Edit]:
    """Another order of the axes before values are laid out anew, or behind that."""
    x = inputs(case, step)[0]
    if is_last(case, step) and not _same_values(case, step):
        return
    cause = "flatten-order" if step.kind == "flatten" or value(case, step).ndim < x.ndim else "reshape-order"
    ranks = value(case, step).ndim, x.ndim
    if min(ranks) >= 3 and abs(ranks[0] - ranks[1]) == 1 and about_heads(case.ours.recording.structure, step):
        cause = "head-layout"
    beside = cause if cause == "head-layout" else "reshape-order"
    if value(case, step).ndim == x.ndim + 2 and _QKV in value(case, step).shape[1:] and (
        about_heads(case.ours.recording.structure, step)
    ):  # fmt: skip
        beside = "qkv-order"
    now = step.settings.get("permutation") or tuple(range(x.ndim))
    shape = tuple(step.settings["shape"])
    for order in _orders(x.ndim):
        if order != tuple(now):
            words = ordered(case, _axes(x.shape, now), _axes(x.shape, order))
            what = f"{step.name} reads its axes in the order {words[0]} in the reference, {words[1]} in the candidate"
            yield from try_settings(case, step, cause, 2.0, {"permutation": order}, what)
    goal = case.target.shape if is_last(case, step) else value(case, step).shape
    for order in _orders(len(goal)):
        inside = tuple(goal[axis] for axis in order)
        if order == tuple(range(len(goal))):
            continue
        back = tuple(int(axis) for axis in np.argsort(order))
        first = step.set(shape=(shape[0], *inside[1:]) if len(shape) == len(inside) else inside, permutation=None)
        chain = behind(case, first, made("permute", permutation=back))
        what = f"the {case.doer} fills {step.name} in another order of its axes: as {inside}, then moved"
        yield from try_chain(
            case, step, chain, beside, what, 2.5, same=("head-layout",) if beside == "qkv-order" else ()
        )
    if max(x.ndim, len(goal)) <= 4 and len(goal) > 2:
        for first_order, order in itertools.product(_orders(x.ndim), _orders(len(goal))):
            inside = tuple(goal[axis] for axis in order)
            back = tuple(int(axis) for axis in np.argsort(order))
            if first_order == tuple(range(x.ndim)) or order == tuple(range(len(goal))):
                continue
            chain = behind(case, step.set(shape=inside, permutation=first_order), made("permute", permutation=back))
            what = f"the {case.doer} reads and fills {step.name} in another order of its axes"
            yield from try_chain(case, step, chain, beside, what, 3.5)


def _axes(shape: Sequence[int], order: Sequence[int]) -> str:
    return f"({', '.join(str(shape[axis]) for axis in order[1:])})"


@suggests("permute")
def permuted(case: Case, step: Step) -> Iterator[Edit]:
    """Another order, or none."""
    x = inputs(case, step)[0]
    now = tuple(int(axis) % x.ndim for axis in step.settings["permutation"])
    for order in _orders(x.ndim):
        if order != now:
            yield from try_settings(case, step, "axis-permutation", 2.0, {"permutation": order})
    shape = value(case, step).shape
    if math.prod(shape) == x.size:
        bare = Step(step.name, "reshape", {"shape": shape}, {}, step.inputs, step.shape)
        what = f"the {case.doer} reshapes where the {case.other} moves axes in {step.name}"
        yield from try_chain(case, step, (bare,), "reshape-order", what, 2.5)


@suggests("pixel_shuffle", "pixel_unshuffle")
def shuffled(case: Case, step: Step) -> Iterator[Edit]:
    """Which part of the channels is the place within a block."""
    other = "dcr" if step.settings.get("order", "crd") == "crd" else "crd"
    words = {"crd": "channels slowest (PyTorch)", "dcr": "channels fastest (TensorFlow)"}
    reference, candidate = ordered(case, words["crd" if other == "dcr" else "dcr"], words[other])
    what = f"{step.name} orders its channels with {reference} in the reference, {candidate} in the candidate"
    yield from try_settings(case, step, "depth-to-space-order", 2.0, {"order": other}, what)
    x = inputs(case, step)[0]
    channels = int(step.settings["channels"]) % x.ndim
    size = x.shape[channels]
    for factor in [f for f in range(2, size) if size % f == 0][:_MOST]:
        order = np.arange(size).reshape(factor, -1).T.reshape(-1)
        chain = _picked(step, channels, order)
        what = f"the {case.doer} reads the channels of {step.name} in another order"
        yield from try_chain(case, step, chain, "depth-to-space-order", what, 2.5)


def _picked(step: Step, axis: int, order: Array, place: int = 0) -> tuple[Step, ...]:
    """A step that reads an axis of an input in another order."""
    first = Step(f"{step.name}~in{place}", "gather", {"axis": axis, "indices": order}, {}, (step.inputs[place],))
    reads = tuple(first.name if k == place else name for k, name in enumerate(step.inputs))
    return first, Step(step.name, step.kind, step.settings, step.weights, reads, step.shape, step.source)


@suggests("concat", "stack")
def joined(case: Case, step: Step) -> Iterator[Edit]:
    """The parts in another order, or along another axis."""
    parts = tuple(step.settings.get("order") or range(len(step.inputs)))
    found = value(case, step)
    if len(parts) > _FEW and step.kind == "concat" and is_last(case, step) and found.shape == case.target.shape:
        axis = int(step.settings["axis"]) % found.ndim
        perm = relations.permutation(found, case.target, axis)
        if perm is not None:
            chain = behind(case, step, made("gather", axis=axis, indices=perm))
            what = f"the parts of {step.name} are in another order in the {case.doer}"
            yield from try_chain(case, step, chain, "concat-order", what, 2.0)
            return
    if 1 < len(parts) <= _FEW:
        for order in itertools.islice(itertools.permutations(parts), 1, 720):
            if not _first_fits(case, step, order):
                continue
            what = f"the parts of {step.name} are in the order {order} in the {case.doer}"
            yield from try_settings(case, step, "concat-order", 2.0, {"order": order}, what)
    x = inputs(case, step)[0] if step.inputs else value(case, step)
    for axis in range(1, x.ndim + (step.kind == "stack")):
        if axis != int(step.settings["axis"]) % value(case, step).ndim:
            yield from try_settings(case, step, "concat-order", 2.5, {"axis": axis})


def _first_fits(case: Case, step: Step, order: Sequence[object]) -> bool:
    """Whether the first part is what begins the result; true where that is not known."""
    if not is_last(case, step) or not isinstance(order[0], int) or order[0] >= len(step.inputs):
        return True
    part, axis = inputs(case, step)[order[0]], int(step.settings["axis"])
    head = np.take(case.target, [0] if step.kind == "stack" else range(part.shape[axis]), axis)
    head = head[(slice(None),) * (axis % case.target.ndim) + (0,)] if step.kind == "stack" else head
    return head.shape != part.shape or distance(part, head) <= 4 * case.bar


@suggests("roll", "flip", "slice", "split")
def moved(case: Case, step: Step) -> Iterator[Edit]:
    """The other end, the other direction."""
    x = inputs(case, step)[0]
    if step.kind == "roll":
        shifts = step.settings["shifts"]
        other = [-s for s in shifts] if isinstance(shifts, tuple | list) else -shifts
        yield from try_settings(case, step, "shift", 2.0, {"shifts": other})
        yield from try_settings(
            case, step, "shift", 2.5, {"shifts": 0 if isinstance(shifts, int) else [0] * len(shifts)}
        )
    if step.kind == "flip":
        bare = Step(step.name, "identity", {}, {}, step.inputs[:1], step.shape)
        cause = "rnn-direction" if _of_sequence(case, step) else "axis-permutation"
        yield from try_chain(case, step, (bare,), cause, f"the {case.doer} does not flip {step.name}", 2.0)
    if step.kind == "split":
        width = int(step.settings["stop"]) - int(step.settings["start"])
        length = x.shape[int(step.settings["axis"])]
        heads = about_heads(case.ours.recording.structure, step)
        part = "qkv-order" if heads else "rnn-direction" if _of_sequence(case, step) else "channel-order"
        for start in itertools.islice(range(0, length - width + 1, max(1, width)), _MOST):
            if start != step.settings["start"]:
                what = f"the {case.doer} takes the part from {start} on in {step.name}"
                settings = {"start": start, "stop": start + width}
                yield from try_settings(case, step, part, 2.5, settings, what)
    if step.kind == "slice":
        yield from _picks(case, step, x)


def _of_sequence(case: Case, step: Step) -> bool:
    """Whether a step reads what a recurrent layer gives, or a part of it."""
    known = case.ours.recording.structure.by_name
    names = set(step.inputs)
    for _ in range(3):
        above = [known[name] for name in names if name in known]
        if any(node.kind in ("lstm", "gru", "rnn") for node in above):
            return True
        names = {parent for node in above for parent in node.parents}
    return False


def _picks(case: Case, step: Step, x: Array) -> Iterator[Edit]:
    index = list(step.settings["index"])
    for place, part in enumerate(index):
        if isinstance(part, int) and place < x.ndim:
            length = x.shape[place]
            # The first against the last comes first: of a sequence, the step that is handed on.
            for other in dict.fromkeys((0, length - 1, *range(min(length, _MOST)))):
                if other != part % length:
                    changed = tuple(other if k == place else p for k, p in enumerate(index))
                    what = sides(case, f"what {step.name} takes of its axis {place}", part, other)
                    cause = "rnn-last-step" if {other, part % length} == {0, length - 1} else "shift"
                    yield from try_settings(case, step, cause, 2.0, {"index": changed}, what)
        elif isinstance(part, tuple | list) and place < x.ndim:
            start, stop, by = slice(*part).indices(x.shape[place])
            for move in (-2, -1, 1, 2):
                if start + move >= 0 and stop + move <= x.shape[place] and by == 1:
                    new = (start + move, stop + move, 1)
                    changed = tuple(new if k == place else p for k, p in enumerate(index))
                    what = f"the {case.doer} takes {step.name} {move:+d} further along axis {place}"
                    yield from try_settings(case, step, "shift", 2.5, {"index": changed}, what)


@suggests()
def anywhere(case: Case, step: Step) -> Iterator[Edit]:
    """The result by moved, reversed or reordered axes: last, whatever the step is."""
    if not is_last(case, step):
        return
    found, target = value(case, step), case.target
    if found.shape != target.shape or case.before <= case.bar or not relations.same_values(found, target):
        return
    masking = masks.makes_mask(step, case.ours)
    for order in relations.orders(found.shape):
        if tuple(found.shape[axis] for axis in order) == target.shape:
            chain = behind(case, step, made("permute", permutation=order))
            what = f"what {step.name} gives has its axes in another order in the {case.doer}: {order}"
            cause = "attention-mask" if masking else "axis-permutation"
            yield from try_chain(case, step, chain, cause, what, 8.0)
    for order in itertools.islice(relations.orders(found.shape), _MOST):
        if (
            found.transpose(order).shape != target.shape
            and distance(found.transpose(order).reshape(target.shape), target) <= 4 * case.bar
        ):
            chain = behind(case, step, made("reshape", permutation=order, shape=target.shape))
            what = f"what {step.name} gives is laid out in another order in the {case.doer}: {order}"
            yield from try_chain(case, step, chain, "reshape-order", what, 8.0)
    for axis in range(1, found.ndim):
        length = found.shape[axis]
        chain = behind(case, step, made("flip", axes=(axis,)))
        backwards = f"what {step.name} gives runs backwards along axis {axis} in the {case.doer}"
        of_channels = length <= 4 or axis == int(step.settings.get("channels", -1)) % found.ndim
        recurrent = step.kind in ("lstm", "gru", "rnn")
        cause = "rnn-direction" if recurrent else "channel-order" if of_channels else "shift"
        told = list(try_chain(case, step, chain, cause, backwards, 8.0))
        yield from told
        perm = relations.permutation(found, target, axis)
        if perm is not None and not np.array_equal(perm, np.arange(length)):
            if told and np.array_equal(perm, np.arange(length)[::-1]):
                continue
            chain = behind(case, step, made("gather", axis=axis, indices=perm))
            cause = "head-layout" if step.kind in ("matmul", "attention") else "channel-order"
            if step.settings.get("bidirectional") and relations.blocks(perm) == (1, 0):
                cause = "rnn-direction"
            if step.kind == "concat" and axis == int(step.settings["axis"]) % found.ndim:
                cause = "concat-order"
            factors = relations.factored(perm)
            if factors and cause == "channel-order" and _merged(case, found.shape[axis]):
                cause = "reshape-order"
            how = f": as {factors[0]} read in the order {factors[1]}" if factors else ""
            what = f"what {step.name} gives stands in another order along axis {axis} in the {case.doer}{how}"
            yield from try_chain(case, step, chain, cause, what, 8.0)


def _merged(case: Case, length: int) -> bool:
    """Whether nothing but reshapes and moves of axes makes the result, on either side, and of several axes one of that
    length: what stands in another order there are these."""
    for side in (case.ours, case.theirs):
        steps = () if side.program is None else side.program.steps
        if steps and all(step.kind in kinds.LAYOUT_ONLY for step in steps):
            known = side.recording.structure.by_name
            for step in steps:
                before = known[step.inputs[0]].shape if step.inputs and step.inputs[0] in known else None
                if step.kind not in ("reshape", "flatten") or before is None or step.shape is None:
                    continue
                if length in step.shape and length not in before and len(before) > len(step.shape):
                    return True
    return False


@suggests()
def relaid(case: Case, step: Step) -> Iterator[Edit]:
    """The result as a reshape lays it out where axes had to be moved, whatever these were: heads, states, patches."""
    if not is_last(case, step):
        return
    found, target = value(case, step), case.target
    if found.shape != target.shape or case.before <= case.bar or not relations.same_values(found, target):
        return
    order = relations.permutation(found.reshape(-1, 1), target.reshape(-1, 1), 0)
    if order is None:
        return
    # What stays together is one thing: the numbers of a head, of a state.
    width = math.gcd(*(length for _, length in relations.runs(order)))
    axes = relations.factored(order[::width] // width)
    if axes is None:
        return
    chain = behind(
        case, step, made("reshape", shape=(*axes[0], width)), made("permute", permutation=(*axes[1], len(axes[1]))),
        made("reshape", shape=found.shape),
    )  # fmt: skip
    what = f"the {case.doer} lays what {step.name} gives out in another order: {axes[0]} read in the order {axes[1]}"
    yield from try_chain(case, step, chain, "reshape-order", what, 7.0)


@suggests(*kinds.CONVOLUTIONS, "dense", "batchnorm")
def channels(case: Case, step: Step) -> Iterator[Edit]:
    """What a layer reads, with its channels in another order: few of them, or in halves and thirds."""
    x = inputs(case, step)[0]
    axis = int(step.settings.get("channels", -1)) % x.ndim
    size = x.shape[axis]
    orders: list[Array] = []
    if 1 < size <= 4:
        orders += [np.asarray(o) for o in itertools.islice(itertools.permutations(range(size)), 1, None)]
    elif size > 4:
        orders.append(np.arange(size)[::-1])
        orders += [np.roll(np.arange(size), size // 2)] if size % 2 == 0 else []
    for order in orders:
        words = (
            "backwards (RGB against BGR)"
            if size == 3 and order[0] == 2 and order[1] == 1
            else f"as {order.tolist()[:8]}"
        )
        what = f"the {case.doer} reads the channels of {step.name} {words}"
        cost = 3.0 if np.array_equal(order, np.arange(size)[::-1]) else 4.0
        yield from try_chain(case, step, _picked(step, axis, order), "channel-order", what, cost)


@suggests(*kinds.CONVOLUTIONS, *kinds.POOLS, "upsample", "resize", "matmul")
def axes(case: Case, step: Step) -> Iterator[Edit]:
    """What a layer reads, with axes of one length exchanged: a missing permute, or one too many."""
    for place, x in enumerate(inputs(case, step)):
        for order in relations.orders(x.shape, range(1, x.ndim)) if x.ndim <= 5 else ():
            if tuple(x.shape[axis] for axis in order) == x.shape:
                what = f"the {case.doer} reads {step.inputs[place]} in {step.name} with its axes in the order {order}"
                chain = ahead(step, made("permute", permutation=order), place)
                yield from try_chain(case, step, chain, "axis-permutation", what, 4.0)


@suggests("dense")
def rows(case: Case, step: Step) -> Iterator[Edit]:
    """What a dense layer reads, in another order of the axes that were flattened into it."""
    structure = case.ours.recording.structure
    kernel = step.weights["kernel"]
    name = step.inputs[0]
    for _ in range(8):
        node = structure.by_name.get(name)
        if node is None:
            return
        shape = tuple(node.shape or ())[1:]
        if len(shape) > 1 and math.prod(shape) == kernel.shape[0]:
            for order in relations.orders(shape):
                index = np.arange(kernel.shape[0]).reshape(shape).transpose(order).reshape(-1)
                what = f"the {case.doer} flattens {shape} in the order {order} before {step.name}"
                yield from try_chain(
                    case, step, _picked(step, -1, index), "flatten-order", what, 3.0, same=("dense-row-order",)
                )  # fmt: skip
                back = np.argsort(index)
                yield from try_chain(
                    case, step, _picked(step, -1, back), "flatten-order", what, 3.0, same=("dense-row-order",)
                )  # fmt: skip
            return
        if not node.parents or node.kind not in kinds.LAYOUT_ONLY | kinds.ACTIVATIONS:
            return
        name = node.parents[0]
