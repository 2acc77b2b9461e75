"""Markdown that GitHub and GitLab show: a comment on a pull request, the summary of a job."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tracer.compare.verdict import GLYPHS, Verdict
from tracer.names import display
from tracer.report import causes
from tracer.report.formats.rows import Document, table_of
from tracer.report.text import diff_text, headline

if TYPE_CHECKING:
    from tracer.compare import Diff

LARGEST = 65_536
"""Characters that a comment on GitHub may have."""
_SUMMARY = 20_000
_CELL = 300
_PLAIN = re.compile(r"[^`|\\]+")
_ACTIVE = re.compile(r"[^\w \u0080-\U0010ffff]")
_SENTENCE = re.compile(r"[\w /\u0080-\U0010ffff]*")
_ROOM = 400
"""Characters that are kept for the sentence which says what was cut."""


def code(text: str) -> str:
    """A name as code: nothing in it is markup, a mention or a link.

    Most names stand between backticks; one that holds any, or a bar or a backslash, is written as character references.
    """
    shown = display(text, _CELL)
    if not shown:
        return ""
    if _PLAIN.fullmatch(shown) and shown == shown.strip():
        return f"`{shown}`"
    return f"<code>{_ACTIVE.sub(lambda found: f'&#{ord(found[0])};', shown)}</code>"


def diff_markdown(diff: Diff) -> str:
    """A comparison: the verdict, each divergence with cause and fix, the text of ``tracer diff``, a table to unfold.

    At most :data:`LARGEST` characters: where there are more the table is cut, matching pairs first, and says so.
    """
    document = diff.to_json()
    first = f", first at {code(diff.first.aligned)}" if diff.first is not None else ""
    names = f"{code(diff.reference.name)} ⇄ {code(diff.candidate.name)}"
    counts = ", ".join(f"{GLYPHS[v]} {diff.counts[v]} {v}" for v in Verdict if diff.counts[v])
    lonely = f", {GLYPHS[Verdict.UNMATCHED]} {diff.unmatched} unmatched" if diff.unmatched else ""
    parts = [
        f"### {GLYPHS[diff.verdict]} tracer: {headline(diff)}{first}",
        f"{names}, {len(diff.pairs)} pairs: {counts}{lonely} "
        f"(atol {diff.tolerance.atol:g}, rtol {diff.tolerance.rtol:g})",
        *_diverged(diff),
        _fenced(diff_text(diff)),
    ]
    head = "\n\n".join(parts)
    table = table_of(document)
    columns = ("", *(name for name in table.columns if name not in _LEFT_OUT))
    rows = [{"": GLYPHS[Verdict(row["verdict"])], **row} for row in table.rows(document)]
    opening = f"<details><summary>All {len(diff.pairs)} pairs</summary>\n\n"
    closing = "\n</details>\n"
    room = LARGEST - _ROOM - len(head) - len(opening) - len(closing)
    return f"{head}\n\n{opening}{_table(columns, rows, table.names, room)}{closing}"


_LEFT_OUT = ("number", "verdict", "mean_abs", "cosine", "outside", "cause", "fix", "reason")
_MOST = 10
"""Divergences that are listed above the text."""


def _diverged(diff: Diff) -> Iterator[str]:
    """The pairs that diverged, a row each."""
    found = [pair for pair in diff.pairs if pair.verdict is Verdict.DIVERGED]
    if not found:
        return
    rows = []
    for pair in found[:_MOST]:
        own = pair.finding
        known = own is not None and own.status != "unknown"
        rows.append({
            "diverged": " + ".join(pair.pair.reference), "is": " + ".join(pair.pair.candidate),
            "max|Δ|": None if pair.stats is None else pair.stats.max_abs,
            "cause": causes.short(own) if own is not None else None,
            "fix": "; ".join(own.fixes) if own is not None and known else None,
            "at": pair.candidate_node.source,
        })  # fmt: skip
    more = f"\n\nand {len(found) - _MOST} more" if len(found) > _MOST else ""
    yield _table(tuple(rows[0]), rows, frozenset(rows[0]) - {"max|Δ|"}, LARGEST).rstrip("\n") + more


def listing_markdown(document: Document) -> str:
    """Any other document as a heading and a table; columns that are empty throughout are left out."""
    table = table_of(document)
    rows = list(table.rows(document))
    sides = [code(str(document[side])) for side in ("reference", "candidate") if side in document]
    head = f"### tracer: {table.title}" + (f" of {' ⇄ '.join(sides)}" if sides else "") + "\n\n"
    columns = [name for name in table.columns if any(row.get(name) not in (None, "") for row in rows)]
    if not rows or not columns:
        return f"{head}(nothing)\n"
    return head + _table(columns, rows, table.names, LARGEST - _ROOM - len(head))


def _table(columns: Sequence[str], rows: Sequence[dict[str, Any]], names: frozenset[str], room: int) -> str:
    """A table of at most ``room`` characters, and a sentence where rows had to go: those that match, then the last."""
    lines = [_line([_heading(name) for name in columns]), _line(["---"] * len(columns))]
    made = [(_line([_cell(row.get(name), name in names) for name in columns]), row) for row in rows]
    left = room - sum(len(line) for line in lines)
    if sum(len(line) for line, _ in made) > left:
        telling = [one for one in made if one[1].get("verdict") != "match"]
        made = telling if len(telling) < len(made) else made
    kept = 0
    for line, _ in made:
        if len(line) > left:
            break
        left -= len(line)
        lines.append(line)
        kept += 1
    said = f"\n{len(rows) - kept} of {len(rows)} rows are left out: they do not fit.\n" if kept < len(rows) else ""
    return "".join(lines) + said


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _heading(name: str) -> str:
    return name.replace("_", " ").replace("|", "\\|")


def _cell(value: Any, name: bool) -> str:
    if isinstance(value, str):
        # Sentences quote names: they are data too.
        return code(value) if name or not value.isprintable() or not _SENTENCE.fullmatch(value) else value
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


def _fenced(text: str) -> str:
    """Text as a block of code, which nothing in it can close."""
    shown = text if len(text) <= _SUMMARY else f"{text[:_SUMMARY]} …"
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
