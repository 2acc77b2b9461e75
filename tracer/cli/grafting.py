"""``tracer graft``: one recorded model run on from the other's activations, in workers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracer.cli import formatting, settings
from tracer.cli.formatting import DiffFormat
from tracer.cli.rerunning import Again
from tracer.compare import Tolerance, diff
from tracer.errors import ExitCode, InputError
from tracer.names import display
from tracer.report import graft as report
from tracer.rerun import defects, growth, loading
from tracer.rerun.grafted import Explanation, Graft, Side
from tracer.selection import choose
from tracer.store import Recording, Trace
from tracer.worker.results import parse_graft


def graft(
    path: Path,
    reference: str | None,
    candidate: str | None,
    *,
    names: Sequence[str],
    into: str | None,
    grows: bool,
    tolerance: Tolerance,
    mapping: Path | None,
    again: Again,
    form: DiffFormat = "table",
    ascii_only: bool,
) -> int:
    """Graft and print; the exit code says whether the outputs agree then."""
    from tracer.alignment.mapping import load

    ours, theirs = choose(Trace.open(path), reference, candidate)
    written = None if mapping is None else load(mapping)
    run = running(again)
    result: Graft | Explanation
    plain = settings.ascii_only(ascii_only)
    if grows:
        if names or into is not None:
            raise InputError("--grows looks at all pairs: leave --at and --into out")
        found = growth.growth(ours, theirs, run, mapping=written)
        if form != "table":
            formatting.write(found.to_json(), form)
        else:
            settings.out().print(report.growth_text(found, ascii_only=plain, width=settings.out().width), end="")
        return ExitCode.OK
    if names:
        result = defects.at(
            ours, theirs, names, run, into=_side(into, ours, theirs), tolerance=tolerance, mapping=written
        )  # fmt: skip
    elif into is not None:
        raise InputError("--into says which model runs on from --at NAME: name a pair too")
    else:
        result = defects.explain(diff(ours, theirs, tolerance, mapping=written, measure=again), run)
    for note in result.notes:
        settings.say(f"note: {display(note)}")
    if form != "table":
        formatting.write(result.to_json(), form)
    else:
        settings.out().print(report.text(result, ascii_only=plain, width=settings.out().width), end="")
        settings.hint(_next(result, path))
    return result.exit_code()


def running(again: Again) -> defects.Run:
    """What runs a recorded model in a worker. Raises TracerError."""

    def run(recording: Recording, options: dict[str, Any]) -> dict[str, Any]:
        source = loading.source(recording, trust=again.trust)
        with tempfile.TemporaryDirectory(prefix="tracer-") as own:
            folder = options.pop("folder") or own
            answer = again.run("graft", recording, source, folder, **options)
        outputs, joints, groups = (len(options.get(key, ())) for key in ("outputs", "joints", "groups"))
        return parse_graft(options["task"], answer, outputs, joints, groups)

    return run


def _side(into: str | None, reference: Recording, candidate: Recording) -> Side:
    """Which model ``--into`` means. Raises InputError."""
    if into is None or into == candidate.name:
        return "candidate"
    if into == reference.name:
        return "reference"
    raise InputError(
        f"--into takes one of the two recordings, '{display(reference.name)}' or '{display(candidate.name)}', "
        f"not '{display(into)}'"
    )


def _next(result: Graft | Explanation, path: Path) -> str:
    option = settings.trace_option(path)
    if isinstance(result, Explanation) and result.defects:
        return f"tracer graft --at '{display(result.defects[0].pairs[0].aligned)}'{option}"
    return f"tracer graft{option}" if isinstance(result, Graft) else f"tracer diff --local --all{option}"
