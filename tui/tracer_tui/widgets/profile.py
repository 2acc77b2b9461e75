"""The error of every pair as one bar each, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from tracer.compare import Verdict
from tracer.report.profile import Bar, pooled, scale
from tracer_tui.widgets.framed import Framed

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp

_LABEL = 7
_WIDEST = 6


@dataclass(frozen=True)
class _Layout:
    """The bars and what they stand for, cells for each, and the exponents of the lower and upper edge."""

    groups: list[tuple[Bar, int, int]]
    width: int
    low: float
    high: float


def _stands_for(group: tuple[Bar, int, int], number: int | None) -> bool:
    return number is not None and group[1] <= number < group[2]


class Profile(Framed):
    """Bars over all pairs, with the tolerance as a dotted line; the cursor's bar is marked below."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {"profile--cursor"}
    DEFAULT_CSS = """
    Profile {
        height: 9;
        & > .profile--cursor { background: $primary 45%; }
        &:nocolor > .profile--cursor { text-style: reverse; }
    }
    """

    class Picked(Message):
        """A bar was clicked: the first of the pairs it stands for."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._bars: Sequence[Bar] = ()
        self._atol = 1e-5
        self._at: int | None = None
        self._laid: tuple[tuple[int, int], _Layout] | None = None

    def show(self, bars: Sequence[Bar], atol: float) -> None:
        self._bars, self._atol = bars, atol
        self._laid = None
        look = cast("TracerApp", self.app).look
        self.entitle(look.text("max|Δ| by pair"), look.text(f"┄ atol {atol:g}"))
        self.refresh()

    def point(self, number: int | None) -> None:
        """Mark the pair of the table's cursor. Where its bar is marked already, nothing is drawn."""
        before, self._at = self._at, number
        groups = self._layout().groups
        if any(_stands_for(group, before) != _stands_for(group, number) for group in groups):
            self.refresh()

    def _layout(self) -> _Layout:
        size = self.size.width, self.size.height
        if self._laid is None or self._laid[0] != size:
            room = size[0] - _LABEL - 1
            groups = pooled(self._bars, room)
            width = max(1, min(_WIDEST, room // max(1, len(groups))))
            self._laid = size, _Layout(groups, width, *scale(self._bars, self._atol, size[1] - 1))
        return self._laid[1]

    def on_click(self, event: events.Click) -> None:
        laid = self._layout()
        place = (event.x - self.gutter.left - _LABEL) // laid.width
        if 0 <= place < len(laid.groups):
            self.post_message(self.Picked(laid.groups[place][1]))

    def render_line(self, y: int) -> Strip:
        look = cast("TracerApp", self.app).look
        base, width = self.rich_style, self.size.width
        rows = self.size.height - 1
        if not self._bars or rows < 1 or width < _LABEL + 4:
            return Strip.blank(width, base)
        laid = self._layout()
        bar_width, low, high = laid.width, laid.low, laid.high
        cursor = base + self.get_component_rich_style("profile--cursor")
        tolerance = self._row(self._atol, low, high, rows) if self._atol > 0 else None
        segments = [Segment(self._label(y, rows, low, high).ljust(_LABEL), base + look.styles["dim"])]
        for group in laid.groups:
            bar, here = group[0], _stands_for(group, self._at)
            ground = cursor if here else base
            style = ground + look.styles[bar.verdict]
            if y == rows:
                mark = look.mark(bar.verdict)
                quiet = bar.verdict is Verdict.MATCH
                glyph = (look.plain("▲") if quiet else mark.plain) if here else (" " if quiet else mark.plain)
                style = ground + (Style(bold=True) if quiet else cast(Style, mark.style))
            else:
                glyph = self._glyph(bar, y, rows, low, high)
                if glyph == " " and y == tolerance:
                    glyph, style = look.plain("┄"), ground + look.styles["dim"]
            body = glyph * (bar_width - (bar_width > 2)) if y < rows or bar_width < 3 else glyph.center(bar_width - 1)
            segments.append(Segment(body, style))
            if bar_width > 2:
                dotted = y == tolerance and y < rows
                segments.append(Segment(look.plain("┄") if dotted else " ", base + look.styles["dim"]))
        return Strip(Segment.simplify(segments)).adjust_cell_length(width, base)

    def _row(self, value: float, low: float, high: float, rows: int) -> int:
        share = (math.log10(value) - low) / (high - low)
        return rows - 1 - max(0, min(rows - 1, int(share * rows)))

    def _label(self, y: int, rows: int, low: float, high: float) -> str:
        if y >= rows or (rows > 4 and (rows - 1 - y) % 2):
            return ""
        exponent = low + (rows - 1 - y) * (high - low) / rows
        return f" 1e{round(exponent):+d}"

    def _glyph(self, bar: Bar, y: int, rows: int, low: float, high: float) -> str:
        look = cast("TracerApp", self.app).look
        if not bar.error:  # nothing compared, or no difference at all
            return " "
        share = 1.0 if bar.error == math.inf else (math.log10(bar.error) - low) / (high - low)
        filled = max(1, round(min(1.0, share) * rows * 8))
        return look.block(filled - 8 * (rows - 1 - y))
