"""A plane of numbers as coloured half-cells, or as the numbers themselves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.strip import Strip

from tracer.report import tensors
from tracer_tui.widgets.framed import Framed

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp

_SHADES = " .:-=+*#%@"
_CELL = 10


class Heatmap(Framed):
    """Two points a cell, one above the other; every point is the value of greatest magnitude that falls on it.

    Without colour, or in ASCII, differences are drawn as signs and values as shades of characters. A cell that holds
    a NaN or an infinity is drawn as a cross.
    """

    ALLOW_SELECT = False
    DEFAULT_CSS = "Heatmap { width: 1fr; height: 1fr; }"

    def __init__(self, kind: str, *, id: str) -> None:
        super().__init__(id=id)
        self._kind = kind
        self._plane: NDArray[Any] | None = None
        self._limits = (0.0, 0.0)
        self._focus = (0, 0)
        self._message = Text("")
        self._pooled: tuple[tuple[int, int], NDArray[Any]] | None = None
        self._styles: dict[tuple[int, int], Style] = {}
        self.numbers = False

    def show(
        self,
        plane: NDArray[Any] | None,
        limits: tuple[float, float],
        focus: tuple[int, int],
        message: Text | None = None,
    ) -> None:
        """Draw ``plane`` with colours spread over ``limits``; where there is none, say why."""
        self._plane, self._limits, self._focus = plane, limits, focus
        self._message = message or Text("")
        self._pooled = None
        self._styles.clear()
        self.refresh()

    def numbers_shown(self, on: bool) -> None:
        self.numbers = on
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width, height = self.size.width, self.size.height
        base = self.rich_style
        if self._plane is None or not self._plane.size:
            message = self._message.copy()
            message.no_wrap = False
            lines = message.wrap(self.app.console, max(1, width))
            at = y - max(0, (height - len(lines)) // 2)
            line = lines[at] if 0 <= at < len(lines) else Text("")
            line.rstrip()
            line.align("center", width)
            return self.strip(line, width)
        if self.numbers:
            return self._number_line(y, width, height, base)
        look = cast("TracerApp", self.app).look
        coarse = look.ascii_only or (look.no_color and self._kind == "difference")
        pooled = self._points(height if coarse else 2 * height, width)
        if coarse:
            return self._coarse_line(pooled[y])
        return self._half_line(pooled[2 * y], pooled[2 * y + 1], base)

    def _points(self, height: int, width: int) -> NDArray[Any]:
        """The pooled plane, scaled to 0 … 1 (differences: −1 … 1)."""
        if self._pooled is None or self._pooled[0] != (height, width):
            assert self._plane is not None
            raw = tensors.pool(self._plane, height, width)
            low, high = self._limits
            with np.errstate(all="ignore"):
                if self._kind == "difference":
                    scaled = raw / high if high > 0 else np.where(np.isfinite(raw), 0.0, raw)
                else:
                    scaled = (raw - low) / (high - low) if high > low else np.where(np.isfinite(raw), 0.5, raw)
            self._pooled = ((height, width), scaled)
        return self._pooled[1]

    def _half_line(self, upper: NDArray[Any], lower: NDArray[Any], base: Style) -> Strip:
        look = cast("TracerApp", self.app).look
        ramp = look.ramp(self._kind)
        last = len(ramp) - 1
        if self._kind == "difference":
            # The root lifts small differences out of the ground: what differs at all should be seen.
            upper, lower = (np.sign(v) * np.sqrt(np.abs(v)) / 2 + 0.5 for v in (upper, lower))
        bad = ~(np.isfinite(upper) & np.isfinite(lower))
        levels = [(np.clip(np.nan_to_num(v), 0, 1) * last).astype(int).tolist() for v in (upper, lower)]
        segments: list[Segment] = []
        run, previous = 0, (-2, -2)
        for top, bottom, odd in [*zip(*levels, bad.tolist(), strict=True), (-3, -3, False)]:
            key = (-1, -1) if odd else (top, bottom)
            if key != previous and run:
                segments.append(self._cells(previous, run, base))
                run = 0
            previous = key
            run += 1
        return Strip(segments, len(upper))

    def _cells(self, key: tuple[int, int], count: int, base: Style) -> Segment:
        look = cast("TracerApp", self.app).look
        if key == (-1, -1):
            return Segment("×" * count, base + look.styles["key"] + Style(reverse=True))
        style = self._styles.get(key)
        if style is None:
            ramp = look.ramp(self._kind)
            style = Style(color=ramp[key[0]].rich_color, bgcolor=ramp[key[1]].rich_color)
            self._styles[key] = style
        return Segment("▀" * count, style)

    def _coarse_line(self, points: NDArray[Any]) -> Strip:
        out = Text(no_wrap=True)
        for value in points.tolist():
            if not math.isfinite(value):
                out.append("x", Style(reverse=True, bold=True))
            elif self._kind == "difference":
                size = abs(value)
                sign = " " if size == 0 else "." if size < 0.1 else "+" if value > 0 else "-"
                out.append(sign, Style(reverse=size >= 0.75, bold=size >= 0.3))
            else:
                out.append(_SHADES[min(len(_SHADES) - 1, max(0, int(value * len(_SHADES))))])
        return self.strip(out, len(points))

    def _number_line(self, y: int, width: int, height: int, base: Style) -> Strip:
        assert self._plane is not None
        look = cast("TracerApp", self.app).look
        rows, columns = self._plane.shape
        across = max(1, width // _CELL)
        top = max(0, min(self._focus[0] - height // 2, rows - height))
        left = max(0, min(self._focus[1] - across // 2, columns - across))
        if top + y >= rows:
            return Strip.blank(width, base)
        segments = []
        for column in range(left, min(columns, left + across)):
            value = float(self._plane[top + y, column])
            style = base
            if (top + y, column) == self._focus:
                style += Style(reverse=True, bold=True)
            elif not math.isfinite(value):
                style += look.styles["key"]
            segments.append(Segment(f"{value:+.2e}".rjust(_CELL - 1), style))
            segments.append(Segment(" ", base))
        return Strip(segments).adjust_cell_length(width, base)
