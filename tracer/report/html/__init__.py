"""A comparison as one HTML file that needs nothing else, and as the fragment that a notebook shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.lazy import exports

if TYPE_CHECKING:
    from tracer.report.html.gathering import Report, gather
    from tracer.report.html.notebook import fragment, shown
    from tracer.report.html.rendering import page

__all__ = ["Report", "fragment", "gather", "page", "shown"]

__getattr__, __dir__ = exports(
    __name__,
    {
        **dict.fromkeys(("Report", "gather"), "tracer.report.html.gathering"),
        **dict.fromkeys(("fragment", "shown"), "tracer.report.html.notebook"),
        "page": "tracer.report.html.rendering",
    },
)
