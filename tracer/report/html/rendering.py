"""The page: everything in one file, which asks for nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tracer.compare import Diff
from tracer.compare.verdict import GLYPHS, Verdict
from tracer.compare.weights import facts as weight_facts
from tracer.names import display
from tracer.report import causes, text, words
from tracer.report.html import charts, sections
from tracer.report.html.details import chosen, details
from tracer.report.html.gathering import Report
from tracer.report.rows import Row
from tracer.report.text import diff_text, remarks, worst

_HERE = Path(__file__).parent / "templates"


def _fit(value: Any) -> Any:
    """What is put into the page: text from files cannot turn or hide what stands beside it, whoever forgot to see to
    it. The environment escapes what this gives."""
    return display(value) if type(value) is str else value


def _breaks(name: str) -> Markup:
    """A name that may be broken behind each of its parts."""
    return Markup("<wbr>").join(re.findall(r"[^./_]*[./_]+|[^./_]+", display(name)))


@cache
def environment() -> Environment:
    """The templates; every value is text unless we made it."""
    made = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, finalize=_fit, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters["breaks"] = _breaks
    made.filters["number"] = words.number
    made.globals["GLYPHS"] = GLYPHS
    return made


@cache
def asset(name: str) -> Markup:
    """A style sheet or script of ours, as it stands in the page."""
    return Markup((_HERE / name).read_text(encoding="utf-8"))


def _hash(content: str) -> str:
    """What a content security policy knows an inline block by: SHA-256 in base64 (W3C, CSP Level 3, 6.7.2)."""
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def heading(report: Report) -> dict[str, Any]:
    """Verdict, counts, and the first divergence: what the page and a notebook's fragment begin with."""
    diff = report.diff
    shown = diff.first or worst(diff)
    first = None
    if shown is not None:
        row = next(row for row in report.rows if row.pair is shown)
        parts = () if shown.finding is None else tuple(causes.parts(shown.finding, brief=True))
        facts = words.facts(shown)
        if shown is diff.first and diff.of == "values":
            facts += weight_facts(shown, diff.reference, diff.candidate, diff.alignment.parameters)
        first = {
            "title": "First divergence" if shown is diff.first else "Largest difference",
            "names": text.names(shown), "verdict": shown.verdict, "anchor": charts.anchor(row),
            "op": words.op_text(shown), "shape": words.shape_text(shown.shape), "axes": words.axes_text(shown),
            "facts": facts, "said": [part for part in parts if part.label != "fix"],
            "fixes": "" if shown.finding is None else "\n".join(display(line) for line in shown.finding.fixes),
            "others": "" if shown.finding is None else causes.others_text(shown.finding),
            "source": shown.candidate_node.source or "",
        }  # fmt: skip
    counts = [(v, GLYPHS[v], diff.counts[v]) for v in Verdict if diff.counts[v]]
    if diff.unmatched:
        counts.append((Verdict.UNMATCHED, GLYPHS[Verdict.UNMATCHED], diff.unmatched))
    return {
        "title": words.title(diff), "verdict": diff.verdict, "headline": text.headline(diff), "counts": counts,
        "pairs": len(diff.pairs), "tolerance": diff.tolerance, "first": first, "modes": _modes(report),
        "profile": charts.profile(report.rows, diff.tolerance.atol),
    }  # fmt: skip


def _modes(report: Report) -> str:
    ours, theirs = (str(r.attributes.get("mode", "eval")) for r in (report.diff.reference, report.diff.candidate))
    return f"the two were recorded in different modes: {ours} and {theirs}" if ours != theirs else ""


def page(report: Report) -> str:
    """The whole report as one HTML document, UTF-8."""
    diff = report.diff
    kept, cut = chosen(diff, report.rows, report.details)
    shown = list(details(diff, kept))
    script, style = asset("report.js"), Markup(asset("base.css") + asset("report.css"))
    table, top = report.weights, heading(report)
    return environment().get_template("page.html").render(
        top,
        heading=top, script=script, style=style, script_hash=_hash(script), style_hash=_hash(style),
        rows=report.rows, detailed={one.row.place: one.anchor for one in shown}, details=shown, cut=cut,
        local=any(row.own is not None for row in report.rows), anchor=charts.anchor, confidence=_confidence,
        remarks=_remarks(diff), notes=sections.facts_of(report), commands=report.commands,
        causes=None if report.explained is None else sections.causes_of(report.explained, report.rows),
        weights=None if isinstance(table, str) else sections.weights_of(table),
        no_weights=table if isinstance(table, str) else "",
        environment=sections.environment(diff), steps=None if report.steps is None else sections.steps_of(report.steps),
        names=(diff.reference.name, diff.candidate.name), plain=diff_text(diff).splitlines(),
        made=time.strftime("%Y-%m-%d %H:%M", time.localtime(report.made)), verdicts=list(Verdict),
        profile_height=charts.HEIGHT,
    )  # fmt: skip


def _remarks(diff: Diff) -> list[str]:
    """Each remark with the lines that go on with it, which are indented."""
    found: list[str] = []
    for line, _ in remarks(diff):
        if line.startswith(" ") and found:
            found[-1] += f"\n{line.strip()}"
        else:
            found.append(line)
    return found


def _confidence(row: Row) -> str:
    return "" if row.pair is None else f"{row.pair.pair.confidence:.2f}"
