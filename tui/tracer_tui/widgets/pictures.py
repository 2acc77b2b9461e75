"""A plane of both tensors and of their difference, side by side on one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Horizontal

from tracer.report.tensors import Planes, View
from tracer_tui.widgets.heatmap import Heatmap

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp

_PLACES = ("reference", "candidate", "difference")


class Pictures(Horizontal):
    """Three heatmaps; in the place of one that cannot be drawn stands why."""

    DEFAULT_CSS = """
    Pictures { height: 1fr; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.numbers = False
        """Whether numbers stand in the place of colours."""

    def compose(self) -> ComposeResult:
        for name in _PLACES:
            yield Heatmap("difference" if name == "difference" else "values", id=name)

    def show(
        self, planes: Planes | None, view: View | None, names: tuple[str, str], reasons: tuple[str, str, str]
    ) -> None:
        """Draw ``planes`` of ``view``; ``names`` are the two sides', ``reasons`` say why one is missing."""
        look = cast("TracerApp", self.app).look
        titles = (*names, f"Δ = {names[1]} − {names[0]}")
        limits = planes.limits if planes is not None else (0.0, 0.0)
        greatest = planes.greatest if planes is not None else 0.0
        drawn = (planes.reference, planes.candidate, planes.difference) if planes is not None else (None,) * 3
        focus = (0, 0)
        if planes is not None and view is not None:
            focus = planes.nearest(view.focus)
        for place, (widget, title, plane) in enumerate(zip(self.query(Heatmap), titles, drawn, strict=True)):
            scale = f"±{greatest:.3g}" if place == 2 else f"{limits[0]:.3g}…{limits[1]:.3g}"
            widget.entitle(look.text(title), look.text(scale) if plane is not None else None)
            widget.numbers_shown(self.numbers)
            message = look.text(reasons[place], "dim")
            if place == 2 and plane is not None and plane.size and not plane.any():
                plane, message = None, look.text("no difference here", "dim")
            widget.show(plane, (-greatest, greatest) if place == 2 else limits, focus, message)
