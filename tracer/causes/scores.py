"""Which tensors are scores of attention: products, and what is done to these before a softmax."""

from __future__ import annotations

from collections.abc import Iterable

from tracer import kinds
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
