"""Two tensors over each other: pictures of both and of their difference, distributions, numbers, worst elements."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.worker import get_current_worker

from tracer.errors import said
from tracer.report import tensors, words
from tracer.report.tensors import Histogram, Planes, Tensors, View, Where
from tracer_tui.columns import Field, fit
from tracer_tui.indices import index_of
from tracer_tui.query import Listed
from tracer_tui.screens.base import TracerScreen
from tracer_tui.widgets.byaxis import ByAxis
from tracer_tui.widgets.curves import Curve, Curves
from tracer_tui.widgets.distribution import Distribution
from tracer_tui.widgets.grid import FramedGrid
from tracer_tui.widgets.lines import KeyBar, Lines, Prompt
from tracer_tui.widgets.panel import Panel
from tracer_tui.widgets.pictures import Pictures

if TYPE_CHECKING:
    from tracer_tui.screens.listing import ListScreen

R = TypeVar("R", bound=Listed)

_ROOMY = 44
"""Columns from which on the worst elements are told more precisely."""
_CLOSER = 4
"""By how much fewer values are drawn when one looks closer at a curve."""
_CLOSEST = 16
"""Values that are drawn at least, where there are so many."""


class TensorScreen(TracerScreen, Generic[R]):
    """Shows a row of the list below it, and walks that list.

    A screen of this kind says how to open the tensors of its row, what their axes are called, and what is known.
    """

    NOUN: ClassVar[str] = "row"

    class Opened(Message):
        def __init__(self, row: object, found: Tensors) -> None:
            super().__init__()
            self.row = row
            self.found = found

    class Drawn(Message):
        def __init__(self, view: View, planes: Planes | str) -> None:
            super().__init__()
            self.view = view
            self.planes = planes

    class Measured(Message):
        def __init__(self, row: object, histogram: Histogram | None, where: Where | None) -> None:
            super().__init__()
            self.row = row
            self.histogram = histogram
            self.where = where

    def __init__(self, home: ListScreen[R]) -> None:
        super().__init__()
        self.home = home
        assert home.current is not None
        self.row: R = home.current
        self.view: View | None = None
        self.names: tuple[str, ...] = ()
        self.axis: int | None = None
        self.where: Where | None = None
        self.histogram: Histogram | None = None
        self._tensors: Tensors | None = None
        self._planes: Planes | str | None = None
        self._as_curves: bool | None = None
        self._plane_axes: tuple[int | None, int | None] | None = None
        self._detail = 0
        self._closeness = 0
        """How often the part of a curve that is drawn was divided by :data:`_CLOSER`."""

    @abstractmethod
    def open_tensors(self, row: R) -> Tensors:
        """Called in a thread; what it raises is shown."""

    @abstractmethod
    def axis_names(self, row: R, rank: int) -> tuple[str, ...]: ...

    @abstractmethod
    def worst_of(self, row: R) -> tuple[int, ...] | None:
        """Where the tensors differ most, if that is known."""

    @abstractmethod
    def tolerance_of(self, row: R, found: Tensors) -> tuple[float, float] | None:
        """By which atol and rtol elements are outside; None where the two are not compared."""

    @abstractmethod
    def heading(self) -> Text:
        """The first line."""

    @abstractmethod
    def facts(self, width: int) -> Text:
        """What the panel of statistics says."""

    def compose(self) -> ComposeResult:
        yield Lines(id="title")
        yield Pictures(id="pictures")
        yield Curves(id="curves")
        with Horizontal(id="details"):
            yield Distribution(id="distribution")
            yield ByAxis(id="by-axis")
            yield Panel(id="statistics")
            yield FramedGrid(id="worst")
        yield Prompt(id="prompt")
        yield KeyBar(self.AREA)

    def on_mount(self) -> None:
        super().on_mount()
        self._load()

    def _load(self) -> None:
        """Show the row: what is known at once, the rest as it is read."""
        self.view, self.axis, self.where, self.histogram = None, None, None, None
        self._tensors, self._planes = None, None
        self.redraw()
        self._read(self.row)

    @work(thread=True, exclusive=True, group="tensors", exit_on_error=False)
    def _read(self, row: R) -> None:
        worker = get_current_worker()
        try:
            found = self.open_tensors(row)
        except Exception as error:
            found = Tensors(None, None, (said(error),) * 2)
        if worker.is_cancelled:
            return
        self.post_message(self.Opened(row, found))
        try:
            histogram = tensors.histogram(found.reference, found.candidate)
            tolerance, where = self.tolerance_of(row, found), None
            if found.reference is not None and found.candidate is not None and tolerance is not None:
                where = tensors.locate(
                    found.reference, found.candidate, *tolerance, stop=lambda: worker.is_cancelled
                )  # fmt: skip
        except Exception as error:
            self.app.call_from_thread(self.say, said(error), "error")
            return
        if not worker.is_cancelled:
            self.post_message(self.Measured(row, histogram, where))

    @on(Opened)
    def _opened(self, event: Opened) -> None:
        if event.row is not self.row:
            return
        self._tensors = event.found
        shape = event.found.shape
        if shape is not None:
            self.names = self.axis_names(self.row, len(shape))
            if self.view is None or self.view.shape != shape:
                self.view = self._drawn_as(View.of(shape, self.names, self.worst_of(self.row)))
            self._choose_axis()
            self._draw()
        self.redraw()

    def renewed(self, *, anew: bool) -> None:
        """The list below was made again: show what has become of the row. ``anew``: its tensors were replaced."""
        now = next((row for row in self.home.everything if row.key == self.row.key), None)
        if now is None:
            self.say(f"This {self.NOUN} is not there any more", "warning")
            return
        was, self.row = self.row, now
        if anew or (was.error, was.relative, was.state) != (now.error, now.relative, now.state):
            self.redraw()
            self._read(now)

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
            planes = said(error)
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
        self.query_one("#title", Lines).show(self.heading(), self.look.join(self._slice_text()))

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

    @property
    def curves(self) -> bool:
        """Whether curves are drawn in the place of pictures; as it suits the tensor until the user chooses."""
        if self._as_curves is not None and self.view is not None and self.view.shape:
            return self._as_curves
        return self.view is not None and self.view.is_line

    def _drawn_as(self, view: View) -> View:
        """The plane or line to show of a new tensor."""
        lined = self._as_curves if self._as_curves is not None else view.is_line
        self._plane_axes = view.down, view.across
        return view.lined() if lined else view

    def _show_pictures(self) -> None:
        names = self.home.reference.name, self.home.candidate.name
        ready = self._planes if isinstance(self._planes, Planes) else None
        pictures, curves = self.query_one(Pictures), self.query_one(Curves)
        # A tall screen has room for the line through the element of interest below the pictures, a tiny one for the
        # details alone.
        also = self.has_class("-tall") and self.view is not None and len(self.view.shape) > 0
        hidden = self.has_class("-tiny") and self._detail > 0
        pictures.display = not self.curves and not hidden
        curves.display = (self.curves or also) and not hidden
        pictures.show(ready, self.view, names, self._reasons())
        curves.show(self._curve(ready), names, self._reasons()[2])

    def _curve(self, planes: Planes | None) -> Curve | None:
        view = self.view
        if planes is None or view is None or view.across is None or not len(planes.columns):
            return None
        row, at = planes.nearest(view.focus)
        sides = tuple(None if side is None else side[row] for side in (planes.reference, planes.candidate))
        difference = None if planes.difference is None else planes.difference[row]
        tolerance, bound = None if self._tensors is None else self.tolerance_of(self.row, self._tensors), None
        if tolerance is not None and sides[0] is not None:
            bound = tolerance[0] + tolerance[1] * abs(sides[0])
        whole = Curve((sides[0], sides[1]), planes.columns, difference, bound, at, self.names[view.across])
        while self._closeness and len(planes.columns) / _CLOSER ** (self._closeness - 1) <= _CLOSEST:
            self._closeness -= 1  # another tensor, with shorter lines
        return whole.part(max(_CLOSEST, round(len(planes.columns) / _CLOSER**self._closeness)))

    def _reasons(self) -> tuple[str, str, str]:
        """What stands in a picture's place."""
        if isinstance(self._planes, str):
            return (self._planes,) * 3
        return ("reading …",) * 3 if self._tensors is None else self._tensors.why

    def _show_details(self) -> None:
        look = self.look
        names = self.home.reference.name, self.home.candidate.name
        self.query_one(Distribution).show(self.histogram, names)
        self._show_by_axis()
        panel = self.query_one(Panel)
        panel.show(look.text("statistics"), self.facts(max(20, panel.size.width - 3)))
        self.query_one(FramedGrid).entitle(look.text("worst elements"))
        worst = self.where.worst if self.where is not None else []
        digits = 4 if self.grid.size.width >= _ROOMY else 3
        fields = [
            Field("index", 0, lambda i: look.text(words.index_text(worst[i][0])), least=12),
            Field(look.text(names[0]), 1, lambda i: look.text(f"{worst[i][1]:.{digits}g}"), right=True),
            Field(look.text(names[1]), 2, lambda i: look.text(f"{worst[i][2]:.{digits}g}"), right=True),
            Field("Δ", 0, lambda i: look.text(f"{worst[i][2] - worst[i][1]:+.{digits - 1}g}"), right=True),
        ]
        columns, shown = fit(fields, len(worst), self.grid.size.width or 40, look)
        differs = "no element differs" if self.where is not None and self.where.seen == self.where.size else ""
        self.grid.empty = look.text(differs, "dim")
        self.grid.show(columns, len(worst), lambda i: [f.cell(i) for f in shown], cursor=self.grid.cursor)

    @property
    def _axes_with_errors(self) -> list[int]:
        """The axes along which errors can be told apart."""
        return [] if self.where is None else [a for a, hit in enumerate(self.where.hit) if len(hit) > 1]

    def _show_by_axis(self) -> None:
        axes = self._axes_with_errors
        self._detail = min(self._detail, len(axes)) if self.where is not None else self._detail
        panel = self.query_one(ByAxis)
        self.set_class(self._detail > 0, "-detail")
        if self._detail and self.where is not None:
            axis = axes[self._detail - 1]
            panel.show(self.names[axis], self.where.greatest[axis], self.where.hit[axis])
        elif self._detail:
            panel.show("axis", None, None, "looking …")

    def action_details(self) -> None:
        """The next of: distribution, the error along each axis."""
        axes = self._axes_with_errors
        if not axes:
            self.say("There is no axis along which errors could be told apart")
        self._detail = (self._detail + 1) % (len(axes) + 1)
        self._show_by_axis()
        self._show_pictures()

    def action_curves(self) -> None:
        view = self.view
        if view is None or not view.shape:
            self.say("There is nothing to draw along")
            return
        self._as_curves = not self.curves
        if self._as_curves:
            self._plane_axes = view.down, view.across
            self._look_at(view.lined())
        else:
            down, across = self._plane_axes or (None, None)
            self._look_at(View(view.shape, down, across if across is not None else view.across, view.index))
        self._show_pictures()

    def action_closer(self) -> None:
        self._come_closer(1)

    def action_farther(self) -> None:
        self._come_closer(-1)

    def _come_closer(self, by: int) -> None:
        if not self.query_one(Curves).display:
            self.say(f"There is no curve: {self.key('curves')} draws one")
            return
        before, self._closeness = self._closeness, max(0, self._closeness + by)
        self._show_pictures()
        if self._closeness == before:
            self.say("The whole line is shown" if by < 0 else "This is as close as it gets")

    def action_go_to(self) -> None:
        if self.view is not None and self.view.shape:
            self.query_one(Prompt).open("index", "index", ",".join(map(str, self.view.index)))

    @on(Prompt.Typed)
    def _typed(self, event: Prompt.Typed) -> None:
        if not event.done or self.view is None:
            return
        if event.purpose == "index":
            try:
                index = index_of(event.text, self.view, self.names, self.axis)
            except ValueError as error:
                self.query_one(Prompt).hint(self.look.plain(f"{error} "))
                return
            self._look_at(self.view.at(index))
        self._leave_prompt()

    def _leave_prompt(self) -> None:
        self.query_one(Prompt).close()
        self.set_focus(self.grid)

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
        pictures, curves = self.query_one(Pictures), self.query_one(Curves)
        pictures.numbers = curves.numbers = not pictures.numbers
        self._show_pictures()

    def walk(self, way: int) -> None:
        """Show the next row of the list below."""
        before = self.home.grid.cursor
        self.home.grid.move(way)
        if self.home.grid.cursor == before or self.home.current is None:
            self.say(f"No further {self.NOUN}" if way > 0 else f"This is the first {self.NOUN}")
            return
        self.row = self.home.current
        self.grid.cursor = 0
        self._load()

    def action_back(self) -> None:
        if self.query_one(Prompt).is_open:
            self._leave_prompt()
        else:
            self.app.pop_screen()
