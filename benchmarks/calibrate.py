"""Measures how much each kind of evidence weighs, on the ports of the corpus that are not held out.

python -m benchmarks.calibrate [--seeds N] [--weigh] [--trust]     from the repository's root; prints what belongs into
tracer/alignment/calibration.py

LOCAL and GRAPH by a coordinate search on what the engine achieves (benchmarks/weights.py), cross-validated by port;
TRUST by a logistic regression: which of the chosen pairs are right. A regression for LOCAL too, over single pairs, was
tried and made the engine worse: it lets the position speak for everything.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus.cases import cases
from benchmarks.weights import Bench, Prepared, fit, use, weigh
from tracer.alignment.calibration import GRAPH, LOCAL, TRUST
from tracer.alignment.confidence import trust

FOLDS = 6
SHRINKS = (0.5, 2.0, 6.0, 20.0)


def logistic(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weight: NDArray[np.float64],
    signs: NDArray[np.float64],
    shrink: float,
) -> NDArray[np.float64]:
    """Coefficients of a weighted logistic regression, shrunk towards 0.

    ``signs``: 1 for evidence that can only speak for a pair, -1 for what can only speak against it, 0 for the bias:
    correlated columns would else trade odd signs, which other models would not bear out.
    """
    from scipy.optimize import minimize

    def loss(beta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = x @ beta
        p = 0.5 + 0.5 * np.tanh(0.5 * z)
        value = float(weight @ (np.logaddexp(0, z) - y * z) + 0.5 * shrink * (beta @ beta))
        return value, x.T @ (weight * (p - y)) + shrink * beta

    bounds = [(0, None) if sign > 0 else (None, 0) if sign < 0 else (None, None) for sign in signs]
    found = minimize(loss, np.zeros(x.shape[1]), jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 2000})
    return np.asarray(found.x, np.float64)


def shown(name: str, values: Mapping[str, float]) -> None:
    print(f"{name} = {{")
    for key, value in values.items():
        print(f'    "{key}": {value:.2f},')
    print("}")


def fit_trust(prepared: Sequence[Prepared], names: list[str]) -> dict[str, float]:
    """Which of the chosen pairs are right; prints how well that is known on ports that were left out."""
    xs, ys, ws, ports = [], [], [], []
    for case in prepared:
        found = case.work
        verdict = trust(found.pairs, found.value, found.evidence, found.assigned, found.a, found.b)
        truth = case.truth[verdict.places]
        settled = (verdict.sources >= 0) | case.merged(verdict.places) | case.open(verdict.places)
        known = np.flatnonzero(~np.isnan(truth) & ~settled)
        table = np.column_stack([np.ones(len(verdict.places)), *(verdict.columns[key] for key in names)])
        xs.append(table[known])
        ys.append(truth[known])
        ws.append(np.full(len(known), 100 / max(1, len(known))))
        ports += [case.case.port] * len(known)
    x, y, weight, port = np.concatenate(xs), np.concatenate(ys), np.concatenate(ws), np.array(ports)
    signs = np.array([0.0, *(-1.0 if name.startswith("other_") else 1.0 for name in names)])

    def chance(gamma: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * (x @ gamma)))

    def unseen(shrink: float) -> NDArray[np.float64]:
        """How sure each pair is by what the other ports say; what was made up is always among these."""
        out, real = np.full(len(y), np.nan), np.isin(port, [name for name in set(ports) if "/" in name])
        for part in range(FOLDS):
            left_out = np.isin(port, sorted({name for name in ports if "/" in name})[part::FOLDS])
            kept = ~left_out
            out[left_out] = chance(logistic(x[kept], y[kept], weight[kept], signs, shrink))[left_out]
        return np.where(real, out, np.nan)

    def surprise(p: NDArray[np.float64]) -> float:
        known = ~np.isnan(p)
        q = np.clip(p[known], 1e-6, 1 - 1e-6)
        return float(np.average(-np.where(y[known] == 1, np.log(q), np.log1p(-q)), weights=weight[known]))

    apart = {shrink: unseen(shrink) for shrink in SHRINKS}
    for shrink, p in apart.items():
        print(f"# shrunk by {shrink}: log loss {surprise(p):.5f} on ports left out")
    best = min(apart, key=lambda shrink: surprise(apart[shrink]))
    gamma = logistic(x, y, weight, signs, best)
    for what, p in (("fitted", chance(gamma)), ("left out", apart[best])):
        print(f"# {len(y)} chosen pairs, {int((y == 0).sum())} wrong; {what}: of those with a confidence of")
        for low, high in ((0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 0.95), (0.95, 0.99), (0.99, 1.01)):
            inside = (p >= low) & (p < high)
            if inside.any():
                print(f"#   {low:.2f} to {min(high, 1):.2f}: {int(inside.sum())}, {y[inside].mean():.4f} are right")
    return {"bias": float(gamma[0]), **dict(zip(names, gamma[1:].tolist(), strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--trust", action="store_true", help="only fit how sure chosen pairs are")
    parser.add_argument("--weigh", nargs="*", metavar="NAME", help="only say what each kind of evidence is worth")
    options = parser.parse_args()
    prepared = [Prepared(case) for case in cases(options.seeds)]
    print(f"# {len({p.case.port for p in prepared})} ports, {len(prepared)} cases", flush=True)
    if options.weigh is not None:
        weigh(Bench(prepared), options.weigh)
        return
    if not options.trust:
        use(fit(Bench(prepared)))
        shown("LOCAL", LOCAL)
        shown("GRAPH", GRAPH)
        for case in prepared:
            case.decide()
    shown("TRUST", fit_trust(prepared, [name for name in TRUST if name != "bias"]))


if __name__ == "__main__":
    main()
