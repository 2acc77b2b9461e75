"""How right a parameter map is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.corpus.port import Parameter
from benchmarks.corpus.score import SURE, Counts
from tracer.alignment.parameters import ParameterPair


@dataclass
class ParameterScore(Counts):
    """Counts of single parameters: a pair of three kernels with one counts as three.

    Those of which the truth knows neither side are not counted.
    """

    @property
    def recall(self) -> float:
        return self.right / max(1, self.expected)

    def line(self) -> str:
        sure = f"sure P {self.sure_precision:.4f} of {self.sure_right + self.sure_wrong}"
        missed = f"missed {self.expected - self.right:3}/{self.expected:<4}"
        return f"P {self.precision:.4f} R {self.recall:.4f}  wrong {self.wrong:3} {missed} {sure}"


def score(pairs: Iterable[ParameterPair], truth: Mapping[Parameter, Parameter]) -> ParameterScore:
    """Count a parameter map's pairs against the truth, which is one candidate's parameter for each of the reference's;
    where several of one side stand in one of the other, the truth names each of them with that one.

    A truth cannot name two twins of one parameter (both biases of an LSTM): the other parameters of a pair of which the
    truth confirms one are not counted.
    """
    out = ParameterScore(expected=len(truth))
    known = set(truth.values())
    found: set[Parameter] = set()
    for pair in pairs:
        hits = [ours for ours in pair.reference if truth.get(ours) in pair.candidate]
        sure = pair.confidence >= SURE
        found.update(hits)
        out.right += len(hits)
        out.sure_right += len(hits) * sure
        for ours in pair.reference:
            claimed = ours in truth or any(theirs in known for theirs in pair.candidate)
            if ours in hits or not claimed or (hits and ours not in truth):
                continue
            out.wrong += 1
            out.sure_wrong += sure
            out.errors.append(f"{ours} <> {pair.candidate} ({pair.confidence:.2f}, {pair.evidence})")
    out.missed = [f"{ours} <> {theirs}" for ours, theirs in truth.items() if ours not in found]
    return out
