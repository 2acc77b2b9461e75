"""The greatest difference at every index of one axis: which channels, which positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from rich.text import Text
from textual.strip import Strip

from tracer.report import tensors
from tracer.report.tensors import Array
from tracer_tui.curves import peaks
from tracer_tui.widgets.framed import Framed

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp

_LABEL = 8


class ByAxis(Framed):
    """One bar an index, red where elements are outside the tolerance."""

    ALLOW_SELECT = False
    DEFAULT_CSS = "ByAxis { width: 1fr; height: 1fr; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._greatest: Array = np.zeros(0)
        self._hit: Array = np.zeros(0, np.int64)
        self._message = Text("")

    def show(self, name: str, greatest: Array | None, hit: Array | None, message: str = "") -> None:
        """``greatest`` and ``hit``: for each index of the axis ``name``, max|Δ| and the count of elements outside."""
        look = cast("TracerApp", self.app).look
        self._greatest = np.zeros(0) if greatest is None else greatest
        self._hit = np.zeros(0, np.int64) if hit is None else hit
        self._message = look.text(message, "dim")
        note = None
        if len(self._greatest) and self._greatest.max() > 0:
            outside = f"outside: {tensors.spans(self._hit)}" if self._hit.any() else "within the tolerance"
            note = look.text(outside)
        self.entitle(look.text(f"max|Δ| by {name}"), note)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        look = cast("TracerApp", self.app).look
        width, height = self.size
        count, rows, columns = len(self._greatest), height - 1, width - _LABEL - 1
        out = Text(no_wrap=True)
        if not count or rows < 1 or columns < 4:
            out = Text(" ") + self._message if y == 0 else out
        elif y < rows:
            wide = max(1, min(6, columns // count))
            used = min(count, columns)
            sizes = peaks(self._greatest, used)
            over = peaks(self._hit.astype(float), used) > 0
            finite = sizes[np.isfinite(sizes)]
            top = float(finite.max(initial=0.0))
            label = f"{top:.1e}" if y == 0 else "0" if y == rows - 1 else ""
            out.append_text(look.text(label.rjust(_LABEL - 1) + " ", "dim"))
            for size, bad in zip(sizes.tolist(), over.tolist(), strict=True):
                share = 1.0 if not np.isfinite(size) else size / top if top > 0 else 0.0
                eighths = max(1, round(share * rows * 8)) if size > 0 else 0
                glyph = look.block(eighths - 8 * (rows - 1 - y))
                out.append(glyph * (wide - (wide > 2)), look.styles["diverged" if bad else "match"])
                out.append(" " * (wide > 2))
        else:
            wide = max(1, min(6, columns // count))
            used = wide * min(count, columns)
            worst = int(np.argmax(self._greatest))
            last, here = str(count - 1), f"{look.plain('▲')}{worst}"
            start = min(worst * used // count, max(0, columns - len(here)))
            line = list("0".ljust(max(used, start + len(here))))
            if start + len(here) < used - len(last):
                line[used - len(last) : used] = last
            line[start : start + len(here)] = here
            out = look.join(" " * _LABEL, ("".join(line)[:columns], "dim"))
        return self.strip(out, width)
