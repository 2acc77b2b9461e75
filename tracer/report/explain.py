"""Causes as text: what differs, the proof, what to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from tracer.causes.explain import Explained
from tracer.causes.finding import Finding
from tracer.compare.verdict import ASCII_GLYPHS, GLYPHS, Verdict
from tracer.names import display
from tracer.report import causes, words
from tracer.report.text import STYLES
from tracer.report.words import to_ascii
from tracer.rerun.graft import Off
from tracer.rerun.verifying import Verified

_WIDEST = 160
"""Sentences are not made longer than this, however wide the screen is."""


def text(found: Explained, *, everything: bool = False, ascii_only: bool = False, width: int = 120) -> Text:
    """What a person reads: each cause with its proof and its fix, in running order."""
    glyphs = ASCII_GLYPHS if ascii_only else GLYPHS
    diff = found.diff
    out = Text()
    out.append(f"{words.title(diff)}   atol {diff.tolerance.atol:g} rtol {diff.tolerance.rtol:g}\n")
    verdict = Verdict.DIVERGED if found.parting or diff.verdict is Verdict.DIVERGED else diff.verdict
    out.append(f"{glyphs[verdict]} {headline(found)}\n", STYLES[verdict])
    width = min(width, _WIDEST)
    for number, one in enumerate(found.parting, 1):
        out.append("\n")
        out.append(f"{number}  {causes.where(one, diff)}\n", "bold yellow" if one.status == "unknown" else "bold red")
        for line, style in causes.of(one, width=width, everything=everything):
            out.append(f"{line}\n", style)
    if found.latent:
        out.append("\nwill differ in training or on other inputs\n", "bold")
        for one in found.latent:
            for line, style in _latent(one, width, everything):
                out.append(f"{line}\n", style)
    for line, style in _open(found, width, everything):
        out.append(f"{line}\n", style)
    if found.verified is not None:
        out.append(verified(found.verified, glyphs, width))
    return Text(to_ascii(out.plain)) if ascii_only else out


def verified(result: Verified, glyphs: Mapping[Verdict, str], width: int) -> Text:
    """What is left of the outputs' difference once the fixes were made."""
    verdict = Verdict.MATCH if result.agrees else Verdict.DIVERGED
    out = Text("\n")
    rows = list(zip(result.outputs, result.before, result.after, strict=True))
    rows.sort(key=lambda row: -row[2].rel_l2)
    for output, before, after in rows[: causes.MOST]:
        name = "outputs" if len(rows) == 1 else f"output {display(output.name)}"
        said = "equal to within rounding" if output.agrees(after) else "still apart"
        out.append(f"{glyphs[Verdict.MATCH if output.agrees(after) else Verdict.DIVERGED]} ")
        out.append(f"{name}: {_off(before)} → {_off(after)}, {said}\n", STYLES[verdict])
    if len(rows) > causes.MOST:
        out.append(f"  and {words.count(len(rows) - causes.MOST, 'output')} more, nearer than these\n")
    lines = causes.Lines(width, "  ")
    parts = [f"{_fixes(result.made)} made in memory"] if result.made else []
    stood = ", ".join(map(display, result.stood_in[: causes.MOST])) + (
        " …" if len(result.stood_in) > causes.MOST else ""
    )
    if result.stood_in:
        parts.append(f"{_fixes(result.stood_in)} in code, for which the reference's layer stood in: {stood}")
    for line, style in lines.said("; ".join(parts), ""):
        out.append(f"{line}\n", style)
    if result.left:
        told = "; ".join(f"{display(pair)} ({display(why)})" for pair, why in list(result.left.items())[: causes.MOST])
        more = f" and {len(result.left) - causes.MOST} more" if len(result.left) > causes.MOST else ""
        for line, style in lines.said(f"{_findings(result.left)} could not be applied: {told}{more}", "bold"):
            out.append(f"{line}\n", style)
    for note in result.notes:
        for line, style in lines.said(display(note), "dim"):
            out.append(f"{line}\n", style)
    return out


def _off(off: Off) -> str:
    return words.number(off.rel_l2, 1) if off.shape is None else "another shape"


def _fixes(pairs: Sequence[str]) -> str:
    return "1 fix" if len(pairs) == 1 else f"{len(pairs)} fixes"


def _findings(pairs: Mapping[str, str]) -> str:
    return words.count(len(pairs), "finding")


def plain(found: Explained) -> str:
    """The text without colour, for ``str(explained)``."""
    console = Console(width=10_000, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(text(found, width=_WIDEST), end="", soft_wrap=True)
    return capture.get().rstrip("\n")


def headline(found: Explained) -> str:
    """How many causes there are, and of how many pairs."""
    unknown = sum(one.status == "unknown" for one in found.parting)
    known = sum(max(1, len(one.causes)) for one in found.parting if one.status != "unknown")
    pairs = len({pair for one in found.parting for pair in one.pairs or (one.pair,)})
    if found.parting:
        parts = [words.count(known, "cause")] if known else []
        parts += [f"{unknown} of unknown cause"] if unknown else []
        return f"{', '.join(parts)}: {words.count(pairs, 'pair')} of {len(found.diff.pairs)} part on their own"
    if found.diff.verdict is Verdict.DIVERGED:
        return "diverged, but no pair could be found that parts on its own"
    return f"nothing parts: {words.count(found.looked, 'pair')} computed again"


def _latent(one: Finding, width: int, everything: bool) -> Iterator[tuple[str, str]]:
    lines = causes.Lines(width, "   ")
    names = one.pairs or (one.pair,)
    shown = names if everything else names[: causes.MOST]
    rest = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    many = f"in {len(names)} layers: " if len(names) > 1 else ""
    yield from lines.said(f"{many}{', '.join(map(display, shown))}{rest}", "", first="·  ")
    for cause in one.causes:
        yield from lines.said(f"{display(cause.id)}: {display(cause.what)}", "")
    if one.probed is not None and one.probed.said:
        yield from lines.labelled("probe", causes.probe(one.probed), "dim")
    for fix in causes.fixes(one):
        yield from lines.labelled("fix", fix, "green", whole=True)


def _open(found: Explained, width: int, everything: bool) -> Iterator[tuple[str, str]]:
    """What could not be read, and what was not looked at."""
    lines = causes.Lines(width, "   ")
    if found.unread:
        yield "", ""
        more = "" if everything else ": --all says why"
        yield f"{words.count(len(found.unread), 'pair')} could not be computed again{more}", "bold"
        if everything:
            for name, why in found.unread.items():
                yield from lines.said(f"{display(name)}: {display(why)}", "")
        else:
            for why, count in Counter(found.unread.values()).most_common(2):
                yield from lines.said(f"{count} × {display(why)}" if count > 1 else display(why), "dim")
    if found.left:
        yield "", ""
        yield f"{words.count(len(found.left), 'pair')} not looked at for want of time", "bold"
