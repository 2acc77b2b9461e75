"""What a comparison does while its recordings are still being written, or are written anew."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import TypeVar

from tracer.store import Recording
from tracer_tui.query import Listed
from tracer_tui.screens.base import TracerScreen
from tracer_tui.screens.comparing import ComparingScreen
from tracer_tui.screens.tensor import TensorScreen
from tracer_tui.watching import Snapshot, saved
from tracer_tui.widgets.grid import Grid

R = TypeVar("R", bound=Listed)

_REST = 0.3
"""Seconds between two comparisons at least; longer ones rest as long as they took."""


class LiveScreen(ComparingScreen[R]):
    """Rows of two recordings, one of which may grow. What is on the screen stays there until something better comes."""

    def __init__(self, reference: Recording, candidate: Recording) -> None:
        super().__init__(reference, candidate)
        self.following = False
        self._stale = False
        self._anew = False
        self._gone: set[str] = set()
        self._began = time.monotonic()
        self._followed: int | None = None

    @abstractmethod
    def compute(self, *, anew: bool) -> None:
        """Begin to compare in a thread. With ``anew``, what is under way is given up and nothing of before holds."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether a comparison is under way."""

    @abstractmethod
    def newest(self) -> object:
        """The key of the row that was recorded last; None where there is none."""

    @property
    def growing(self) -> bool:
        """Whether one of the recordings is still being written."""
        return "recording" in (self.reference.state, self.candidate.state)

    def trace_changed(self, snapshot: Snapshot) -> None:
        replaced = changed = False
        sides = []
        for was in (self.reference, self.candidate):
            now = snapshot.of(was.name)
            if now is None:
                self._say_gone(was, snapshot)
                sides.append(was)
                continue
            self._gone.discard(was.name)
            replaced |= now.created != was.created
            changed |= now is not was and (now.state != was.state or saved(now) != saved(was))
            self._announce(was, now)
            sides.append(now)
        if replaced or changed:
            self.reference, self.candidate = sides
            if replaced:
                self._begin(anew=True)
            else:
                self._stale = True
                self._begin_if_stale()

    def _say_gone(self, was: Recording, snapshot: Snapshot) -> None:
        if was.name not in self._gone:
            self._gone.add(was.name)
            why = snapshot.error or f"'{was.name}' is not in the trace any more"
            self.say(f"{why}; what was read stays on the screen", "warning")

    def _announce(self, was: Recording, now: Recording) -> None:
        if now.created != was.created:
            self.say(f"'{now.name}' was recorded again: it is compared anew", "warning")
        elif was.state == "recording" and now.state != "recording":
            bad = now.state != "complete"
            why = now.attributes.get("error")
            text = f"'{now.name}' is {now.state}" + (f": {why}" if bad and why else "")
            self.say(text, "warning" if bad else "information")

    def _begin(self, *, anew: bool) -> None:
        self._stale = False
        self._anew |= anew
        self._began = time.monotonic()
        self.compute(anew=anew)

    def _begin_if_stale(self) -> None:
        """Compare what has come since, unless that is under way."""
        if self._stale and self.is_mounted and not self.busy:
            self._begin(anew=False)

    def done(self) -> None:
        """To be called when a comparison was taken over: the next one may begin after a rest."""
        if self.following and (key := self.newest()) is not None:
            self._restore(key)
            self._followed = self.grid.cursor
        for screen in self.app.screen_stack:
            if isinstance(screen, TracerScreen) and screen is not self and screen.is_mounted:
                screen.compared()
            if isinstance(screen, TensorScreen) and screen.home is self and screen.is_mounted:
                screen.renewed(anew=self._anew)
        self._anew = False
        rest = max(_REST, time.monotonic() - self._began)
        self.set_timer(rest, self._begin_if_stale)

    def live_text(self) -> str:
        """What the title says about recordings under way."""
        parts = [
            f"'{side.name}' is being recorded: {len(saved(side))}/{side.planned}"
            for side in (self.reference, self.candidate)
            if side.state == "recording"
        ]
        parts += ["following"] * self.following + ["paused"] * self.session.paused
        return "".join(f"   {part}" for part in parts)

    def action_follow(self) -> None:
        self.following = not self.following
        if self.following and (key := self.newest()) is not None:
            self._restore(key)
            self._followed = self.grid.cursor
        self._show_title()

    def on_grid_highlighted(self, _: Grid.Highlighted) -> None:
        """Stop following when the cursor was moved away by hand."""
        if self.following and self.grid.cursor != self._followed:
            self.following = False
            self._show_title()
