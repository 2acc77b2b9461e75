"""Every parameter of both models, side by side: what differs, what it would equal, and how it looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.worker import get_current_worker

from tracer.alignment.owned import Key
from tracer.errors import said
from tracer.report import tensors
from tracer.report import weights as words
from tracer.report.tensors import Array, Planes, View
from tracer.report.words import bytes_text, count, number
from tracer.weighing import exporting
from tracer.weighing.parameters import percent
from tracer.weighing.table import Status, WeightTable, compare
from tracer_tui import actions
from tracer_tui.columns import Field, fit
from tracer_tui.screens.comparing import Cancelled, ComparingScreen
from tracer_tui.screens.listing import BAR
from tracer_tui.screens.saving import Choice, file_name
from tracer_tui.weights import SORTS, STYLES, WeightRow, copied, figures, ordered, rows_of
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.lines import KeyBar, Lines, Prompt
from tracer_tui.widgets.panel import Panel
from tracer_tui.widgets.pictures import Pictures

if TYPE_CHECKING:
    from tracer_tui.screens.layers import LayersScreen

_ALIKE = ("as it is", "statistics as they are")
"""Relations of parameters that both sides lay out alike."""
_PAUSE = 0.06
"""Seconds that the cursor rests on a row before its values are read."""


class WeightsScreen(ComparingScreen[WeightRow]):
    """The weights of the recordings that the Layers screen below compares."""

    AREA = "weights"
    SORTS = SORTS
    STATES = tuple(Status)
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("weights")

    class Ready(Message):
        def __init__(self, table: WeightTable) -> None:
            super().__init__()
            self.table = table

    class Drawn(Message):
        """Values of a row; ``planes`` in words where they cannot be shown."""

        def __init__(self, row: WeightRow, view: View | None, planes: Planes | str) -> None:
            super().__init__()
            self.row = row
            self.view = view
            self.planes = planes

    def __init__(self, home: LayersScreen, owners: Sequence[str] = ()) -> None:
        """``owners`` are layers of the reference: the cursor begins at the first parameter of one of them."""
        super().__init__(home.reference, home.candidate)
        self.home = home
        self.table: WeightTable | None = None
        self.part = 0
        """Which parameter is shown of a row that has several."""
        self._owners = frozenset(owners)
        self._status = "comparing the weights …"
        self._pictured: tuple[WeightRow, int] | None = None
        self._drawn: tuple[View | None, Planes | str] | None = None

    def compose(self) -> ComposeResult:
        yield Lines(id="title")
        yield Grid()
        with Horizontal(id="weight"):
            yield Pictures(id="pictures")
            yield Panel(id="finding")
        yield Prompt(id="prompt")
        yield KeyBar("weights")

    def on_mount(self) -> None:
        super().on_mount()
        known, diff = self.home.weights, self.home.settled
        if known is not None and diff is not None and known.alignment == diff.alignment:
            self._take(known)
            return
        self.redraw()
        if diff is not None or self.home.diff is None:  # else the pairs are about to be known
            self._compare()

    @work(thread=True, exclusive=True, group="weights", exit_on_error=False)
    def _compare(self) -> None:
        worker = get_current_worker()
        diff = self.home.settled
        try:
            found = compare(
                self.reference,
                self.candidate,
                mapping=self.home.mapping,
                alignment=None if diff is None else diff.alignment,
                progress=self.progress_of(worker),
                so_far=self._tell,
            )
        except Cancelled:
            return
        except Exception as error:
            self.post_message(self.Failed(said(error)))
            return
        self._tell(found)

    def _tell(self, table: WeightTable) -> None:
        self.post_message(self.Ready(table))

    @property
    def has_result(self) -> bool:
        return self.table is not None and self.table.whole

    @on(Ready)
    def _ready(self, event: Ready) -> None:
        if event.table.whole:
            self.home.weights = event.table
        self._take(event.table)

    def _take(self, table: WeightTable) -> None:
        here = self._key() if self.table is not None and self.grid.cursor else None
        self.table = table
        if table.whole:
            self._status = "" if table.rows else "neither model has weights"
        self.everything = rows_of(table, self.home.diff)
        own = [row for row in self.everything if self._owners.intersection(one.owner for one in row.row.reference)]
        wrong = [row for row in self.everything if row.wrong]
        wanted = next((row.key for row in (*[row for row in own if row.wrong], *own, *wrong)), None)
        self._show_title()
        self._restore(here or wanted)

    def compared(self) -> None:
        """The pairs below are others: so are those of the parameters, then."""
        diff = self.home.settled
        self.reference, self.candidate = self.home.reference, self.home.candidate
        if diff is None:
            return
        if self.table is None or self.table.alignment != diff.alignment:
            self._compare()
        else:  # how the layers are set is known now
            key = self._key()
            self.everything = rows_of(self.table, diff)
            self._restore(key)

    def redraw(self) -> None:
        self._show_title()
        if self.table is not None:
            self._restore(self._key())
        else:
            self.grid.say(self.look.text(self._status, "diverged" if self._failed else "dim"))
            self._follow()

    def ordered(self, rows: Sequence[WeightRow], sort: str) -> list[WeightRow]:
        return ordered(rows, sort)

    def is_wrong(self, row: WeightRow) -> bool:
        return row.wrong

    def _nothing_wrong(self) -> str:
        return "All weights shown are equal" if self.table is not None else self._status

    def mark(self, row: WeightRow) -> Text:
        """The glyph of a row; where there is no colour, the grave ones are reversed."""
        look = self.look
        glyph = (words.ASCII_GLYPHS if look.ascii_only else words.GLYPHS)[row.status]
        style = look.styles[STYLES[row.status]]
        return Text(glyph, style + Style(reverse=True) if look.no_color and row.wrong else style)

    def _fill(self, cursor: int) -> None:
        look, rows = self.look, self.listed
        bar = self.bars()

        def styled(i: int) -> str:
            return "" if rows[i].status is Status.EQUAL else STYLES[rows[i].status]

        def name(i: int, text: str) -> Text:
            return look.text(text or "—", styled(i) if text else "dim")

        def relation(i: int) -> str:
            return "=" if rows[i].row.relation in _ALIKE else rows[i].row.relation

        def figure(value: float | None) -> str:
            return "" if value is None else "0" if value == 0 else number(value, 1)

        def note(i: int) -> Text:
            return look.text("; ".join(rows[i].notes), styled(i) or "noise")

        ours, theirs = self.reference, self.candidate
        fields = [
            Field("", 0, lambda i: self.mark(rows[i]), width=1),
            Field(look.text(ours.name), 0, lambda i: name(i, rows[i].reference), least=24, keep="name"),
            Field(look.text(theirs.name), 0, lambda i: name(i, rows[i].candidate), least=24, keep="name"),
            Field(
                look.text(f"{ours.name} shape", width=12),
                4,
                lambda i: look.text(words.shapes_of(rows[i].row.reference)),
                least=9,
            ),
            Field(
                look.text(f"{theirs.name} shape", width=12),
                5,
                lambda i: look.text(words.shapes_of(rows[i].row.candidate)),
                least=9,
            ),
            Field("relation", 3, lambda i: look.text(relation(i), "dim"), least=9),
            Field("max|Δ|", 0, lambda i: look.text(figure(rows[i].error), styled(i)), right=True, width=7),
            Field("", 6, lambda i: look.text(bar(rows[i].error), STYLES[rows[i].status]), width=BAR),
            Field("rel L2", 7, lambda i: look.text(figure(rows[i].relative)), right=True, width=7),
            Field("note", 2, note, least=20, keep="head"),
        ]
        columns, shown = fit(fields, len(rows), self.grid.size.width or self.size.width, look)
        self.grid.empty = look.text(self._status or "no parameter fits the filter", "dim")
        self.grid.show(columns, len(rows), lambda i: [field.cell(i) for field in shown], cursor=cursor)

    def _show_title(self) -> None:
        look, table = self.look, self.table
        ours, theirs = self.reference, self.candidate
        first = look.join(
            ("Weights", "key"), "  ", (ours.name, "bold"), f" ({ours.model}) ⇄ ", (theirs.name, "bold"),
            f" ({theirs.model})",
        )  # fmt: skip
        if table is None:
            second = look.text(self._status, "diverged" if self._failed else "bold")
        else:
            second = look.text(count(len(table.rows), "row"))
            for status in Status:
                if table.counts[status] or status in (Status.EQUAL, Status.DIFFERS):
                    glyph = (words.ASCII_GLYPHS if look.ascii_only else words.GLYPHS)[status]
                    second.append("  ").append_text(look.text(glyph, STYLES[status]))
                    second.append_text(look.text(f" {table.counts[status]} {words.WORDS[status]}"))
            second.append_text(look.text(f"   {self._sums(table)}", "dim"))
            second.append_text(look.text(self._mode(), "dim"))
            second.append_text(look.text("" if table.whole else f"   {self._status}", "key"))
        self.query_one("#title", Lines).show(first, second)

    def _sums(self, table: WeightTable) -> str:
        """How many numbers either side has, and by how much they differ."""
        ours, theirs = table.summary
        text = f"{ours.parameters:,} parameters, {bytes_text(ours.bytes)}"
        if theirs.parameters != ours.parameters:
            share = percent(ours.parameters, theirs.parameters)
            more = "" if share is None else f", {share:+.3g} %"
            apart = f"{theirs.parameters - ours.parameters:+,}{more}"
            text = f"{ours.parameters:,} ⇄ {theirs.parameters:,} parameters ({apart})"
        return text + "".join(f"   tied in {side.name}: {len(found)}"
                              for side, found in zip((self.reference, self.candidate), table.tied, strict=True)
                              if found)  # fmt: skip

    # --- the row under the cursor -----------------------------------------------------------------------------------

    def _follow(self) -> None:
        row = self.current
        self._show_finding()
        if row is None:
            self._pictured = None
            self._drawn = None
            self._show_pictures()
        elif self._pictured != (row, self.part):
            if self._pictured is None or self._pictured[0] is not row:
                self.part = 0
            self._pictured, self._drawn = (row, self.part), None
            self._show_pictures()
            self.set_timer(_PAUSE, partial(self._picture, row))
        else:
            self._show_pictures()

    def _picture(self, row: WeightRow) -> None:
        if self.current is row and self.query_one(Pictures).display:
            self._read(row, self.part)

    @work(thread=True, exclusive=True, group="picture", exit_on_error=False)
    def _read(self, row: WeightRow, part: int) -> None:
        from tracer_tui.screens.weight import opened

        worker = get_current_worker()
        assert self.table is not None
        view: View | None = None
        try:
            parts = self.table.parts(row.row)
            chosen = parts[part % len(parts)] if parts else None
            found = opened(self.table, row, chosen)
            planes: Planes | str = " ".join(filter(None, found.why)) or "nothing to show"
            if found.shape is not None and chosen is not None:
                view = View.of(found.shape, chosen.axes, None)
                planes = tensors.load(view, found.reference, found.candidate)
        except Exception as error:
            planes = row.row.reason or said(error)
        if not worker.is_cancelled:
            self.post_message(self.Drawn(row, view, planes))

    @on(Drawn)
    def _take_planes(self, event: Drawn) -> None:
        if event.row is self.current:
            self._drawn = event.view, event.planes
            self._show_pictures()

    def _show_pictures(self) -> None:
        view, planes = self._drawn or (None, "" if self.current is None else "reading …")
        names = self.reference.name, self.candidate.name
        if isinstance(planes, str):
            self.query_one(Pictures).show(None, None, names, (planes, planes, planes))
            return
        empty = (
            "empty: no elements" if not any(side is not None for side in (planes.reference, planes.candidate)) else ""
        )
        lone = "no twin here"
        reasons = (
            empty or (lone if planes.reference is None else ""),
            empty or (lone if planes.candidate is None else ""),
            empty or "needs both sides",
        )
        self.query_one(Pictures).show(planes, view, names, reasons)

    def _show_finding(self) -> None:
        look, row, out = self.look, self.current, Text()
        if row is not None:
            out.append_text(self.mark(row)).append(" ")
            head = (str(row.status).replace("-", " ").capitalize() + f": {row.sides}", STYLES[row.status])
            out.append_text(look.join(head, f"   {row.row.role} {words.shapes(row.row)}"))
            if row.row.relation:
                alike = row.row.relation in _ALIKE
                said = "Laid out alike on both sides" if alike else f"Brought to one layout by: {row.row.relation}"
                out.append("\n").append_text(look.text(said))
            for at, note in enumerate(row.notes):
                still = "Then still: " if not at and row.row.relation and row.row.likeness is not None else ""
                out.append("\n").append_text(look.text(still + note, "bold" if row.wrong else ""))
            for line in figures(row):
                out.append("\n").append_text(look.text(line))
            if row.row.pair is not None and row.row.confidence < 0.9:
                out.append("\n").append_text(look.text(f"confidence {row.row.confidence:.2f}", "dim"))
        self.query_one(Panel).show(look.text("finding"), out, bad=row is not None and row.wrong)

    # --- what the keys do -------------------------------------------------------------------------------------------

    def action_open(self) -> None:
        from tracer_tui.screens.weight import WeightScreen

        if self.current is not None:
            self.app.push_screen(WeightScreen(self))

    def action_part(self) -> None:
        row = self.current
        if row is None or row.row.pair is None or len(row.row.pair.pieces) < 2:
            self.say("This row is a single parameter")
            return
        self.part += 1
        self._follow()

    def action_numbers(self) -> None:
        pictures = self.query_one(Pictures)
        pictures.numbers = not pictures.numbers
        self._show_pictures()

    def action_copy(self) -> None:
        if self.current is not None:
            self.app.copy_to_clipboard(self.look.plain_lines(copied(self.current)))
            self.say("Copied what is known about the weights")

    def action_save(self) -> None:
        if self.current is not None:
            self.save(self.current)

    def save(self, row: WeightRow) -> None:
        """Ask what of a row is to be written, and where."""
        self.offer(row.sides, self._choices(row))

    def _choices(self, row: WeightRow) -> Sequence[Choice]:
        recordings = self.reference, self.candidate
        sides = row.row.reference, row.row.candidate
        found = []

        def offer(side: int, layout: int, read: Callable[[], dict[Key, Array]]) -> None:
            if any(one.key not in recordings[at].weights for at in {side, layout} for one in sides[at]):
                return
            own = "as it is" if side == layout else f"in {recordings[layout].name}'s layout"
            keys = [one.key for one in sides[layout]]
            stem = sides[side][0].text if len(sides[side]) == 1 else sides[side][0].owner or "weights"
            tail = "" if side == layout else f".as-{recordings[layout].name}"
            name = file_name(f"{stem[-100:]}{tail}")
            found.append(
                Choice(
                    f"{recordings[side].name}, {own}   {words.shapes_of(sides[layout])}",
                    f"{name or 'weights'}.npy",
                    partial(exporting.files, keys=keys),
                    lambda path, force: exporting.save(read(), path, force),
                )
            )

        for side in (0, 1):
            for layout in (side, 1 - side):
                pair = row.row.pair
                if side == layout and sides[side]:
                    offer(side, layout, partial(exporting.stored, recordings[side], [one.key for one in sides[side]]))
                elif side != layout and pair is not None and pair.comparable and all(sides):
                    offer(side, layout, partial(exporting.laid, recordings, pair, side, layout))
        return found
