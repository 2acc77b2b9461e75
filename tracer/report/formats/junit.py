"""A comparison as JUnit's XML, in the dialect of Jenkins' xUnit plug-in (junit-10.xsd), which GitLab reads too.

A pair is a test case: a divergence fails, what inherits it, has no twin, or was left out on request is skipped, what
could not be compared is an error. The file has failures or errors exactly where ``tracer diff`` does not exit with 0.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree

from tracer.alignment.outputs import order
from tracer.compare.verdict import Verdict
from tracer.report import causes, words
from tracer.report.text import diff_text

if TYPE_CHECKING:
    from tracer.compare import Diff, PairDiff

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\\")


@dataclass(frozen=True)
class _Case:
    """One test case; ``text`` stands in the element of its outcome, or in system-out where it passed."""

    name: str
    outcome: Literal["passed", "failure", "error", "skipped"] = "passed"
    kind: str = ""
    message: str = ""
    text: str = ""


def junit_text(diff: Diff, *, strict: bool = False) -> str:
    """The XML. With ``strict`` nodes without a twin fail, as ``tracer diff --strict`` does.

    No times are given: what a pair takes is not measured. A name with characters that XML cannot hold has them written
    as Python's escapes, and its backslashes doubled.
    """
    cases = list(_numbered(_cases(diff, strict)))
    counts = Counter(case.outcome for case in cases)
    totals = {"tests": str(len(cases)), "failures": str(counts["failure"]), "errors": str(counts["error"])}
    root = ElementTree.Element("testsuites", {"name": "tracer diff", **totals})
    sides = f"{diff.reference.name} - {diff.candidate.name}"
    suite = ElementTree.SubElement(root, "testsuite", {
        "name": escaped(sides), **totals, "skipped": str(counts["skipped"]),
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()),
    })  # fmt: skip
    listed = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(diff):
        ElementTree.SubElement(listed, "property", {"name": escaped(name), "value": escaped(value)})
    # Readers take a dot in it for a package: the two recordings are one class.
    classname = escaped(f"tracer.{sides.replace('.', '_')}")
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", {"classname": classname, "name": escaped(case.name)})
        if case.outcome == "passed":
            if case.text:
                ElementTree.SubElement(element, "system-out").text = _text(case.text)
            continue
        told = {"type": case.kind, "message": _text(case.message)}
        ElementTree.SubElement(element, case.outcome, told).text = _text(case.text) or None
    ElementTree.SubElement(suite, "system-out").text = _text(diff_text(diff))
    ElementTree.indent(root)
    xml: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}\n'


def escaped(name: str) -> str:
    """A name that XML can hold, from which it can be had back: see :func:`junit_text`."""
    if "\\" not in name and not _NOT_XML.search(name):
        return name
    return _NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), name)


def _text(text: str) -> str:
    """A sentence without what XML cannot hold."""
    return _NOT_XML.sub(lambda found: found[0] if found[0] == "\\" else escaped(found[0]), text)


def _properties(diff: Diff) -> Iterator[tuple[str, str]]:
    yield "atol", repr(diff.tolerance.atol)
    yield "rtol", repr(diff.tolerance.rtol)
    yield "compared", diff.of
    yield "input", diff.reference.input_id
    yield "verdict", str(diff.verdict)
    for side, recording in (("reference", diff.reference), ("candidate", diff.candidate)):
        yield side, recording.name
        yield f"{side}.model", recording.model
        versions = recording.attributes.get("versions")
        for name, version in versions.items() if isinstance(versions, dict) else ():
            yield f"{side}.version.{name}", str(version)


def _cases(diff: Diff, strict: bool) -> Iterator[_Case]:
    for pair in diff.pairs:
        yield _case(diff, pair)
    for side, lonely, ignored in _unmatched(diff):
        why = "it has no twin on the other side"
        yield _Case(f"{lonely} ({side} alone)", "failure" if strict and not ignored else "skipped", "unmatched", why)
    if diff.moved:
        yield _Case("order of the outputs", "failure", "diverged", order(diff.moved))
    for recording in (diff.reference, diff.candidate):
        if recording.state != "complete":
            saved = f"{len(recording.summaries)} of {recording.planned} activations saved"
            why = f"recording '{recording.name}' is {recording.state} ({saved})"
            yield _Case(f"recording {recording.name}", "error", recording.state, why)
    if diff.verdict is Verdict.NOT_COMPARABLE:
        yield _Case("comparison", "error", "not-comparable", "no pair could be compared")


def _case(diff: Diff, pair: PairDiff) -> _Case:
    ours, theirs = (" + ".join(names) for names in (pair.pair.reference, pair.pair.candidate))
    name, kind, facts = f"{ours} ⇄ {theirs}", str(pair.verdict), "\n".join(words.facts(pair))
    reason = pair.reason or "it diverged"
    match pair.verdict:
        case Verdict.DIVERGED:
            lines = [line for line, _ in causes.under_first(diff)] if pair is diff.first else _told(pair)
            source = [f"at {pair.candidate_node.source}"] if pair.candidate_node.source else []
            return _Case(name, "failure", kind, reason, "\n".join([facts, *lines, *source]))
        case Verdict.INHERITED:
            return _Case(name, "skipped", kind, reason)
        case Verdict.NOT_COMPARABLE:
            return _Case(name, "skipped" if pair.left_out else "error", kind, reason)
        case _:
            return _Case(name, text="" if pair.verdict is Verdict.MATCH else facts)


def _told(pair: PairDiff) -> list[str]:
    return [f"Cause: {causes.short(pair.finding)}", *causes.fixes(pair.finding)] if pair.finding is not None else []


def _unmatched(diff: Diff) -> Iterator[tuple[str, str, bool]]:
    """Nodes without a twin, of which recording, and whether that is of no matter: it does nothing, or was ignored."""
    from tracer.alignment.engine import IGNORED

    sides = (diff.alignment.unmatched_reference, diff.alignment.unmatched_candidate)
    for recording, side in zip((diff.reference, diff.candidate), sides, strict=True):
        for name, reason in side.items():
            yield recording.name, name, reason == IGNORED or recording.structure.by_name[name].idle


def _numbered(cases: Iterator[_Case]) -> Iterator[_Case]:
    """The cases, of one name all but the first with a number: readers keep the last of one name only."""
    seen: Counter[str] = Counter()
    for case in cases:
        seen[case.name] += 1
        yield (
            case
            if seen[case.name] == 1
            else _Case(f"{case.name} ({seen[case.name]})", case.outcome, case.kind, case.message, case.text)
        )
