"""The commands that only read a trace: runs and diff. They need no framework."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from tracer.cli import formatting, settings
from tracer.cli.formatting import DiffFormat
from tracer.errors import ExitCode, InputError, TraceError
from tracer.names import display
from tracer.report import words
from tracer.report.outline import columns
from tracer.selection import choose
from tracer.store import Recording, Trace
from tracer.store.recordings import ranges
from tracer.text import some

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping
    from tracer.cli.rerunning import Again
    from tracer.compare import Diff


def runs(path: Path, *, form: DiffFormat = "table") -> int:
    """What the trace holds."""
    recordings = Trace.open(path).recordings()
    if form != "table":
        formatting.write({"schema": "tracer-runs/1", "recordings": [_described(r) for r in recordings]}, form)
        return ExitCode.OK
    if not recordings:
        settings.say(f"{display(str(path))} holds no recordings yet: tracer record tf MODEL")
        return ExitCode.OK
    width = settings.out().width
    cells = [_cells(r) for r in recordings]
    titles = [title for title in cells[0] if any(row[title] for row in cells)]
    for given_up in (None, "loader", "recorded", "size", "input", "framework"):
        titles = [title for title in titles if title != given_up]
        table = [titles, *([display(row[title], 60) for title in titles] for row in cells)]
        if sum(max(map(cell_len, column)) + 2 for column in zip(*table, strict=True)) - 2 <= width:
            break
    right = frozenset(at for at, title in enumerate(titles) if title in ("activations", "size"))
    for at, line in enumerate(columns(table, width=width, right=right)):
        settings.out().print(Text(line, "bold" if at == 0 else ""))
    settings.hint(
        f"tracer diff{settings.trace_option(path)}"
        if len(recordings) > 1
        else f"tracer record pt MODEL{settings.trace_option(path)}"
    )
    return ExitCode.PARTIAL if any(r.state == "damaged" for r in recordings) else ExitCode.OK


def _cells(r: Recording) -> dict[str, str]:
    """What there is to say of a recording, by the title of the column."""
    why = str(r.attributes.get("error") or "the writer is gone").removeprefix("damaged: ")
    state = {"complete": r.state, "recording": "recording …"}.get(r.state, f"{r.state}: {why}")
    return {
        "name": r.name,
        "framework": r.framework,
        "model": r.model,
        "loader": str(r.attributes.get("loader", "?")),
        "activations": f"{len(r.summaries)}/{r.planned}" if not r.steps else f"{r.planned} a step",
        "steps": ranges(r.steps),
        "aligned to": _aligned(r),
        "input": r.input_id,
        "size": words.bytes_text(r.nbytes),
        "recorded": time.strftime("%Y-%m-%d %H:%M", time.localtime(r.created)),
        "how": _how(r),
        "state": state,
    }


def _aligned(r: Recording) -> str:
    """What a recording's activations are stored beside, and how many of them are."""
    reference, pairs = r.attributes.get("reference"), _pairs(r)
    return f"{reference}: {words.count(pairs, 'pair')}" if reference is not None and pairs is not None else ""


def _pairs(r: Recording) -> int | None:
    alignment = r.attributes.get("alignment")
    return len(alignment.get("pairs", ())) if isinstance(alignment, dict) else None


def _how(r: Recording) -> str:
    """How a recording was made, where that was not the usual way."""
    own = r.attributes
    load = own["model"].get("load") if isinstance(own.get("model"), dict) else None
    python = load.get("python") if isinstance(load, dict) else None
    parts = [
        f"by {python}" if python else "",
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
        "pairs": _pairs(r),
        "steps": list(r.steps),
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
    form: DiffFormat = "table",
    ascii_only: bool,
    again: Again | None = None,
    baseline: Path | None = None,
    accept: Path | None = None,
    force: bool = False,
    why: bool = True,
    dask: str | None = None,
) -> int:
    """Compare and print; the exit code is the verdict.

    With ``again`` both models are run again. ``accept`` is a baseline to write; that it could be is success. With
    ``why`` the causes of what diverged are looked for. ``dask`` is a scheduler whose workers read the tensors.
    """
    # What `tracer runs` does without.
    from tracer.compare import Tolerance
    from tracer.compare import baseline as baselines
    from tracer.compare import diff as compare
    from tracer.compare.spreading import cluster, threads
    from tracer.report import text

    known = baselines.load(baseline) if baseline is not None else None
    if accept is not None:
        settings.check_free(accept, force)
    ours, theirs = choose(Trace.open(path), reference, candidate)
    if again is not None and gradients:
        raise InputError("--local is about values: leave --gradients out")
    with contextlib.ExitStack() as stack:
        # Running again shows a progress of its own.
        progress = stack.enter_context(settings.progress("comparing")) if again is None else None
        result = compare(
            ours, theirs, Tolerance(atol, rtol), mapping=_mapping(mapping),
            of="gradients" if gradients else "values", progress=progress, measure=again, baseline=known,
            spread=stack.enter_context(cluster(dask, (ours, theirs)) if dask else threads((ours, theirs))),
        )  # fmt: skip
    if why and result.first is not None:
        from tracer.causes.kept import told

        result = told(result)
    for note in result.notes:
        settings.say(f"note: {display(note)}")
    code: int = result.exit_code(strict=strict)
    if accept is not None:
        # What a baseline lets pass is judged afresh, or its own words would be what is accepted.
        fresh = replace(result, baseline=None).at(result.tolerance)
        made = baselines.of(fresh.pairs, known)
        settings.write_text(accept, baselines.dumped(made), force)
        settings.say(f"accepted {words.count(len(made.accepted), 'difference')} in {display(str(accept))}")
        if left := baselines.left_open(fresh.pairs):
            settings.say(f"note: of another shape, or NaN on one side only, which no baseline accepts: {some(left)}")
        code = ExitCode.OK if code == ExitCode.DIVERGED else code
    if form != "table":
        _print(result, form, strict=strict)
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
        settings.out().print(text.table(result, ascii_only=plain, width=settings.out().width))
    else:
        option = settings.trace_option(path)
        weigh = f"   or   tracer graft{option}" if again is not None and result.first is not None else ""
        explain = f"tracer explain{option}   or   " if result.causes else ""
        settings.hint(f"{explain}tracer diff --all{option}   or   tracer ui{option}{weigh}")
    return code


def _print(result: Diff, form: DiffFormat, *, strict: bool) -> None:
    """A comparison for other programs."""
    match form:
        case "junit":
            from tracer.report.formats.junit import junit_text

            formatting.raw(junit_text(result, strict=strict))
        case "markdown":
            from tracer.report.formats.markdown import diff_markdown

            formatting.raw(diff_markdown(result))
        case "github":
            from tracer.report.formats.github import commands
            from tracer.report.formats.markdown import diff_markdown

            formatting.raw(commands(result, strict=strict))
            if place := os.environ.get("GITHUB_STEP_SUMMARY"):
                try:
                    with open(place, "a", encoding="utf-8", errors="backslashreplace") as summary:
                        summary.write(diff_markdown(result))
                except OSError as error:
                    settings.say(f"note: GITHUB_STEP_SUMMARY cannot be written: {error.strerror}")
        case _:
            formatting.write(result.to_json(), form)


def _mapping(path: Path | None) -> Mapping | None:
    if path is None:
        return None
    from tracer.alignment.mapping import load

    return load(path)
