"""How much each kind of evidence weighs, in log-odds, and what makes a pair trustworthy.

TRUST was fitted on the corpus by ``python -m benchmarks.calibrate --trust``. LOCAL and GRAPH were set by hand and
measured there: numbers from a logistic regression over single pairs reached a mean F1 of 0.91 after the propagation,
these 0.989 (the regression lets the position speak for everything). ``--weigh`` says what each of them is worth.
"""

from __future__ import annotations

LOCAL = {
    "bias": -4.5,
    "related_kind": 0.5,
    "same_kind": 1.5,
    "same_size": 0.5,
    "same_shape": 1.5,
    "params": 1.0,
    "same_params": 0.5,
    "bare": 1.0,
    "one_bare": -0.5,
    "near": 2.0,
    "both_near": 0.5,
    "settings": 0.5,
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
    "bias": -1.71,
    "order": 5.56,
    "other_tie": -2.99,
    "other_run": -1.81,
    "graph": 0.24,
    "same_kind": 0.37,
    "settings": 0.93,
    "content": 1.40,
    "equal_content": 1.37,
    "weights": 1.41,
}
"""What makes a chosen pair trustworthy. Also tried, and found to add nothing: the pair's own likelihood, the margin to
the next best pair, equal shapes and parameters, other values, other weights."""
