"""A comparison as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tracer.alignment.outputs import order
from tracer.compare.verdict import ASCII_GLYPHS, GLYPHS, Verdict
from tracer.compare.weights import facts as weight_facts
from tracer.compare.weights import quiet
from tracer.names import display
from tracer.report import causes, settings, words
from tracer.report.words import to_ascii

if TYPE_CHECKING:
    from tracer.compare import Diff, PairDiff

STYLES = {
    Verdict.MATCH: "green",
    Verdict.NOISE: "yellow",
    Verdict.DIVERGED: "bold red",
    Verdict.INHERITED: "magenta",
    Verdict.UNMATCHED: "dim",
    Verdict.NOT_COMPARABLE: "bold yellow",
}


def summary(diff: Diff, *, ascii_only: bool = False) -> Text:
    """At most about a dozen lines: the verdict, the first divergence, what is known about it."""
    glyphs = ASCII_GLYPHS if ascii_only else GLYPHS
    out = Text()
    out.append(f"{words.title(diff)}   atol {diff.tolerance.atol:g} rtol {diff.tolerance.rtol:g}\n")
    out.append(f"{glyphs[diff.verdict]} {headline(diff)}", STYLES[diff.verdict])
    counts = "  ".join(f"{glyphs[v]} {diff.counts[v]} {v}" for v in Verdict if diff.counts[v])
    out.append(f"   {len(diff.pairs)} pairs: {counts}")
    if diff.unmatched:
        out.append(f"  {glyphs[Verdict.UNMATCHED]} {diff.unmatched} unmatched")
    out.append("\n")
    modes = [str(r.attributes.get("mode", "eval")) for r in (diff.reference, diff.candidate)]
    if modes[0] != modes[1]:
        out.append(f"the two were recorded in different modes: {display(modes[0])} and {display(modes[1])}\n", "bold")
    shown = diff.first or worst(diff)
    if shown is not None:
        what = "first divergence" if diff.first is not None else "largest difference"
        out.append(f"\n{what}: ", "bold")
        out.append(f"{names(shown)}", STYLES[shown.verdict])
        out.append(f"   {words.op_text(shown)}, {words.shape_text(shown.shape)}, axes {words.axes_text(shown)}\n")
        for fact in words.facts(shown):
            out.append(f"  {fact}\n")
        if shown is diff.first:
            for fact in weight_facts(shown, diff.reference, diff.candidate, diff.alignment.parameters):
                out.append(f"  {display(fact)}\n")
            for line, style in causes.under_first(diff):
                out.append(f"{line}\n", style)
        if shown.candidate_node.source:
            out.append(f"  at {display(shown.candidate_node.source)}\n", "dim")
    for line, style in remarks(diff):
        out.append(f"{line}\n", style)
    return Text(to_ascii(out.plain)) if ascii_only else out


def remarks(diff: Diff) -> Iterator[tuple[str, str]]:
    """What there is to say besides the first divergence, as lines with their styles."""
    shown = diff.first or worst(diff)
    others = [p for p in diff.pairs if p.verdict is Verdict.DIVERGED and p is not diff.first]
    head = "also diverged: "
    for line in causes.others(diff, others):
        yield f"{head}{line}", ""
        head = " " * len(head)
    if diff.moved:
        yield display(order(diff.moved)), "bold"
    if diff.accepted:
        yield _waived(diff), ""
    if diff.latent:
        yield f"settings differ where the values agree:{_settings(diff.latent)}", ""
    hidden = settings.hidden(diff, shown)
    if hidden:
        yield f"settings differ further on:{_settings(hidden)}", ""
    if diff.of == "values":
        differing = quiet(diff.pairs, diff.reference, diff.candidate, diff.alignment.parameters)
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            yield f"weights differ where the values agree: {'; '.join(differing[:3])}{more}", ""
    blank = diff.untested
    if blank:
        names = settings.first([pair.aligned for pair in blank], 3)
        yield f"NaN or one value throughout, on both sides, so nothing was tested there: {names}", "yellow"
    if faint := diff.faint:
        names = settings.first([pair.aligned for pair in faint], 3)
        most = max(p.stats.rel_l2 for p in faint if p.stats)
        said = f"match only because all values are below atol, relative L2 error up to {words.number(most, 1)}"
        yield f"{said}: {names}; a smaller --atol judges them", "yellow"
    broken = diff.broken
    if diff.verdict is Verdict.NOT_COMPARABLE and (why := _nothing(diff)):
        yield why, "bold"
    elif broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        yield f"not comparable: {display(broken[0].aligned)}: {display(broken[0].reason)}{more}", ""
    for recording, lonely in (
        (diff.reference, diff.alignment.unmatched_reference),
        (diff.candidate, diff.alignment.unmatched_candidate),
    ):
        busy = [name for name in lonely if not recording.structure.by_name[name].idle]
        passing = f"{len(lonely) - len(busy)} that hand on their input" if len(busy) < len(lonely) else ""
        if lonely:
            parts = [part for part in (settings.first(busy), passing) if part]
            yield f"unmatched in {display(recording.name)}: {'; '.join(parts)}", "dim"


def _waived(diff: Diff) -> str:
    """What was accepted, by the words with which it was."""
    names: dict[str, list[str]] = {}
    for pair in diff.accepted:
        names.setdefault(pair.accepted.partition(": ")[0] if not pair.note else pair.accepted, []).append(pair.aligned)
    parts = [f"{display(why)}: {settings.first(found, 3)}" for why, found in names.items()]
    return "let pass: " + "; ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")


def _settings(pairs: tuple[PairDiff, ...]) -> str:
    """Settings that differ, in a line or one each."""
    parts = settings.differing(pairs)
    return f" {parts[0]}" if len(parts) == 1 else "".join(f"\n  {part}" for part in parts)


def headline(diff: Diff) -> str:
    """The verdict in words."""
    broken, left_out = len(diff.broken), sum(pair.left_out for pair in diff.pairs)
    if broken and diff.verdict in (Verdict.MATCH, Verdict.NOISE):
        return f"incomplete: {broken} of {len(diff.pairs)} pairs could not be compared, the others agree"
    headline = {
        Verdict.DIVERGED: "diverged",
        Verdict.MATCH: "match: every pair agrees within the tolerance",
        Verdict.NOISE: "match: what exceeds the tolerance is "
        + ("accepted or rounding noise" if diff.accepted else "rounding noise"),
    }.get(diff.verdict, "nothing could be compared")
    return f"{headline} ({left_out} pairs left out on request)" if left_out else headline


def _nothing(diff: Diff) -> str:
    """Why no pair could be compared, and what to do, where one reason holds for all."""
    bare: list[str] = []
    full: list[str] = []
    for recording in (diff.reference, diff.candidate):
        (bare if recording.attributes.get("statistics_only") else full).append(display(recording.name))
    if not bare:
        return ""
    if not full:
        return f"'{bare[0]}' and '{bare[1]}' were recorded with --stats-only: record them again without it"
    return (
        f"'{bare[0]}' was recorded with --stats-only: its values are not there, its statistics agree: record it again "
        f"without it, or run it again: tracer diff {full[0]} {bare[0]} --local"
    )


def names(pair: PairDiff) -> str:
    """Both sides of a pair."""
    return f"{words.together(pair.pair.reference)} ⇄ {words.together(pair.pair.candidate)}"


def worst(diff: Diff) -> PairDiff | None:
    """The pair furthest above its own rounding floor."""
    measured = [p for p in diff.pairs if p.stats is not None and p.stats.max_abs > 0 and p.verdict is not Verdict.MATCH]
    return max(measured, key=lambda p: p.stats.rel_l2 if p.stats else 0.0, default=None)


def table(diff: Diff, *, ascii_only: bool = False, width: int | None = None) -> Table:
    """Every pair, a row each, then what has no twin.

    Where it would be wider than ``width`` it does without axes, then without shapes, before names are folded.
    """
    heads, rows = _cells(diff, ascii_only)
    for without in ((), ("axes",), ("axes", "shape")):
        out = Table(box=None, pad_edge=False, header_style="bold")
        shown = [at for at, head in enumerate(heads) if head.plain not in without or at < _NAMES.stop]
        for at in shown:
            # A figure that is cut says something else.
            out.add_column(heads[at], justify="right" if at in _FIGURES else "left", no_wrap=at in _FIGURES,
                           overflow="fold")  # fmt: skip
        for row in rows:
            out.add_row(*(row[at] for at in shown if at < len(row)))
        if width is None or Measurement.get(*_unbounded(), out).maximum <= width:
            break
    return out


_NAMES = range(2, 4)  # the columns that are called as the recordings
_FIGURES = frozenset({0, 1, *range(7, 12)})


def _unbounded() -> tuple[Console, ConsoleOptions]:
    console = Console(width=10_000)
    return console, console.options


def _cells(diff: Diff, ascii_only: bool) -> tuple[list[Text], list[list[Text]]]:
    """The heads of all columns, and the rows; those of nodes without a twin are shorter."""
    glyphs = ASCII_GLYPHS if ascii_only else GLYPHS

    def cell(text: str, style: str = "") -> Text:
        return Text(to_ascii(text) if ascii_only else text, style)

    again = any(pair.local is not None for pair in diff.pairs)
    figures = ["max|d|" if ascii_only else "max|Δ|", "rel L2", *(("own", "floor") if again else ()), "conf"]
    names = [display(diff.reference.name), display(diff.candidate.name)]
    heads = [cell(head) for head in ("", "#", *names, "op", "shape", "axes", *figures)]
    rows = []
    for count, pair in enumerate(diff.pairs):
        s = pair.stats
        cells = [str(count), words.together(pair.pair.reference), words.together(pair.pair.candidate)]
        cells += [words.op_text(pair)]
        cells += [words.shape_text(pair.shape), words.axes_text(pair)]
        cells += [words.number(s.max_abs if s else None), words.number(s.rel_l2 if s else None)]
        if again:
            known = pair.local if pair.local is not None and pair.local.known else None
            cells += [words.number(known.relative(known.error) if known else None, 1)]
            cells += [words.number(known.relative(known.floor) if known else None, 1)]
        cells += [f"{pair.pair.confidence:.2f}"]
        style = STYLES[pair.verdict] if pair.verdict is not Verdict.MATCH else ""
        rows.append([cell(glyphs[pair.verdict], STYLES[pair.verdict]), *(cell(c, style) for c in cells)])
    unmatched = (
        (diff.reference, diff.alignment.unmatched_reference, 0),
        (diff.candidate, diff.alignment.unmatched_candidate, 1),
    )
    for recording, left, side in unmatched:
        for name in left:
            node = recording.structure.by_name[name]
            twins = [display(name), "—"] if side == 0 else ["—", display(name)]
            cells = ["", *twins, display(node.label), words.shape_text(node.shape)]
            rows.append([cell(glyphs[Verdict.UNMATCHED]), *(cell(c, "dim") for c in cells)])
    return heads, rows


def diff_text(diff: Diff) -> str:
    """The summary without colour, for ``str(diff)``."""
    console = Console(width=10_000, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(summary(diff), end="", soft_wrap=True)
    return capture.get().rstrip("\n")
