"""What every screen does alike: moving the cursor, help, palette, notices."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from textual.app import SuspendNotSupported
from textual.screen import Screen

from tracer_tui import actions, sources
from tracer_tui.look import Look
from tracer_tui.session import Session
from tracer_tui.watching import Snapshot
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.panel import Panel

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp

SECONDS = {"information": 4.0, "warning": 4.0, "error": 8.0}
"""How long a notice stays."""


class TracerScreen(Screen[None]):
    """A screen with one table. ``AREA`` names its part of the registry of actions."""

    AREA: ClassVar[str] = ""

    @property
    def own_app(self) -> TracerApp:
        return cast("TracerApp", self.app)

    @property
    def look(self) -> Look:
        return self.own_app.look

    @property
    def session(self) -> Session:
        return self.own_app.session

    @property
    def grid(self) -> Grid:
        return self.query_one(Grid)

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, self._theme_changed)
        self.grid.focus()

    def _theme_changed(self, _: Any) -> None:
        if self.is_mounted:
            self.redraw()

    def trace_changed(self, snapshot: Snapshot) -> None:
        """Something has happened in the trace."""

    def compared(self) -> None:
        """A comparison further down was made again, or could not be."""

    def action_pause(self) -> None:
        paused = not self.session.paused
        self.own_app.pause(paused)
        self.say("Paused: what happens in the trace is not shown" if paused else "Following the trace again")
        self.redraw()

    def redraw(self) -> None:
        """Make every text anew: the theme or the size has changed."""

    def key(self, name: str) -> str:
        """The key of an action of this screen, as people write it."""
        return actions.key(self.AREA, name, self.session.keymap)

    def say(self, text: str, severity: Literal["information", "warning", "error"] = "information") -> None:
        """A notice; its text is never markup."""
        self.notify(self.look.plain(text), severity=severity, markup=False, timeout=SECONDS[severity])

    def open_source(self, source: str) -> None:
        """Open ``file:line`` in the user's editor; one of the terminal has the screen until it ends."""
        if not source:
            self.say("The recording does not know where this was called")
            return
        root = self.session.trace.root.resolve()
        try:
            file, line = sources.find(source, (Path.cwd(), root.parent))
            call = sources.call(file, line, os.environ)
            if call.beside:
                sources.start(call)
            else:
                with self.app.suspend():
                    subprocess.call(call.arguments)
                self.app.refresh()
        except SuspendNotSupported:
            self.say(f"There is no terminal to edit in: {source}", "warning")
        except (OSError, ValueError) as error:
            self.say(str(error), "warning")

    def action_cursor_down(self) -> None:
        self.grid.move(1)

    def action_cursor_up(self) -> None:
        self.grid.move(-1)

    def action_first_row(self) -> None:
        self.grid.cursor = 0

    def action_last_row(self) -> None:
        self.grid.cursor = self.grid.row_count - 1

    def action_half_down(self) -> None:
        self.grid.move(max(1, self.grid.page // 2))

    def action_half_up(self) -> None:
        self.grid.move(-max(1, self.grid.page // 2))

    def action_page_down(self) -> None:
        self.grid.move(self.grid.page)

    def action_page_up(self) -> None:
        self.grid.move(-self.grid.page)

    def action_read_on(self) -> None:
        self._turn_pages(1)

    def action_read_back(self) -> None:
        self._turn_pages(-1)

    def _turn_pages(self, way: int) -> None:
        """Scroll the panel, which the cursor never enters."""
        for panel in self.query(Panel):
            panel.scroll_relative(y=way * max(1, panel.size.height - 1), animate=False)

    def action_palette(self) -> None:
        self.app.action_command_palette()

    def action_suspend(self) -> None:
        if self.own_app.can_suspend:
            self.app.action_suspend_process()
        else:
            self.say("There is no shell to go back to")

    def action_help(self) -> None:
        from tracer_tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen(self.AREA))

    def action_open(self) -> None:
        """What enter does here."""

    def on_grid_selected(self, event: Grid.Selected) -> None:
        event.stop()
        self.action_open()
