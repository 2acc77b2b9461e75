"""``tracer transfer``: one model's weights carried over to another, in files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.text import Text

from tracer.alignment import mapping as mappings
from tracer.cli import settings
from tracer.cli.rerunning import Again
from tracer.compare import Tolerance
from tracer.errors import ExitCode, InputError
from tracer.names import display
from tracer.report import transfer as report
from tracer.report import words
from tracer.rerun import loading
from tracer.selection import choose
from tracer.store import Recording, Trace
from tracer.weighing import filling, writing
from tracer.weighing.carrying import Carried
from tracer.weighing.transfer import Asked, Transferred, account, check, transfer
from tracer.worker import janitor
from tracer.worker.results import parse_transfer


@dataclass(frozen=True)
class Wanted:
    """What was typed: the files, and the rest of :class:`Asked`.

    Attributes:
        out: the weights; None where only the script is wanted.
        script: the transfer as Python.
    """

    out: Path | None
    script: Path | None
    name: str | None
    partial: bool
    anyway: bool
    force: bool
    tolerance: Tolerance
    mapping: Path | None


def run(
    path: Path,
    source: str | None,
    target: str | None,
    wanted: Wanted,
    again: Again,
    *,
    everything: bool,
    as_json: bool,
    ascii_only: bool,
) -> int:
    """Transfer and print; the exit code says whether the weights were written."""
    ours, theirs = _chosen(Trace.open(path), source, target)
    mapping = None if wanted.mapping is None else mappings.load(wanted.mapping)
    asked = Asked.of(
        theirs, wanted.name, partial=wanted.partial, anyway=wanted.anyway, force=wanted.force,
        tolerance=wanted.tolerance, mapping=mapping,
    )  # fmt: skip
    if wanted.out is None and wanted.script is None:
        raise InputError("say which file to write: -o FILE, or --emit-python FILE.py")
    if wanted.script is not None:
        settings.check_free(wanted.script, wanted.force)
    out = wanted.out
    done = account(ours, theirs, asked) if out is None else to_file(ours, theirs, out, asked, again)
    text = done.script if wanted.script is not None and not done.refused else ""
    if as_json:
        settings.out().print(json.dumps(done.to_json(), allow_nan=False))
    else:
        plain = settings.ascii_only(ascii_only)
        told = report.summary(done, everything=everything, ascii_only=plain, width=settings.out().width)
        settings.out().print(told, end="")
        _say(done, path)
    if wanted.script is not None and text:
        settings.write_text(wanted.script, text, wanted.force)
        settings.say(f"wrote {display(str(wanted.script))} ({words.count(text.count(chr(10)), 'line')} of Python)")
    return ExitCode.DIVERGED if done.refused else ExitCode.OK


def to_file(source: Recording, target: Recording, out: Path, asked: Asked, again: Again) -> Transferred:
    """Fill the target's model, loaded as it was recorded, in a worker, and write its weights to ``out``.

    Raises as :func:`tracer.weighing.transfer.transfer`, and InputError where ``out`` cannot be written.
    """
    check(source, target, asked)
    writing.check(out, asked.force)
    origin = loading.source(target, trust=again.trust)
    filling.check_constant(target, origin)
    filling.check_format(origin.adapter, out)
    with janitor.folder() as folder:
        made = Path(folder) / out.name

        def fill(carried: Carried, name: str) -> None:
            _fill(carried, filling.Again.of(name, source, target), target, origin, again, made, out.absolute())

        def publish() -> Path:
            writing.publish(made, out, asked.force)
            return out

        return transfer(source, target, asked, fill, publish)


def _chosen(trace: Trace, source: str | None, target: str | None) -> tuple[Recording, Recording]:
    if source is None or target is None:
        have = ", ".join(f"'{display(r.name)}'" for r in trace.recordings()) or "none yet"
        raise InputError(f"say whose weights go where: --from NAME --to NAME (recordings: {have})")
    return choose(trace, source, target)


def _fill(
    carried: Carried, given: filling.Again, target: Recording, origin: loading.Source, again: Again, made: Path,
    final: Path,
) -> None:  # fmt: skip
    folder, root = made.parent, str(target.root.absolute())
    options = {
        "trace": root, "recording": target.name, "folder": str(folder), "file": made.name, "final": str(final),
        "values": filling.put(folder, carried.values), "again": asdict(given),
    }  # fmt: skip
    job = again.how(target, origin)
    answer = job.run("transfer", f"{display(target.name)} filled", options, trace=root, write=(str(folder),))
    known = target.attributes.get("notes", ())
    for note in parse_transfer(answer).recorded.notes:
        if note not in known:
            settings.say(f"note: {display(note)}")


def _say(done: Transferred, trace: Path) -> None:
    if done.path is None or done.recording is None:
        return
    size, name = words.bytes_text(done.path.stat().st_size), display(done.recording.name)
    line = f"wrote {display(str(done.path))} ({size}), recorded as '{name}', in {done.seconds:.1f} s"
    settings.out().print(Text(f"\n{line}"))
    option = settings.trace_option(trace)
    names = f"{done.source.name} {done.recording.name}"
    if done.agrees:
        settings.hint(f"tracer diff {names}{option}")
    else:
        settings.hint(f"tracer explain {names} --patch FILE.py{option}")
