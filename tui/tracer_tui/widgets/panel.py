"""A framed text that scrolls where it is longer than its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tracer_tui.widgets.framed import Framed

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp
    from tracer_tui.screens.base import TracerScreen


class Panel(ScrollView, Framed, can_focus=False):
    """What is known about the row under the cursor. Another text of no other height costs no layout of the screen."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    Panel { padding: 0 1; overflow-x: hidden; scrollbar-gutter: stable; scrollbar-size-vertical: 1; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._text = Text("")
        self._lines: Sequence[Text] = ()
        self._title = Text("")

    @property
    def plain(self) -> str:
        """What is shown, for tests."""
        return self._text.plain

    def show(self, title: Text, text: Text, *, bad: bool = False) -> None:
        self._title = title
        self.set_class(bad, "-bad")
        self._text = text
        self._wrap()
        self.scroll_home(animate=False)

    def on_resize(self) -> None:
        self._wrap()

    def _wrap(self) -> None:
        before, size = len(self._lines), self.scrollable_content_region.size
        self._lines = self._wrapped(size.width)
        self.virtual_size = Size(size.width, max(len(self._lines), size.height))
        self.entitle(self._title, self._way_on() if 0 < size.height < len(self._lines) else None)
        self.refresh(layout=self.styles.is_auto_height and len(self._lines) != before)

    def _way_on(self) -> Text:
        """The keys that scroll."""
        app = cast("TracerApp", self.app)
        screen = cast("TracerScreen", self.screen)
        return app.look.text(f"{screen.key('read_on')} {screen.key('read_back')} scroll")

    def _wrapped(self, width: int) -> Sequence[Text]:
        return list(self._text.wrap(self.app.console, max(1, width), overflow="fold", no_wrap=False))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._wrapped(width))

    def render_line(self, y: int) -> Strip:
        at = y + self.scroll_offset.y
        return self.strip(self._lines[at] if at < len(self._lines) else Text(""), self.scrollable_content_region.width)
