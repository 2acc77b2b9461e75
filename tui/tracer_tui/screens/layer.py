"""One pair: pictures of both tensors and their difference, distributions, statistics, worst elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import Static
from textual.worker import get_current_worker

from tracer.alignment.axes import apply
from tracer.report import words
from tracer_tui import actions, tensors
from tracer_tui.columns import Field, fit
from tracer_tui.rows import Row
from tracer_tui.screens.base import TracerScreen
from tracer_tui.session import explain
from tracer_tui.statistics import statistics
from tracer_tui.tensors import Array, Histogram, Planes, View, Where
from tracer_tui.widgets.diagnosis import copied
from tracer_tui.widgets.distribution import Distribution
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.heatmap import Heatmap
from tracer_tui.widgets.lines import KeyBar, Lines

if TYPE_CHECKING:
    from tracer_tui.screens.layers import LayersScreen


@dataclass(frozen=True)
class Tensors:
    """Both sides in the reference's axes, memory-mapped; None with a reason for one that cannot be shown."""

    reference: Array | None
    candidate: Array | None
    reasons: tuple[str, str]

    @property
    def shape(self) -> tuple[int, ...] | None:
        some = self.reference if self.reference is not None else self.candidate
        return None if some is None else some.shape


class LayerScreen(TracerScreen):
    """Walks the rows of the Layers screen below it."""

    AREA = "layer"
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("layer")

    class Opened(Message):
        def __init__(self, row: Row, found: Tensors) -> None:
            super().__init__()
            self.row = row
            self.found = found

    class Drawn(Message):
        def __init__(self, view: View, planes: Planes | str) -> None:
            super().__init__()
            self.view = view
            self.planes = planes

    class Measured(Message):
        def __init__(self, row: Row, histogram: Histogram | None, where: Where | None) -> None:
            super().__init__()
            self.row = row
            self.histogram = histogram
            self.where = where

    def __init__(self, home: LayersScreen) -> None:
        super().__init__()
        self.home = home
        assert home.current is not None
        self.row: Row = home.current
        self.view: View | None = None
        self.names: tuple[str, ...] = ()
        self.axis: int | None = None
        self.where: Where | None = None
        self.histogram: Histogram | None = None
        self._tensors: Tensors | None = None
        self._planes: Planes | str | None = None
        self._numbers = False

    def compose(self) -> ComposeResult:
        yield Lines(id="title")
        with Horizontal(id="pictures"):
            yield Heatmap("values", id="reference")
            yield Heatmap("values", id="candidate")
            yield Heatmap("difference", id="difference")
        with Horizontal(id="details"):
            yield Distribution(id="distribution")
            with VerticalScroll(id="statistics", classes="panel", can_focus=False):
                yield Static("", markup=False)
            yield Grid(id="worst")
        yield KeyBar("layer")

    def on_mount(self) -> None:
        super().on_mount()
        self._load()

    def _load(self) -> None:
        """Show the row: what is known at once, the rest as it is read."""
        self.view, self.axis, self.where, self.histogram = None, None, None, None
        self._tensors, self._planes = None, None
        self.redraw()
        self._read(self.row)

    @work(thread=True, exclusive=True, group="layer", exit_on_error=False)
    def _read(self, row: Row) -> None:
        worker = get_current_worker()
        found = self._open(row)
        if worker.is_cancelled:
            return
        self.post_message(self.Opened(row, found))
        try:
            histogram = tensors.histogram(found.reference, found.candidate)
            where = None
            if found.reference is not None and found.candidate is not None and row.pair is not None:
                tolerance = row.pair.tolerance
                where = tensors.locate(
                    found.reference,
                    found.candidate,
                    tolerance.atol,
                    tolerance.rtol,
                    stop=lambda: worker.is_cancelled,
                )
        except Exception as error:
            self.app.call_from_thread(self.say, explain(error), "error")
            return
        if not worker.is_cancelled:
            self.post_message(self.Measured(row, histogram, where))

    def _open(self, row: Row) -> Tensors:
        """Map both tensors; the comparison has checked their sums already."""
        found: list[Array | None] = [None, None]
        reasons = ["", ""]
        sides = (self.home.reference, self.home.candidate)
        nodes = (row.node, row.pair.candidate_node) if row.pair is not None else (row.node, row.node)
        for side, (recording, node) in enumerate(zip(sides, nodes, strict=True)):
            if row.pair is None and row.on_reference == bool(side):
                reasons[side] = "no twin here"
                continue
            try:
                if recording.stored(node.name) is None:
                    reasons[side] = recording.why_missing(node.name)
                    continue
                values = recording.read(node.name, verify=False)
                if side and row.pair is not None and found[0] is not None:
                    axes, arrangement = row.pair.pair.axes, row.pair.pair.arrangement
                    if axes is not None:
                        values = apply(values, axes)
                    elif arrangement is not None:
                        values = arrangement.apply(values)
                    else:
                        reasons[side] = f"shape {words.shape_text(values.shape)} does not fit"
                        continue
                    if values.shape != found[0].shape:
                        reasons[side] = f"shape {words.shape_text(values.shape)} does not fit"
                        continue
                found[side] = values
            except Exception as error:
                reasons[side] = explain(error)
        return Tensors(found[0], found[1], (reasons[0], reasons[1]))

    @on(Opened)
    def _opened(self, event: Opened) -> None:
        if event.row is not self.row:
            return
        self._tensors = event.found
        shape = event.found.shape
        if shape is not None:
            self.names = tensors.axis_names(event.row.node, event.row.pair, len(shape))
            stats = event.row.pair.stats if event.row.pair is not None else None
            self.view = View.of(shape, self.names, stats.argmax if stats is not None else None)
            self._choose_axis()
            self._draw()
        self.redraw()

    def _choose_axis(self) -> None:
        others = self.view.others if self.view is not None else ()
        if self.axis not in others:
            # The batch is the least telling axis to step along.
            self.axis = next((axis for axis in others if self.names[axis] != "batch"), others[0] if others else None)

    def _draw(self) -> None:
        if self.view is not None and self._tensors is not None:
            self._read_plane(self.view, self._tensors)

    @work(thread=True, exclusive=True, group="plane", exit_on_error=False)
    def _read_plane(self, view: View, found: Tensors) -> None:
        worker = get_current_worker()
        try:
            planes: Planes | str = tensors.load(view, found.reference, found.candidate)
        except Exception as error:
            planes = explain(error)
        if not worker.is_cancelled:
            self.post_message(self.Drawn(view, planes))

    @on(Drawn)
    def _drawn(self, event: Drawn) -> None:
        if event.view is self.view:
            self._planes = event.planes
            self._show_pictures()
            self._show_title()

    @on(Measured)
    def _measured(self, event: Measured) -> None:
        if event.row is self.row:
            self.histogram, self.where = event.histogram, event.where
            self._show_details()

    def on_resize(self, _: events.Resize) -> None:
        self.call_after_refresh(self.redraw)

    def redraw(self) -> None:
        self._show_title()
        self._show_pictures()
        self._show_details()

    def _show_title(self) -> None:
        look, row = self.look, self.row
        number = "" if row.number is None else f" {row.number}"
        first = look.join((f"Layer{number}", "key"), "  ", look.mark(row.verdict), " ", (row.sides, "bold"))
        first.append_text(look.join(f"   {row.op}   {row.shape}", (f"   {row.axes}", "dim")))
        first.append_text(look.join("   ", (str(row.verdict).replace("-", " "), str(row.verdict))))
        second = look.join(self._slice_text())
        self.query_one("#title", Lines).show(first, second)

    def _slice_text(self) -> Text:
        """``batch 0/3 · down channel 0–31 · across position 0–159``, the axis that h and l step in bold."""
        look, view, out = self.look, self.view, Text()
        if view is None:
            return look.text("reading …" if self._tensors is None else "nothing to show", "dim")
        parts = []
        for axis in view.others:
            chosen = axis == self.axis
            text = f"{self.names[axis]} {view.index[axis]}/{view.shape[axis] - 1}"
            parts.append(look.text(f"h {text} l" if chosen else text, "key" if chosen else ""))
        for word, shown in (("down", view.down), ("across", view.across)):
            if shown is not None:
                parts.append(look.text(f"{word}: {self.names[shown]} ({view.shape[shown]})", "dim"))
        if isinstance(self._planes, Planes) and self._planes.thinned:
            parts.append(look.text("thinned: too large to read whole", "noise"))
        for place, part in enumerate(parts):
            out.append("   " if place else "").append_text(part)
        return out if parts else look.text("a single value" if not view.shape else "one element", "dim")

    def _show_pictures(self) -> None:
        look, planes = self.look, self._planes
        ours, theirs = self.home.reference.name, self.home.candidate.name
        titles = (ours, theirs, f"Δ = {theirs} − {ours}")
        maps = [self.query_one(f"#{name}", Heatmap) for name in ("reference", "candidate", "difference")]
        reasons = self._reasons()
        ready = planes if isinstance(planes, Planes) else None
        limits = ready.limits if ready is not None else (0.0, 0.0)
        greatest = ready.greatest if ready is not None else 0.0
        drawn = (ready.reference, ready.candidate, ready.difference) if ready is not None else (None,) * 3
        for place, (widget, title, plane) in enumerate(zip(maps, titles, drawn, strict=True)):
            widget.border_title = look.text(title, width=max(8, widget.size.width - 4))
            scale = f"±{greatest:.3g}" if place == 2 else f"{limits[0]:.3g} … {limits[1]:.3g}"
            widget.border_subtitle = look.text(scale) if plane is not None else None
            focus = (0, 0)
            if ready is not None and self.view is not None:
                focus = _nearest(ready.rows, self.view.focus[0]), _nearest(ready.columns, self.view.focus[1])
            widget.numbers_shown(self._numbers)
            message = look.text(reasons[place], "dim")
            if place == 2 and plane is not None and plane.size and not plane.any():
                plane, message = None, look.text("no difference here", "dim")
            widget.show(plane, (-greatest, greatest) if place == 2 else limits, focus, message)

    def _reasons(self) -> tuple[str, str, str]:
        """What stands in a picture's place."""
        if isinstance(self._planes, str):
            return (self._planes,) * 3
        if self._tensors is None:
            return ("reading …",) * 3
        ours, theirs = self._tensors.reasons
        empty = "empty: no elements" if self._tensors.shape is not None else ""
        return ours or empty, theirs or empty, (empty if not (ours or theirs) else "needs both sides")

    def _show_details(self) -> None:
        look = self.look
        names = self.home.reference.name, self.home.candidate.name
        self.query_one(Distribution).show(self.histogram, names)
        panel = self.query_one("#statistics", VerticalScroll)
        panel.border_title = look.text("statistics")
        recordings = self.home.reference, self.home.candidate
        self.query_one("#statistics Static", Static).update(
            statistics(look, self.row, recordings, self.where, self.names, width=max(20, panel.size.width - 3))
        )
        self.grid.border_title = look.text("worst elements")
        worst = self.where.worst if self.where is not None else []
        fields = [
            Field("index", 0, lambda i: look.text(words.index_text(worst[i][0])), least=12),
            Field(look.text(names[0]), 1, lambda i: look.text(f"{worst[i][1]:+.3g}"), right=True),
            Field(look.text(names[1]), 2, lambda i: look.text(f"{worst[i][2]:+.3g}"), right=True),
            Field("Δ", 0, lambda i: look.text(f"{worst[i][2] - worst[i][1]:+.2g}"), right=True),
        ]
        columns, shown = fit(fields, len(worst), self.grid.size.width or 40, look)
        differs = "no element differs" if self.where is not None and self.where.seen == self.where.size else ""
        self.grid.empty = look.text(differs, "dim")
        self.grid.show(columns, len(worst), lambda i: [f.cell(i) for f in shown], cursor=self.grid.cursor)

    def action_open(self) -> None:
        """Show the slice of the worst element under the cursor."""
        if self.where is not None and self.where.worst and self.view is not None:
            self._look_at(self.view.at(self.where.worst[self.grid.cursor][0]))

    def _look_at(self, view: View) -> None:
        self.view = view
        self._choose_axis()
        self._show_title()
        self._draw()

    def action_step(self) -> None:
        self._step(1)

    def action_step_back(self) -> None:
        self._step(-1)

    def _step(self, by: int) -> None:
        if self.view is not None and self.axis is not None:
            self._look_at(self.view.stepped(self.axis, by))
        else:
            self.say("The whole tensor is shown")

    def action_axis(self) -> None:
        self._next_axis(1)

    def action_axis_back(self) -> None:
        self._next_axis(-1)

    def _next_axis(self, way: int) -> None:
        others = self.view.others if self.view is not None else ()
        if self.axis in others:
            self.axis = others[(others.index(self.axis) + way) % len(others)]
            self._show_title()

    def action_turn(self) -> None:
        if self.view is not None:
            self._look_at(self.view.turned())

    def action_numbers(self) -> None:
        self._numbers = not self._numbers
        self._show_pictures()

    def action_next_layer(self) -> None:
        self._walk(1)

    def action_previous_layer(self) -> None:
        self._walk(-1)

    def _walk(self, way: int) -> None:
        before = self.home.grid.cursor
        self.home.grid.move(way)
        if self.home.grid.cursor == before or self.home.current is None:
            self.say("No further layer" if way > 0 else "This is the first layer")
            return
        self.row = self.home.current
        self.grid.cursor = 0
        self._load()

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

    def action_back(self) -> None:
        self.app.pop_screen()


def _nearest(kept: Array, wanted: int) -> int:
    """Where row or column ``wanted`` stands among those that were read."""
    return max(0, min(int(np.searchsorted(kept, wanted)), len(kept) - 1))
