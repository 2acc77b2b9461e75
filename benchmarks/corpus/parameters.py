"""How right a parameter map is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from benchmarks.corpus.port import Parameter
from tracer.alignment.parameters import ParameterPair


@dataclass
class ParameterScore:
    """Counts; scores of several pairs add up.

    Attributes:
        right, wrong: single parameters that were paired; a pair of three kernels with one counts as three. Those of
            which the truth knows neither side are not counted.
        expected: what the truth holds.
        sure_right, sure_wrong: of those with a confidence of ``SURE`` and more.
        errors, missed: what is wrong, for a person.
    """

    right: int = 0
    wrong: int = 0
    expected: int = 0
    sure_right: int = 0
    sure_wrong: int = 0
    errors: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    @property
    def precision(self) -> float:
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        return self.right / max(1, self.expected)

    @property
    def sure_precision(self) -> float:
        return self.sure_right / max(1, self.sure_right + self.sure_wrong)

    def __iadd__(self, other: ParameterScore) -> ParameterScore:
        for name in ("right", "wrong", "expected", "sure_right", "sure_wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def line(self) -> str:
        sure = f"sure P {self.sure_precision:.4f} of {self.sure_right + self.sure_wrong}"
        missed = f"missed {self.expected - self.right:3}/{self.expected:<4}"
        return f"P {self.precision:.4f} R {self.recall:.4f}  wrong {self.wrong:3} {missed} {sure}"


SURE = 0.9


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
