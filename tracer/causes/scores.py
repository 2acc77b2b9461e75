"""Which tensors are scores of attention: products, and what is done to these before a softmax."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracer import kinds
from tracer.causes.step import Step
from tracer.graph import Structure

SCALING = frozenset({"mul", "div", "add", "sub", "rescaling", "normalization"})
PASSED = SCALING | {"where", "masked_fill", "clip", "maximum"}
"""What is done to scores."""
PRODUCTS = ("matmul", "dot")
FAR = 6
"""Operations between scores and their softmax, at most."""


def of_scores(names: Iterable[str], structure: Structure) -> bool:
    """Whether tensors are scores: a product is above, and nothing but what is done to scores between."""
    for _ in range(FAR):
        above = [structure.by_name[name] for name in names if name in structure.by_name]
        if any(node.kind in (*PRODUCTS, "softmax") for node in above):
            return True
        names = {parent for node in above if node.kind in PASSED | kinds.LAYOUT_ONLY for parent in node.parents}
    return False


def attends(structure: Structure, name: str) -> bool:
    """Whether a tensor is made by attention: a layer or function for it, or a softmax over products of two tensors. One
    over anything else, such as the channels of a map, attends to nothing."""
    node = structure.by_name[name]
    if node.kind != "softmax":
        return node.kind == "attention"
    above = [structure.by_name[one] for one in _near(structure, {name}, False, FAR)]
    return any(one.kind in PRODUCTS and len(one.parents) > 1 for one in above)


def _near(structure: Structure, names: set[str], ahead: bool, far: int) -> Iterator[str]:
    """What is made of tensors, or what they are made of: what a layer with weights makes of it is another matter."""
    for _ in range(far):
        names = {
            other
            for name in names if name in structure.by_name
            for other in (structure.children.get(name, ()) if ahead else structure.by_name[name].parents)
            if structure.by_name[other].kind not in kinds.WEIGHTED - {"attention"}
        }  # fmt: skip
        yield from names


def about_heads(structure: Structure, step: Step) -> bool:
    """Whether what a step lays out are the heads of attention: scores are made of it, or it joins what they weigh."""

    def weighs(name: str) -> bool:
        return any(attends(structure, other) for other in _near(structure, {name}, False, 4))

    following = list(_near(structure, {step.name}, True, 10))
    if any(attends(structure, name) for name in following):
        return True
    return weighs(step.name) or any(structure.by_name[n].kind == "matmul" and weighs(n) for n in following)
