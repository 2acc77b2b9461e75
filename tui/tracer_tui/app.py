"""The application: the stack of screens, the theme, the palette."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar, cast

from textual import events, on, work
from textual.app import App, SystemCommand
from textual.dom import DOMNode
from textual.message import Message
from textual.screen import Screen
from textual.scrollbar import ScrollBar, ScrollBarRender
from textual.theme import Theme

from tracer.selection import of_steps
from tracer.store import Recording
from tracer_tui import actions
from tracer_tui.look import Look
from tracer_tui.screens.base import TracerScreen
from tracer_tui.screens.layers import LayersScreen
from tracer_tui.screens.runs import RunsScreen
from tracer_tui.session import Session
from tracer_tui.watching import PERIOD, Snapshot, Watch

_LONGEST = 1.0
"""Seconds that a key may hold up the next ones."""
_PATIENCE = 5.0
"""Seconds that the interface has to end in order when it is told to."""
_SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 5}


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
    VERTICAL_BREAKPOINTS = [(0, "-tiny"), (18, "-short"), (30, "-medium"), (45, "-tall")]  # noqa: RUF012

    class Changed(Message):
        """Something has happened in the trace."""

        def __init__(self, snapshot: Snapshot) -> None:
            super().__init__()
            self.snapshot = snapshot

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.snapshot: Snapshot | None = None
        self._watch = Watch(session.trace.root)
        self._watching = False
        self._started_by = os.getppid()
        self._look: Look | None = None
        self._typed: deque[events.Key] = deque()
        self._pressed = 0.0
        self.set_keymap({name: ",".join(keys) for name, keys in session.keymap.items()})
        if session.ascii_only:
            self.add_class("-ascii")
        if session.place.theme in self.available_themes:
            self.theme = session.place.theme

    @property
    def look(self) -> Look:
        """How things look under the theme as it is now."""
        if self._look is None:
            self._look = Look(self.theme_variables, self.session.ascii_only, self.no_color)
        return self._look

    def get_css_variables(self) -> dict[str, str]:
        self._look = None  # the theme is changing
        return super().get_css_variables()

    @property
    def can_suspend(self) -> bool:
        """Whether there is a terminal of its own, which a shell can take over."""
        return self._driver is not None and self._driver.can_suspend

    def on_mount(self) -> None:
        if not self.is_headless:
            self._end_in_order()
        if self.session.ascii_only:
            ScrollBar.renderer = _PlainScrollBar
        self.push_screen(RunsScreen())
        chosen = self.session.chosen()
        if chosen is not None:
            self.compare(*chosen)
        self.theme_changed_signal.subscribe(self, self._note_theme)
        self.look_again()
        self.set_interval(PERIOD, self._tick)

    def _end_in_order(self) -> None:
        """Leave the terminal as it was, and keep the place, where the process is told to end.

        Where the terminal takes nothing any more, as at the end of a line that has stalled, drawing waits for ever, and
        the loop with it: then leave without.
        """
        loop = asyncio.get_running_loop()

        def end(number: int, _: object) -> None:
            loop.call_soon_threadsafe(self.exit, 128 + number)
            last = threading.Timer(_PATIENCE, os._exit, (128 + number,))
            last.daemon = True
            last.start()

        for name in ("SIGTERM", "SIGHUP"):
            with contextlib.suppress(AttributeError):  # as on Windows
                signal.signal(getattr(signal, name), end)

    def _note_theme(self, theme: Theme) -> None:
        self.session.place.theme = theme.name

    def _tick(self) -> None:
        if self.is_web and os.getppid() != self._started_by:
            self.exit(0)  # the server was killed: nobody sees this any more
        if not self.session.paused:
            self.look_again()

    def look_again(self) -> None:
        """Find out what has happened in the trace; the screens are told when something has."""
        if not self._watching:
            self._watching = True
            self._see()

    @work(thread=True, group="watch", exit_on_error=False)
    def _see(self) -> None:
        before = self.snapshot
        snapshot = self._watch.look()
        self._watching = False
        if before is None or not snapshot.same(before):
            self.post_message(self.Changed(snapshot))

    @on(Changed)
    def _changed(self, event: Changed) -> None:
        self.snapshot = event.snapshot
        for screen in self.screen_stack:
            if isinstance(screen, TracerScreen) and screen.is_mounted:
                screen.trace_changed(event.snapshot)

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Key) or event.is_forwarded:
            await super().on_event(event)
            return
        self._typed.append(event)
        if len(self._typed) > 1 and time.monotonic() - self._pressed > _LONGEST:
            self._typed.popleft()  # what it was sent to has gone
            await self._press()
        elif len(self._typed) == 1:
            await self._press()

    async def _press(self) -> None:
        """Hand on the key that was typed first.

        Where many come at once, as over a slow line, each is to find what the one before has brought about: a prompt, a
        screen. A key is done when what is sent behind it, from the focused widget up, comes back; behind its messages
        too, and behind what those bring about.
        """
        self._pressed = time.monotonic()
        way = 3 * list((self.focused or self.screen).ancestors_with_self)
        await super().on_event(self._typed[0])
        await self._pressed_through(way, self._typed[0])

    async def _pressed_through(self, way: list[DOMNode], key: events.Key) -> None:
        while way:
            if way.pop(0).call_later(self._pressed_through, way, key):
                return
        if self._typed and self._typed[0] is key:
            self._typed.popleft()
            if self._typed:
                await self._press()

    def pause(self, on: bool) -> None:
        """Stop following the trace, or catch up with it."""
        self.session.paused = on
        if not on:
            self.look_again()

    def compare(self, reference: Recording, candidate: Recording) -> None:
        """Open the comparison of two recordings; of two of many steps, what their steps have come to."""
        if of_steps(reference) and of_steps(candidate):
            from tracer_tui.screens.steps import StepsScreen

            self.push_screen(StepsScreen(reference, candidate))
        else:
            self.push_screen(LayersScreen(reference, candidate))

    def copy_to_clipboard(self, text: str) -> None:
        """Copy through the terminal; tmux takes no such request from a program, but a command."""
        super().copy_to_clipboard(text)
        if os.environ.get("TMUX") and not self.is_headless and not self.is_web:
            self._copy_to_tmux(text)

    @work(thread=True, group="copy", exit_on_error=False)
    def _copy_to_tmux(self, text: str) -> None:
        for option in (["-w"], []):  # -w hands it on to the terminal; older ones do not know it
            done = subprocess.run(["tmux", "load-buffer", *option, "-"], input=text.encode(), check=False, **_SILENT)
            if done.returncode == 0:
                return

    def action_command_palette(self) -> None:
        from textual.command import CommandPalette

        if not CommandPalette.is_open(cast("App[object]", self)):
            placeholder = "Search the actions" + ("" if self.session.ascii_only else " …")
            self.push_screen(CommandPalette(placeholder=placeholder, id="--command-palette"))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        if isinstance(screen, TracerScreen):
            for action in actions.of(screen.AREA, self.session.keymap):
                if action.name != "palette":
                    yield SystemCommand(
                        f"{self.look.plain(action.label)} ({action.key})",
                        self.look.plain(action.help),
                        partial(self.run_action, action.name, screen),
                    )
        yield SystemCommand("Theme", "Change the colours", self.action_change_theme)
        yield SystemCommand("Quit", "Leave at once (^q)", self.action_quit)
