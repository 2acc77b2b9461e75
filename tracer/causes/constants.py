"""Constants of the two sides that differ: what one is of the other."""

from __future__ import annotations

import numpy as np

from tracer import relations
from tracer.causes.step import Array

_MOST_ROWS = 512
"""Rows of a table that are each held against all of another."""


def of_table(mine: Array, its: Array) -> str:
    """The cause where a tensor that both models make of nothing, or keep outside their weights, is another one."""
    told = of_constants(mine, its)
    if told is not None:
        return told[0]
    return "weights-perturbed" if mine.dtype.kind == "f" and mine.size > 1 else "operation-kind"


def of_constants(mine: Array, its: Array) -> tuple[str, str] | None:
    """The cause where a constant holds another one's numbers elsewhere, and what it is beside that one in words."""
    mine, its = (values.reshape([n for n in values.shape if n != 1] or [1]) for values in (mine, its))
    if of_places(mine) and of_places(its):  # of two numbers any order may be had by chance
        return "attention-mask", "another mask of zeros and ones"
    by = relations.shifted(mine, its) if mine.ndim else None
    if by is not None and 2 * abs(by) <= len(mine):
        return "embedding-offset", f"the other's with its rows shifted by {by:+d}"
    if mine.size != its.size or not relations.same_values(mine, its):
        if _rows_elsewhere(mine, its):
            return "embedding-offset", "made of the other's rows, and others, in another order"
        factor = relations.multiple(mine, its)
        return None if factor is None else ("scale", f"{factor:.6g} times the other's")
    if relations.transposed(mine, its) is not None:
        return "axis-permutation", "the other's with its axes exchanged"
    for axis in range(mine.ndim - 1, -1, -1):
        order = relations.permutation(mine, its, axis)
        if order is not None:
            parts = relations.blocks(order)
            if axis < mine.ndim - 1:
                return "embedding-offset", "the other's with its rows in another order"
            cause = "concat-order" if parts is not None and len(parts) < len(order) else "channel-order"
            return cause, f"the other's with axis {axis} in another order"
    return "reshape-order", "the other's numbers in another order"


def of_places(values: Array) -> bool:
    """Whether zeros and ones say which places count: for each of a sample's, which is no square matrix."""
    values = np.squeeze(values)
    square = values.ndim > 1 and values.shape[-1] == values.shape[-2]
    return values.size > 1 and not square and bool(np.isin(values, (0, 1)).all())


def _rows_elsewhere(mine: Array, its: Array) -> bool:
    """Whether most rows of a table are rows of the other, which stand elsewhere there."""
    if mine.ndim < 2 or its.shape != mine.shape or mine.dtype.kind != "f" or len(mine) > _MOST_ROWS:
        return False
    found = [[relations.alike(row, other) for other in mine] for row in its if np.ptp(row)]
    kept = sum(row == other for row, other in zip(found, np.eye(len(mine), dtype=bool).tolist(), strict=False))
    return kept == 0 and 2 * sum(map(any, found)) > len(its) > 2
