"""Plain lines of text, the bar of keys at the bottom, and the line where something is typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult, RenderResult
from textual.containers import Horizontal
from textual.geometry import Size
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Label

from tracer_tui import actions

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp


class Lines(Widget):
    """Texts under one another, each cut at the edge."""

    DEFAULT_CSS = """
    Lines { height: auto; background: $panel; color: $foreground; padding: 0 1; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._texts: tuple[Text, ...] = ()

    def show(self, *texts: Text) -> None:
        changed = len(texts) != len(self._texts)
        self._texts = texts
        self.refresh(layout=changed)

    @property
    def plain(self) -> str:
        """What is shown, for tests."""
        return "\n".join(text.plain for text in self._texts)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._texts)

    def render(self) -> RenderResult:
        width = self.size.width
        cut = []
        for text in self._texts:
            line = text.copy()
            line.truncate(width, overflow=text.overflow or "crop")
            cut.append(line)
        return Text("\n", no_wrap=True).join(cut)


class KeyBar(Widget):
    """The footer: the actions that matter most on this screen, as many as fit; a click is as good as the key."""

    DEFAULT_CSS = """
    KeyBar { dock: bottom; height: 1; background: $panel; color: $foreground; padding: 0 1; }
    """

    def __init__(self, area: str) -> None:
        super().__init__()
        self._area = area
        self._spans: list[tuple[int, int, str]] = []

    def render(self) -> RenderResult:
        app = cast("TracerApp", self.app)
        look = app.look
        out = Text(no_wrap=True)
        self._spans = []
        chosen = actions.footer(self._area, app.session.keymap)
        while len(chosen) > 3 and sum(len(a.key) + len(a.label) + 3 for a in chosen) - 2 > self.size.width:
            del chosen[-3]  # help and the way back stay
        for action in chosen:
            start = out.cell_len
            out.append_text(look.text(action.key, "key")).append(" ").append(look.plain(action.label))
            self._spans.append((start, out.cell_len, action.name))
            out.append("  ")
        return out

    async def on_click(self, event: events.Click) -> None:
        at = event.x - self.gutter.left
        for start, end, name in self._spans:
            if start <= at < end:
                await self.app.run_action(name, self.screen)


class Prompt(Horizontal):
    """One line to type in, shown only while it is wanted."""

    DEFAULT_CSS = """
    Prompt {
        display: none; height: 1; background: $panel;
        & > Label { padding: 0 1; text-style: bold; }
        & > Input, & > Input:focus { border: none; height: 1; padding: 0; width: 1fr; background: $panel; }
        & > .hint { width: auto; max-width: 50%; color: $text-error; text-style: none; }
        &.-open { display: block; }
    }
    """

    class Typed(Message):
        """The text as it stands, ``done`` after enter."""

        def __init__(self, purpose: str, text: str, *, done: bool) -> None:
            super().__init__()
            self.purpose = purpose
            self.text = text
            self.done = done

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.purpose = ""

    def compose(self) -> ComposeResult:
        yield Label("", markup=False, classes="what")
        yield Input(compact=True, select_on_focus=False)
        yield Label("", markup=False, classes="hint")

    @property
    def is_open(self) -> bool:
        return self.has_class("-open")

    def open(self, purpose: str, label: str, value: str) -> None:
        self.purpose = purpose
        self.query_one(".what", Label).update(label)
        self.hint("")
        field = self.query_one(Input)
        with self.prevent(Input.Changed):
            field.value = value
        field.cursor_position = len(value)
        self.add_class("-open")
        self.screen.set_focus(field)  # at once: what is typed next is meant for it

    def close(self) -> None:
        self.remove_class("-open")

    def hint(self, text: str) -> None:
        label = self.query_one(".hint", Label)
        if text != str(label.content):  # an update costs a layout of the screen
            label.update(Text(text))

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.is_open:
            self.post_message(self.Typed(self.purpose, event.value, done=False))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Typed(self.purpose, event.value, done=True))
