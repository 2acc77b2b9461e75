"""Why rounding grew at a layer that computes the right thing: the classical ways in which it does, by name."""

from __future__ import annotations

from tracer import kinds
from tracer.compare.stats import Stats

STEEP = 30.0
"""Times that a layer enlarges the relative error of its inputs from which on it is worth a word. On the correct ports
of tests/zoo no layer enlarged it more than 3.8 times."""
CANCELLED = 0.03
"""Size of a sum relative to its terms below which they are said to cancel: 30 times their relative rounding."""
_SUMS = frozenset({"add", "sub", "mean", "sum", "matmul", "dense"})
_DIVISIONS = kinds.NORMALISATIONS | {
    "div", "reciprocal", "rsqrt", "log", "log1p", "power", "normalization", "softmax", "norm", "atan2",
    "inverse",
}  # fmt: skip
_CHOICES = frozenset({"argmax", "argmin", "topk", "sort", "argsort", "round", "floor", "ceil", "sign", "mod"})


def named(
    kind: str, whole_numbers: bool, stats: Stats | None, inherited: float | None, largest_input: float | None
) -> str:
    """What makes rounding at a node large, in words; empty where it is not, or not of a known kind.

    Args:
        kind: the node's, as in :mod:`tracer.kinds`.
        whole_numbers: whether its tensor holds integers or booleans.
        stats: of what was recorded.
        inherited: the largest relative error among its inputs; None where it is not known.
        largest_input: the largest magnitude among its inputs; None where it is not known.
    """
    if stats is None or stats.max_abs == 0:
        return ""
    if whole_numbers or kind in _CHOICES or kind in kinds.COMPARISONS:
        return "a tie: the rounding of its inputs decides which way it falls"
    flipped, size = stats.zeros
    if kind in kinds.ACTIVATIONS and flipped and size >= stats.max_abs / 10:
        return f"rounding decides the sign of {flipped} inputs near zero"
    if not inherited or stats.rel_l2 < STEEP * inherited:
        return ""
    if kind in _SUMS and largest_input and stats.reference_max < CANCELLED * largest_input:
        share = stats.reference_max / largest_input
        return f"cancellation: its terms all but cancel (what is left is {share:.0e} of their size)"
    if kind in _DIVISIONS:
        return "it divides by values near zero"
    return ""
