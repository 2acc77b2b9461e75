"""What two models give otherwise though every pair agrees: at each other's places, with axes in another order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from tracer import dtypes, kinds
from tracer.causes.case import READ, UNREAD, distance
from tracer.causes.finding import Cause, Finding
from tracer.compare import Diff
from tracer.compare.turned import turned
from tracer.compare.verdict import Verdict
from tracer.errors import TraceError


def with_given(found: Sequence[Finding], diff: Diff) -> list[Finding]:
    """The findings, in running order, with those of layers whose weights have changed places though each agrees with
    its twin, and of results whose axes stand in an order that is no layout of the same."""
    order = {pair.aligned: place for place, pair in enumerate(diff.pairs)}
    more = [one for one in (*_crosswise(diff), *_turned(diff)) if one.pair not in {other.pair for other in found}]
    return sorted([*found, *more], key=lambda one: order.get(one.pair, 0)) if more else list(found)


def _crosswise(diff: Diff) -> Iterator[Finding]:
    """Of two layers by which each model ends: those of one name stand at one place among what the two give, and are no
    twins."""
    given = [[side.resolve(name) for name in side.structure.outputs] for side in (diff.reference, diff.candidate)]
    ends = [
        pair for pair in diff.pairs
        if pair.verdict in (Verdict.MATCH, Verdict.NOISE) and pair.stats is not None
        and pair.node.kind in kinds.WEIGHTED
        and pair.node.name in given[0] and pair.candidate_node.name in given[1]
    ]  # fmt: skip
    for one, other in combinations(ends, 2):
        names = one.node.owner, other.node.owner
        at = [given[0].index(pair.node.name) for pair in (one, other)]
        its = [given[1].index(pair.candidate_node.name) for pair in (other, one)]
        if names != (other.candidate_node.owner, one.candidate_node.owner) or at != its or not all(names):
            continue
        try:
            first, second = (diff.reference.read(pair.node.name) for pair in (one, other))
        except (TraceError, KeyError):
            continue
        before = distance(second, first)
        if first.shape != second.shape or not before > 0 or one.stats is None:
            continue
        both = " and ".join(names)
        what = f"{both} have one another's weights in the candidate: each gives what the other gives in the reference"
        cause = Cause(
            "weights-swapped", what, f"load the weights of {both} the other way round", one.node.name,
            other.candidate_node.name, "layers", (both, "the other way round"), one.candidate_node.source, before,
        )  # fmt: skip
        after = one.stats.max_abs / (one.stats.reference_max or 1.0)
        how = f"the reference's {other.node.name} and {one.node.name}, held against {one.candidate_node.name}"
        found = Finding(one.aligned, "proven", (cause,), before=before, after=after, how=how)
        yield replace(found, floor=READ * dtypes.epsilon(one.coarsest), pairs=(one.aligned, other.aligned))


def _turned(diff: Diff) -> Iterator[Finding]:
    """Of what the two models give at one place, the same values with axes in an order that no layout is."""
    for index, (name, axes) in turned(diff.pairs, diff.reference, diff.candidate).items():
        pair, its = diff.pairs[index], diff.candidate.structure.by_name[name]
        back = ", ".join(map(str, axes))
        what = f"the axes of what the candidate gives, {name}, stand in another order: moved by ({back}) it agrees"
        was = tuple(int(axis) for axis in np.argsort(axes))
        ours, theirs = diff.reference.read(pair.node.name), diff.candidate.read(name)
        before = distance(dtypes.as_float64(theirs), dtypes.as_float64(ours))
        cause = Cause(
            "axis-permutation", what, f"permute({back}) of what {name} gives", pair.node.name, name, "axes",
            (tuple(range(len(axes))), was), its.source, before,
        )  # fmt: skip
        how = f"the reference's {pair.node.name}, held against {name} with its axes in every order"
        bar = UNREAD * dtypes.epsilon(pair.coarsest)
        yield Finding(pair.aligned, "proven", (cause,), before=before, after=0.0, floor=bar, how=how)
