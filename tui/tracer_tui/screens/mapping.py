"""Which nodes are pairs: what tracer suggests, what a person decides, and what that does to the comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.style import Style
from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.message import Message

from tracer.alignment.dumping import SURE
from tracer.alignment.mapping import Mapping
from tracer.compare import Verdict
from tracer.errors import InputError, said
from tracer.report import words
from tracer_tui import actions, pairing, query
from tracer_tui.columns import Field, fit
from tracer_tui.editing import write
from tracer_tui.pairing import Listed, Names, Said, State, Suggestion
from tracer_tui.screens.listing import ListScreen
from tracer_tui.screens.saving import Choice, SaveScreen
from tracer_tui.widgets.grid import FramedGrid, Grid
from tracer_tui.widgets.lines import KeyBar, Lines, Prompt
from tracer_tui.widgets.panel import Panel
from tracer_tui.widgets.reasons import reasons_text, rivals

if TYPE_CHECKING:
    from tracer_tui.screens.layers import LayersScreen

_PICKED = ("◆", "+", "key")
_PANES = ("ours", "suggestions", "theirs")
_BAR = 6


class MappingScreen(ListScreen[Suggestion]):
    """The reference's nodes, the suggestions, the candidate's nodes, side by side."""

    AREA = "mapping"
    AUTO_FOCUS = "#suggestions"
    SORTS = pairing.SORTS
    STATES = pairing.STATES
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("mapping")

    class Saved(Message):
        def __init__(self, path: Path, mapping: Mapping | None, error: str) -> None:
            super().__init__()
            self.path = path
            self.mapping = mapping
            self.error = error

    def __init__(self, home: LayersScreen) -> None:
        super().__init__(home.reference, home.candidate)
        self.home = home
        self.picks: tuple[Names, Names] = ((), ())
        self.nodes: tuple[list[Listed], list[Listed]] = ([], [])
        """The nodes of either side that fit the filter."""
        self._said: Said | None = None
        self._status = "pairing the layers …"
        self.pane = "suggestions"
        """The list that the keys move in."""
        self._choice: dict[str, int] = {}
        """Which of its candidates is proposed for a node that is left open."""
        self._done = ""
        """What was done last."""
        self._place = 0
        """Where the cursor stood when the list was made anew."""
        self._before: Counter[Verdict] | None = None
        self._counts: Counter[Verdict] | None = None

    def compose(self) -> ComposeResult:
        yield Lines(id="title")
        with Horizontal(id="lists"):
            for pane in _PANES:
                yield FramedGrid(id=pane)
        yield Panel(id="why")
        yield Prompt(id="prompt")
        yield KeyBar("mapping")

    def on_mount(self) -> None:
        super().on_mount()
        self._build()

    @property
    def listing(self) -> Grid:
        return self.query_one("#suggestions", Grid)

    @property
    def grid(self) -> Grid:
        return self.query_one(f"#{self.pane}", Grid)

    @property
    def current(self) -> Suggestion | None:
        found = super().current
        return None if found is None else found.chosen(self._choice.get(found.reference[0], 0))

    # --- what is shown ----------------------------------------------------------------------------------------------

    def compared(self) -> None:
        self.reference, self.candidate = self.home.reference, self.home.candidate
        row = self.current
        self._build()
        if row is not None and self.is_wrong(row) and self.sort == self.SORTS[0]:
            now = next((one for one in self.everything if one.key == row.key), None)
            if now is None or not self.is_wrong(now):  # it was settled: what comes next stands in its place
                self.listing.cursor = self._place

    def _build(self, key: object = None) -> None:
        """List everything anew by the comparison at hand and what was said since it was begun."""
        diff, mapping = self.home.diff, self.home.mapping or Mapping()
        if diff is not None and not self.home.unsettled and diff.counts != self._counts:
            self._before, self._counts = self._counts, diff.counts
        self.everything, self._said = [], None
        if diff is None:
            self._status = self.home.status
        else:
            try:
                said = Said(mapping, (diff.reference.structure, diff.candidate.structure))
                self.everything = pairing.suggestions(diff.alignment, said)
                self._said = said
                self._status = "" if self.everything else "nothing is alike in these two models"
            except InputError as error:
                self._status = str(error)
        known = self._said.structures if self._said is not None else None
        if known is not None:
            ours, theirs = (
                tuple(n for n in names if n in side.by_name) for names, side in zip(self.picks, known, strict=True)
            )
            self.picks = ours, theirs
        self._restore(self._key() if key is None else key)
        self._show_title()

    def redraw(self) -> None:
        self._restore(self._key())
        self._show_title()

    def ordered(self, rows: Sequence[Suggestion], sort: str) -> list[Suggestion]:
        return pairing.ordered(rows, sort)

    def is_wrong(self, row: Suggestion) -> bool:
        return row.state in (State.OPEN, State.DOUBT)

    def _nothing_wrong(self) -> str:
        return "Nothing is left to review" if self._said is not None else self._status

    def _fill(self, cursor: int) -> None:
        self._place = self.listing.cursor
        look, rows = self.look, self.listed

        def style(i: int) -> str:
            return pairing.GLYPHS[rows[i].state][2]

        def bar(i: int) -> Text:
            return look.text("" if rows[i].state is State.OPEN else look.bar(rows[i].confidence, _BAR), style(i))

        ours, theirs = look.text(self.reference.name), look.text(self.candidate.name)
        fields = [
            Field("", 0, lambda i: self._mark(rows[i]), width=1),
            Field(ours, 0, lambda i: self._members(rows[i], rows[i].reference), least=22, keep="name"),
            Field("", 2, lambda i: look.text("⇄" if self.is_wrong(rows[i]) else "", "dim"), width=1),
            Field(theirs, 0, lambda i: self._members(rows[i], self._shown(i).candidate), least=22, keep="name"),
            Field("conf", 1, lambda i: look.text(_confidence(rows[i]), style(i)), right=True, width=4),
            Field("", 3, bar, width=_BAR),
        ]
        self._draw(self.listing, fields, len(rows), cursor, self._status or "no suggestion fits the filter")
        self.query_one("#suggestions", FramedGrid).entitle(look.text("suggestions"))
        test = query.parse(self.filter, self.STATES)
        for side, (recording, pane) in enumerate(((self.reference, "#ours"), (self.candidate, "#theirs"))):
            found = pairing.nodes(side, self.everything, self._said) if self._said is not None else []
            grid = self.query_one(pane, FramedGrid)
            grid.entitle(look.text(f"{recording.name} ({len(found)})"))
            self.nodes[side][:] = [node for node in found if test(node)]
            self._fill_side(side, grid)

    def _fill_side(self, side: int, grid: Grid) -> None:
        look, found = self.look, self.nodes[side]

        def style(i: int) -> str:
            return "key" if found[i].key in self.picks[side] else "dim" if found[i].state == pairing.IGNORED else ""

        fields = [
            Field("", 0, lambda i: self._node_mark(side, found[i]), width=1),
            Field("node", 0, lambda i: look.text(found[i].key, style(i)), least=16, keep="name"),
            Field("shape", 1, lambda i: look.text(words.shape_text(found[i].node.shape), "dim"), least=6),
        ]
        self._draw(grid, fields, len(found), grid.cursor, "")

    def _draw(self, grid: Grid, fields: Sequence[Field], count: int, cursor: int, empty: str) -> None:
        width = grid.size.width or self.size.width // 3
        columns, shown = fit(fields, count, width, self.look)
        grid.empty = self.look.text(empty, "dim")
        grid.show(columns, count, lambda i: [field.cell(i) for field in shown], cursor=cursor)

    def _shown(self, i: int) -> Suggestion:
        """A row with the candidate that is proposed."""
        row = self.listed[i]
        return row.chosen(self._choice.get(row.reference[0], 0))

    def _sign(self, glyph: tuple[str, str, str], *, grave: bool = False) -> Text:
        look = self.look
        style = look.styles[glyph[2]]
        return Text(glyph[1] if look.ascii_only else glyph[0], style + Style(reverse=True) if grave else style)

    def _mark(self, row: Suggestion) -> Text:
        return self._sign(pairing.GLYPHS[row.state], grave=self.look.no_color and row.state is State.OPEN)

    def _node_mark(self, side: int, node: Listed) -> Text:
        return self._sign(_PICKED if node.key in self.picks[side] else pairing.NODE_GLYPHS[node.state])

    def _members(self, row: Suggestion, names: Names) -> Text:
        look = self.look
        style = "dim" if row.state in (State.REJECTED, State.OUTPUT) else "noise" if self.is_wrong(row) else ""
        return look.text(pairing.named(names), style)

    def _show_title(self) -> None:
        look, edits = self.look, self.session.edits(self.reference.name, self.candidate.name)
        first = look.join(("Mapping", "key"), "  ", (self.reference.name, "bold"), " ⇄ ", (self.candidate.name, "bold"))
        counts = dict(pairing.counted(self.everything))
        ignored = sum(node.state == pairing.IGNORED for side in self.nodes for node in side)
        review = counts[State.OPEN] + counts[State.DOUBT]
        told = [
            (f"{counts[State.ACCEPTED]} accepted", "match"),
            (f"{counts[State.SURE]} sure", "match"),
            (f"{review} to review", "noise" if review else "dim"),
            (f"{counts[State.REJECTED]} rejected", "dim"),
            (f"{ignored} ignored", "dim"),
        ]
        for text, style in told:
            if not text.startswith("0 ") or "review" in text:
                first.append_text(look.join("   ", (text, style)))
        if edits.unsaved:
            where = str(edits.file) if edits.file is not None else "a file"
            first.append_text(look.join(("   unsaved", "key"), (f": ^s writes {where}", "dim")))
        self.query_one("#title", Lines).show(first, self._effect())

    def _effect(self) -> Text:
        """What the pairs as they stand make of the comparison."""
        look, diff, out = self.look, self.home.diff, Text()
        if diff is None or self._said is None:
            return look.text(self._status, "diverged")
        out.append_text(look.text(f"{len(diff.pairs)} pairs"))
        for verdict in Verdict:
            count = diff.unmatched if verdict is Verdict.UNMATCHED else diff.counts[verdict]
            if not count and verdict is Verdict.NOT_COMPARABLE:
                continue
            out.append("  ").append_text(look.mark(verdict)).append_text(look.text(f" {count}"))
            change = 0 if self._before is None or verdict is Verdict.UNMATCHED else count - self._before[verdict]
            if change and not self.home.unsettled:
                out.append_text(look.text(f" ({change:+})", "key"))
        if self.home.unsettled:
            out.append_text(look.text("   pairing anew …", "key"))
        elif diff.first is not None:
            out.append_text(look.text(f"   first divergence: {diff.first.aligned}", str(Verdict.DIVERGED)))
        out.append_text(look.text(self._mode(), "dim"))
        return out.append_text(look.text(f"   {self._done}" if self._done else "", "dim"))

    def on_grid_highlighted(self, event: Grid.Highlighted) -> None:
        if event.grid is self.listing and self.pane == "suggestions":
            self._follow()
        elif event.grid is self.grid:
            self._show_why()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        if isinstance(event.widget, Grid) and event.widget.id is not None:
            self._at(event.widget.id)

    def _at(self, pane: str) -> None:
        """Another list has the keys: a narrow screen shows either the suggestions or the two beside them."""
        if pane != self.pane:
            self.pane = pane
            self.set_class(pane != "suggestions", "-picking")
            self.call_after_refresh(self.redraw)

    def _follow(self) -> None:
        """Show the nodes of the suggestion in the lists beside it, and why it is one."""
        row = self.current
        if row is not None and self.pane == "suggestions":
            for side, name in enumerate(row.ends):
                place = next((at for at, node in enumerate(self.nodes[side]) if node.key == name), None)
                if place is not None:
                    self.query_one(("#ours", "#theirs")[side], Grid).cursor = place
        self._show_why()

    def _show_why(self) -> None:
        look, diff, lines = self.look, self.home.diff, list[Text]()
        panel = self.query_one("#why", Panel)
        row, node = self._row_here(), self._node_here()
        if any(self.picks):
            lines.append(look.join(("picked ", "key"), (pairing.picks_text(self.picks), "bold"), ("   ", "")))
            lines[-1].append_text(look.join(("enter", "key"), " pairs them, ", ("esc", "key"), " drops them"))
        if row is not None and diff is not None:
            head = look.join(
                self._mark(row), " ", (f"{pairing.named(row.reference)} ⇄ {pairing.named(row.candidate)}", "bold")
            )
            head.append_text(
                look.join("" if row.state in (State.OPEN, State.REJECTED) else f"   confidence {row.confidence:.2f}")
            )
            lines += [head, *reasons_text(look, diff, row, width=max(30, panel.size.width - 4))]
        elif node is not None and diff is not None:
            side, listed = node
            head = look.join(self._node_mark(side, listed), " ", (listed.key, "bold"), f"   {listed.node.label}")
            lines.append(
                head.append_text(look.text(f"   {words.shape_text(listed.node.shape)}   {listed.state}", "dim"))
            )
            unmatched = (diff.alignment.unmatched_reference, diff.alignment.unmatched_candidate)[side]
            if listed.key in unmatched:
                lines.append(look.text(unmatched[listed.key]))
            others = rivals(look, diff.alignment, listed.key, side, None)
            lines += [others] if others is not None else []
        known = diff is not None and row is not None and row.ends in diff.alignment.reasons.pairs
        legend = ": + speaks for the pair, − against it (log-odds)" if known else ""
        panel.show(look.text(f"why{legend}"), Text("\n").join(lines))

    def _node_here(self) -> tuple[int, Listed] | None:
        """The node under the cursor of a list beside."""
        side = {"ours": 0, "theirs": 1}.get(self.pane)
        if side is None or not 0 <= self.grid.cursor < len(self.nodes[side]):
            return None
        return side, self.nodes[side][self.grid.cursor]

    def _row_here(self) -> Suggestion | None:
        """The suggestion that the cursor stands on, in whatever list."""
        if self.pane == "suggestions":
            return self.current
        found = self._node_here()
        if found is None:
            return None
        side, node = found
        rows = [row for row in self.everything if row.state is not State.REJECTED
                and node.key in (row.reference if side == 0 or row.state is State.OPEN else row.candidate)]  # fmt: skip
        return rows[0].chosen(self._choice.get(rows[0].reference[0], 0)) if rows else None

    # --- what the keys do -------------------------------------------------------------------------------------------

    def _edit(self, make: Callable[[Said], Mapping], done: str) -> None:
        """Change the mapping: the lists show it at once, the comparison as soon as it is computed."""
        if self._said is None:
            self.say(self._status, "warning")
            return
        try:
            mapping = make(self._said)
        except (InputError, ValueError) as error:
            self.say(said(error), "warning")
            return
        place = self.listing.cursor
        here = self.listed[place].key if place < len(self.listed) else None
        after = next((row.key for row in self.listed[place + 1 :]), None)
        self.session.edits(self.reference.name, self.candidate.name).change(mapping)
        self._changed(done, here if self.sort != "doubt" else after)

    def _changed(self, done: str, key: object) -> None:
        self._done = done
        self.home.pair_anew()
        self._build(key)

    def action_accept(self) -> None:
        if all(self.picks):
            self.action_open()
            return
        row = self._row_here()
        if row is None:
            self.say("There is nothing to accept here: space picks a node on each side, enter pairs them")
        elif row.state is State.OUTPUT:
            self.say("These are compared because the models return them: nothing is to be accepted")
        elif row.state is State.ACCEPTED:
            self.say("It is accepted already: r rejects it, u undoes")
        else:
            self._edit(lambda said: pairing.accept(said, [row]), f"Accepted {pairing.named(row.reference)}")

    def action_reject(self) -> None:
        row = self._row_here()
        if row is None:
            self.say("There is nothing to reject here")
            return
        back = row.state is State.REJECTED
        done = f"{pairing.named(row.reference)} ⇄ {pairing.named(row.candidate)}"
        self._edit(
            lambda said: pairing.reject(said, row), f"May be paired again: {done}" if back else f"Rejected {done}"
        )

    def action_accept_all(self) -> None:
        self.query_one(Prompt).open("bar", "accept all from confidence", f"{SURE:g}")

    def prompted(self, purpose: str, text: str) -> bool:
        try:
            bar = float(text)
        except ValueError:
            bar = -1.0
        if not 0 <= bar <= 1:
            self.query_one(Prompt).hint("a number from 0 to 1, such as 0.9 ")
            return False
        chosen = [row for row in self.everything if row.state in (State.SURE, State.DOUBT) and row.confidence >= bar]
        if chosen:
            self._edit(lambda said: pairing.accept(said, chosen), f"Accepted {words.count(len(chosen), 'pair')}")
        else:
            self.say(f"No undecided pair has a confidence of {bar:g} or more")
        return True

    def action_pick(self) -> None:
        found = self._node_here()
        if found is not None:
            side, node = found
            chosen: tuple[Names, Names] = ((node.key,), ()) if side == 0 else ((), (node.key,))
        elif (row := self.current) is not None:
            chosen = row.reference, row.candidate
        else:
            return
        drop = all(name in picked for names, picked in zip(chosen, self.picks, strict=True) for name in names)
        picks = []
        for names, picked in zip(chosen, self.picks, strict=True):
            rest = tuple(name for name in picked if name not in names)
            picks.append(rest if drop else (*rest, *names))
        self.picks = picks[0], picks[1]
        self._redraw_sides()

    def _redraw_sides(self) -> None:
        for side, pane in enumerate(("#ours", "#theirs")):
            self._fill_side(side, self.query_one(pane, Grid))
        self._show_why()

    def action_open(self) -> None:
        """Pair what was picked; without picks show the suggestion of the node under the cursor."""
        if all(self.picks):
            picks, self.picks = self.picks, ((), ())
            self._edit(lambda said: pairing.pair_up(said, *picks), f"Paired {pairing.picks_text(picks)}")
            self._redraw_sides()
            return
        if any(self.picks):
            self.say("Pick one on the other side too: tab goes there, space picks")
            return
        row = self._row_here()
        if self.pane != "suggestions" and row is not None:
            place = next((at for at, one in enumerate(self.listed) if one.key == row.key), None)
            if place is not None:
                self._go_to("suggestions")
                self.listing.cursor = place
                return
        self.say("space picks a node on each side, also several; enter pairs them")

    def action_ignore(self) -> None:
        found, row = self._node_here(), self.current
        if found is not None:
            side, node = found
            chosen: tuple[Names, Names] = ((node.key,), ()) if side == 0 else ((), (node.key,))
        elif row is not None:
            chosen = row.reference, () if row.state is State.OPEN else row.candidate
        else:
            return
        names = pairing.named((*chosen[0], *chosen[1]))
        self._edit(lambda said: pairing.ignore(said, chosen), f"Ignored or let in again: {names}")

    def action_undo(self) -> None:
        if self.session.edits(self.reference.name, self.candidate.name).undo():
            self._changed("Undone", self._key())
        else:
            self.say("There is nothing to undo")

    def action_redo(self) -> None:
        if self.session.edits(self.reference.name, self.candidate.name).redo():
            self._changed("Done again", self._key())
        else:
            self.say("There is nothing to do again")

    def action_other(self) -> None:
        row = self.current
        if row is None or len(row.choices) < 2:
            self.say("There is no other candidate to propose: pick one with space")
            return
        self._choice[row.reference[0]] = self._choice.get(row.reference[0], 0) + 1
        self._restore(self._key())

    def action_pane(self) -> None:
        self._go_to(_PANES[(_PANES.index(self.pane) + 1) % 3])

    def action_pane_back(self) -> None:
        self._go_to(_PANES[(_PANES.index(self.pane) - 1) % 3])

    def _go_to(self, pane: str) -> None:
        """Move the keys to another list."""
        self._at(pane)
        self.grid.focus()

    def action_back(self) -> None:
        if any(self.picks) and not self.query_one(Prompt).is_open:
            self.picks = (), ()
            self._redraw_sides()
            return
        super().action_back()

    # --- saving -----------------------------------------------------------------------------------------------------

    def action_save(self) -> None:
        edits = self.session.edits(self.reference.name, self.candidate.name)
        if self._said is None or self.home.diff is None:
            self.say(self._status, "warning")
        elif edits.file is not None and edits.is_ours and edits.writable:
            self._save(edits.file)
        else:
            name = str(edits.file) if edits.file is not None and edits.writable else "mapping.yaml"
            choice = Choice("", name, lambda path: [path], self._write)
            self.app.push_screen(SaveScreen("save the mapping", [choice]), self._written)

    @work(thread=True, exclusive=True, group="save", exit_on_error=False)
    def _save(self, path: Path) -> None:
        mapping = self.home.mapping
        try:
            self._write(path, True)
        except Exception as error:
            self.post_message(self.Saved(path, mapping, said(error)))
        else:
            self.post_message(self.Saved(path, mapping, ""))

    def _write(self, path: Path, force: bool) -> list[Path]:
        """In a thread."""
        said, diff = self._said, self.home.diff
        assert said is not None
        assert diff is not None
        write(path, pairing.text_of(diff.alignment, said, (self.reference, self.candidate)), force)
        return [path]

    def _written(self, files: tuple[Path, ...] | None) -> None:
        if files:
            self.post_message(self.Saved(files[0], self.home.mapping, ""))

    @on(Saved)
    def _report(self, event: Saved) -> None:
        if event.error:
            self.say(event.error, "error")
            return
        self.session.edits(self.reference.name, self.candidate.name).saved(event.path, event.mapping)
        self.say(f"Saved {event.path}: tracer diff --map {event.path}")
        self._show_title()


def _confidence(row: Suggestion) -> str:
    if row.state is State.OPEN:
        return "open"
    return "…" if row.pending else "" if row.state is State.REJECTED else f"{row.confidence:.2f}"
