"""A framed text that scrolls where it is longer than its place."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static


class Panel(VerticalScroll, can_focus=False):
    """What is known about the row under the cursor."""

    DEFAULT_CSS = """
    Panel {
        border: round $primary 60%; border-title-color: $text-primary; background: $surface; padding: 0 1;
        scrollbar-size-vertical: 1;
        &.-bad { border: round $error; border-title-color: $text-error; }
        & > Static { height: auto; }
    }
    """

    def compose(self) -> ComposeResult:
        yield Static("", markup=False)

    @property
    def plain(self) -> str:
        """What is shown, for tests."""
        return str(self.query_one(Static).visual)

    def show(self, title: Text, text: Text, *, bad: bool = False) -> None:
        text.no_wrap, text.overflow = False, "fold"
        self.border_title = title
        self.set_class(bad, "-bad")
        self.query_one(Static).update(text)
        self.scroll_home(animate=False)
