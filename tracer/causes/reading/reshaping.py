"""What a reshape does to tensors of other lengths than the recorded ones: which lengths it keeps, which follow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

Shape = tuple[int, ...]


def followed(before: Sequence[int], after: Sequence[int], given: Sequence[int], seen: Iterable[Shape]) -> Shape | None:
    """The shape that a reshape from ``before`` to ``after`` gives a tensor of the shape ``given``.

    Axes whose lengths multiply to the same on both sides belong together: joined ones are joined again, and split ones
    into parts that stand beside each other in one of the shapes ``seen`` in the other model, else of the recorded
    lengths but for one. None where that does not say it.
    """
    if len(before) != len(given) or any(a == 1 != b for a, b in zip(before, given, strict=True)):
        return None
    out = [1] * len(after)
    shapes = list(seen)
    for sources, places in _groups(before, after):
        old, new = [before[k] for k in sources], [given[k] for k in sources]
        made = [after[k] for k in places]
        parts = made if old == new else _parts(old, new, made, shapes)
        if parts is None:
            return None
        for place, length in zip(places, parts, strict=True):
            out[place] = length
    return tuple(out) if math.prod(out) == math.prod(given) else None


def _groups(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Places of axes longer than one that multiply to the same, as few together as possible."""
    left, right = ([k for k, n in enumerate(shape) if n != 1] for shape in (before, after))
    while left and right:
        ours, theirs = [left.pop(0)], [right.pop(0)]
        while (mine := math.prod(before[k] for k in ours)) != (its := math.prod(after[k] for k in theirs)):
            queue, taken = (left, ours) if mine < its else (right, theirs)
            if not queue:
                return
            taken.append(queue.pop(0))
        yield ours, theirs


def _parts(old: Sequence[int], new: Sequence[int], made: Sequence[int], shapes: Iterable[Shape]) -> list[int] | None:
    size = math.prod(new)
    if len(made) == 1:
        return [size]
    if sorted(old) == sorted(made) and len(set(old)) == len(old):  # the axes exchange their lengths
        lengths = dict(zip(old, new, strict=True))
        return [lengths[n] for n in made]
    for shape in shapes:
        for start in range(len(shape) - len(made) + 1):
            run = shape[start : start + len(made)]
            if math.prod(run) == size:
                return list(run)
    for place in range(len(made)):
        rest = math.prod(n for k, n in enumerate(made) if k != place)
        if rest and size % rest == 0:
            return [size // rest if k == place else n for k, n in enumerate(made)]
    return None
