"""The words and columns of the Layers screen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from tracer.compare import Verdict
from tracer.errors import TracerError
from tracer.report import words
from tracer.report.rows import Row
from tracer.store import Recording
from tracer_tui.columns import Field
from tracer_tui.look import Look
from tracer_tui.screens.listing import BAR

if TYPE_CHECKING:
    from tracer.compare import Diff


def heading(ours: Recording, theirs: Recording, look: Look) -> Text:
    """What is compared with what."""
    shapes = ""
    with contextlib.suppress(TracerError):  # it may have been replaced by a damaged one
        shapes = ", ".join(words.shape_text(node.shape) for node in ours.structure.inputs)
    return look.join(
        ("tracer", "key"),
        "  ",
        (ours.name, "bold"),
        f" ({ours.model}) ⇄ ",
        (theirs.name, "bold"),
        f" ({theirs.model})",
        (f"   input {ours.input_id} {shapes}", "dim"),
    )


def counts(found: Diff, rows: Sequence[Row], look: Look) -> Text:
    """How many pairs there are, and how many of each verdict."""
    out = look.text(f"{len(found.pairs)} pairs")
    for verdict in Verdict:
        count = found.unmatched if verdict is Verdict.UNMATCHED else found.counts[verdict]
        if verdict is Verdict.NOT_COMPARABLE:
            count -= sum(row.pending for row in rows)
        if count or verdict is not Verdict.NOT_COMPARABLE:
            out.append("  ").append_text(look.mark(verdict)).append_text(look.text(f" {count}"))
    return out


def fields(
    rows: Sequence[Row], names: tuple[str, str], look: Look, bar: Callable[[float | None], str], *, measured: bool
) -> list[Field]:
    """All columns. ``measured``: what each layer adds itself is known of some row."""

    def styled(row: Row) -> str:
        return "dim" if row.pending else "" if row.verdict is Verdict.MATCH else str(row.verdict)

    def mark(row: Row) -> Text:
        return look.text("·", "dim") if row.pending else look.mark(row.verdict)

    def name(text: str, row: Row) -> Text:
        return look.text(text or "—", styled(row) if text else "dim")

    def cell(i: int, text: str) -> Text:
        return look.text(text, "dim" if rows[i].pair is None else "")

    return [
        Field("", 0, lambda i: mark(rows[i]), width=1),
        Field("#", 2, lambda i: look.text(_number(rows[i]), "dim"), right=True),
        Field(look.text(names[0]), 0, lambda i: name(rows[i].reference, rows[i]), least=20, keep="name"),
        Field(look.text(names[1]), 0, lambda i: name(rows[i].candidate, rows[i]), least=20, keep="name"),
        Field("op", 3, lambda i: cell(i, rows[i].op), least=10, keep="head"),
        Field("shape", 5, lambda i: cell(i, rows[i].shape), least=9),
        Field("axes", 6, lambda i: look.text(rows[i].axes, "dim"), least=9, keep="head"),
        Field("max|Δ|", 0, lambda i: look.text(_figure(rows[i].error), styled(rows[i])), right=True, width=8),
        *(_local_fields(rows, look) if measured else []),
        Field("", 4, lambda i: look.text(bar(rows[i].error), str(rows[i].verdict)), width=BAR),
        Field("rel L2", 7, lambda i: cell(i, _figure(rows[i].relative)), right=True, width=8),
        Field("conf", 8, lambda i: look.text(_confidence(rows[i]), "dim"), right=True, width=4),
    ]


def _local_fields(rows: Sequence[Row], look: Look) -> list[Field]:
    """What each layer adds itself and what rounding explains."""

    def own(i: int) -> Text:
        error, floor = rows[i].own, rows[i].floor
        over = error is not None and floor is not None and error > floor
        return look.text(_figure(error, 1), str(Verdict.DIVERGED) if over else "")

    return [
        Field("own", 1, own, right=True, width=7),
        Field("floor", 2, lambda i: look.text(_figure(rows[i].floor, 1), "dim"), right=True, width=7),
    ]


def _figure(value: float | None, digits: int = 2) -> str:
    return "0" if value == 0 else words.number(value, digits)


def _number(row: Row) -> str:
    return "" if row.number is None else str(row.number)


def _confidence(row: Row) -> str:
    return "" if row.pair is None else f"{row.pair.pair.confidence:.2f}"
