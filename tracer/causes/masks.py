"""Masks of attention scores: which operations make them, and which hide scores by them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracer import kinds
from tracer.causes.case import Side
from tracer.causes.scores import FAR, PASSED, PRODUCTS, of_scores
from tracer.causes.step import Step
from tracer.errors import TraceError
from tracer.graph import Node, Structure

MASKING = PASSED | kinds.LAYOUT_ONLY | kinds.COMPARISONS | kinds.LOGICAL | kinds.REPEATING | {"tril", "triu"}
_JOINING = PASSED | {"minimum"}
LOW = -1e4
"""A number that only says of a score that it is masked."""


def makes_mask(step: Step, side: Side) -> bool:
    """Whether a step makes the mask of scores: what it gives is joined with scores, or given to an attention beside
    queries, keys and values, and it reads no scores itself."""
    structure = side.recording.structure
    known = structure.by_name
    if step.kind in PRODUCTS or of_scores(step.inputs, structure):
        return False
    names, seen = {step.name}, {step.name}
    for _ in range(FAR):
        following = [known[child] for name in names for child in structure.children.get(name, ()) if child not in seen]
        for node in following:
            if node.kind == "attention" and seen & set(node.parents[3:]):
                return True
            others = [parent for parent in node.parents if parent not in seen]
            if node.kind in _JOINING and masks_scores(node, side) and of_scores(others, structure):
                return True
        names = {node.name for node in following if node.kind in MASKING or node.alias_of is not None}
        seen |= names
    return False


def of_comparison(steps: Sequence[Step]) -> bool:
    """Whether steps make a mask of what they compare: which ids are padding."""
    used = {step.kind for step in steps}
    return bool(used & kinds.COMPARISONS) and used <= MASKING


def hides(step: Step, side: Side) -> bool:
    """Whether a step masks scores: fills something in, or adds what is no score or very low numbers."""
    structure = side.recording.structure
    if step.kind not in ("add", "where", "masked_fill") or not masks_scores(step, side):
        return False
    scores = [of_scores([name], structure) for name in step.inputs]
    low = float(np.min(np.asarray(step.settings.get("operand", 0.0), np.float64), initial=0.0)) <= LOW
    return any(scores) and (step.kind != "add" or low or not all(scores))


def lowers(step: Step, side: Side) -> str | None:
    """The tensor by which a step masks what a softmax reads next: nothing, or so low that nothing is left; None where
    it does anything else."""
    if step.kind not in ("add", "sub") or len(step.inputs) != len(_BOTH) or not masks_scores(step, side):
        return None
    for name, sign in zip(step.inputs, (1, 1 if step.kind == "add" else -1), strict=True):
        try:
            values = sign * side.read(name)
        except (TraceError, KeyError):
            continue
        hidden = values <= LOW
        if hidden.any() and not np.any(values[~hidden]):
            return name
    return None


_BOTH = ("scores", "mask")


def masks_scores(step: Step | Node, side: Side) -> bool:
    """Whether a softmax comes next."""
    return on_scores(step, side, frozenset({"softmax", "attention"}))


def on_scores(
    step: Step | Node, side: Side, ends: frozenset[str] = frozenset({"softmax", "matmul", "attention"})
) -> bool:
    """Whether a step works on attention scores, or on what they are made of: a softmax that something is computed of
    or a product comes next."""
    structure, names = side.recording.structure, [step.name]
    for _ in range(FAR):
        following = [structure.by_name[child] for name in names for child in structure.children.get(name, ())]
        if any(one.kind in ends and _attends(one, step, side) for one in following):
            return True
        names = [one.name for one in following if one.kind in PASSED | kinds.LAYOUT_ONLY or one.alias_of is not None]
    return False


def _attends(node: Node, step: Step | Node, side: Side) -> bool:
    """Whether what comes next is part of attention: a softmax that something is computed of, or a product of queries
    and keys, or of scores and values. Others are products as of any layer: a graph's, of links and features."""
    structure = side.recording.structure
    if node.kind == "softmax":
        return not _ends_with(structure, node)
    return node.kind == "attention" or _before_softmax(structure, node) or _behind_softmax(structure, step)


def _before_softmax(structure: Structure, product: Node) -> bool:
    """Whether a softmax that something is computed of comes a few operations behind a product, before any layer: what
    is not known, such as a layer of somebody's own that adds a bias, is passed."""
    names = {product.name}
    for _ in range(FAR):
        following = [structure.by_name[child] for name in names for child in structure.children.get(name, ())]
        if any(node.kind == "softmax" and not _ends_with(structure, node) for node in following):
            return True
        names = {node.name for node in following if node.kind not in kinds.WEIGHTED | {*PRODUCTS}}
    return False


def _behind_softmax(structure: Structure, step: Step | Node) -> bool:
    """Whether what a step reads are scores that a softmax has been over."""
    names = set(step.inputs if isinstance(step, Step) else step.parents)
    for _ in range(FAR):
        above = [structure.by_name[name] for name in names if name in structure.by_name]
        if any(node.kind == "softmax" for node in above):
            return True
        names = {parent for node in above if node.kind in PASSED | kinds.LAYOUT_ONLY for parent in node.parents}
    return False


def _ends_with(structure: Structure, node: Node) -> bool:
    """Whether nothing is computed of a node's tensor: it is what the model gives."""
    names = [node.name]
    while names:
        following = [structure.by_name[child] for name in names for child in structure.children.get(name, ())]
        if any(one.kind not in kinds.LAYOUT_ONLY for one in following):
            return False
        names = [one.name for one in following]
    return True
