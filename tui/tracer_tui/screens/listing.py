"""What the screens that list the rows of a comparison do alike: filter, sort, jump to what is wrong."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from textual import events, on

from tracer.compare import Verdict
from tracer.store import Recording
from tracer_tui import query
from tracer_tui.query import Listed
from tracer_tui.screens.base import TracerScreen
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.lines import Prompt

if TYPE_CHECKING:
    from tracer_tui.screens.saving import Choice

R = TypeVar("R", bound=Listed)

BAR = 8
"""Cells of a bar that shows an error beside the others."""


class ListScreen(TracerScreen, Generic[R]):
    """Rows of two recordings in a table, with a prompt below."""

    SORTS: ClassVar[Sequence[str]] = ("order",)
    STATES: ClassVar[Iterable[str]] = tuple(Verdict)
    """What ``is:`` takes in a filter."""

    def __init__(self, reference: Recording, candidate: Recording) -> None:
        super().__init__()
        self.reference, self.candidate = reference, candidate
        self.everything: list[R] = []
        self.listed: list[R] = []
        self.sort = self.SORTS[0]
        self.filter = ""

    @abstractmethod
    def ordered(self, rows: Sequence[R], sort: str) -> list[R]: ...

    @abstractmethod
    def is_wrong(self, row: R) -> bool:
        """Whether the row is one that :meth:`_jump` stops at."""

    @abstractmethod
    def _fill(self, cursor: int) -> None:
        """Draw :attr:`listed` with the cursor there."""

    @abstractmethod
    def _follow(self) -> None:
        """Show what belongs to the row under the cursor."""

    @abstractmethod
    def _show_title(self) -> None: ...

    @abstractmethod
    def _nothing_wrong(self) -> str:
        """What to say where there is nothing to jump to."""

    def bars(self) -> Callable[[float | None], str]:
        """Draws an error as a bar, by the logarithm between the least and the greatest of all rows."""
        known = [e for row in self.everything if (e := row.error) is not None and 0 < e < math.inf]
        low = math.log10(min(known)) if known else 0.0
        spread = max(math.log10(max(known)) - low, 1e-9) if known else 1.0

        def bar(error: float | None) -> str:
            if not error:
                return ""
            share = 1.0 if error == math.inf else 0.12 + 0.88 * (math.log10(error) - low) / spread
            return self.look.bar(share, BAR)

        return bar

    def prompted(self, purpose: str, text: str) -> bool:
        """Take what was typed for another purpose than the filter; False keeps the prompt open."""
        return True

    @property
    def listing(self) -> Grid:
        """The table of the rows, where a screen has others too."""
        return self.grid

    def _key(self) -> object:
        return self.current.key if self.current is not None else None

    @property
    def current(self) -> R | None:
        """The row under the cursor."""
        place = self.listing.cursor
        return self.listed[place] if 0 <= place < len(self.listed) else None

    def _restore(self, key: object) -> None:
        """Fill the table anew and put the cursor on ``key``, or where it was."""
        try:
            test = query.parse(self.filter, self.STATES)
            self.query_one(Prompt).hint("")
        except query.QueryError as error:
            self.query_one(Prompt).hint(self.look.plain(f"{error} "))
            return
        self.listed = [row for row in self.ordered(self.everything, self.sort) if test(row)]
        cursor = next((place for place, row in enumerate(self.listed) if row.key == key), None)
        self._fill(self.listing.cursor if cursor is None else cursor)
        self._follow()

    def _mode(self) -> str:
        """How the table is sorted and filtered, where that is not as at the beginning."""
        out = f"   by {self.sort}" if self.sort != self.SORTS[0] else ""
        return out + (f"   filter {self.filter} ({len(self.listed)})" if self.filter else "")

    def on_resize(self, _: events.Resize) -> None:
        self.call_after_refresh(self.redraw)

    def on_grid_highlighted(self, _: Grid.Highlighted) -> None:
        self._follow()

    def action_back(self) -> None:
        prompt = self.query_one(Prompt)
        if prompt.is_open:
            self._leave_prompt()
            if prompt.purpose == "filter":
                self._filter_by("")
        elif self.filter:
            self._filter_by("")
        else:
            self.app.pop_screen()

    def _jump(self, way: int) -> None:
        count = len(self.listed)
        for step in range(1, count + 1):
            place = (self.listing.cursor + way * step) % count
            if self.is_wrong(self.listed[place]):
                if place == self.listing.cursor:
                    self.say("This is the only one")
                self.listing.cursor = place
                return
        self.say(self._nothing_wrong())

    def action_next_divergence(self) -> None:
        self._jump(1)

    def action_previous_divergence(self) -> None:
        self._jump(-1)

    def offer(self, what: str, choices: Sequence[Choice]) -> None:
        """Ask which of some arrays is to be written, and where."""
        from tracer_tui.screens.saving import SaveScreen

        if choices:
            self.app.push_screen(SaveScreen(f"save {what}", choices), self._saved)
        else:
            self.say("Nothing of this row was recorded", "warning")

    def _saved(self, files: tuple[Path, ...] | None) -> None:
        if files:
            self.say(f"Saved {', '.join(map(str, files))}")

    def action_filter(self) -> None:
        self.query_one(Prompt).open("filter", "/", self.filter)

    @on(Prompt.Typed)
    def _typed(self, event: Prompt.Typed) -> None:
        if event.purpose == "filter":
            self._filter_by(event.text.strip())
        elif event.done and not self.prompted(event.purpose, event.text.strip()):
            return
        if event.done:
            self._leave_prompt()

    def _leave_prompt(self) -> None:
        self.query_one(Prompt).close()
        self.set_focus(self.grid)

    def _filter_by(self, text: str) -> None:
        key = self._key()
        self.filter = text
        self._restore(key)
        self._show_title()

    def action_sort(self) -> None:
        self._sort_by(1)

    def action_sort_back(self) -> None:
        self._sort_by(-1)

    def _sort_by(self, way: int) -> None:
        self.sort = self.SORTS[(self.SORTS.index(self.sort) + way) % len(self.SORTS)]
        self._restore(self._key())
        self._show_title()
