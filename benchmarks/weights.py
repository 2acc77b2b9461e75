"""A coordinate search for the weights of the evidence (LOCAL and GRAPH), on what the engine achieves with them.

What is counted of a case: how far the F1 of its pairs falls short of 1, and the share of its pairs that are wrong
though called sure, which cost more than what is left open. The mean is taken over the regimes of a port, then over the
ports, so that neither a large model nor a regime with many cases drowns the others. A weight is moved only when that is
better by more than the standard error of the difference over the ports; else it is within the noise and stays.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus.cases import Case
from benchmarks.corpus.score import SURE
from tracer.alignment.assign import assign
from tracer.alignment.calibration import GRAPH, LOCAL
from tracer.alignment.confidence import LEAST, trust
from tracer.alignment.engine import Work
from tracer.alignment.groups import groups
from tracer.alignment.propagation import Graph

FIXED = ("impossible",)
FACTORS = (0.0, 0.5, 2.0)
PARTS = 8

Weights = tuple[tuple[str, float], ...]
Ports = Sequence[str]


@dataclass(frozen=True)
class Count:
    """What comes of a case: pairs that are right and wrong, those there are, and the wrong ones called sure."""

    right: int
    wrong: int
    expected: int
    sure_right: int
    sure_wrong: int

    @property
    def f1(self) -> float:
        """1 where nothing was to be found and nothing was."""
        found = self.right + self.wrong
        return 2 * self.right / (found + self.expected) if found + self.expected else 1.0

    @property
    def loss(self) -> float:
        # Where nothing is right, as between two unrelated models, what is found has no share in what there is.
        missing = 1 - self.f1 if self.expected else 0.0
        return missing + self.sure_wrong / max(1, self.expected, self.right + self.wrong)


class Prepared:
    """A case with all that does not depend on the weights."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.work: Work = case.work()
        self.truth = case.right(self.work)
        self._graph = Graph(self.work.a, self.work.b, self.work.pairs)
        self._blocks = self.work.repeats.logit(self.work.pairs)
        good = self.truth == 1
        self._expected = min(len(np.unique(s[good])) for s in (self.work.pairs.rows, self.work.pairs.cols))

    def count(self) -> Count:
        """What the engine chooses with the weights as they are now."""
        self.decide()
        work = self.work
        verdict = trust(work.pairs, work.value, work.evidence, work.assigned, work.a, work.b)
        sure = verdict.confidence
        truth = self.truth[verdict.places]
        made = (sure >= LEAST) & ~self.open(verdict.places)
        good, bad = (truth == 1) & made, (truth == 0) & made
        certain = sure >= SURE
        return Count(
            *(int(x.sum()) for x in (good, bad)), self._expected, *(int((x & certain).sum()) for x in (good, bad))
        )

    def open(self, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of the chosen pairs are left open, as they lie in blocks of which one or another is missing."""
        work = self.work
        chosen = zip(work.pairs.rows[places].tolist(), work.pairs.cols[places].tolist(), strict=True)
        return np.array([i in work.repeats.open and not work._confirmed(i, j) for i, j in chosen], bool)

    def merged(self, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of the chosen pairs a group of several nodes takes the place of."""
        rows, cols = self.work.pairs.rows[places].tolist(), self.work.pairs.cols[places].tolist()
        chosen = dict(zip(rows, cols, strict=True))
        found = groups(chosen, self.work.a, self.work.b, self.work._same) if chosen else []
        ends = {(g.reference[-1], g.candidate[-1]) for g in found}
        inside = {i for g in found for i in g.reference}, {j for g in found for j in g.candidate}
        return np.array([(i in inside[0] or j in inside[1]) and (i, j) not in ends for i, j in chosen.items()], bool)

    def decide(self) -> None:
        """Do again what depends on the weights."""
        work = self.work
        columns = work.evidence.columns
        work.value = self._graph.propagate(work.evidence.logit() + self._blocks)
        confirmed = np.maximum(columns["weights"], columns["equal_content"])
        work.assigned = assign(
            work.pairs, work.value, columns["content"], confirmed, work.a, work.b, work.rules.ignored
        )


_prepared: list[Prepared] = []


def _counts(task: tuple[int, Weights]) -> list[Count]:
    part, weights = task
    use(dict(weights))
    return [found.count() for found in _prepared[part::PARTS]]


def now() -> dict[str, float]:
    """The weights as they are."""
    return {name: value for name, value in {**LOCAL, **GRAPH}.items() if name not in FIXED}


def use(weights: Mapping[str, float]) -> None:
    """Let the engine weigh so from now on."""
    for numbers in (LOCAL, GRAPH):
        numbers.update({name: value for name, value in weights.items() if name in numbers})


class Bench:
    """All cases, counted with any weights; two processes do it, and what was counted is known."""

    def __init__(self, prepared: Sequence[Prepared], processes: int = 2) -> None:
        _prepared[:] = prepared
        self._pool = multiprocessing.get_context("fork").Pool(min(processes, os.cpu_count() or 1))
        self._known: dict[Weights, list[Count]] = {}
        self.cases = [found.case for found in prepared]
        self.ports = sorted({case.port for case in self.cases})

    def counts(self, weights: Mapping[str, float]) -> list[Count]:
        key = tuple(sorted(weights.items()))
        if key not in self._known:
            parts = self._pool.map(_counts, [(part, key) for part in range(PARTS)], chunksize=1)
            out: list[Count] = [Count(0, 0, 0, 0, 0)] * len(self.cases)
            for part, found in enumerate(parts):
                out[part::PARTS] = found
            self._known[key] = out
        return self._known[key]

    def losses(self, weights: Mapping[str, float], ports: Ports) -> NDArray[np.float64]:
        """The loss of each port."""
        found = self.counts(weights)
        out = []
        for port in ports:
            regimes: dict[str, list[float]] = {}
            for case, count in zip(self.cases, found, strict=True):
                if case.port == port:
                    regimes.setdefault(case.regime, []).append(count.loss)
            out.append(np.mean([np.mean(each) for each in regimes.values()]))
        return np.array(out)

    def by_regime(self, weights: Mapping[str, float]) -> dict[str, tuple[float, float, float, float]]:
        """Mean F1, share of the sure pairs that are right, how many are wrong, and share of the pairs that are sure."""
        regimes: dict[str, list[Count]] = {}
        for case, count in zip(self.cases, self.counts(weights), strict=True):
            regimes.setdefault(case.regime, []).append(count)
        out = {}
        for name, found in regimes.items():
            right, wrong = sum(c.sure_right for c in found), sum(c.sure_wrong for c in found)
            total = sum(c.right + c.wrong for c in found)
            f1 = float(np.mean([c.f1 for c in found]))
            out[name] = f1, right / max(1, right + wrong), wrong, (right + wrong) / max(1, total)
        return out

    def gain(self, weights: Mapping[str, float], than: Mapping[str, float], ports: Ports) -> tuple[float, float]:
        """By how much the loss is less, and the standard error of that over the ports."""
        less = self.losses(than, ports) - self.losses(weights, ports)
        return float(less.mean()), float(less.std(ddof=1) / np.sqrt(len(less)))


def moves(bench: Bench, start: Mapping[str, float]) -> list[dict[str, float]]:
    """Every weight by every factor, alone."""
    out = [{**start, name: round(value * factor, 3)} for name, value in start.items() for factor in FACTORS]
    for trial in out:
        bench.counts(trial)
    return out


def search(bench: Bench, start: Mapping[str, float], ports: Ports, say: str) -> dict[str, float]:
    """The weights that moves of one at a time reach on some ports, the best move first."""

    def gains(trial: Mapping[str, float], than: Mapping[str, float]) -> bool:
        gained, error = bench.gain(trial, than, ports)
        return gained > max(1e-5, error)

    tried = [(bench.gain(trial, start, ports)[0], k, trial) for k, trial in enumerate(moves(bench, start))]
    best, moved = dict(start), set[str]()
    for _, _, trial in sorted(tried, reverse=True):
        name = next((name for name in start if trial[name] != start[name]), "")
        if name in moved or not gains(trial, start):
            continue
        both = {**best, name: trial[name]}
        if gains(both, best):
            gained, error = bench.gain(both, best, ports)
            print(f"# {say}: {name} {best[name]} -> {both[name]}: loss -{gained:.5f} ± {error:.5f}", flush=True)
            best = both
            moved.add(name)
    return best


def halves(ports: Ports) -> tuple[list[str], list[str]]:
    """The ports dealt out in two, each kind of model on both sides."""
    return [*ports[::2]], [*ports[1::2]]


def fit(bench: Bench) -> dict[str, float]:
    """Search on all ports, having said how well what is found on one half does on the other."""
    start = now()
    one, other = halves(bench.ports)
    for ours, theirs, name in ((one, other, "first half"), (other, one, "second half")):
        found = search(bench, start, ours, name)
        fitted, judged = bench.gain(found, start, ours), bench.gain(found, start, theirs)
        print(f"# {name}: loss -{fitted[0]:.5f} there, -{judged[0]:.5f} ± {judged[1]:.5f} on the other", flush=True)
    weigh(bench)
    best = search(bench, start, bench.ports, "all")
    for name, weights in (("as it was", start), ("found", best)):
        report(bench, weights, name)
    return best


def report(bench: Bench, weights: Mapping[str, float], what: str) -> None:
    print(f"# {what}: loss {bench.losses(weights, bench.ports).mean():.5f}")
    for regime, (f1, sure, wrong, coverage) in bench.by_regime(weights).items():
        print(f"#   {regime:18} F1 {f1:.5f}  sure: {sure:.5f} right, {wrong} wrong, coverage {coverage:.3f}")


def weigh(bench: Bench, names: Iterable[str] = ()) -> None:
    """What each evidence is worth: F1 and loss without it, with half of it, with twice as much."""
    weights = now()

    def shown(trial: Mapping[str, float]) -> str:
        f1 = np.mean([c.f1 for c in bench.counts(trial)])
        gained, error = bench.gain(trial, weights, bench.ports)
        mark = "*" if abs(gained) > error else " "
        return f"{f1:.5f} ({-gained:+.5f}{mark})"

    f1 = np.mean([c.f1 for c in bench.counts(weights)])
    print(f"# as it is: F1 {f1:.5f}, loss {bench.losses(weights, bench.ports).mean():.5f}")
    print("# F1 (and change of the loss, * beyond its standard error) without, with half, with twice", flush=True)
    for name in names or [n for n in weights if n != "bias"]:
        tried = "  ".join(shown({**weights, name: weights[name] * factor}) for factor in (0.0, 0.5, 2.0))
        print(f"# {name:14} {weights[name]:6.2f}   {tried}", flush=True)
