"""Normalisations that one side has folded into the layer before them, where that side also moves the values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tracer import kinds
from tracer.alignment.evidence import EQUAL
from tracer.alignment.features import Features

Content = Callable[[int, int], float]


def unfolded(matched: Mapping[int, int], content: Content, a: Features, b: Features) -> dict[int, int]:
    """The matching, with a normalisation paired with the layer that it was folded into.

    Such a layer gives what the normalisation gives, and is no twin of the layer before it; by its kind and place it is
    paired with that where a reshape of the same values is left for the normalisation.

    Args:
        matched: candidate index by reference index.
        content: how far the values of two nodes agree; below 0 for those that were not compared.
    """
    found = dict(matched)
    _repair(found, content, a, b)
    holder = {j: i for i, j in found.items()}
    _repair(holder, lambda j, i: content(i, j), b, a)
    return {i: j for j, i in holder.items()}


def _repair(matched: dict[int, int], content: Content, a: Features, b: Features) -> None:
    for norm, last in list(matched.items()):
        if a.nodes[norm].kind not in kinds.NORMALISATIONS or not b.arranges(last) or not a.direct[norm]:
            continue
        layer, twin = a.source(a.direct[norm][0]), b.source(last)
        if matched.get(layer) != twin or a.nodes[layer].kind not in kinds.WEIGHTED:
            continue
        if content(norm, last) >= EQUAL and 0 <= content(layer, twin) < EQUAL and content(norm, twin) >= EQUAL:
            del matched[layer]
            matched[norm] = twin
