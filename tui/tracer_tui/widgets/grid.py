"""A table that draws only the lines on the screen, so that thousands of rows cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.geometry import Offset, Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tracer_tui.widgets.framed import Framed

Cells = Callable[[int], Sequence[Text]]
GAP = 2
_DRAWN = 2000
"""Rows that are kept as they were drawn."""


@dataclass(frozen=True)
class Column:
    """A column of fixed width in screen cells."""

    title: Text
    width: int
    right: bool = False


class Grid(ScrollView, can_focus=True):
    """Rows of :class:`~rich.text.Text` cells under a header, with a cursor line."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {"grid--header", "grid--cursor", "grid--odd"}
    DEFAULT_CSS = """
    Grid {
        height: 1fr; background: $surface; color: $foreground; overflow-x: hidden; scrollbar-size-vertical: 1;
        & > .grid--header { background: $panel; color: $foreground; text-style: bold; }
        & > .grid--cursor { background: $primary 30%; text-style: bold; }
        & > .grid--odd { background: $foreground 3%; }
        &:focus > .grid--cursor { background: $primary 45%; }
        &:nocolor > .grid--cursor { text-style: bold reverse; }
    }
    """

    cursor = reactive(0, repaint=False)

    class Highlighted(Message):
        """The cursor stands on another row."""

        def __init__(self, grid: Grid, row: int) -> None:
            super().__init__()
            self.grid = grid
            self.row = row

        @property
        def control(self) -> Grid:
            return self.grid

    class Selected(Highlighted):
        """A row was clicked a second time."""

    def __init__(self, *, id: str | None = None, header: bool = True) -> None:
        super().__init__(id=id)
        self._columns: Sequence[Column] = ()
        self._cells: Cells = lambda _: ()
        self._count = 0
        self._drawn: dict[int, Strip] = {}
        """The rows away from the cursor: where the table scrolls they only stand elsewhere."""
        self._header = int(header)
        self.empty = Text("")

    @property
    def row_count(self) -> int:
        return self._count

    def show(self, columns: Sequence[Column], count: int, cells: Cells, *, cursor: int = 0) -> None:
        """Replace everything; ``cells`` gives a row's texts when it is drawn."""
        self._columns, self._count, self._cells = columns, count, cells
        self._drawn.clear()
        self.virtual_size = Size(sum(c.width + GAP for c in columns), count + self._header)
        wanted = max(0, min(cursor, count - 1))
        if wanted == self.cursor:
            self._reveal()
        else:
            self.cursor = wanted
        self.refresh()
        # How far one may scroll is known only when the new size has been laid out.
        self.call_after_refresh(self._reveal)

    def say(self, message: Text) -> None:
        """Show a message where rows would be."""
        self.empty = message
        self.show(self._columns, 0, lambda _: ())

    def validate_cursor(self, value: int) -> int:
        return max(0, min(value, self._count - 1))

    def watch_cursor(self, before: int, now: int) -> None:
        top = self.scroll_offset
        self._reveal()
        if self.scroll_offset == top:
            self.refresh(self.row_region(before), self.row_region(now))
        else:
            self.refresh()
        if self._count:
            self.post_message(self.Highlighted(self, self.cursor))

    def _reveal(self) -> None:
        visible = max(1, self.scrollable_content_region.height - self._header)
        top = self.scroll_offset.y
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + visible:
            self.scroll_to(y=self.cursor - visible + 1, animate=False, immediate=True)
        self._point()

    def _point(self) -> None:
        """Put the terminal's own cursor on the row, hidden as it is: screen readers and magnifiers go by it."""
        if self.has_focus and self._count:
            region = self.content_region
            self.app.cursor_position = region.offset + Offset(0, self.row_region(self.cursor).y)

    def on_focus(self) -> None:
        self._point()

    def on_resize(self) -> None:
        self._drawn.clear()
        self._reveal()

    def notify_style_update(self) -> None:
        self._drawn.clear()
        super().notify_style_update()

    def move(self, by: int) -> None:
        self.cursor += by

    @property
    def page(self) -> int:
        return max(1, self.scrollable_content_region.height - self._header)

    def on_click(self, event: events.Click) -> None:
        row = event.y - self._header + self.scroll_offset.y
        if event.y < self._header or row >= self._count:
            return
        if row == self.cursor:
            self.post_message(self.Selected(self, row))
        else:
            self.cursor = row

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if y < self._header:
            style = self.get_component_rich_style("grid--header")
            return self._strip(self._joined([column.title for column in self._columns], width), style, width)
        row = y - self._header + self.scroll_offset.y
        style = self.rich_style
        if row >= self._count:
            if not self._count and y == self._header + 1:
                message = Text(" ") + self.empty
                message.truncate(width, pad=True)
                return Strip(list(message.render(self.app.console)), width).apply_style(style)
            return Strip([Segment(" " * width, style)], width)
        if row == self.cursor:
            line = self._joined(self._cells(row), width)
            if self.app.no_color:  # shades of the cells would leave holes in the reversed line
                line = Text(line.plain)
            return self._strip(line, style + self.get_component_rich_style("grid--cursor"), width)
        if row not in self._drawn:
            if row % 2:
                style += self.get_component_rich_style("grid--odd")
            if len(self._drawn) > _DRAWN:
                self._drawn.clear()
            self._drawn[row] = self._strip(self._joined(self._cells(row), width), style, width)
        return self._drawn[row]

    def _strip(self, line: Text, style: Style, width: int) -> Strip:
        segments = [Segment(s.text, style + s.style if s.style else style) for s in line.render(self.app.console, "")]
        return Strip(segments).adjust_cell_length(width, style)

    def _joined(self, texts: Sequence[Text], width: int) -> Text:
        out = Text(" ", no_wrap=True, end="")
        for text, column in zip(texts, self._columns, strict=False):
            cell = text.copy()
            cell.truncate(column.width, overflow="crop")
            missing = column.width - cell.cell_len
            out.append(" " * missing if column.right else "")
            out.append_text(cell)
            out.append(" " * (GAP if column.right else missing + GAP))
        out.truncate(width, overflow="crop", pad=True)
        return out

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._count + self._header

    def row_region(self, row: int) -> Region:
        """Where a row stands on this widget, for tests and mouse."""
        return Region(0, row - self.scroll_offset.y + self._header, self.size.width, 1)


class FramedGrid(Grid, Framed):
    """A table with a title."""
