"""What is known about the pair under the cursor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from rich.text import Text

from tracer.compare import Verdict
from tracer.report import causes, settings, words
from tracer.report.rows import Row
from tracer_tui.widgets.panel import Panel

if TYPE_CHECKING:
    from tracer.compare import Diff
    from tracer_tui.app import TracerApp


_STYLES = {"dim": "dim", "green": "fix", "": "bold"}
"""Styles of the reports by the names they have here."""
_UNBROKEN = 10_000
"""The panel breaks lines itself."""


def headline(row: Row, diff: Diff) -> str:
    if row.pair is None:
        return "No twin in the candidate" if row.on_reference else "No twin in the reference"
    if row.pending:
        return "Yet to be compared" if row.pair.awaited else "Yet to be recorded"
    if diff.first is row.pair:
        return "First divergence"
    return str(row.verdict).replace("-", " ").capitalize()


def source_of(row: Row) -> str:
    """Where the node was called, the candidate's line first: that is the one to change."""
    if row.pair is None:
        return row.node.source or ""
    return row.pair.candidate_node.source or row.pair.node.source or ""


def copied(row: Row, diff: Diff) -> str:
    """The panel as plain text, for the clipboard."""
    lines = [f"{headline(row, diff)}: {row.sides}   {row.op}, {row.shape}" + (f", axes {row.axes}" if row.pair else "")]
    lines += [line for line, _ in _causes(row)]
    lines += words.facts(row.pair) if row.pair is not None else [row.reason]
    return "\n  ".join([*lines, *([source_of(row)] if source_of(row) else [])])


def _causes(row: Row) -> Iterator[tuple[str, str]]:
    """Why the pair parts, the proof, and what to change, with the names of their styles."""
    finding = row.pair.finding if row.pair is not None else None
    if finding is None:
        return
    if finding.status == "latent":
        yield "Will differ in training or on other inputs", "dim"
    lines = causes.of(finding, width=_UNBROKEN, indent="", brief=True)
    # The fix is to be seen where the panel is small.
    for line, style in sorted(lines, key=lambda said: said[0].startswith("note ")):
        yield line, _STYLES.get(style, "bold")


class Diagnosis(Panel):
    """Follows the cursor of the Layers screen."""

    DEFAULT_CSS = "Diagnosis { height: 9; }"

    def tell(self, row: Row | None, diff: Diff | None, *, looking: bool = False) -> None:
        """``looking``: the causes are not known yet."""
        app = cast("TracerApp", self.app)
        look = app.look
        out = Text()
        if row is not None and diff is not None:
            style = "dim" if row.pending else str(row.verdict)
            out.append_text(look.text("·", "dim") if row.pending else look.mark(row.verdict)).append(" ")
            out.append_text(look.join((f"{headline(row, diff)}: {row.sides}", style), f"   {row.op}, {row.shape}"))
            if row.pair is not None:
                for line, name in _causes(row):
                    out.append("\n").append_text(look.text(line, name))
                if looking and row.verdict is Verdict.DIVERGED:
                    out.append("\n").append_text(look.text("Looking for the cause …", "dim"))
                if diff.first is row.pair:
                    for further in settings.differing(settings.hidden(diff, row.pair)):
                        out.append("\n").append_text(look.text(f"Set differently further on: {further}"))
                paired = f"Axes {row.axes}   confidence {row.pair.pair.confidence:.2f}"
                out.append("\n").append_text(look.text(paired, "dim"))
                for fact in words.facts(row.pair):
                    out.append("\n").append_text(look.text(fact))
                if row.pair.pair.confidence < 0.9:
                    evidence = ", ".join(f"{name} {share:.2g}" for name, share in row.pair.pair.evidence.items())
                    out.append("\n").append_text(look.text(f"Paired by {evidence}", "dim"))
            else:
                out.append("\n").append_text(look.text(row.reason[:1].upper() + row.reason[1:]))
            if source := source_of(row):
                out.append("\n").append_text(look.text(source, "dim"))
        self.show(look.text("diagnosis"), out, bad=row is not None and row.verdict is Verdict.DIVERGED)
