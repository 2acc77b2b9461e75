"""Dense layers of one side whose kernels stand side by side in one of the other's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracer.alignment.atoms import Atom, named_tag
from tracer.alignment.matching import Matching, Side, gaps

_FUSED = (2, 3, 4)


def fuse(found: Matching) -> list[tuple[list[int], int, bool]]:
    """Dense layers of one side, reading the same tensor, whose kernels stand side by side in one of the other's.

    Returns their atoms in the order in which they stand there, the one's, and whether that is the reference's.
    """
    out = []
    for swapped in (False, True):
        many, few = (found.theirs, found.ours) if swapped else (found.ours, found.theirs)
        in_gap, one_gap = gaps(found)[:: -1 if swapped else 1]
        spent: set[int] = set()
        for one, gap in one_gap.items():
            whole = few.atoms[one]
            if whole.kind != "dense" or len(whole.main.shape) != 2:
                continue
            loose = [n for n, g in in_gap.items() if g == gap and n not in spent and many.atoms[n].kind == "dense"]
            for run in _runs(many, loose, whole):
                out.append((run, one, swapped))
                spent.update(run)
                break
    return out


def _runs(side: Side, loose: Sequence[int], whole: Atom) -> Iterable[list[int]]:
    """Sets of dense atoms that may make up ``whole``, in the order in which they stand in it."""
    rows_, width = whole.main.shape
    by_source: dict[tuple[str, ...], list[int]] = {}
    for n in loose:
        atom = side.atoms[n]
        if len(atom.main.shape) == 2 and atom.main.shape[0] == rows_ and atom.node >= 0:
            source = (atom.owner,) if atom.tag else side.structure.nodes[atom.node].parents[:1]
            by_source.setdefault(source, []).append(n)
    order = {"query": 0, "key": 1, "value": 2}
    for near in by_source.values():
        for count in _FUSED:
            chosen = near[:count]
            if len(near) == count and all(side.atoms[n].main.shape[1] * count == width for n in chosen):
                tags = [order.get(side.atoms[n].tag or named_tag(side.atoms[n].owner), 3) for n in chosen]
                yield [n for _, n in sorted(zip(tags, chosen, strict=True), key=lambda item: item[0])]
