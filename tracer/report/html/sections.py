"""The causes, the weights, the environments and the steps as the page's templates take them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracer.causes.finding import Finding
from tracer.names import display
from tracer.report import causes, words
from tracer.report import explain as explaining
from tracer.report import weights as weighing
from tracer.report.causes import Said
from tracer.report.html import charts
from tracer.report.html.charts import Chart
from tracer.report.words import number
from tracer.store import Recording
from tracer.store.recordings import ranges
from tracer.weighing.table import FAULTS, Status, WeightTable

if TYPE_CHECKING:
    from tracer.causes.explain import Explained
    from tracer.compare import Diff
    from tracer.report.html.gathering import Report
    from tracer.report.rows import Row
    from tracer.report.steps import Overview

_WEIGHTS = 400
"""Rows of weights at most."""
_FINDINGS = 100
_STEPS = 60
_LINES = 6
"""Layers whose error over the steps is drawn."""


@dataclass(frozen=True)
class Found:
    """A finding: its heading, the row it leads to, what is said, the lines to paste, and where else they belong."""

    heading: str
    op: str
    anchor: str
    unknown: bool
    said: tuple[Said, ...]
    pairs: tuple[str, ...]
    fixes: str
    others: str
    latent: bool


@dataclass(frozen=True)
class Causes:
    """What ``tracer explain`` says.

    Attributes:
        verified: what is left of the outputs' difference with the fixes made, a line each.
        unread: pairs that could not be computed again, with the reason; ``left`` those not looked at for want of time.
        cut: findings that are not shown.
    """

    headline: str
    found: tuple[Found, ...]
    verified: tuple[str, ...]
    unread: tuple[tuple[str, str], ...]
    left: int
    cut: int


def causes_of(found: Explained, rows: Sequence[Row]) -> Causes:
    places = {row.pair.aligned: charts.anchor(row) for row in rows if row.pair is not None}
    both = [*found.parting, *found.latent]
    verified: tuple[str, ...] = ()
    if found.verified is not None:
        from tracer.compare.verdict import GLYPHS

        verified = tuple(explaining.verified(found.verified, GLYPHS, 10_000).plain.strip("\n").splitlines())
    return Causes(
        explaining.headline(found),
        tuple(_found(one, found.diff, places) for one in both[:_FINDINGS]),
        verified, tuple(found.unread.items()), len(found.left), max(0, len(both) - _FINDINGS),
    )  # fmt: skip


def _found(one: Finding, diff: Diff, places: dict[str, str]) -> Found:
    said = tuple(part for part in causes.parts(one) if part.label != "fix" and not part.text.startswith("in "))
    pairs = one.pairs if len(one.pairs) > 1 else ()
    return Found(
        *causes.heading(one, diff), places.get(one.pair, ""), one.status == "unknown", said, pairs,
        "\n".join(display(line) for line in one.fixes), causes.others_text(one), one.status == "latent",
    )  # fmt: skip


@dataclass(frozen=True)
class WeightLine:
    """Parameters that belong together, as text."""

    state: str
    glyph: str
    status: str
    reference: str
    candidate: str
    shapes: str
    relation: str
    largest: str
    relative: str
    says: str


@dataclass(frozen=True)
class Weights:
    """The table of weights, what differs first. ``sums``: a label, both sides' counts."""

    counts: tuple[tuple[str, str, int], ...]
    lines: tuple[WeightLine, ...]
    cut: int
    sums: tuple[tuple[str, str, str], ...]
    equal: bool


def weights_of(table: WeightTable) -> Weights:
    grave = {status: at for at, status in enumerate((*FAULTS, Status.OPEN, Status.EQUAL, Status.ASIDE))}
    rows = sorted(table.rows, key=lambda row: grave[row.status] >= len(FAULTS) + 1)
    lines = []
    for row in rows[:_WEIGHTS]:
        figures = row.figures if row.figures is not None and (row.figures.max_abs or not row.figures.equal) else None
        lines.append(
            WeightLine(
                str(row.status), weighing.GLYPHS[row.status], weighing.WORDS[row.status],
                weighing.names(row.reference), weighing.names(row.candidate), weighing.shapes(row), row.relation,
                "" if figures is None else number(figures.max_abs, 1),
                "" if figures is None else number(figures.rel_l2, 1),
                "; ".join(filter(None, (row.says, weighing.types(row)))),
            )
        )  # fmt: skip
    ours, theirs = table.summary
    sums = (
        ("parameters", f"{ours.parameters:,}", f"{theirs.parameters:,}"),
        ("memory", words.bytes_text(ours.bytes), words.bytes_text(theirs.bytes)),
    )
    counts = tuple((weighing.GLYPHS[s], weighing.WORDS[s], table.counts[s]) for s in Status if table.counts[s])
    return Weights(counts, tuple(lines), max(0, len(rows) - _WEIGHTS), sums, bool(table))


@dataclass(frozen=True)
class Fact:
    """Something said of both sides, and whether they differ in it where they should not."""

    label: str
    reference: str
    candidate: str
    differs: bool = False


_SHOULD_AGREE = {"mode", "input", "Python", "machine", "interpreter", "loss", "precision", "computed in"}


def environment(diff: Diff) -> list[Fact]:
    """Versions, loader, mode, input and state of both recordings; what is the same on both sides, too."""
    ours, theirs = (dict(_sides(recording)) for recording in (diff.reference, diff.candidate))
    labels = list(dict.fromkeys((*ours, *theirs)))
    return [
        Fact(label, a, b, label in _SHOULD_AGREE and a != b)
        for label in labels
        if (a := ours.get(label, "")) or theirs.get(label, "")
        for b in [theirs.get(label, "")]
    ]


def _sides(recording: Recording) -> Iterator[tuple[str, str]]:
    own = recording.attributes
    model: dict[str, Any] = own["model"] if isinstance(own.get("model"), dict) else {}
    file: dict[str, Any] = model["file"] if isinstance(model.get("file"), dict) else {}
    versions: dict[str, Any] = dict(own["versions"]) if isinstance(own.get("versions"), dict) else {}
    load: dict[str, Any] = model["load"] if isinstance(model.get("load"), dict) else {}
    yield "recording", recording.name
    yield "state", _state(recording)
    yield "model", recording.model
    yield "built by", str(model.get("arch") or "")
    yield "file", f"{words.bytes_text(int(file.get('bytes') or 0))}, sha256 {str(file['sha256'])[:12]}…" if file.get(
        "sha256"
    ) else ""  # fmt: skip
    yield "framework", recording.framework
    yield "loader", str(own.get("loader", ""))
    yield "Python", str(versions.pop("python", ""))
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "machine", str(own.get("platform", ""))
    yield "device", str(own.get("device", ""))
    yield "interpreter", str(load.get("python") or "")
    yield "mode", str(own.get("mode", ""))
    types = Counter(stored.dtype for stored in recording.activations.values())
    yield "computed in", ", ".join(name for name, _ in types.most_common(4))
    yield "precision", f"stored as {own['precision']}" if own.get("precision") else ""
    yield "loss", str(own.get("loss") or "")
    yield "input", recording.input_id
    yield "batches", str(own.get("batches") or "")
    yield "steps", ranges(recording.steps)
    layers = [*(own.get("layers") or ()), *(f"not {glob}" for glob in own.get("exclude") or ())]
    yield "layers", ", ".join(map(str, layers))
    yield "recorded", time.strftime("%Y-%m-%d %H:%M", time.localtime(recording.created))
    yield "size", words.bytes_text(recording.nbytes)
    notes = own.get("notes")
    yield "notes", "; ".join(map(str, notes)) if isinstance(notes, list) else ""


def described(recording: Recording) -> tuple[str, ...]:
    """A recording in a line of a table: name, framework, model, input, size, when, state."""
    facts = dict(_sides(recording))
    return tuple(facts[label] for label in ("recording", "framework", "model", "input", "size", "recorded", "state"))


def _state(recording: Recording) -> str:
    saved = f"{len(recording.summaries)} of {recording.planned} activations saved"
    error = recording.attributes.get("error")
    return f"{recording.state}, {saved}" + (f": {error}" if error else "")


@dataclass(frozen=True)
class Steps:
    """Both sides' steps: the error of the layers that part most, drawn, and a table; ``cut`` rows are not shown."""

    count: int
    both: int
    parted: str
    chart: Chart | None
    rows: tuple[tuple[str, str, str, str], ...]
    cut: int
    events: tuple[tuple[str, str, str], ...]
    error: str


def steps_of(found: Overview) -> Steps:
    at = found.parted
    parted = "" if at is None else f"they part at step {found.steps[at]}, first at {display(found.firsts[at])}"
    known = [layer for layer in found.layers if any(layer.errors)]
    first = [layer for layer in known if at is not None and layer.name == found.firsts[at]]
    rest = sorted(
        (layer for layer in known if layer not in first),
        key=lambda layer: max((e for e in layer.errors if e is not None), default=0.0), reverse=True,
    )  # fmt: skip
    drawn = [*first, *rest][:_LINES]
    chart = None
    if drawn and found.steps:
        chart = charts.growth([display(one.name) for one in drawn], [one.errors for one in drawn], found.steps)
    errors = {layer.name: layer.errors for layer in found.layers}
    shown = _telling(len(found.steps), at)
    rows = tuple(
        (str(found.steps[n]), found.verdicts[n], found.firsts[n], _error(errors, found.firsts[n], n)) for n in shown
    )
    events = tuple((event.where, event.rule, event.what) for event in found.events[:_STEPS])
    return Steps(len(found.steps), len(found.both), parted, chart, rows, len(found.steps) - len(shown), events,
                 found.error)  # fmt: skip


def _error(errors: dict[str, tuple[float | None, ...]], name: str, at: int) -> str:
    return number(errors[name][at], 1) if name in errors else ""


def _telling(count: int, parted: int | None) -> list[int]:
    """The steps around the first that parts, and others evenly."""
    if count <= _STEPS:
        return list(range(count))
    near = range(max(0, (parted or 0) - 2), min(count, (parted or 0) + 3))
    even = (round(at * (count - 1) / (_STEPS - 6)) for at in range(_STEPS - 5))
    return sorted({*near, *even})


def facts_of(report: Report) -> tuple[str, ...]:
    """What went wrong or was left out while the report was made."""
    found = [f"recording '{side.name}' is {_state(side)}" for side in (report.diff.reference, report.diff.candidate)
             if side.state != "complete"]  # fmt: skip
    return (*found, *report.diff.notes)
