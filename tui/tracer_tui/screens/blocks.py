"""Both models side by side as a tree: folded where all matches, open where it diverges."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType

from tracer.compare import Verdict
from tracer.report import words
from tracer_tui import actions, blocks
from tracer_tui.blocks import Block, Line
from tracer_tui.columns import Field, fit
from tracer_tui.screens.base import TracerScreen
from tracer_tui.screens.layers import LayersScreen
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.lines import KeyBar, Lines

_INDENT = 2


class BlocksScreen(TracerScreen):
    """The comparison of the Layers screen below, by scopes."""

    AREA = "blocks"
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("blocks")

    def __init__(self, home: LayersScreen) -> None:
        super().__init__()
        self.home = home
        self.lines: list[Line] = []
        self._root = Block("", ())
        self._opened: dict[tuple[str, ...], bool] = {}
        self._all = False
        self._leads = True

    def compose(self) -> ComposeResult:
        yield Lines(id="title")
        yield Grid()
        yield KeyBar("blocks")

    def on_mount(self) -> None:
        super().on_mount()
        self._make()
        if self.home.current is not None:
            self._show(self.home.current.key)

    def compared(self) -> None:
        self._make()

    def on_screen_resume(self) -> None:
        if self.lines:
            self._make()

    def _make(self) -> None:
        """The tree of the comparison as it is now, with the cursor where it was."""
        here = self.current.block.path if self.current is not None else None
        self._root = blocks.tree(self.home.everything)
        self._leads = blocks.reference_leads(self.home.everything)
        self.redraw(here)

    @property
    def current(self) -> Line | None:
        place = self.grid.cursor
        return self.lines[place] if 0 <= place < len(self.lines) else None

    def on_resize(self, _: events.Resize) -> None:
        self.call_after_refresh(self.redraw)

    def redraw(self, path: tuple[str, ...] | None = None) -> None:
        if path is None and self.current is not None:
            path = self.current.block.path
        look = self.look
        self.lines = blocks.listed(self._root, self._opened)
        lines = self.lines

        def counts(i: int) -> Text:
            out, block = Text(no_wrap=True), lines[i].block
            if block.row is not None:
                return look.text(block.row.op, "dim")
            for verdict in Verdict:
                if count := block.counts[verdict]:
                    out.append(" " * bool(out)).append_text(look.mark(verdict)).append_text(look.text(f" {count} "))
            if block.pending:
                out.append_text(look.text(f"· {block.pending}", "dim"))
            return out

        names = self.home.reference.name, self.home.candidate.name
        names = names if self._leads else names[::-1]
        fields = [
            Field("", 0, lambda i: self._mark(lines[i].block), width=1),
            Field(look.text(names[0]), 0, lambda i: self._named(lines[i]), least=24),
            Field(look.text(names[1]), 1, lambda i: self._beside(lines[i]), least=20),
            Field("layers", 2, counts, least=12),
            Field("max|Δ|", 0, lambda i: self._worst(lines[i].block), right=True, width=8),
        ]
        columns, shown = fit(fields, len(lines), self.grid.size.width or self.size.width, look)
        place = next((at for at, line in enumerate(lines) if line.block.path == path), self.grid.cursor)
        self.grid.empty = look.text("nothing is compared yet", "dim")
        self.grid.show(columns, len(lines), lambda i: [field.cell(i) for field in shown], cursor=place)
        found = self.home.settled or self.home.diff
        head = look.join(("Blocks", "key"), "  ", (self.home.reference.name, "bold"), " ⇄ ")
        head.append_text(look.join((self.home.candidate.name, "bold")))
        if found is not None:
            head.append_text(look.text(f"   {len(found.pairs)} pairs", "dim"))
            for verdict, count in sorted(self._root.counts.items(), key=lambda item: list(Verdict).index(item[0])):
                head.append("  ").append_text(look.mark(verdict)).append_text(look.text(f" {count}"))
        self.query_one("#title", Lines).show(head)

    def _mark(self, block: Block) -> Text:
        return self.look.text("·", "dim") if block.pending == block.size else self.look.mark(block.verdict)

    def _style(self, block: Block) -> str:
        if block.pending == block.size:
            return "dim"
        return "" if block.verdict is Verdict.MATCH else str(block.verdict)

    def _named(self, line: Line) -> Text:
        """The scope or layer in the model by whose scopes the tree is made."""
        look, block = self.look, line.block
        fold = ("▾ " if line.open else "▸ ") if line.folds else "  "
        has = block.row is None or (block.ours if self._leads else block.theirs)
        style = self._style(block) if has else "dim"
        name = block.name if has else "—"
        return look.text(" " * (_INDENT * line.depth) + fold + name, style if not line.folds or style else "bold")

    def _beside(self, line: Line) -> Text:
        other = line.block.theirs if self._leads else line.block.ours
        return self.look.text(other or "—", self._style(line.block) if other else "dim")

    def _worst(self, block: Block) -> Text:
        worst = block.worst
        return self.look.text("0" if worst == 0 else words.number(worst, 2), self._style(block))

    def _show(self, key: tuple[str, str]) -> None:
        """Put the cursor on a layer, or on the folded block that holds it."""
        way = blocks.way_to(self._root, key)
        paths = {block.path: depth for depth, block in enumerate(way)}
        best = max((line for line in self.lines if line.block.path in paths), key=lambda line: line.depth, default=None)
        if best is not None:
            self.grid.cursor = self.lines.index(best)

    def action_open(self) -> None:
        line = self.current
        if line is None:
            return
        if line.folds:
            self._fold(line, not line.open)
        elif line.block.row is not None:
            from tracer_tui.screens.layer import LayerScreen

            self.home.go_to(line.block.row.key)
            self.app.push_screen(LayerScreen(self.home))

    def _fold(self, line: Line, is_open: bool) -> None:
        self._opened[line.block.path] = is_open
        self.redraw(line.block.path)

    def action_unfold(self) -> None:
        line = self.current
        if line is not None and line.folds and not line.open:
            self._fold(line, True)
        else:
            self.grid.move(1)

    def action_fold(self) -> None:
        """Fold the block, or go to the one around it."""
        line = self.current
        if line is None:
            return
        if line.folds and line.open:
            self._fold(line, False)
            return
        above = self.lines[: self.grid.cursor]
        outer = next((at for at in reversed(range(len(above))) if above[at].depth < line.depth), None)
        if outer is not None:
            self.grid.cursor = outer

    def action_fold_all(self) -> None:
        """Unfold everything, or fold again what matches."""
        self._all = not self._all
        self._opened = {}
        if self._all:
            self._open_below(self._root)
        self.redraw()

    def _open_below(self, block: Block) -> None:
        for part in block.parts:
            if part.parts:
                self._opened[part.path] = True
                self._open_below(part)

    def action_next_divergence(self) -> None:
        self._jump(1)

    def action_previous_divergence(self) -> None:
        self._jump(-1)

    def _jump(self, way: int) -> None:
        """To the next layer that diverged; what hides it is opened."""
        rows = list(self._root.rows())
        wrong = [at for at, row in enumerate(rows) if row.verdict is Verdict.DIVERGED and not row.pending]
        if not wrong or self.current is None:
            self.say("Nothing diverged here")
            return
        first = next(self.current.block.rows(), rows[0])
        here = next(at for at, row in enumerate(rows) if row is first)
        inside = self.current.folds
        if way > 0:
            target = next((at for at in wrong if at > here or (inside and at == here)), wrong[0])
        else:
            target = next((at for at in reversed(wrong) if at < here), wrong[-1])
        for block in blocks.way_to(self._root, rows[target].key)[:-1]:
            self._opened[block.path] = True
        self.redraw()
        self._show(rows[target].key)

    def action_back(self) -> None:
        line = self.current
        if line is not None and line.block.row is not None:
            self.home.go_to(line.block.row.key)
        self.app.pop_screen()
