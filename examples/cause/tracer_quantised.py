"""A cause for ``tracer explain``: one side rounds its activations to whole multiples of a step, as 8-bit kernels do."""

from collections.abc import Iterator

import numpy as np

from tracer import kinds
from tracer.causes.case import Case
from tracer.causes.edit import Edit
from tracer.causes.families.common import behind, chained, is_last, made
from tracer.causes.registry import suggests
from tracer.causes.step import Array, Step


@suggests(*kinds.ACTIVATIONS, *kinds.CONVOLUTIONS, "dense", "add")
def quantised(case: Case, step: Step) -> Iterator[Edit]:
    """Rounding inside a kernel, which no recording states; its step is read off what came out.

    ``case`` holds our program and what the other side made of the same tensors (``case.target``); ``step`` is one
    operation of the program. tracer runs the program with the edit, and believes what reproduces the target.
    """
    if not is_last(case, step) or (size := grid(case.target)) is None:
        return
    rounding = made("div", operand=size), made("round"), made("mul", operand=size)
    yield Edit(
        "activation-quantised",
        f"the {case.doer} rounds what {step.name} gives to multiples of {size:.6g}",
        chained(step.name, behind(case, step, *rounding)),
        step.name,
        fix="round on both sides or on none",
        cost=3.0,  # dearer than what is commoner; of two that reproduce a result the cheaper one is believed
    )


def grid(values: Array) -> float | None:
    """The number of which all values are multiples, at most 127 fold; None where there is none."""
    sizes = np.unique(np.abs(values[values != 0]))
    if len(sizes) < 3 or np.ptp(sizes) == 0:
        return None
    gaps = np.diff(sizes)
    step = gaps[gaps > 1e-4 * sizes[-1]].min(initial=np.inf)
    folds = np.round(sizes / step)
    step = float(sizes @ folds / (folds @ folds))  # the smallest gap, made exact by all values
    return step if folds.max() <= 127 and np.abs(sizes / step - folds).max() < 1e-3 else None
