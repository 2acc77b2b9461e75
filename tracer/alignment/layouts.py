"""Two layers' parameters that are the same: how the layout of one becomes that of the other, as axes and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tracer import kinds
from tracer.alignment.arrange import Runs
from tracer.alignment.atoms import RECURRENT, Atom, Slot
from tracer.alignment.axes import Axes

STATISTICS = ("running_mean", "running_var")
UNSETTLED = "no exact twin: one side keeps one bias, the other two"
RUNS = "channels"
_SAME_GATES = {("ifco", "ifgo"), ("ifgo", "ifco")}
"""Two names of one order."""
_ALIKE = {"bias": "beta"}
"""Roles that one framework's vector may have for another's."""


@dataclass(frozen=True)
class Slots:
    """Two slots that are the same, with their atoms."""

    slot: Slot
    other: Slot
    a: Atom
    b: Atom
    confidence: float
    how: str


def may_pair(slot: Slot, other: Slot) -> bool:
    """Whether two slots of one role go together; only a GRU's biases need not have one size."""
    return sorted(slot.shape) == sorted(other.shape) or (slot.role == "bias" and bool(slot.gates and other.gates))


def alike_shapes(slot: Slot, other: Slot) -> bool:
    """Whether two shapes are the same up to the order of axes and axes of length one."""
    return sorted(d for d in slot.shape if d != 1) == sorted(d for d in other.shape if d != 1)


def read_axis(p: Slots) -> int | None:
    """The axis of a slot, in the common layout, along which the channels stand that its layer reads."""
    rank = len(p.slot.shape)
    if p.slot.shape != p.other.shape or p.a.kind != p.b.kind:
        return None
    if p.a.kind == "depthwise":
        return rank - 1
    if p.a.kind in kinds.NORMALISATIONS or p.a.kind == "prelu":
        return 0 if rank == 1 else None
    return rank - 2 if p.slot.role == "kernel" and rank > 1 and p.a.kind != "embedding" else None


def run_words(runs: Runs) -> str:
    return f"{RUNS} {runs.text('c', False)}→{runs.text('c', True)}"


def common_role(slot: Slot) -> str:
    return _ALIKE.get(slot.role, slot.role)


def moved_axes(slot: Slot, other: Slot) -> Axes | None:
    """Which axis of the other parameter each axis of the one is; None where more than axes move."""
    if slot.gates != other.gates and (slot.gates, other.gates) not in _SAME_GATES:
        return None
    return _moved(slot, other)


def _moved(slot: Slot, other: Slot) -> Axes | None:
    """Which axis of the other parameter each axis of the one is; None where axes are split or merged."""
    if slot.labels is None or other.labels is None or slot.shape != other.shape:
        return None
    place = {label: axis for axis, label in enumerate(other.labels) if label is not None}
    spare = [axis for axis, label in enumerate(other.labels) if label is None]
    return tuple(place[label] if label is not None else spare.pop(0) if spare else None for label in slot.labels)


def in_words(p: Slots) -> str:
    """How the candidate's layout differs from the reference's."""
    slot, other = p.slot, p.other
    words = ["weight norm"] if any(step[0] == "normed" for step in (*slot.steps, *other.steps)) else []
    if slot.gates and slot.gates != other.gates:
        words.append(f"gates {slot.gates}→{other.gates}")
    if any(step[0] == "cut" for step in (*slot.steps, *other.steps)):
        words.append("side by side with the other kernel")
    if slot.role == "bias" and p.a.kind in RECURRENT:
        kept = _biases(slot), _biases(other)
        if p.a.kind == "gru" and kept[0] != kept[1]:
            return UNSETTLED
        if len(slot.keys) != len(other.keys):
            words.append("two biases in one" if p.a.kind == "gru" else "sum of two biases")
        return ", ".join(words) or "as it is"
    if p.slot.role in STATISTICS:
        return "statistics as they are"
    if "depthwise" in (p.a.kind, p.b.kind):
        words.append("depthwise")
    elif slot.labels is None or other.labels is None:
        if len(slot.whole) != len(other.whole) and not (slot.part or other.part):
            words.append("heads merged")
        elif slot.whole != other.whole:
            words.append("transpose")
    else:
        axes = _moved(slot, other)
        moved = [axis for axis in axes or () if axis is not None]
        if moved != sorted(moved):
            words.append("transpose")
        elif slot.whole != other.whole and axes is not None:
            words.append("reshape")
    return ", ".join(words) or "as it is"


def _biases(slot: Slot) -> int:
    """How many biases of a cell a slot holds: one for what it reads and one for its state, or one for both."""
    if ("sum",) in slot.steps:
        return 1
    parts = slot.part[1] if slot.part else 1
    return len(slot.keys) * math.prod(slot.whole) // parts // max(1, math.prod(slot.shape))


def same_words(slot: Slot) -> str:
    return "statistics as they are" if slot.role in STATISTICS else "as it is"


def joined_words(tags: Sequence[str], found: Sequence[Slots]) -> str:
    verb = "split into" if found[0].slot.part else "concat"
    names = [tag[0] if tag in ("query", "key", "value") else str(n) for n, tag in enumerate(tags)]
    total = (found[0].slot.part or found[0].other.part or (0, 0))[1]
    if len(found) < total:
        return f"part {', '.join(names)} of {total}"
    return f"{verb} {','.join(names)}"
