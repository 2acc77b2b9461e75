"""The index that a person types."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.report.tensors import View


def index_of(text: str, view: View, names: Sequence[str], axis: int | None) -> tuple[int, ...]:
    """The index a person means by ``0,3,12``, ``channel 3``, or ``3`` along ``axis``; negative ones count from the end.

    Raises ValueError with what is expected.
    """
    words = text.replace(",", " ").replace("=", " ").split()
    index, rank = list(view.index), len(view.shape)
    try:
        if len(words) == rank and all(_whole(word) for word in words):
            places = list(enumerate(map(int, words)))
        elif len(words) == 1:
            if axis is None:
                raise ValueError
            places = [(axis, int(words[0]))]
        else:
            *found, number = words
            wanted = " ".join(found).casefold()
            places = [(next(a for a, name in enumerate(names) if name.casefold() == wanted), int(number))]
    except (ValueError, StopIteration):
        example = ",".join(map(str, view.index))
        raise ValueError(f"{example} or {names[-1] if names else 'axis'} 0") from None
    for at, place in places:
        if not -view.shape[at] <= place < view.shape[at]:
            raise ValueError(f"{names[at]} ends at {view.shape[at] - 1}")
        index[at] = place % view.shape[at]
    return tuple(index)


def _whole(word: str) -> bool:
    return word.removeprefix("-").isdecimal()
