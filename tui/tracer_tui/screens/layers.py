"""Home: every pair with its verdict, the error over the whole network, and what is known about the pair at hand."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.worker import Worker, get_current_worker

from tracer.compare import Tolerance, Verdict
from tracer.errors import said
from tracer.report import words
from tracer.report.profile import Bar
from tracer.report.rows import SORTS, Row, ordered, rows_of
from tracer.store import Recording
from tracer_tui import actions, layertable, query
from tracer_tui.columns import fit
from tracer_tui.screens.comparing import Cancelled
from tracer_tui.screens.live import LiveScreen
from tracer_tui.widgets.diagnosis import Diagnosis, copied, source_of
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.lines import KeyBar, Lines, Prompt
from tracer_tui.widgets.profile import Profile

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping
    from tracer.compare import Diff, PairDiff
    from tracer.compare.tensors import Kept
    from tracer.weighing.table import WeightTable
    from tracer_tui.remembering import Place

_ROOMY = 60
"""Columns from which on the title tells the tolerance besides the counts."""
_WIDE = 100
"""Columns from which on it tells in full what is under way."""
_LONG = 16
"""Lines that the diagnosis takes at most where the table leaves them empty."""
_QUIET = 0.15
"""Seconds without another edit of the mapping after which the pairs are sought anew."""
_PAINTING = 0.5
"""Seconds, at most, that a long comparison waits for the screen to be drawn, which would be slower beside it."""
_MANY = 300
"""Activations from which on a comparison is long: fewer are compared before the first screen could be drawn."""


class LayersScreen(LiveScreen[Row]):
    """A comparison. It computes in a thread; the keys work meanwhile."""

    AREA = "layers"
    SORTS = SORTS
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("layers")

    class Ready(Message):
        """A comparison; one that is not ``checked`` pairs the layers as they were paired last."""

        def __init__(self, diff: Diff, *, checked: bool = True) -> None:
            super().__init__()
            self.diff = diff
            self.checked = checked

    class Told(Message):
        """Why pairs part, as far as it was found."""

        def __init__(self, diff: Diff) -> None:
            super().__init__()
            self.diff = diff

    def __init__(self, reference: Recording, candidate: Recording) -> None:
        super().__init__(reference, candidate)
        self.diff: Diff | None = None
        self.looking = True
        self._status = "pairing the layers …"
        self.weights: WeightTable | None = None
        """The comparison of the weights, once it was asked for."""
        self._under_way: set[Worker[None]] = set()
        """Threads that compare: a cancelled one ends at its next step."""
        self._asked = 0
        self._kept: Kept | None = None
        self._unchecked = False
        self._painted = threading.Event()
        self._put: object = None
        """The row on which the cursor was put, until a person moves it."""
        self._left: Place | None = None
        """Where this very comparison was left, as it was when it opened."""
        self._leading: frozenset[str] = frozenset()
        """The first pair of every cause that is known, by its aligned name."""

    def compose(self) -> ComposeResult:
        yield Lines(id="title")
        yield Profile(id="profile")
        yield Grid()
        yield Diagnosis(id="diagnosis")
        yield Prompt(id="prompt")
        yield KeyBar("layers")

    def on_mount(self) -> None:
        super().on_mount()
        place = self.session.place
        if place.is_of(self.reference, self.candidate):
            self._left = replace(place)  # which is written over where the cursor goes
        self.redraw()
        self.call_after_refresh(self._painted.set)
        self._compare()

    @work(thread=True, exclusive=True, group="diff", exit_on_error=False)
    def _compare(self) -> None:
        self._under_way.add(worker := get_current_worker())
        try:
            self._work(worker)
        finally:
            self._under_way.discard(worker)

    def _work(self, worker: Worker[None]) -> None:
        # Imported while the screen is made: pairing and comparing is a third of all that tracer is.
        from tracer.compare import diff
        from tracer.compare.tensors import Kept

        progress = self.progress_of(worker)
        session, ours, theirs = self.session, self.reference, self.candidate
        kept = self._kept = self._kept or Kept(ours, theirs, "values")
        compared = partial(diff, ours, theirs, session.tolerance, mapping=self.mapping, progress=progress, kept=kept)
        try:
            shown = self.diff is not None
            if not shown:
                self._let_draw()
                shown = self._as_last_time(compared, kept)
            found = compared(seen=None if shown else self._let_see)
        except Cancelled:
            return
        except Exception as error:
            self.post_message(self.Failed(said(error)))
            return
        if worker.is_cancelled:
            return
        self.post_message(self.Ready(found))
        if self.growing:
            return
        from tracer.causes.kept import told  # imports what only this needs

        try:
            self.post_message(self.Told(told(found, more=True, progress=progress)))
        except Cancelled:
            return

    def _as_last_time(self, compared: Callable[..., Diff], kept: Kept) -> bool:
        """Show the pairs of the last time meanwhile, if they are known: pairing the layers of a large model takes
        seconds."""
        alignment = kept.last_alignment(self.mapping)
        if alignment is None or not alignment.pairs:
            return False
        try:
            found = compared(alignment=alignment, seen=self._let_see)
        except Cancelled:
            raise
        except Exception:  # what was kept does not fit, or the comparison fails: that is found out, and said, next
            return False
        self._let_see(found)
        return True

    def _let_see(self, found: Diff) -> None:
        """Show a comparison that is under way."""
        if len(found.pairs) > _MANY or not found.pairs[0].awaited:
            self._painted.clear()
            self.post_message(self.Ready(found, checked=False))
            self._let_draw()

    def _let_draw(self) -> None:
        """What takes long is not begun before the screen shows what there is."""
        if len(self.reference.activations) > _MANY:
            self._painted.wait(_PAINTING)

    def compute(self, *, anew: bool) -> None:
        if anew:
            self._kept = None
        self._failed, self.looking = False, True
        self._compare()

    def pair_anew(self) -> None:
        """The mapping was changed: compare by it. What is under way is given up first, so that one at a time works."""
        self.workers.cancel_group(self, "diff")
        self._failed = False
        self._asked += 1
        self.set_timer(_QUIET, partial(self._when_free, self._asked))

    def _when_free(self, asked: int) -> None:
        if asked != self._asked or not self.is_mounted:
            return
        if self._under_way:
            self.set_timer(0.03, partial(self._when_free, asked))
        else:
            self.compute(anew=False)

    @property
    def settled(self) -> Diff | None:
        """The comparison, once it is more than a guess from the last time."""
        return None if self._unchecked else self.diff

    @property
    def status(self) -> str:
        """What is under way, or went wrong, where there is no comparison."""
        return self._status

    @property
    def pairing_anew(self) -> bool:
        """Whether the comparison is not yet by the mapping as it stands."""
        return self.diff is not None and self.diff.mapping is not self.mapping and not self._failed

    @property
    def unsettled(self) -> bool:
        """Whether other pairs are about to be known."""
        return self._unchecked or self.pairing_anew

    @property
    def busy(self) -> bool:
        return any(worker.group == "diff" and worker.node is self and worker.is_running for worker in self.workers)

    def newest(self) -> object:
        there = [row for row in self.listed if row.pair is not None and not row.pending]
        return max(there, key=lambda row: row.place).key if there else None

    @property
    def has_result(self) -> bool:
        return self.diff is not None

    def failed(self) -> None:
        self.done()

    @on(Ready)
    def _ready(self, event: Ready) -> None:
        found = event.diff
        if found.mapping is not self.mapping:
            return  # it was changed meanwhile
        if found.tolerance != self.session.tolerance:
            found = found.at(self.session.tolerance)
        self._status = "" if found.pairs else "these recordings have no layer in common"
        before, key = self.diff, self._key()
        untouched = before is None or (self._unchecked and key == self._put)
        self._unchecked = not event.checked
        self._take(found)
        if untouched:
            key = self._remembered() or self._names(found.first)
        self._restore(key)
        self._put = self._key()
        self.call_after_refresh(self._painted.set)
        if event.checked:
            self.done()

    def _names(self, pair: PairDiff | None) -> tuple[str, str] | None:
        """The key of a pair's row."""
        return next((row.key for row in self.everything if pair is not None and row.pair is pair), None)

    def _remembered(self) -> tuple[str, str] | None:
        """Where the user left this very comparison, if that is still there; its filter and sort are taken up, once."""
        if self._left is None:
            return None
        if self._left.sort in self.SORTS:
            self.sort, self._left.sort = self._left.sort, ""
        with contextlib.suppress(query.QueryError):
            test = query.parse(self._left.filter, self.STATES)
            if any(test(row) for row in self.everything):
                self.filter, self._left.filter = self._left.filter or self.filter, ""
        return self._left.layer if any(row.key == self._left.layer for row in self.everything) else None

    @on(Told)
    def _why(self, event: Told) -> None:
        self.looking = False
        if self.diff is None:
            return
        findings = {pair.aligned: pair.finding for pair in event.diff.pairs}
        pairs = tuple(replace(pair, finding=findings.get(pair.aligned)) for pair in self.diff.pairs)
        for note in event.diff.notes:
            if note not in self.diff.notes:
                self.say(note, "warning")
        key = self._key()
        self._take(replace(self.diff, pairs=pairs, notes=event.diff.notes))
        self._restore(key)

    def _take(self, found: Diff) -> None:
        self.diff = found
        self.everything = rows_of(found)
        causes = [one for one in found.causes if one.causes and one.status != "latent"]
        self._leading = frozenset(one.pairs[0] if one.pairs else one.pair for one in causes)
        bars = [
            Bar(Verdict.MATCH if row.pending else row.verdict, row.error)
            for row in self.everything
            if row.pair is not None
        ]
        self.query_one(Profile).show(bars, found.tolerance.atol)
        self._show_title()

    def redraw(self) -> None:
        if self.diff is not None:
            self._take(self.diff)
            self._restore(self._key())
        else:
            self._show_title()
            self.grid.say(self.look.text(self._status, "diverged" if self._failed else "dim"))
            self.query_one(Diagnosis).tell(None, None)

    def on_screen_resume(self) -> None:
        if self.diff is not None and self.diff.tolerance != self.session.tolerance:
            self._judge()

    def ordered(self, rows: Sequence[Row], sort: str) -> list[Row]:
        return ordered(rows, sort)

    def is_wrong(self, row: Row) -> bool:
        own = row.pair is not None and row.pair.aligned in self._leading
        return row.verdict is Verdict.DIVERGED or (own and row.verdict is not Verdict.MATCH)

    def _nothing_wrong(self) -> str:
        return "Nothing diverged here" if self.diff is not None else self._status

    def _give_room(self) -> None:
        """Lines that the table leaves empty go to the diagnosis: a fix is to be read without scrolling."""
        profile, diagnosis = self.query_one(Profile), self.query_one(Diagnosis)
        others = 3 + (profile.outer_size.height if profile.display else 0)  # the title, the keys, the errors
        free = self.size.height - others - 1 - len(self.everything)
        diagnosis.styles.min_height = max(0, min(free, _LONG))

    def _fill(self, cursor: int) -> None:
        self._give_room()
        look, rows = self.look, self.listed
        measured = any(row.own is not None for row in self.everything)
        names = self.reference.name, self.candidate.name
        fields = layertable.fields(rows, names, look, self.bars(), measured=measured)
        columns, shown = fit(fields, len(rows), self.grid.size.width or self.size.width, look)
        self.grid.empty = look.text(self._status or "no layer fits the filter", "dim")
        self.grid.show(columns, len(rows), lambda i: [field.cell(i) for field in shown], cursor=cursor)

    def _show_title(self) -> None:
        look, found = self.look, self.diff
        tolerance = self.session.tolerance
        second = Text()
        if self.size.width >= _ROOMY:
            second.append_text(look.text(self.key("tolerance"), "key"))
            second.append_text(look.text(f" atol {tolerance.atol:g} rtol {tolerance.rtol:g}   ", "dim"))
        if found is None:
            second.append_text(look.text(self._status, "diverged" if self._failed else "bold"))
        else:
            second.append_text(layertable.counts(found, self.everything, look))
            if self._leading:
                second.append_text(look.text(f"   {words.count(len(self._leading), 'cause')}", "bold"))
            second.append_text(look.text(self._mode(), "dim"))
            if self._unchecked:
                second.append_text(look.text(f"   {self._under_check()}", "dim"))
        second.append_text(look.text(self.live_text(), "key"))
        self.query_one("#title", Lines).show(layertable.heading(self.reference, self.candidate, look), second)

    def _under_check(self) -> str:
        """What becomes of a comparison that is shown before it is certain."""
        if self._failed:
            return self._status
        pairs = () if self.diff is None else self.diff.pairs
        awaited = sum(pair.awaited for pair in pairs)
        if awaited:
            return f"comparing {len(pairs) - awaited}/{len(pairs)} …"
        return "paired as last time, pairing again …" if self.size.width >= _WIDE else "pairing again …"

    def _follow(self) -> None:
        row = self.current
        if self.diff is not None:
            key = row.key if row is not None else None
            self.session.place.note(self.reference, self.candidate, self.sort, self.filter, key)
        self.query_one(Profile).point(None if row is None else row.number)
        self.query_one(Diagnosis).tell(row, self.diff, looking=self.looking)

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

    @property
    def mapping(self) -> Mapping | None:
        """What a person said about the pairs, as it stands now."""
        return self.session.edits(self.reference.name, self.candidate.name).mapping

    def go_to(self, key: tuple[str, str]) -> None:
        """Put the cursor on a row; a filter that hides it goes."""
        if all(row.key != key for row in self.listed):
            self._filter_by("")
        self._restore(key)

    def action_blocks(self) -> None:
        from tracer_tui.screens.blocks import BlocksScreen

        self.app.push_screen(BlocksScreen(self))

    def action_weights(self) -> None:
        from tracer_tui.screens.weights import WeightsScreen

        self.app.push_screen(WeightsScreen(self, [self.current.node.owner] if self.current is not None else ()))

    def action_mapping(self) -> None:
        from tracer_tui.screens.mapping import MappingScreen

        self.app.push_screen(MappingScreen(self))

    def action_tolerance(self) -> None:
        now = self.session.tolerance
        self.query_one(Prompt).open("tolerance", "atol [rtol]", f"{now.atol:g} {now.rtol:g}")

    def prompted(self, purpose: str, text: str) -> bool:
        try:
            self.session.tolerance = parse_tolerance(text, self.session.tolerance)
        except ValueError as error:
            self.query_one(Prompt).hint(self.look.plain(f"{error} "))
            return False
        self._judge()
        return True

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

    def action_source(self) -> None:
        if self.current is not None:
            self.open_source(source_of(self.current))

    def action_save(self) -> None:
        if self.current is not None:
            self.save(self.current)

    def save(self, row: Row) -> None:
        """Ask what of a pair is to be written, and where."""
        from tracer_tui import pairs

        self.offer(row.sides, pairs.choices(row, (self.reference, self.candidate)))

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
