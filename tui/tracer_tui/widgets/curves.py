"""Both sides as curves over each other, and their difference below.

Drawn with braille dots: eight points a character, two curves on one canvas. Where both curves run through a character
it has the colour of the text, so that what has a colour of its own is what parts. Without colours, each side has a
letter and both a star, and an exclamation mark stands below what is outside the tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from rich.style import Style
from rich.text import Text
from textual.strip import Strip

from tracer.report.tensors import Array
from tracer_tui.curves import braille, dots, envelope, peaks
from tracer_tui.widgets.framed import Framed

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp

_LABEL = 10
_NUMBER = 12


@dataclass(frozen=True)
class Curve:
    """A line through both tensors.

    Attributes:
        sides: the values of reference and candidate; None for one that cannot be shown.
        places: the index of every value along the axis.
        difference: candidate − reference; None unless there are both.
        bound: what each difference may be; None where that is not known.
        at: the place of the element of interest among the values.
        axis: the name of the axis.
        whole: how many values the whole line has, where this is a part of it.
    """

    sides: tuple[Array | None, Array | None]
    places: Array
    difference: Array | None
    bound: Array | None
    at: int
    axis: str
    whole: int | None = None

    def part(self, count: int) -> Curve:
        """So many values around the element of interest; the whole line where it has no more."""
        total = len(self.places)
        if count >= total:
            return self
        first = max(0, min(self.at - count // 2, total - count))
        near = slice(first, first + count)

        def cut(values: Array | None) -> Array | None:
            return None if values is None else values[near]

        sides = cut(self.sides[0]), cut(self.sides[1])
        difference, bound = cut(self.difference), cut(self.bound)
        return Curve(sides, self.places[near], difference, bound, self.at - first, self.axis, total)

    @property
    def extent(self) -> str:
        """What the curve runs along, and how much of it is outside the tolerance."""
        part = "" if self.whole is None else f": {len(self.places)} of {self.whole}"
        count = int((self.excess > 0).sum())
        return f"along {self.axis}{part}" + (f", {count} outside the tolerance" if count else "")

    @property
    def excess(self) -> Array:
        """By how much each difference is over what it may be; infinite where it is not finite."""
        if self.difference is None or self.bound is None:
            return np.zeros(len(self.places))
        with np.errstate(all="ignore"):
            found: Array = np.where(np.isfinite(self.difference), np.abs(self.difference) - self.bound, np.inf)
        return found

    @property
    def limits(self) -> tuple[float, float]:
        known = [side[np.isfinite(side)] for side in self.sides if side is not None]
        known = [part for part in known if part.size]
        if not known:
            return 0.0, 0.0
        return min(float(part.min()) for part in known), max(float(part.max()) for part in known)


class Curves(Framed):
    """The curves above, the size of the difference below, red where it is over the tolerance."""

    ALLOW_SELECT = False
    DEFAULT_CSS = "Curves { height: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._curve: Curve | None = None
        self._message = Text("")
        self._drawn: tuple[tuple[int, int], list[Strip]] | None = None
        self.numbers = False
        """Whether numbers stand in the place of curves."""

    def show(self, curve: Curve | None, names: tuple[str, str], message: str) -> None:
        """Draw a line of the recordings ``names``; without one, ``message``."""
        look = cast("TracerApp", self.app).look
        self._curve, self._drawn = curve, None
        self._message = look.text(message, "dim")
        signs = (" (o)", " (x)") if look.plain_curves else ("", "")
        title = look.join((names[0], "reference"), f"{signs[0]} and ", (names[1], "candidate"), signs[1])
        self.entitle(title, look.text(curve.extent) if curve is not None else None)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        size = self.size.width, self.size.height
        if self._drawn is None or self._drawn[0] != size:
            self._drawn = (size, self._draw(*size))
        lines = self._drawn[1]
        return lines[y] if y < len(lines) else Strip.blank(size[0], self.rich_style)

    def notify_style_update(self) -> None:
        self._drawn = None
        super().notify_style_update()

    def _draw(self, width: int, height: int) -> list[Strip]:
        look = cast("TracerApp", self.app).look
        if self._curve is None or not len(self._curve.places):
            lines = [Text("")] * (height // 2) + [Text(" ") + (self._message or look.text("no elements", "dim"))]
        elif self.numbers:
            lines = self._as_numbers(self._curve, width, height)
        elif width < _LABEL + 4 or height < 3:
            lines = [look.text(" no room", "dim")]
        else:
            lines = self._as_curves(self._curve, width, height)
        return [self.strip(line, width) for line in lines]

    def _as_curves(self, curve: Curve, width: int, height: int) -> list[Text]:
        look = cast("TracerApp", self.app).look
        columns = width - _LABEL - 1
        below = 0 if curve.difference is None or height < 5 else max(1, (height - 1) // 3)
        above = height - 1 - below
        limits = curve.limits
        lines = self._canvas(curve, columns, above, limits)
        labels = [""] * above
        labels[-1], labels[0] = f"{limits[0]:.3g}", f"{limits[1]:.3g}"
        lines = [_labelled(look.text(label, "dim"), line) for label, line in zip(labels, lines, strict=True)]
        if below:
            assert curve.difference is not None
            bars, greatest = self._bars(curve, curve.difference, columns, below)
            titles = [""] * below
            titles[-1] = "|Δ|"
            titles[0] = f"{greatest:.1e}"
            lines += [_labelled(look.text(title, "dim"), line) for title, line in zip(titles, bars, strict=True)]
        return [*lines, _labelled(look.text("at", "dim"), self._ruler(curve, columns))]

    def _canvas(self, curve: Curve, columns: int, rows: int, limits: tuple[float, float]) -> list[Text]:
        """The lines of characters with both curves."""
        look = cast("TracerApp", self.app).look
        across, down = (1, 1) if look.plain_curves else (2, 4)
        found: list[Array] = []
        spoilt = np.zeros(columns, bool)
        for side in curve.sides:
            drawn = envelope(np.zeros(0) if side is None else side, columns * across)
            points = dots(drawn, rows * down, limits)
            found.append(points.astype(np.int64) if look.plain_curves else braille(points))
            spoilt |= drawn.spoilt.reshape(columns, across).any(axis=1)
        ours, theirs = found
        styles = look.styles
        both = Style(bold=True) if look.no_color else Style.null()
        lines = []
        for row in range(rows):
            line = Text(no_wrap=True)
            for column in range(columns):
                a, b = int(ours[row, column]), int(theirs[row, column])
                if spoilt[column] and row == rows - 1:
                    line.append("x" if look.ascii_only else "×", styles["key"])
                elif a and b:
                    line.append("*" if look.plain_curves else chr(0x2800 + (a | b)), both)
                elif a or b:
                    glyph = ("o" if a else "x") if look.plain_curves else chr(0x2800 + (a | b))
                    line.append(glyph, styles["reference" if a else "candidate"])
                else:
                    line.append(" ")
            lines.append(line)
        return lines

    def _bars(self, curve: Curve, difference: Array, columns: int, rows: int) -> tuple[list[Text], float]:
        look = cast("TracerApp", self.app).look
        sizes = peaks(difference, columns)
        over = _any_positive(curve.excess, columns)
        finite = sizes[np.isfinite(sizes)]
        greatest = float(finite.max(initial=0.0))
        share = np.where(np.isfinite(sizes), sizes / greatest if greatest > 0 else 0.0, 1.0)
        eighths = np.where(sizes > 0, np.maximum(1, np.rint(share * rows * 8)), 0).astype(np.int64)
        lines = []
        for row in range(rows):
            line = Text(no_wrap=True)
            for column in range(columns):
                glyph = look.block(int(eighths[column]) - 8 * (rows - 1 - row))
                if look.plain_curves and over[column] and row == rows - 1:
                    glyph = "!"
                line.append(glyph, look.styles["diverged" if over[column] else "match"])
            lines.append(line)
        return lines, greatest

    def _ruler(self, curve: Curve, columns: int) -> Text:
        """First, chosen and last index."""
        look = cast("TracerApp", self.app).look
        count = len(curve.places)
        place = curve.at * columns // count if count > columns else round(curve.at * (columns - 1) / max(1, count - 1))
        line = [" "] * columns
        first, last, here = str(curve.places[0]), str(curve.places[-1]), f"{look.plain('▲')}{curve.places[curve.at]}"
        line[: len(first)] = first
        line[columns - len(last) :] = last
        start = min(place, columns - len(here))
        line[start : start + len(here)] = here
        out = Text("".join(line)[:columns], look.styles["dim"], no_wrap=True)
        out.stylize(look.styles["key"], start, start + len(here))
        return out

    def _as_numbers(self, curve: Curve, width: int, height: int) -> list[Text]:
        """Index, both values and the difference, column beside column, with the chosen element in the middle."""
        look = cast("TracerApp", self.app).look
        block = 4 * _NUMBER
        blocks = max(1, width // block)
        shown = blocks * (height - 1)
        count = len(curve.places)
        first = max(0, min(curve.at - shown // 2, count - shown))
        heads = [curve.axis[: _NUMBER - 2], "reference", "candidate", "Δ"]
        head = "".join(look.plain(word).rjust(_NUMBER - 1) + " " for word in heads)
        lines = [look.text(head * min(blocks, -(-count // (height - 1))), "bold")]
        columns = (*curve.sides, curve.difference)
        for row in range(height - 1):
            line = Text(no_wrap=True)
            for part in range(blocks):
                at = first + part * (height - 1) + row
                if at >= count:
                    continue
                cells = [str(curve.places[at]), *("—" if c is None else f"{float(c[at]):+.3e}" for c in columns)]
                style = Style(reverse=True, bold=True) if at == curve.at else Style.null()
                line.append(look.plain("".join(cell.rjust(_NUMBER - 1) + " " for cell in cells)), style)
            lines.append(line)
        return lines


def _any_positive(values: Array, columns: int) -> Array:
    length = len(values)
    over = values > 0
    if length <= columns:
        return over[np.arange(columns) * length // columns]
    return np.logical_or.reduceat(over, np.arange(columns) * length // columns)


def _labelled(label: Text, line: Text) -> Text:
    out = Text(" " * max(0, _LABEL - 1 - label.cell_len), no_wrap=True)
    out.append_text(label).append(" ").append_text(line)
    return out
