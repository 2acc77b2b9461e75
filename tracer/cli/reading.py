"""The commands that only read a trace: runs, diff, map. They need no framework."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

from rich.table import Table
from rich.text import Text

from tracer.alignment import align, mapping
from tracer.alignment.axes import describe
from tracer.cli import settings
from tracer.compare import Tolerance
from tracer.compare import diff as compare
from tracer.compare.verdict import ASCII_GLYPHS, GLYPHS, Verdict
from tracer.errors import ExitCode, InputError, TraceError
from tracer.names import display
from tracer.report import text, words
from tracer.selection import choose
from tracer.store import Recording, Trace


def runs(path: Path, *, as_json: bool) -> int:
    """What the trace holds."""
    recordings = Trace.open(path).recordings()
    if as_json:
        settings.out().print(json.dumps({"schema": "tracer-runs/1", "recordings": [_described(r) for r in recordings]}))
        return ExitCode.OK
    if not recordings:
        settings.say(f"{display(str(path))} holds no recordings yet: tracer record tf MODEL")
        return ExitCode.OK
    table = Table(box=None, pad_edge=False, header_style="bold")
    special = any(_how(r) for r in recordings)
    titles = ("name", "framework", "model", "loader", "activations", "input", "size", "recorded", "state")
    for title in (*titles, *(("how",) if special else ())):
        table.add_column(title, justify="right" if title in ("activations", "size") else "left")
    for r in recordings:
        saved = f"{len(r.summaries)}/{r.planned}"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(r.created))
        why = str(r.attributes.get("error") or "the writer is gone").removeprefix("damaged: ")
        state = r.state if r.state == "complete" else f"{r.state}: {why}"
        cells = (r.name, r.framework, r.model, str(r.attributes.get("loader", "?")), saved, r.input_id)
        more = (words.bytes_text(r.nbytes), when, "recording …" if r.state == "recording" else state)
        last = (_how(r),) if special else ()
        table.add_row(*(Text(display(cell, 60)) for cell in (*cells, *more, *last)))
    settings.out().print(table)
    settings.hint(
        f"tracer diff{settings.trace_option(path)}"
        if len(recordings) > 1
        else f"tracer record pt MODEL{settings.trace_option(path)}"
    )
    return ExitCode.PARTIAL if any(r.state == "damaged" for r in recordings) else ExitCode.OK


def _how(r: Recording) -> str:
    """How a recording was made, where that was not the usual way."""
    own = r.attributes
    parts = [
        "training mode" if own.get("mode") == "train" else "",
        f"gradients of {own['loss']}" if own.get("loss") else "",
        f"{own['batches']} batches" if own.get("batches") else "",
        "statistics only" if own.get("statistics_only") else "",
        str(own["precision"]) if own.get("precision") else "",
        "some layers" if own.get("layers") or own.get("exclude") else "",
    ]
    return ", ".join(part for part in parts if part)


def _described(r: Recording) -> dict[str, object]:
    keys = ("framework", "versions", "loader", "model", "input", "mode", "reference", "created", "seconds", "notes")
    more = ("loss", "batches", "statistics_only", "precision", "layers", "exclude")
    return {
        "name": r.name,
        "state": r.state,
        **{key: r.attributes.get(key) for key in (*keys, *more)},
        "activations": len(r.summaries),
        "gradients": len(r.gradients),
        "planned": r.planned,
        "skipped": dict(r.skipped),
        "bytes": r.nbytes,
        "error": r.attributes.get("error"),
    }


def diff(
    path: Path,
    reference: str | None,
    candidate: str | None,
    *,
    atol: float,
    rtol: float,
    mapping: Path | None,
    gradients: bool,
    strict: bool,
    everything: bool,
    as_json: bool,
    ascii_only: bool,
) -> int:
    """Compare and print; the exit code is the verdict."""
    ours, theirs = choose(Trace.open(path), reference, candidate)
    with settings.progress("comparing") as progress:
        result = compare(
            ours, theirs, Tolerance(atol, rtol), mapping=_mapping(mapping),
            of="gradients" if gradients else "values", progress=progress,
        )  # fmt: skip
    code = result.exit_code(strict=strict)
    if as_json:
        settings.out().print(json.dumps(result.to_json(), allow_nan=False))
        return code
    if not result.pairs:
        raise TraceError(f"'{display(ours.name)}' and '{display(theirs.name)}' have no layer in common to compare")
    plain = settings.ascii_only(ascii_only)
    for recording in (ours, theirs):
        if recording.state != "complete":
            saved = f"{len(recording.summaries)} of {recording.planned} activations saved"
            settings.say(f"note: recording '{display(recording.name)}' is {recording.state} ({saved})")
    settings.out().print(text.summary(result, ascii_only=plain), end="")
    if everything:
        settings.out().print()
        settings.out().print(text.table(result, ascii_only=plain))
    else:
        settings.hint(f"tracer diff --all{settings.trace_option(path)}   or   tracer ui{settings.trace_option(path)}")
    return code


def _mapping(path: Path | None) -> mapping.Mapping | None:
    return None if path is None else mapping.load(path)


def show_map(
    path: Path,
    reference: str | None,
    candidate: str | None,
    *,
    mapping: Path | None,
    write: Path | None,
    force: bool,
    as_json: bool,
    ascii_only: bool,
) -> int:
    """Print or write the alignment; needs no values, so it works on failed recordings too."""
    ours, theirs = choose(Trace.open(path), reference, candidate, complete=False)
    alignment = align(ours, theirs, _mapping(mapping))
    if write is not None:
        from tracer.alignment.mapping import dump

        _write(write, dump(alignment, ours.name, theirs.name), force)
    if as_json:
        found = {"schema": "tracer-map/1", "reference": ours.name, "candidate": theirs.name, **alignment.to_json()}
        shapes = {n.name: None if n.shape is None else list(n.shape) for n in ours.structure}
        for pair in found["pairs"]:
            pair["shape"] = shapes.get(pair["aligned"])
        found["unmatched"] = {side: list(names) for side, names in found["unmatched"].items()}
        settings.out().print(json.dumps(found))
        return ExitCode.OK
    if write is not None:
        settings.out().print(Text(f"wrote {len(alignment.pairs)} pairs to {display(str(write))}"))
        settings.hint(f"tracer diff --map {shlex.quote(str(write))}{settings.trace_option(path)}")
        return ExitCode.OK
    plain = settings.ascii_only(ascii_only)
    fit = text.to_ascii if plain else str
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", ours.name, theirs.name, "shape", "axes", "conf", "evidence"):
        table.add_column(Text(display(title)), justify="right" if title == "conf" else "left")
    for pair in alignment.pairs:
        shape = ours.structure.by_name[pair.aligned].shape
        axes = describe(pair.axes, len(shape or ()))
        evidence = " ".join(f"{name} {value:.2g}" for name, value in pair.evidence.items())
        cells = [" + ".join(pair.reference), " + ".join(pair.candidate), words.shape_text(shape), axes]
        cells += [f"{pair.confidence:.2f}", evidence]
        mark = "=" if plain else "⇄"
        table.add_row(mark, *(Text(fit(display(cell))) for cell in cells))
    glyph = (ASCII_GLYPHS if plain else GLYPHS)[Verdict.UNMATCHED]
    for names, left in ((alignment.unmatched_reference, True), (alignment.unmatched_candidate, False)):
        for name, reason in names.items():
            sides = (display(name), "") if left else ("", display(name))
            table.add_row(glyph, *(Text(fit(s), "dim") for s in (*sides, "", "", "", reason)))
    settings.out().print(table)
    settings.hint(
        f"tracer map --write mapping.yaml{settings.trace_option(path)}   or   tracer diff{settings.trace_option(path)}"
    )
    return ExitCode.OK


def _write(path: Path, content: str, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"{display(str(path))} exists already: --force replaces it")
    try:
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(content, "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {display(str(path))}: {error.strerror}") from error
