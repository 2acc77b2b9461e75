"""A widget in a frame with a title."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.segment import Segment
from rich.text import Text
from textual.strip import Strip
from textual.widget import Widget

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp

_AROUND = 6
"""Cells of a frame's line that hold corners and blanks."""


class Framed(Widget):
    """Titles longer than the frame lose their middle; Textual would end them in an ellipsis, which is no ASCII.

    The frame belongs to the class ``framed`` of the style sheet: of several bases Textual asks the first alone for its
    style.
    """

    DEFAULT_CLASSES = "framed"
    _titles: tuple[Text, Text | None] = (Text(""), None)

    def entitle(self, title: Text, subtitle: Text | None = None) -> None:
        """Put ``title`` into the upper line of the frame and ``subtitle`` into the lower one."""
        self._titles = title, subtitle
        self._fit_titles()

    def on_resize(self) -> None:
        self._fit_titles()

    def _fit_titles(self) -> None:
        look, room = cast("TracerApp", self.app).look, max(1, self.outer_size.width - _AROUND)
        title, subtitle = self._titles
        self.border_title = look.cut(title, room)
        self.border_subtitle = None if subtitle is None else look.cut(subtitle, room)

    def strip(self, line: Text, width: int) -> Strip:
        """A line of text in the widget's own colours, exactly ``width`` cells wide."""
        base = self.rich_style
        segments = line.render(self.app.console, "")
        drawn = Strip([Segment(s.text, base + s.style if s.style else base) for s in segments])
        return drawn.adjust_cell_length(width, base)
