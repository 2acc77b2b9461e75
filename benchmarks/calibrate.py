"""Fits how much each kind of evidence weighs, on the pairs of the corpus that are not held out.

python -m benchmarks.calibrate [--seeds N]     from the repository's root; prints what belongs into
tracer/alignment/calibration.py

Two logistic regressions: which of the pairs considered are right, from what lies in the pair itself (LOCAL), and which
of the chosen pairs are right (TRUST); between them a search for how loud the neighbours are (GRAPH), by the F1 that the
engine reaches. Truth is the corpus'; besides the ports themselves (with equal and unrelated weights, and as bare
structures) structures with a layer or block missing or extra are taken, or there would be hardly a wrong pair to learn
from.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import ports
from benchmarks.corpus.perturb import Renamed, chain, perturbed
from benchmarks.corpus.record import Kept, kept
from benchmarks.corpus.truth import Truth
from benchmarks.growth import tower, twin
from tracer.alignment.calibration import GRAPH, LOCAL, TRUST
from tracer.alignment.confidence import trust
from tracer.alignment.engine import Side, Work, side
from tracer.alignment.features import extract

FIXED = {"impossible": LOCAL["impossible"]}
NEGATIVES = 8
"""Wrong pairs drawn for each right one."""


def cases(pair: Kept, seeds: int) -> Iterator[tuple[Side, Side, Renamed | None]]:
    """What is aligned: reference, candidate, and what the candidate's nodes were."""
    ours = side(pair.recording("reference"))
    equal, unrelated = side(pair.recording("equal")), side(pair.recording("unrelated"))
    yield ours, equal, None
    yield ours, unrelated, None
    yield side(ours.structure), side(equal.structure), None
    # Equal weights, but activations that a defect at the input has made others.
    yield ours, replace(equal, summaries=unrelated.summaries), None
    for seed in range(seeds):
        for _, structure, renamed in perturbed(equal.structure, seed):
            yield side(ours.structure), side(structure), renamed


def work(ours: Side, theirs: Side) -> Work:
    a, b = (extract(s.structure, s.summaries) for s in (ours, theirs))
    return Work((ours, theirs), a, b, None)


def right(found: Work, truth: Truth, renamed: Renamed | None) -> NDArray[np.float64]:
    """1 for pairs considered that hold the same tensor, 0 for others, NaN where it is not known.

    Of nodes that hold one tensor, say a permutation and a reshape, only those that do the same are twins for sure.
    """
    labels: list[list[float]] = [[], []]
    looks: list[list[str]] = [[], []]
    for s, nodes in enumerate((found.a.nodes, found.b.nodes)):
        for node in nodes:
            old = node.name if s == 0 or renamed is None else renamed.get(node.name, "")
            label = -1 if old is None else (truth.reference, truth.candidate)[s].get(old)
            labels[s].append(np.nan if label is None else label)
            looks[s].append("computing" if old in truth.computing[s] else node.kind)
    x, y = np.array(labels[0])[found.pairs.rows], np.array(labels[1])[found.pairs.cols]
    alike = np.array(looks[0])[found.pairs.rows] == np.array(looks[1])[found.pairs.cols]
    out: NDArray[np.float64] = np.where(np.isnan(x) | np.isnan(y) | ((x == y) & ~alike), np.nan, x == y)
    return out


def logistic(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weight: NDArray[np.float64],
    signs: NDArray[np.float64],
    offset: NDArray[np.float64] | float = 0.0,
    shrink: float = 2.0,
) -> NDArray[np.float64]:
    """Coefficients of a weighted logistic regression, shrunk towards 0.

    ``signs``: 1 for evidence that can only speak for a pair, -1 for what can only speak against it, 0 for the bias:
    correlated columns would else trade odd signs, which other models would not bear out.
    """
    from scipy.optimize import minimize

    def loss(beta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = x @ beta + offset
        p = 0.5 + 0.5 * np.tanh(0.5 * z)
        value = float(weight @ (np.logaddexp(0, z) - y * z) + 0.5 * shrink * (beta @ beta))
        return value, x.T @ (weight * (p - y)) + shrink * beta

    bounds = [(0, None) if sign > 0 else (None, 0) if sign < 0 else (None, None) for sign in signs]
    found = minimize(loss, np.zeros(x.shape[1]), jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 2000})
    return np.asarray(found.x, np.float64)


def signs(names: list[str]) -> NDArray[np.float64]:
    """Which way each kind of evidence can speak; the bias first."""
    return np.array([0.0, *(-1.0 if name.startswith(("other_", "one_")) else 1.0 for name in names)])


def shown(name: str, values: Mapping[str, float]) -> None:
    print(f"{name} = {{")
    for key, value in values.items():
        print(f'    "{key}": {value:.2f},')
    print("}")


class Sample:
    """Everything that is aligned for calibration."""

    def __init__(self, seeds: int) -> None:
        found = [kept(port) for port in ports().values() if not port.held_out]
        self.pairs = [pair for pair in found if pair is not None]
        self._cases = [(pair.truth, *case) for pair in self.pairs for case in cases(pair, seeds)]
        # Many equal blocks of which some are missing: what no port of the corpus has.
        made = [(tower(size, candidate=False), tower(size, candidate=True)) for size in (100, 200, 300)]
        made += [(chain(blocks), chain(blocks, gone)) for blocks in (3, 5, 8) for gone in (0, 1, blocks - 1)]
        for ours, theirs in made:
            twins = {twin(node.name): i for i, node in enumerate(ours)}
            names = (frozenset(node.name for node in ours), frozenset(node.name for node in theirs))
            labels = {node.name: twins.get(node.name, -1) for node in theirs}
            truth = Truth({node.name: i for i, node in enumerate(ours)}, labels, names, {})
            self._cases.append((truth, side(ours), side(theirs), None))

    def __iter__(self) -> Iterator[tuple[Work, NDArray[np.float64]]]:
        for truth, ours, theirs, renamed in self._cases:
            found = work(ours, theirs)
            yield found, right(found, truth, renamed)

    def __len__(self) -> int:
        return len(self._cases)


def fit_local(sample: Sample, names: list[str]) -> dict[str, float]:
    """What lies in a pair itself."""
    rng = np.random.default_rng(0)
    xs, ys, ws = [], [], []
    for found, truth in sample:
        x = np.column_stack([np.ones(len(truth)), *(found.evidence.columns[key].astype(np.float64) for key in names)])
        possible = found.evidence.columns["impossible"] == 0
        good, bad = np.flatnonzero((truth == 1) & possible), np.flatnonzero((truth == 0) & possible)
        drawn = rng.choice(bad, min(len(bad), NEGATIVES * len(good)), replace=False) if len(bad) else bad
        chosen = np.concatenate([good, drawn])
        xs.append(x[chosen])
        ys.append(truth[chosen])
        # Each case counts the same, however large the model is.
        ws.append(np.full(len(chosen), 100 / max(1, len(chosen))))
    beta = logistic(np.concatenate(xs), np.concatenate(ys), np.concatenate(ws), signs(names))
    return {"bias": float(beta[0]), **dict(zip(names, beta[1:].tolist(), strict=True)), **FIXED}


def f1(sample: Sample) -> float:
    """Mean F1 of what is chosen."""
    total = 0.0
    for found, truth in sample:
        rows = np.array(list(found.assigned.matched), np.intp)
        places = found.pairs.find(rows, np.array([found.assigned.matched[i] for i in rows.tolist()], np.intp))
        hits, misses = int((truth[places] == 1).sum()), int((truth[places] == 0).sum())
        expected = min(len(np.unique(side[truth == 1])) for side in (found.pairs.rows, found.pairs.cols))
        total += 2 * hits / max(1, hits + misses + expected)
    return total / len(sample)


def fit_graph(sample: Sample) -> dict[str, float]:
    """How loud the neighbours are against a pair's own looks: by trying."""
    best = (0.0, 0.0, 0.0)
    local = dict(LOCAL)
    for scale in (0.25, 0.5, 1.0):
        for graph in (2.0, 3.0, 4.0, 6.0):
            LOCAL.update({name: value * scale for name, value in local.items()} | FIXED)
            GRAPH.update(up=graph, down=graph)
            reached = f1(sample)
            print(f"# local x {scale}, graph {graph}: mean F1 {reached:.5f}", flush=True)
            best = max(best, (reached, scale, graph))
    LOCAL.update({name: value * best[1] for name, value in local.items()} | FIXED)
    GRAPH.update(up=best[2], down=best[2])
    return dict(GRAPH)


def weigh(sample: Sample) -> None:
    """What each kind of evidence is worth: the mean F1 without it, with half of it, and with twice as much."""
    print(f"# as it is: mean F1 {f1(sample):.5f}; without, half, twice", flush=True)
    for numbers in (LOCAL, GRAPH):
        for name in [name for name in numbers if name not in ("bias", "impossible")]:
            kept_ = numbers[name]
            reached = []
            for factor in (0.0, 0.5, 2.0):
                numbers[name] = kept_ * factor
                reached.append(f1(sample))
            numbers[name] = kept_
            print(f"# {name:14} {kept_:6.2f}   " + "  ".join(f"{value:.5f}" for value in reached), flush=True)


def fit_trust(sample: Sample, names: list[str]) -> dict[str, float]:
    """Which of the chosen pairs are right; prints how well that is known."""
    xs, ys, ws = [], [], []
    for found, truth in sample:
        verdict = trust(found.pairs, found.value, found.evidence, found.assigned, found.a, found.b)
        known = np.flatnonzero(~np.isnan(truth[verdict.places]) & (verdict.sources < 0))
        table = np.column_stack([np.ones(len(verdict.places)), *(verdict.columns[key] for key in names)])
        xs.append(table[known])
        ys.append(truth[verdict.places][known])
        ws.append(np.full(len(known), 100 / max(1, len(known))))
    x, y = np.concatenate(xs), np.concatenate(ys)
    gamma = logistic(x, y, np.concatenate(ws), signs(names))
    p = 0.5 + 0.5 * np.tanh(0.5 * (x @ gamma))
    print(f"# {len(y)} chosen pairs, {int((y == 0).sum())} wrong; of those with a confidence of")
    for low, high in ((0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 0.95), (0.95, 0.99), (0.99, 1.01)):
        inside = (p >= low) & (p < high)
        if inside.any():
            print(f"#   {low:.2f} to {min(high, 1):.2f}: {int(inside.sum())}, {y[inside].mean():.3f} are right")
    return {"bias": float(gamma[0]), **dict(zip(names, gamma[1:].tolist(), strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--trust", action="store_true", help="only fit how sure chosen pairs are")
    parser.add_argument("--weigh", action="store_true", help="only say what each kind of evidence is worth")
    options = parser.parse_args()
    sample = Sample(options.seeds)
    print(f"# {len(sample.pairs)} ports, {len(sample)} cases")
    if options.weigh:
        weigh(sample)
        return
    if not options.trust:
        print(f"# mean F1 with the numbers as they were {f1(sample):.5f}", flush=True)
        LOCAL.update(fit_local(sample, [name for name in LOCAL if name not in ("bias", "impossible")]))
        fit_graph(sample)
        shown("LOCAL", LOCAL)
        shown("GRAPH", GRAPH)
    shown("TRUST", fit_trust(sample, [name for name in TRUST if name != "bias"]))


if __name__ == "__main__":
    main()
