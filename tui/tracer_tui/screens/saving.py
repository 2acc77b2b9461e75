"""Where a file goes: what of it, and its name. Nothing is replaced without a second word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from tracer.errors import said
from tracer_tui.widgets.framed import Framed

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp


@dataclass(frozen=True)
class Choice:
    """Something that can be saved.

    Attributes:
        label: in words.
        name: the file's name to begin with.
        files: what would be written for a name.
        save: writes them, called in a thread with the name and whether files in the way are replaced; what it raises
            is shown and nothing is closed.
    """

    label: str
    name: str
    files: Callable[[Path], Sequence[Path]]
    save: Callable[[Path, bool], Sequence[Path]]


def file_name(text: str) -> str:
    """A text as a file may be called, without what a shell or a file system takes for something else."""
    return "".join(char if char.isalnum() or char in "._-" else "." for char in text).strip(".")


class SaveBox(Vertical, Framed):
    """What is asked."""


class SaveScreen(ModalScreen[tuple[Path, ...]]):
    """Closes with the files that were written, or with none."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "cancel", "Cancel"),
        ("down,ctrl+n", "choose(1)", "Next"),
        ("up,ctrl+p", "choose(-1)", "Previous"),
    ]
    DEFAULT_CSS = """
    SaveScreen {
        align: center middle;
        & > SaveBox {
            width: 78; max-width: 100%; height: auto; max-height: 100%; padding: 0 2;
        }
        & Static { height: auto; }
        & Input, & Input:focus { border: none; height: 1; padding: 0; background: $panel; margin: 1 0 0 0; }
    }
    """

    class Done(Message):
        def __init__(self, files: tuple[Path, ...], error: str) -> None:
            super().__init__()
            self.files = files
            self.error = error

    def __init__(self, title: str, choices: Sequence[Choice]) -> None:
        super().__init__()
        self._title = title
        self._choices = choices
        self._chosen = 0
        self._warned = ""
        self._busy = False

    def compose(self) -> ComposeResult:
        with SaveBox():
            yield Static("", markup=False, id="choices")
            yield Input(self._choices[0].name, compact=True, select_on_focus=False)
            yield Static("", markup=False, id="note")

    def on_mount(self) -> None:
        look = cast("TracerApp", self.app).look
        several = "up and down choose, " if len(self._choices) > 1 else ""
        self.query_one(SaveBox).entitle(look.text(self._title), look.text(f"{several}enter saves, esc leaves"))
        self.query_one(Input).focus()
        self._draw()

    def _draw(self) -> None:
        look, out = cast("TracerApp", self.app).look, Text()
        if len(self._choices) > 1:
            for at, choice in enumerate(self._choices):
                here = at == self._chosen
                line = look.join((("> " if here else "  ") + choice.label, "key" if here else ""))
                out.append_text(line).append("\n" if at < len(self._choices) - 1 else "")
        self.query_one("#choices", Static).update(out)

    def _say(self, text: str, style: str = "diverged") -> None:
        look = cast("TracerApp", self.app).look
        out = look.text(text, style)
        out.no_wrap = False
        self.query_one("#note", Static).update(out)

    def action_cancel(self) -> None:
        self.dismiss(())

    def action_choose(self, way: int) -> None:
        field, was = self.query_one(Input), self._choices[self._chosen]
        self._chosen = (self._chosen + way) % len(self._choices)
        if field.value == was.name:  # what was typed stays
            field.value = self._choices[self._chosen].name
            field.cursor_position = len(field.value)
        self._draw()

    @on(Input.Changed)
    def _changed(self) -> None:
        self._warned = ""
        self._say("")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        text = event.value.strip()
        if not text or self._busy:
            return
        path, choice = Path(text).expanduser(), self._choices[self._chosen]
        try:
            there = [file for file in choice.files(path) if file.exists() or file.is_symlink()]
        except (OSError, ValueError) as error:
            self._say(said(error))
            return
        if there and self._warned != text:
            self._warned = text
            self._say(f"{there[0]} exists already: enter again replaces it", "noise")
            return
        self._busy = True
        self._write(choice, path, bool(there))

    @work(thread=True, exclusive=True, group="save", exit_on_error=False)
    def _write(self, choice: Choice, path: Path, force: bool) -> None:
        try:
            self.post_message(self.Done(tuple(choice.save(path, force)), ""))
        except Exception as error:
            self.post_message(self.Done((), said(error)))

    @on(Done)
    def _done(self, event: Done) -> None:
        self._busy = False
        if event.error:
            self._say(event.error)
        else:
            self.dismiss(event.files)
