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
from tracer_tui.widgets.framed import Framed

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp

_LABEL = 7
_WIDEST = 6
_GRAVITY = (
    Verdict.UNMATCHED,
    Verdict.MATCH,
    Verdict.NOISE,
    Verdict.INHERITED,
    Verdict.NOT_COMPARABLE,
    Verdict.DIVERGED,
)


@dataclass(frozen=True)
class Bar:
    """One pair: its verdict and max|Δ| (None where nothing was compared, infinite where a side is not finite)."""

    verdict: Verdict
    error: float | None


def pooled(bars: Sequence[Bar], columns: int) -> list[tuple[Bar, int, int]]:
    """At most ``columns`` bars, each with the range it stands for; a group shows its greatest error and gravest
    verdict, so that the one bad pair among a thousand stays visible."""
    count = min(len(bars), max(1, columns))
    out = []
    for column in range(count):
        start, end = column * len(bars) // count, (column + 1) * len(bars) // count
        group = bars[start:end]
        errors = [bar.error for bar in group if bar.error is not None]
        verdict = max((bar.verdict for bar in group), key=_GRAVITY.index)
        out.append((Bar(verdict, max(errors, default=None)), start, end))
    return out


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
            self._laid = size, _Layout(groups, width, *self._scale(size[1] - 1))
        return self._laid[1]

    def _scale(self, rows: int) -> tuple[float, float]:
        """Exponents of the lower and upper edge."""
        known = [b.error for b in self._bars if b.error is not None and 0 < b.error < math.inf]
        edges = [*known, *([self._atol] if self._atol > 0 else [])] or [1e-5]
        low, high = math.floor(math.log10(min(edges)) - 0.5), math.ceil(math.log10(max(edges)) + 0.3)
        if self._atol > 0:  # room below the tolerance, so that its line does not lie on the ground
            low = min(low, math.floor(math.log10(self._atol)) - 2)
        low = max(low, high - 14)
        return low, max(high, low + min(rows, 3))

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
