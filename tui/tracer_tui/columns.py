"""Which columns a table shows in the width there is, and how wide each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from tracer_tui.look import Keep, Look
from tracer_tui.widgets.grid import GAP, Column

_MEASURED = 400
_NARROWEST = 8
"""Cells that are left to what may be cut, where no column can go any more."""


@dataclass(frozen=True)
class Field:
    """A possible column.

    Attributes:
        title: a string of ours or a text made by :class:`~tracer_tui.look.Look`.
        priority: 0 always stays; the others go when there is no room, the highest first.
        content: a row's text in full length.
        least: it may be cut down to this width before any column goes, further where none can; 0 for one that is never
            cut.
        width: fixed, where the content need not be measured.
        keep: of what is too long: the ``ends``, the ``tail`` (of paths), or the ``head`` (of sentences).
    """

    title: str | Text
    priority: int
    content: Callable[[int], Text]
    right: bool = False
    least: int = 0
    width: int = 0
    keep: Keep = "ends"


@dataclass(frozen=True)
class Fitted:
    """A column that is shown."""

    field: Field
    width: int
    look: Look

    def cell(self, row: int) -> Text:
        return self.look.cut(self.field.content(row), self.width, self.field.keep)


def fit(fields: Sequence[Field], rows: int, width: int, look: Look) -> tuple[list[Column], list[Fitted]]:
    """Drop columns and cut the long ones until all fit into ``width`` screen cells."""
    step = max(1, rows // _MEASURED)
    natural = []
    for field in fields:
        longest = max((field.content(row).cell_len for row in range(0, rows, step)), default=0)
        natural.append(field.width or max(1, longest, len(field.title)))
    room = width - 3  # the margin on the left, and the scroll bar
    kept = list(range(len(fields)))

    def needed(index: int, cut: bool) -> int:
        least = fields[index].least
        return (min(natural[index], least) if cut and least else natural[index]) + GAP

    while sum(needed(i, True) for i in kept) - GAP > room:
        droppable = [i for i in kept if fields[i].priority]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda i: fields[i].priority))
    widths = {i: natural[i] for i in kept}
    least = {i: fields[i].least for i in kept if fields[i].least}
    while (excess := sum(widths[i] + GAP for i in kept) - GAP - room) > 0:
        soft = [i for i in least if widths[i] > least[i]]
        if not soft:
            if all(width <= _NARROWEST for width in least.values()):
                break
            least = {i: min(width, _NARROWEST) for i, width in least.items()}  # better than figures cut off
            continue
        widest = max(soft, key=lambda i: widths[i])
        others = [widths[i] for i in soft if i != widest]
        target = max(least[widest], max(others, default=0) - 1, widths[widest] - excess)
        widths[widest] = max(least[widest], min(target, widths[widest] - 1))
    columns = [Column(_title(fields[i], widths[i], look), widths[i], fields[i].right) for i in kept]
    return columns, [Fitted(fields[i], widths[i], look) for i in kept]


def _title(field: Field, width: int, look: Look) -> Text:
    title = look.text(field.title) if isinstance(field.title, str) else field.title
    cut = look.cut(title, width)
    return Text(" " * (width - cut.cell_len)) + cut if field.right else cut
