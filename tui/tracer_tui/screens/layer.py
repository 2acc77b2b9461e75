"""One pair of activations: pictures of both tensors and their difference, distributions, statistics, worst elements."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType

from tracer.report import tensors
from tracer.report.rows import Row, opened
from tracer.report.tensors import Tensors
from tracer_tui import actions
from tracer_tui.screens.layers import LayersScreen
from tracer_tui.screens.tensor import TensorScreen
from tracer_tui.statistics import statistics
from tracer_tui.widgets.diagnosis import copied, source_of


class LayerScreen(TensorScreen[Row]):
    """Walks the rows of the Layers screen below it."""

    AREA = "layer"
    NOUN = "layer"
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("layer")
    home: LayersScreen

    def open_tensors(self, row: Row) -> Tensors:
        return opened(row, (self.home.reference, self.home.candidate))

    def axis_names(self, row: Row, rank: int) -> tuple[str, ...]:
        return tensors.axis_names(row.node, row.pair, rank)

    def worst_of(self, row: Row) -> tuple[int, ...] | None:
        stats = row.pair.stats if row.pair is not None else None
        return stats.argmax if stats is not None else None

    def tolerance_of(self, row: Row, found: Tensors) -> tuple[float, float] | None:
        return None if row.pair is None else (row.pair.tolerance.atol, row.pair.tolerance.rtol)

    def heading(self) -> Text:
        look, row = self.look, self.row
        number = "" if row.number is None else f" {row.number}"
        first = look.join((f"Layer{number}", "key"), "  ", look.mark(row.verdict), " ", (row.sides, "bold"))
        first.append_text(look.join(f"   {row.op}   {row.shape}", (f"   {row.axes}", "dim")))
        first.append_text(look.join("   ", (str(row.verdict).replace("-", " "), str(row.verdict))))
        return first

    def facts(self, width: int) -> Text:
        recordings = self.home.reference, self.home.candidate
        return statistics(self.look, self.row, recordings, self.where, self.names, width=width)

    def action_weights(self) -> None:
        self.home.action_weights()

    def action_mapping(self) -> None:
        self.home.action_mapping()

    def action_source(self) -> None:
        self.open_source(source_of(self.row))

    def action_save(self) -> None:
        self.home.save(self.row)

    def action_next_layer(self) -> None:
        self.walk(1)

    def action_previous_layer(self) -> None:
        self.walk(-1)

    def action_looser(self) -> None:
        self._rejudge(10.0)

    def action_tighter(self) -> None:
        self._rejudge(0.1)

    def _rejudge(self, factor: float) -> None:
        self.home.scale(factor)
        now = next((row for row in self.home.everything if row.key == self.row.key), self.row)
        tolerance = self.session.tolerance
        self.say(f"atol {tolerance.atol:g} rtol {tolerance.rtol:g}: {str(now.verdict).replace('-', ' ')}")
        self.row = now
        self.redraw()
        self._read(now)

    def action_copy(self) -> None:
        if self.home.diff is not None:
            text = copied(self.row, self.home.diff)
            self.app.copy_to_clipboard(self.look.plain_lines(text))
            self.say("Copied what is known about the pair")
