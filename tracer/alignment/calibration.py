"""How much each kind of evidence weighs, in log-odds, and what makes a pair trustworthy.

TRUST was fitted by ``python -m benchmarks.calibrate --trust`` (see there on what): a logistic regression on pairs whose
truth is known, its shrinkage chosen by the log loss on ports left out (0.018; of the pairs between 0.9 and 0.95 there
98 % are right, of those above 0.99 99.9 %). ``other_twin`` rests on an assumption, not on ports, none of which has such
nodes: that two authors of three build heads that look alike in the same order.

LOCAL and GRAPH began as round numbers. ``python -m benchmarks.calibrate`` measures each at none, half and twice of what
it is, by what the engine then achieves (mean F1, and wrong pairs that it was sure of) on 466 cases of 41 ports, and
searches for better ones on one half of the ports, judging by the other: of what either half preferred nothing held on
the other, and on both together one number moved (``same_params``, loss -0.0001 ± 0.00004). docs/alignment.md has the
table. A logistic regression over single pairs reached a mean F1 of 0.91 after the propagation, these 0.989 (the
regression lets the position speak for everything). ``parts`` is younger than all that: it was set, not searched for.
"""

from __future__ import annotations

LOCAL = {
    "bias": -4.5,
    "related_kind": 0.5,
    "same_kind": 1.5,
    "same_size": 0.5,
    "same_shape": 1.5,
    "params": 1.0,
    "same_params": 1.0,
    "bare": 1.0,
    "one_bare": -0.5,
    "near": 2.0,
    "both_near": 0.5,
    "settings": 0.5,
    "parts": 1.0,
    "names": 0.5,
    "content": 1.0,
    "equal_content": 4.0,
    "weights": 4.0,
    "other_weights": -3.0,
    "impossible": -30.0,
}
GRAPH = {"up": 3.0, "down": 3.0}
"""What the pairs of the parents, and of the children, weigh."""
TRUST = {
    "bias": -0.87,
    "order": 7.44,
    "other_tie": -1.36,
    "other_run": -4.24,
    "other_close": -2.98,
    "other_moved": -9.45,
    "other_arithmetic": -5.57,
    "other_twin": -4.51,
    "other_model": -12.18,
    "content": 0.97,
    "equal_content": 0.95,
    "weights": 1.51,
}
"""What makes a chosen pair trustworthy. Also tried, and found to add nothing: the pair's own likelihood, the margin to
the next best pair, equal kinds, shapes, settings and parameters, other values, other weights, the share of neighbours
that are paired with each other."""
