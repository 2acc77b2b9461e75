"""Steps of two programs that do the same, or that a person might have written the one for the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracer import kinds
from tracer.causes import naming, weighing
from tracer.causes.scores import SCALING
from tracer.causes.settings import same_value
from tracer.causes.step import Step

_ALIKE = 0.55
_NUMBER = 0.6
"""How far a number that is added or multiplied is the same as a tensor, where no other step is more alike."""
_LAST = 0.1
"""How much likelier the steps that give the result belong together."""
SYMMETRIC = frozenset({"add", "mul", "maximum", "minimum", "average"})
_ARITHMETIC = SCALING | SYMMETRIC


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


def exchangeable(a: str, b: str) -> bool:
    """Whether a person might have written the one operation for the other."""
    groups = (kinds.ACTIVATIONS | kinds.ELEMENTWISE | {"clip"}, kinds.POOLS | kinds.REDUCTIONS | {"slice", "gather"},
              SYMMETRIC | {"sub", "div", "concat", "stack"}, kinds.POOLS | {"flatten", "reshape"},
              {"crop", "pad", "slice", "upsample", "resize"})  # fmt: skip
    return any(a in group and b in group for group in groups)


def _comparable(a: Step, b: Step) -> bool:
    """Whether one may stand for the other: neither only moves values where the other computes, or has weights alone."""
    return not two_things(a, b) and all(
        (a.kind in group) == (b.kind in group) for group in (kinds.LAYOUT_ONLY, kinds.WEIGHTED)
    )


def two_things(a: Step, b: Step) -> bool:
    """Whether one step adds a number and the other multiplies by another one: neither is meant for the other."""
    adds, scales = frozenset({"add", "sub"}), frozenset({"mul", "div"})
    both = (a.kind in adds and b.kind in scales) or (a.kind in scales and b.kind in adds)
    numbers = [step.weights.get("operand", step.settings.get("operand")) for step in (a, b)]
    if not both or any(number is None or len(step.inputs) != 1 for number, step in zip(numbers, (a, b), strict=True)):
        return False
    return not same_value(np.asarray(numbers[0]), np.asarray(numbers[1]))


def _score(a: Step, b: Step) -> float:
    """How far two steps are the same one: of a block that stands twice it is the one with the same weights."""
    alike = 1.0 if {a.kind, b.kind} <= naming.LOGARITHMS else kinds.similarity(a.kind, b.kind)
    if alike < _ALIKE:
        return 0.0
    if a.kind != b.kind and {a.kind, b.kind} <= _ARITHMETIC and len(a.inputs) != len(b.inputs):
        return 0.0  # a number of its own, and two tensors joined
    if two_things(a, b):
        return 0.0
    if {a.kind, b.kind} <= SCALING and len(a.inputs) != len(b.inputs):
        alike *= _NUMBER
    elif a.kind == b.kind and a.kind in SCALING and "operand" in a.settings and "operand" in b.settings:
        alike -= 0.0 if same_value(a.settings["operand"], b.settings["operand"]) else _LAST
    if not a.weights or set(a.weights) != set(b.weights):
        return alike
    equal = all(weighing.alike(value, b.weights[role]) for role, value in a.weights.items())
    return alike + (1.0 if equal else 0.2)
