"""Types in which the two sides compute: a difference that rounding to a coarser one makes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tracer import dtypes, relations
from tracer.causes.case import READ, Case, distance
from tracer.causes.finding import Cause, Finding
from tracer.causes.step import Array, Program, Unknown
from tracer.compare.pair import PairDiff

_UNITS = 2.0
"""Units in the last place of the coarse type that sums of rounded numbers may be off before they are rounded."""


def typed(one: Finding | None, pair: PairDiff, case: Case) -> Finding | None:
    """The finding with the types in which the sides compute, where they differ and nothing else explains the pair.

    Where the values show it, and our program with inputs, weights and result rounded to that type gives theirs, it is
    proven; else it is latent. Raises Unknown.
    """
    told = tuple(
        Cause(
            "dtype", f"computed in {both.reference} in the reference, in {both.candidate} in the candidate",
            f"compute {both.nodes[1]} in {both.reference}", *both.nodes, "dtype", (both.reference, both.candidate),
            pair.candidate_node.source,
        )
        for both in pair.settings
        if both.word == "dtype"
    )  # fmt: skip
    if not told or (one is not None and one.status != "latent"):
        return one
    after = _shown(case)
    if after is not None:
        how = f"the {case.other}'s {case.ours.node.label} with numbers rounded as the {case.doer} rounds them"
        return Finding(pair.aligned, "proven", told, (), case.before, after, case.bar, how=how)
    known = () if one is None else one.causes
    return Finding(pair.aligned, "latent", (*known, *told), before=None if one is None else one.before)


def _shown(case: Case) -> float | None:
    """The error that is left with numbers rounded to the coarser type; None where no more shows than rounding to the
    finer one, and where that does not explain it."""
    names = [node.dtype for node in (case.ours.node, case.theirs.node) if node.dtype]
    coarse = max(names, key=dtypes.epsilon, default="float32")
    fine = READ * min(map(dtypes.epsilon, names), default=0.0)
    try:
        if not case.before > fine or case.before > case.bar:
            return None
        program = Program(tuple(
            replace(step, weights={role: relations.as_type(value, coarse) for role, value in step.weights.items()})
            for step in case.program.steps
        ))  # fmt: skip
        tensors = {name: _rounded(values, coarse) for name, values in case.tensors.items()}
        found, target = relations.as_type(program.run(tensors), coarse), case.target
    except (Unknown, ValueError):
        return None
    if found.shape != target.shape:
        return None
    unit = dtypes.epsilon(coarse) * np.maximum(np.abs(target), np.abs(found))
    left = distance(np.where(np.abs(found - target) <= _UNITS * unit, target, found), target)
    return left if left < case.before else None


def _rounded(values: Array, name: str) -> Array:
    return relations.as_type(values, name) if values.dtype.kind == "f" else values
