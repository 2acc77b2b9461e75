"""Colours from the theme, glyphs, and text that is safe to put on the screen.

Names come from files that nobody vetted. They reach a widget only as :class:`rich.text.Text` made here, so nothing
in them is ever read as markup or sent to the terminal as a control sequence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text
from textual.color import Color

from tracer.compare.verdict import ASCII_GLYPHS, GLYPHS, Verdict
from tracer.names import display
from tracer.report.words import to_ascii

_BARS = {"up": " ▁▂▃▄▅▆▇█", "right": " ▏▎▍▌▋▊▉█"}
_ASCII_BARS = {"up": "  ...:::#", "right": "    ...=#"}
_OWN_ASCII = str.maketrans("┄▲▸▾●○◆■Δ√−✗–", "-^+-*o+#dv-X-") | {ord("±"): "+-"}
_STEPS = 24
Keep = Literal["ends", "tail", "head", "name"]
"""What of a text stays when it is cut. Of a name the last step of its path, and all numbers while that can be: they
tell one block from another."""
_LEAST = 5
"""Cells of a step of a path that is cut in its middle."""


@dataclass(frozen=True)
class Look:
    """How things look under one theme. Styles are looked up by verdict or by one of the words in :attr:`styles`."""

    variables: Mapping[str, str]
    ascii_only: bool = False
    no_color: bool = False
    _ramps: dict[str, list[Color]] = field(default_factory=dict, compare=False)

    @property
    def plain_curves(self) -> bool:
        """Whether curves are told apart by letters: dots of two curves are so by their colours alone."""
        return self.ascii_only or self.no_color

    def color(self, name: str) -> Color:
        """A theme colour; one that is no plain colour (``auto 87%``) is the foreground."""
        for candidate in (self.variables.get(name, ""), self.variables.get("foreground", "")):
            try:
                found = Color.parse(candidate)
            except Exception:  # Textual raises its own error for "auto", which is no colour by itself
                continue
            return found
        return Color(128, 128, 128)

    @cached_property
    def styles(self) -> dict[str, Style]:
        """Rich styles, all from theme variables."""
        background, foreground = self.color("background"), self.color("foreground")
        bad = self.color("text-error")

        def style(color: Color, **more: Any) -> Style:
            return Style(color=color.rich_color, **more)

        shades: dict[str, Style] = {}
        if self.no_color:  # Textual makes greys of colours, and red the darkest: say it by brightness instead
            shades = {
                Verdict.MATCH: style(foreground.blend(background, 0.5)),
                Verdict.NOISE: style(foreground.blend(background, 0.2)),
                Verdict.DIVERGED: style(foreground, bold=True),
                Verdict.INHERITED: style(foreground.blend(background, 0.35)),
                Verdict.NOT_COMPARABLE: style(foreground, bold=True),
                "fix": style(foreground, bold=True),
            }
        return {
            Verdict.MATCH: style(self.color("text-success")),
            Verdict.NOISE: style(self.color("text-warning")),
            Verdict.DIVERGED: style(bad, bold=True),
            Verdict.INHERITED: style(bad.blend(background, 0.3)),
            Verdict.UNMATCHED: style(foreground.blend(background, 0.35)),
            Verdict.NOT_COMPARABLE: style(self.color("text-warning"), bold=True),
            "dim": style(foreground.blend(background, 0.35)),
            "faint": style(foreground.blend(background, 0.65)),
            "fix": style(self.color("text-success")),
            "key": style(self.color("text-accent"), bold=True),
            "bold": Style(bold=True),
            "reference": style(self.color("text-primary")),
            "candidate": style(self.color("text-accent")),
            "": Style.null(),
            **shades,
        }

    def mark(self, verdict: Verdict) -> Text:
        """The glyph of a verdict; where there is no colour, the grave ones are reversed too."""
        style = self.styles[verdict]
        if self.no_color and verdict in (Verdict.DIVERGED, Verdict.NOT_COMPARABLE):
            style += Style(reverse=True)
        return Text((ASCII_GLYPHS if self.ascii_only else GLYPHS)[verdict], style)

    def plain(self, text: str) -> str:
        """``text`` fit for the screen: no control characters, and ASCII where only that can be shown."""
        shown = display(text)
        return to_ascii(shown.translate(_OWN_ASCII)) if self.ascii_only else shown

    def plain_lines(self, text: str) -> str:
        """:meth:`plain` for a text of several lines."""
        return "\n".join(self.plain(line) for line in text.split("\n"))

    def text(self, text: str, style: str = "", width: int | None = None) -> Text:
        """``text`` as a cell; a longer one than ``width`` loses its middle."""
        shown = self.plain(text)
        shown = shown if width is None else self.shorten(shown, width)
        return Text(_closed(shown), self.styles[style], no_wrap=True)

    def shorten(self, shown: str, width: int, keep: Keep = "ends") -> str:
        """Cut text that :meth:`plain` made, counting screen cells: its middle, or all but its tail or head."""
        if cell_len(shown) <= width:
            return shown
        dots = "~" if self.ascii_only else "…"
        if width <= 1:
            return dots[:width]
        if keep == "name":
            return self._shorten_name(shown, width, dots)
        head = {"ends": (width - 1) // 2, "tail": 0, "head": width - 1}[keep]
        left = width - 1 - head
        end = shown
        while end and cell_len(end) > left:
            end = end[max(1, len(end) - left) if len(end) > 2 * left + 2 else 1 :]
        return set_cell_size(shown, head) + dots + end

    def _shorten_name(self, shown: str, width: int, dots: str) -> str:
        steps = re.split(r"([./])", shown)
        excess = cell_len(shown) - width
        for at in range(0, len(steps) - 1, 2):
            if len(steps[at]) > 2 and not any(map(str.isdecimal, steps[at])):
                steps[at] = self.shorten(steps[at], max(2, cell_len(steps[at]) - excess), "head")
                excess = cell_len("".join(steps)) - width
                if excess <= 0:
                    return "".join(steps)
        longest = max(range(len(steps)), key=lambda at: cell_len(steps[at]))
        if len(steps) > 1 and cell_len(steps[longest]) - excess >= _LEAST:
            steps[longest] = self.shorten(steps[longest], cell_len(steps[longest]) - excess)
            return "".join(steps)
        return self.shorten(shown, width)

    def cut(self, text: Text, width: int, keep: Keep = "ends") -> Text:
        """A text of this class, no longer than ``width``."""
        if text.cell_len <= width:
            return text
        return Text(self.shorten(text.plain, width, keep), text.spans[0].style if text.spans else text.style)

    def join(self, *parts: str | Text | tuple[str, str]) -> Text:
        """One line from pieces: strings, ``(string, style)``, and texts made here."""
        out = Text(no_wrap=True, overflow="crop" if self.ascii_only else "ellipsis")
        for part in parts:
            if isinstance(part, Text):
                out.append_text(part)
            elif isinstance(part, tuple):
                out.append_text(self.text(*part))
            else:
                out.append(_closed(self.plain(part)))
        return out

    def bar(self, share: float, width: int) -> str:
        """A horizontal bar of ``share`` (0 to 1) of ``width`` cells, in eighths of a cell."""
        glyphs = (_ASCII_BARS if self.ascii_only else _BARS)["right"]
        eighths = round(max(0.0, min(1.0, share)) * width * 8)
        return (glyphs[8] * (eighths // 8) + glyphs[eighths % 8]).rstrip()[:width]

    def block(self, eighths: int) -> str:
        """A cell filled from below by ``eighths`` (0 to 8)."""
        return (_ASCII_BARS if self.ascii_only else _BARS)["up"][max(0, min(8, eighths))]

    def sparkline(self, values: Sequence[float]) -> str:
        top = max(values, default=0.0)
        return "".join(self.block(max(1, round(8 * v / top)) if v > 0 else 0) for v in values)

    def ramp(self, kind: str) -> list[Color]:
        """Colours for a heatmap: ``values`` from the background to the foreground, ``difference`` for −1 … 1."""
        if kind not in self._ramps:
            base = self.color("surface")
            if kind == "difference":
                negative, positive = self.color("primary"), self.color("error")
                if self.variables.get("primary") == self.variables.get("error"):
                    negative = self.color("secondary")
                stops = [negative.lighten(0.1), negative, base, positive, positive.lighten(0.1)]
            else:
                # Sorted by distance from the background, so that the ramp still climbs when colours become greys.
                inner = [self.color(name) for name in ("primary", "accent")]
                inner.sort(key=lambda color: abs(color.brightness - base.brightness))
                stops = [base, *inner, self.color("foreground")]
            self._ramps[kind] = _blend(stops, 2 * _STEPS + 1)
        return self._ramps[kind]


def _closed(shown: str) -> str:
    """``shown`` with a mark behind text that runs from right to left: terminals that turn it would take the number of
    the next column along, and a shape of 2×6 would read 6×2."""
    if shown.isascii() or all(unicodedata.bidirectional(one) not in ("R", "AL", "AN") for one in shown):
        return shown
    return shown + "\N{LEFT-TO-RIGHT MARK}"


def _blend(stops: Sequence[Color], count: int) -> list[Color]:
    out = []
    for step in range(count):
        place = step / (count - 1) * (len(stops) - 1)
        index = min(int(place), len(stops) - 2)
        out.append(stops[index].blend(stops[index + 1], place - index))
    return out
