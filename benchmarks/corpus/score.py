"""How right an alignment is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Self

from benchmarks.corpus.truth import Truth
from tracer.alignment import Alignment

SURE = 0.9


@dataclass
class Counts:
    """What is counted of any map; counts of several models add up.

    Attributes:
        right, wrong: pairs that are right, and others.
        expected: pairs that there are.
        sure_right, sure_wrong: of the pairs with a confidence of ``SURE`` and more.
        errors, missed: what is wrong, and what was not found, for a person.
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
    def sure_precision(self) -> float:
        return self.sure_right / max(1, self.sure_right + self.sure_wrong)

    def __iadd__(self, other: Self) -> Self:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int):
                setattr(self, each.name, value + getattr(other, each.name))
        return self


@dataclass
class Score(Counts):
    """Counts of node pairs: right ones hold the same tensor.

    Attributes:
        expected: of every class the smaller number of nodes that compute something.
        hits: of these, those that were found.
        ambiguous: nodes left open.
        trust: confidence and whether the pair is right, for each.
    """

    hits: int = 0
    ambiguous: int = 0
    trust: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def recall(self) -> float:
        return self.hits / max(1, self.expected)

    @property
    def f1(self) -> float:
        return 2 * self.precision * self.recall / max(1e-9, self.precision + self.recall)

    @property
    def coverage(self) -> float:
        return (self.sure_right + self.sure_wrong) / max(1, self.right + self.wrong)

    def __iadd__(self, other: Self) -> Self:
        super().__iadd__(other)
        self.trust += other.trust
        return self

    def line(self) -> str:
        return (
            f"P {self.precision:.4f} R {self.recall:.4f} F1 {self.f1:.4f}  wrong {self.wrong:3} "
            f"missed {self.expected - self.hits:3}/{self.expected:<4} ambiguous {self.ambiguous:3}  "
            f"sure P {self.sure_precision:.4f} coverage {self.coverage:.3f}"
        )


def score(alignment: Alignment, truth: Truth, renamed: Mapping[str, str | None] | None = None) -> Score:
    """Count an alignment's pairs against the truth.

    Args:
        renamed: for a candidate with a defect, which node of the correct port each of its nodes is; None for those
            that are nobody's twin.
    """
    out = Score(ambiguous=len(alignment.ambiguous))
    names: Mapping[str, str | None] = {name: name for name in truth.candidate} if renamed is None else renamed
    theirs = {new: None if old is None else truth.candidate.get(old) for new, old in names.items()}
    computing: Counter[int | None] = Counter(
        label for name, label in theirs.items() if names[name] in truth.computing[1]
    )
    ours: Counter[int] = Counter(label for name, label in truth.reference.items() if name in truth.computing[0])
    found: Counter[int] = Counter()
    for pair in alignment.pairs:
        if "output" in pair.evidence:
            continue
        a = truth.reference.get(pair.reference[-1])
        name = pair.candidate[-1]
        b = theirs.get(name)
        extra = name in names and names[name] is None
        if a is None or (b is None and not extra):
            continue
        good = a == b
        out.trust.append((pair.confidence, good))
        sure = pair.confidence >= SURE
        if good:
            out.right += 1
            out.sure_right += sure
            found[a] += 1
        else:
            out.wrong += 1
            out.sure_wrong += sure
            out.errors.append(f"{pair.reference[-1]} <> {name} ({pair.confidence:.2f})")
    for label in ours:
        expected = min(ours[label], computing[label])
        out.expected += expected
        out.hits += min(expected, found[label])
        if found[label] < expected:
            out.missed += [n for n, other in truth.reference.items() if other == label and n in truth.computing[0]]
    return out
