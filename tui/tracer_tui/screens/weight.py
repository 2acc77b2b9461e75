"""One pair of parameters: pictures of both in one layout and of their difference, distributions, worst elements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import BindingType

from tracer.relations import SAME
from tracer.report import weights as words
from tracer.report.tensors import Tensors
from tracer.report.words import count, shape_text
from tracer.weighing.reading import Part
from tracer.weighing.table import WeightTable
from tracer_tui import actions
from tracer_tui.screens.tensor import TensorScreen
from tracer_tui.statistics import weight_statistics
from tracer_tui.weights import STYLES, WeightRow, copied

if TYPE_CHECKING:
    from tracer_tui.screens.weights import WeightsScreen

_LAYOUTS = {
    "reference": "in the reference's layout",
    "common": "in the layout that both can be read in",
    "own": "as it was recorded",
}


class WeightScreen(TensorScreen[WeightRow]):
    """Walks the rows of the Weights screen below it."""

    AREA = "weight"
    NOUN = "parameter"
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("weight")
    home: WeightsScreen

    def __init__(self, home: WeightsScreen) -> None:
        super().__init__(home)
        self._parts: tuple[Part, ...] = ()

    @property
    def part(self) -> Part | None:
        """The parameter that is shown, of those of the row."""
        return self._parts[self.home.part % len(self._parts)] if self._parts else None

    def open_tensors(self, row: WeightRow) -> Tensors:
        assert self.home.table is not None
        self._parts = tuple(self.home.table.parts(row.row))
        return opened(self.home.table, row, self.part)

    def axis_names(self, row: WeightRow, rank: int) -> tuple[str, ...]:
        part = self.part
        known = part.axes if part is not None else ()
        return known if len(known) == rank else tuple(f"axis {axis}" for axis in range(rank))

    def worst_of(self, row: WeightRow) -> tuple[int, ...] | None:
        return None

    def tolerance_of(self, row: WeightRow, found: Tensors) -> tuple[float, float] | None:
        return bar(row), 0.0

    def heading(self) -> Text:
        look, row = self.look, self.row
        first = look.join(("Weight", "key"), "  ", self.home.mark(row), " ", (row.sides, "bold"))
        first.append_text(look.join(f"   {words.shapes(row.row)}", (f"   {row.row.relation}", "dim")))
        first.append_text(look.join("   ", (str(row.status).replace("-", " "), STYLES[row.status])))
        return first

    def facts(self, width: int) -> Text:
        look, row, part = self.look, self.row, self.part
        lines = []
        if part is not None:
            if len(self._parts) > 1:
                at = self.home.part % len(self._parts) + 1
                lines.append(look.join((f"{at} of {count(len(self._parts), 'part')}", "key"), f": {part.name}"))
            lines.append(look.text(_LAYOUTS[part.layout], "dim"))
        lines += [look.text(note, STYLES[row.status] if not at else "") for at, note in enumerate(row.notes)]
        lines += weight_statistics(look, row, self.where, self.names, width=width)
        return Text("\n").join(lines)

    def action_part(self) -> None:
        if len(self._parts) < 2:
            self.say("This row is a single parameter")
            return
        self.home.part += 1
        self._load()

    def action_next_weight(self) -> None:
        self.walk(1)

    def action_previous_weight(self) -> None:
        self.walk(-1)

    def action_save(self) -> None:
        self.home.save(self.row)

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.look.plain_lines(copied(self.row)))
        self.say("Copied what is known about the weights")


def opened(table: WeightTable, row: WeightRow, part: Part | None) -> Tensors:
    """A part's values as the screens draw them."""
    if part is None:
        return Tensors(None, None, ("nothing was recorded",) * 2)
    ours, theirs = part.reference, part.candidate
    why = row.row.reason or "no twin here"
    reasons = (why if ours is None else "", why if theirs is None else "")
    if ours is not None and theirs is not None and ours.shape != theirs.shape:
        return Tensors(ours, None, ("", f"shape {shape_text(theirs.shape)} does not fit"))
    return Tensors(ours, theirs, reasons)


def bar(row: WeightRow) -> float:
    """From which difference on a number of the row is another: what a conversion rounds, as the table judges it."""
    figures = row.row.figures
    if figures is None:
        return 0.0
    if figures.equal:
        return figures.max_abs
    top = figures.max_abs / figures.rel_max if figures.rel_max > 0 and math.isfinite(figures.rel_max) else 0.0
    return SAME * top
