"""Which output of the candidate stands where an output of the reference does: what a model returns is its contract.

Outputs are paired as all nodes are, whatever their places. Two models that return the same tensors in another order are
not the same to who calls them, and only the places say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracer.alignment.features import ARRANGING
from tracer.graph import Structure

if TYPE_CHECKING:
    from tracer.alignment.result import Pair

SURE = 0.9
"""Confidence from which on a pair says that outputs are exchanged; below it the pair may be what is wrong."""
_SAME = 0.99
_KEY = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Output:
    """An output of the reference, and where its twin stands among the candidate's.

    Attributes:
        reference, candidate: the nodes; None where the candidate returns no twin.
        place, at: where each stands in what its model returns, as :func:`label` says.
        moved: whether the twin stands elsewhere than it should: at the same place, or where a mapping file says.
    """

    reference: str
    candidate: str | None
    place: str
    at: str | None
    moved: bool

    def to_json(self) -> dict[str, Any]:
        twin = None if self.candidate is None else [self.candidate, self.at]
        return {"reference": [self.reference, self.place], "candidate": twin, "moved": self.moved}

    def __str__(self) -> str:
        return f"output {self.place} of the reference is output {self.at} of the candidate"


def label(place: str) -> str:
    """A place as a person writes it: ``1`` for ``[1]``, ``logits``, ``states.0`` for ``[states][0]``; ``0`` for the
    only output."""
    return ".".join(_KEY.findall(place)) or "0"


def places(structure: Structure) -> dict[str, str]:
    """The node that stands at each place of what a model returns, by label; of several alike the first."""
    found: dict[str, str] = {}
    for place, name in structure.returned:
        found.setdefault(label(place), name)
    return found


def outputs(
    reference: Structure,
    candidate: Structure,
    pairs: Mapping[str, Pair],
    same: Callable[[str, str], float | None],
    accepted: Mapping[str, str],
) -> tuple[Output, ...]:
    """The outputs of the reference, in the order in which it returns them, with their twins among the candidate's.

    Args:
        pairs: by the reference's nodes.
        same: agreement of the values of a reference node and a candidate node, None where unknown.
        accepted: places of the candidate by places of the reference, where a mapping file says them.

    One is called moved only where the candidate returns another tensor at its place: sequences with different names,
    or one tensor against a tuple, have no places in common.
    """
    theirs = [(label(place), chain(candidate, name)) for place, name in candidate.returned]
    comparable = _single(reference) == _single(candidate)
    found = []
    for spot, name in reference.returned:
        place = label(spot)
        wanted = accepted.get(place, place)
        for ours in chain(reference, name):
            pair = pairs.get(ours)
            if pair is None or pair.reference[-1] != ours or "output" in pair.evidence:
                continue
            at = [other for other, chain in theirs if pair.candidate[-1] in chain]
            if not at:
                continue
            there = next((chain for other, chain in theirs if other == wanted), None)
            # What is returned twice, as an LSTM's last step and its state, stands at either place.
            alike = there is not None and (same(ours, there[-1]) or 0) >= _SAME
            moved = comparable and there is not None and wanted not in at and pair.confidence >= SURE and not alike
            twin = wanted if wanted in at or (alike and there is not None) else at[0]
            found.append(Output(ours, pair.candidate[-1], place, twin, moved))
            break
        else:
            found.append(Output(name, None, place, None, False))
    return tuple(found)


def order(found: Sequence[Output]) -> str:
    """``reference 0, 1 = candidate 1, 0``, for the outputs that stand elsewhere; empty where none does."""
    moved = [output for output in found if output.moved]
    how = "not in the mapping file's order" if any(o.place == o.at for o in moved) else "in another order"
    ours, theirs = (", ".join(part) for part in ([o.place for o in moved], [o.at or "" for o in moved]))
    return f"outputs come {how}: reference {ours} = candidate {theirs}" if moved else ""


def chain(structure: Structure, name: str) -> tuple[str, ...]:
    """An output and the nodes before it that hold the same values: it may be a container's, or only permuted."""
    found: list[str] = []
    while name in structure.by_name and name not in found:
        found.append(name)
        node = structure.by_name[name]
        ahead = (node.alias_of,) if node.alias_of is not None else node.parents if node.kind in ARRANGING else ()
        if len(ahead) != 1:
            break
        name = ahead[0]
    return tuple(found)


def _single(structure: Structure) -> bool:
    """Whether one tensor comes back, not a collection."""
    return [place for place, _ in structure.returned] == [""]
