"""Home: every pair with its verdict, the error over the whole network, and what is known about the pair at hand."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.worker import get_current_worker

from tracer.causes.kept import told
from tracer.compare import Diff, Tolerance, Verdict, diff
from tracer.report import words
from tracer.store import Recording
from tracer_tui import actions, query
from tracer_tui.columns import Field, fit
from tracer_tui.rows import SORTS, Row, ordered, rows_of
from tracer_tui.screens.base import TracerScreen
from tracer_tui.session import explain
from tracer_tui.widgets.diagnosis import Diagnosis, copied
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.lines import KeyBar, Lines, Prompt
from tracer_tui.widgets.profile import Bar, Profile

_BAR = 8


class _Cancelled(Exception):
    """The comparison is not wanted any more."""


class LayersScreen(TracerScreen):
    """A comparison. It computes in a thread; the keys work meanwhile."""

    AREA = "layers"
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("layers")

    class Progress(Message):
        def __init__(self, done: int, total: int) -> None:
            super().__init__()
            self.done = done
            self.total = total

    class Ready(Message):
        def __init__(self, diff: Diff) -> None:
            super().__init__()
            self.diff = diff

    class Told(Message):
        """Why pairs part, as far as it was found."""

        def __init__(self, diff: Diff) -> None:
            super().__init__()
            self.diff = diff

    class Failed(Message):
        def __init__(self, reason: str) -> None:
            super().__init__()
            self.reason = reason

    def __init__(self, reference: Recording, candidate: Recording) -> None:
        super().__init__()
        self.reference, self.candidate = reference, candidate
        self.diff: Diff | None = None
        self.everything: list[Row] = []
        self.listed: list[Row] = []
        self.sort = SORTS[0]
        self.filter = ""
        self.looking = True
        self._status = "pairing the layers …"
        self._failed = False

    def compose(self) -> ComposeResult:
        yield Lines(id="title")
        yield Profile(id="profile")
        yield Grid()
        yield Diagnosis(id="diagnosis")
        yield Prompt(id="prompt")
        yield KeyBar("layers")

    def on_mount(self) -> None:
        super().on_mount()
        self.redraw()
        self._compare()

    @work(thread=True, exclusive=True, group="diff", exit_on_error=False)
    def _compare(self) -> None:
        worker = get_current_worker()
        last = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal last
            if worker.is_cancelled:
                raise _Cancelled
            if time.monotonic() - last > 0.1:
                last = time.monotonic()
                self.post_message(self.Progress(done, total))

        session = self.session
        try:
            found = diff(self.reference, self.candidate, session.tolerance, mapping=session.mapping, progress=progress)
        except _Cancelled:
            return
        except Exception as error:
            self.post_message(self.Failed(explain(error)))
            return
        self.post_message(self.Ready(found))
        self.post_message(self.Told(told(found, more=True, progress=progress)))

    @on(Progress)
    def _progress(self, event: Progress) -> None:
        if self.diff is not None:
            return
        self._status = f"comparing {event.done}/{event.total}"
        self._show_title()
        self.grid.say(self.look.text(self._status, "dim"))

    @on(Failed)
    def _failure(self, event: Failed) -> None:
        self._status, self._failed = event.reason, True
        self.say(event.reason, "error")
        self.redraw()

    @on(Ready)
    def _ready(self, event: Ready) -> None:
        found = event.diff
        if found.tolerance != self.session.tolerance:
            found = found.at(self.session.tolerance)
        self._status = "" if found.pairs else "these recordings have no layer in common"
        self._take(found)
        self._restore(next((row.key for row in self.everything if row.pair is found.first is not None), None))

    @on(Told)
    def _why(self, event: Told) -> None:
        self.looking = False
        if self.diff is None:
            return
        findings = {pair.aligned: pair.finding for pair in event.diff.pairs}
        pairs = tuple(replace(pair, finding=findings.get(pair.aligned)) for pair in self.diff.pairs)
        key = self._key()
        self._take(replace(self.diff, pairs=pairs))
        self._restore(key)

    def _take(self, found: Diff) -> None:
        self.diff = found
        self.everything = rows_of(found)
        bars = [Bar(row.verdict, row.error) for row in self.everything if row.pair is not None]
        self.query_one(Profile).show(bars, found.tolerance.atol)
        self._show_title()

    def redraw(self) -> None:
        if self.diff is not None:
            self._take(self.diff)
            self._restore(self._key())
        else:
            self._show_title()
            self.grid.say(self.look.text(self._status, "diverged" if self._failed else "dim"))
            self.query_one(Diagnosis).show(None, None)

    def on_resize(self, _: events.Resize) -> None:
        self.call_after_refresh(self.redraw)

    def on_screen_resume(self) -> None:
        if self.diff is not None and self.diff.tolerance != self.session.tolerance:
            self._judge()

    def _key(self) -> tuple[str, str] | None:
        return self.current.key if self.current is not None else None

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        place = self.grid.cursor
        return self.listed[place] if 0 <= place < len(self.listed) else None

    def _restore(self, key: tuple[str, str] | None) -> None:
        """Fill the table anew and put the cursor on ``key``, or where it was."""
        try:
            test = query.parse(self.filter)
            self.query_one(Prompt).hint("")
        except query.QueryError as error:
            self.query_one(Prompt).hint(self.look.plain(f"{error} "))
            return
        self.listed = [row for row in ordered(self.everything, self.sort) if test(row)]
        cursor = next((place for place, row in enumerate(self.listed) if row.key == key), None)
        self._fill(self.grid.cursor if cursor is None else cursor)
        self._follow()

    def _fill(self, cursor: int) -> None:
        look, rows = self.look, self.listed
        known = [e for row in self.everything if (e := row.error) is not None and 0 < e < math.inf]
        low = math.log10(min(known)) if known else 0.0
        spread = max(math.log10(max(known)) - low, 1e-9) if known else 1.0

        def styled(row: Row) -> str:
            return "" if row.verdict is Verdict.MATCH else str(row.verdict)

        def bar(row: Row) -> str:
            error = row.error
            if not error:
                return ""
            share = 1.0 if error == math.inf else 0.12 + 0.88 * (math.log10(error) - low) / spread
            return look.bar(share, _BAR)

        def name(text: str, row: Row) -> Text:
            return look.text(text or "—", styled(row) if text else "dim")

        def cell(i: int, text: str) -> Text:
            return look.text(text, "dim" if rows[i].pair is None else "")

        fields = [
            Field("", 0, lambda i: look.mark(rows[i].verdict), width=1),
            Field("#", 2, lambda i: look.text(_number(rows[i]), "dim"), right=True),
            Field(self._heading(self.reference), 0, lambda i: name(rows[i].reference, rows[i]), least=20),
            Field(self._heading(self.candidate), 0, lambda i: name(rows[i].candidate, rows[i]), least=20),
            Field("op", 3, lambda i: cell(i, rows[i].op), least=10),
            Field("shape", 5, lambda i: cell(i, rows[i].shape), least=9),
            Field("axes", 6, lambda i: look.text(rows[i].axes, "dim"), least=8),
            Field("max|Δ|", 0, lambda i: look.text(_figure(rows[i].error), styled(rows[i])), right=True, width=8),
            *self._local_fields(rows),
            Field("", 4, lambda i: look.text(bar(rows[i]), str(rows[i].verdict)), width=_BAR),
            Field("rel L2", 7, lambda i: cell(i, _figure(rows[i].relative)), right=True, width=8),
            Field("conf", 8, lambda i: look.text(_confidence(rows[i]), "dim"), right=True, width=4),
        ]
        columns, shown = fit(fields, len(rows), self.grid.size.width or self.size.width, look)
        self.grid.empty = look.text(self._status or "no layer fits the filter", "dim")
        self.grid.show(columns, len(rows), lambda i: [field.cell(i) for field in shown], cursor=cursor)

    def _local_fields(self, rows: list[Row]) -> list[Field]:
        """What each layer adds itself and what rounding explains, where that was measured."""
        if all(row.own is None for row in self.everything):
            return []
        look = self.look

        def own(i: int) -> Text:
            error, floor = rows[i].own, rows[i].floor
            over = error is not None and floor is not None and error > floor
            return look.text(_figure(error, 1), str(Verdict.DIVERGED) if over else "")

        return [
            Field("own", 1, own, right=True, width=7),
            Field("floor", 2, lambda i: look.text(_figure(rows[i].floor, 1), "dim"), right=True, width=7),
        ]

    def _heading(self, recording: Recording) -> Text:
        return self.look.text(recording.name)

    def _show_title(self) -> None:
        look, found = self.look, self.diff
        title = self.query_one("#title", Lines)
        ours, theirs = self.reference, self.candidate
        shapes = ", ".join(words.shape_text(node.shape) for node in ours.structure.inputs)
        first = look.join(
            ("tracer", "key"),
            "  ",
            (ours.name, "bold"),
            f" ({ours.model}) ⇄ ",
            (theirs.name, "bold"),
            f" ({theirs.model})",
            (f"   input {ours.input_id} {shapes}", "dim"),
        )
        tolerance = self.session.tolerance
        second = look.join((f"atol {tolerance.atol:g} rtol {tolerance.rtol:g}   ", "dim"))
        if found is None:
            second.append_text(look.text(self._status, "diverged" if self._failed else "bold"))
        else:
            second.append_text(look.text(f"{len(found.pairs)} pairs"))
            for verdict in Verdict:
                count = found.unmatched if verdict is Verdict.UNMATCHED else found.counts[verdict]
                if count or verdict is not Verdict.NOT_COMPARABLE:
                    second.append("  ").append_text(look.mark(verdict)).append_text(look.text(f" {count}"))
            second.append_text(look.text(self._mode(), "dim"))
        title.show(first, second)

    def _mode(self) -> str:
        """How the table is sorted and filtered, where that is not as at the beginning."""
        out = f"   by {self.sort}" if self.sort != SORTS[0] else ""
        return out + (f"   filter {self.filter} ({len(self.listed)})" if self.filter else "")

    def on_grid_highlighted(self, _: Grid.Highlighted) -> None:
        self._follow()

    def _follow(self) -> None:
        row = self.current
        self.query_one(Profile).point(None if row is None else row.number)
        self.query_one(Diagnosis).show(row, self.diff, looking=self.looking)

    @on(Profile.Picked)
    def _picked(self, event: Profile.Picked) -> None:
        for place, row in enumerate(self.listed):
            if row.number == event.number:
                self.grid.cursor = place
                return
        self.say("The filter hides that pair")

    def action_open(self) -> None:
        from tracer_tui.screens.layer import LayerScreen

        if self.current is not None:
            self.app.push_screen(LayerScreen(self))

    def action_back(self) -> None:
        prompt = self.query_one(Prompt)
        if prompt.is_open:
            self._leave_prompt()
            if prompt.purpose == "filter":
                self._filter_by("")
        elif self.filter:
            self._filter_by("")
        else:
            self.app.pop_screen()

    def action_next_divergence(self) -> None:
        self._jump(1)

    def action_previous_divergence(self) -> None:
        self._jump(-1)

    def _jump(self, way: int) -> None:
        count = len(self.listed)
        for step in range(1, count + 1):
            place = (self.grid.cursor + way * step) % count
            if self.listed[place].verdict is Verdict.DIVERGED:
                if place == self.grid.cursor:
                    self.say("This is the only divergence")
                self.grid.cursor = place
                return
        self.say("Nothing diverged here" if self.diff is not None else self._status)

    def action_filter(self) -> None:
        self.query_one(Prompt).open("filter", "/", self.filter)

    def action_tolerance(self) -> None:
        now = self.session.tolerance
        self.query_one(Prompt).open("tolerance", "atol [rtol]", f"{now.atol:g} {now.rtol:g}")

    @on(Prompt.Typed)
    def _typed(self, event: Prompt.Typed) -> None:
        prompt = self.query_one(Prompt)
        if event.purpose == "filter":
            self._filter_by(event.text.strip())
        elif event.done:
            try:
                self.session.tolerance = parse_tolerance(event.text, self.session.tolerance)
            except ValueError as error:
                prompt.hint(self.look.plain(f"{error} "))
                return
            self._judge()
        if event.done:
            self._leave_prompt()

    def _leave_prompt(self) -> None:
        self.query_one(Prompt).close()
        self.set_focus(self.grid)

    def _filter_by(self, text: str) -> None:
        key = self._key()
        self.filter = text
        self._restore(key)
        self._show_title()

    def action_sort(self) -> None:
        self._sort_by(1)

    def action_sort_back(self) -> None:
        self._sort_by(-1)

    def _sort_by(self, way: int) -> None:
        self.sort = SORTS[(SORTS.index(self.sort) + way) % len(SORTS)]
        self._restore(self._key())
        self._show_title()

    def action_looser(self) -> None:
        self.scale(10.0)

    def action_tighter(self) -> None:
        self.scale(0.1)

    def scale(self, factor: float) -> None:
        """Multiply both tolerances, kept to two digits so that ten times a tenth is what was."""
        now = self.session.tolerance
        if max(now.atol, now.rtol) * factor <= 1e6 and (factor > 1 or max(now.atol, now.rtol) > 1e-30):
            self.session.tolerance = Tolerance(_tidy(now.atol * factor), _tidy(now.rtol * factor))
            self._judge()

    def _judge(self) -> None:
        """Verdicts from the statistics at hand: no tensor is read again."""
        if self.diff is not None:
            key = self._key()
            self._take(self.diff.at(self.session.tolerance))
            self._restore(key)
        else:
            self._show_title()

    def action_copy(self) -> None:
        if self.current is None or self.diff is None:
            return
        self.app.copy_to_clipboard(self.look.plain_lines(copied(self.current, self.diff)))
        self.say("Copied what is known about the pair")


def parse_tolerance(text: str, now: Tolerance) -> Tolerance:
    """``1e-4`` or ``1e-4 1e-3``. Raises ValueError with what is expected."""
    parts = text.replace(",", " ").split()
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 2 or not all(0 <= number < math.inf for number in numbers):
        raise ValueError("one or two numbers, such as 1e-4 1e-3")
    return Tolerance(numbers[0], numbers[1] if len(numbers) > 1 else now.rtol)


def _tidy(value: float) -> float:
    return float(f"{value:.6g}")


def _figure(value: float | None, digits: int = 2) -> str:
    return "0" if value == 0 else words.number(value, digits)


def _number(row: Row) -> str:
    return "" if row.number is None else str(row.number)


def _confidence(row: Row) -> str:
    return "" if row.pair is None else f"{row.pair.pair.confidence:.2f}"
