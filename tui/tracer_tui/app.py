"""The application: the stack of screens, the theme, the palette."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar, cast

from textual.app import App, SystemCommand
from textual.screen import Screen
from textual.scrollbar import ScrollBar, ScrollBarRender

from tracer.store import Recording
from tracer_tui import actions
from tracer_tui.look import Look
from tracer_tui.screens.base import TracerScreen
from tracer_tui.screens.layers import LayersScreen
from tracer_tui.screens.runs import RunsScreen
from tracer_tui.session import Session


class _PlainScrollBar(ScrollBarRender):
    """Scroll bars without the partial blocks at their ends."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "] * 8
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "] * 8


class TracerApp(App[int]):
    """Recordings at the bottom of the stack, a comparison above, a layer on top."""

    TITLE = "tracer"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    # Textual annotates these in a way that no stricter annotation here agrees with.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (150, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-medium"), (45, "-tall")]  # noqa: RUF012

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self._look: Look | None = None
        if session.ascii_only:
            self.add_class("-ascii")

    @property
    def look(self) -> Look:
        """How things look under the theme as it is now."""
        if self._look is None:
            self._look = Look(self.theme_variables, self.session.ascii_only, self.no_color)
        return self._look

    def get_css_variables(self) -> dict[str, str]:
        self._look = None  # the theme is changing
        return super().get_css_variables()

    def on_mount(self) -> None:
        if self.session.ascii_only:
            ScrollBar.renderer = _PlainScrollBar
        self.push_screen(RunsScreen())
        chosen = self.session.chosen()
        if chosen is not None:
            self.compare(*chosen)

    def compare(self, reference: Recording, candidate: Recording) -> None:
        """Open the comparison of two recordings."""
        self.push_screen(LayersScreen(reference, candidate))

    def action_command_palette(self) -> None:
        from textual.command import CommandPalette

        if not CommandPalette.is_open(cast("App[object]", self)):
            placeholder = "Search the actions" + ("" if self.session.ascii_only else " …")
            self.push_screen(CommandPalette(placeholder=placeholder, id="--command-palette"))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        if isinstance(screen, TracerScreen):
            for action in actions.of(screen.AREA):
                if action.name != "palette":
                    yield SystemCommand(
                        f"{self.look.plain(action.label)} ({action.key})",
                        self.look.plain(action.help),
                        partial(self.run_action, action.name, screen),
                    )
        yield SystemCommand("Theme", "Change the colours", self.action_change_theme)
        yield SystemCommand("Quit", "Leave at once (^q)", self.action_quit)
