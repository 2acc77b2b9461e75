"""Two distributions back to back: the reference's bars grow to the left, the candidate's to the right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual.strip import Strip

from tracer.report.tensors import Histogram
from tracer_tui.widgets.framed import Framed

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp

_LABEL = 10


class Distribution(Framed):
    """A line a bin, values growing upwards."""

    ALLOW_SELECT = False
    DEFAULT_CSS = "Distribution { width: 1fr; height: 1fr; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._histogram: Histogram | None = None
        self._names = ("", "")

    def show(self, histogram: Histogram | None, names: tuple[str, str]) -> None:
        look = cast("TracerApp", self.app).look
        if histogram is not None:
            histogram = histogram.grouped(max(3, self.size.height - 1))
        self._histogram, self._names = histogram, names
        notes = []
        if histogram is not None:
            notes = ["log counts"] * histogram.logarithmic + ["sampled"] * histogram.sampled
        self.entitle(look.text("distribution"), look.text(", ".join(notes)) if notes else None)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        look = cast("TracerApp", self.app).look
        width = self.size.width
        room = (width - _LABEL) // 2
        out = Text(no_wrap=True)
        if self._histogram is None or room < 2:
            out = look.text(" no finite values", "dim") if y == 0 else out
        elif y == 0:
            ours = look.text(self._names[0], "reference", room)
            out.append(" " * (room - ours.cell_len)).append_text(ours).append(" " * _LABEL)
            out.append_text(look.text(self._names[1], "candidate", room))
        else:
            bins = len(self._histogram.edges) - 1
            at = bins - y  # the greatest values on top
            if 0 <= at < bins:
                middle = (self._histogram.edges[at] + self._histogram.edges[at + 1]) / 2
                left, right = (self._bar(side, at, room) for side in (0, 1))
                out.append(" " * (room - len(left))).append_text(look.text(left, "reference"))
                out.append_text(look.text(f"{middle:+.2g}".center(_LABEL), "dim"))
                out.append_text(look.text(right, "candidate"))
        return self.strip(out, width)

    def _bar(self, side: int, at: int, room: int) -> str:
        """Whole cells to the left (there are no eighths that grow that way), eighths to the right."""
        assert self._histogram is not None
        look = cast("TracerApp", self.app).look
        shares = self._histogram.shares[side]
        if shares is None or shares[at] <= 0:
            return ""
        peak = max(float(s.max()) for s in self._histogram.shares if s is not None)
        share = _scaled(float(shares[at]), peak, self._histogram.logarithmic)
        if side == 0:
            return look.bar(1.0, max(1, round(share * room)))
        return look.bar(max(share, 1 / (8 * room)), room) or look.bar(1.0, 1)


def _scaled(value: float, peak: float, logarithmic: bool) -> float:
    if not logarithmic:
        return value / peak
    floor = 1e-6
    return math.log(max(value, floor) / floor) / math.log(peak / floor)
