"""``tracer weights``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tracer.alignment import mapping as mappings
from tracer.cli import formatting, settings
from tracer.cli.formatting import DiffFormat
from tracer.errors import ExitCode, InputError
from tracer.names import display
from tracer.report.weights import Listing, Sort
from tracer.selection import choose
from tracer.store import Trace
from tracer.weighing.exporting import Export, Which, export
from tracer.weighing.table import WeightTable, chosen, compare


@dataclass(frozen=True)
class Shown:
    """How the table is wanted."""

    only: tuple[str, ...]
    everything: bool
    sort: Sort
    form: DiffFormat
    ascii_only: bool


def exports(named: tuple[str, Path] | None, side: Which | None, layout: Which | None, force: bool) -> Export | None:
    """What ``--export`` asks for. Raises InputError for options that say something about it without it."""
    if named is not None:
        return Export(named[0], named[1], side, layout, force)
    if side or layout or force:
        raise InputError("--side, --layout and --force are about the file of --export NAME FILE.npy")
    return None


def weights(
    path: Path,
    reference: str | None,
    candidate: str | None,
    shown: Shown,
    *,
    mapping: Path | None,
    exports: Export | None,
) -> int:
    """Print the table, or write one parameter to a file; the exit code says whether the weights are equal."""
    ours, theirs = choose(Trace.open(path), reference, candidate, complete=False)
    given = None if mapping is None else mappings.load(mapping)
    if exports is not None:
        for written in export(ours, theirs, exports, mapping=given):
            settings.out().print(f"saved {display(str(written))}")
        return ExitCode.OK
    with settings.progress("comparing") as progress:
        whole = compare(ours, theirs, mapping=given, progress=progress)
    table = chosen(whole, shown.only)
    for recording in (ours, theirs):
        if recording.state != "complete":
            settings.say(f"note: recording '{display(recording.name)}' is {recording.state}")
    if shown.form != "table":
        formatting.write(table.to_json(), shown.form)
        return table.exit_code()
    plain = settings.ascii_only(shown.ascii_only)
    for line in Listing(table, shown.everything, shown.sort, plain).lines(settings.out().width):
        settings.out().print(line)
    option = settings.trace_option(path)
    settings.hint(_next(table, option))
    return table.exit_code()


def _next(table: WeightTable, option: str) -> str:
    """The command worth typing: where the two models' weights have nothing to do with each other, one that carries."""
    if table:
        return f"tracer diff{option}"
    lost = sum(row.likeness is not None and row.likeness.what in ("unrelated", "initialised") for row in table.rows)
    if 2 * lost > len(table.rows):
        names = f"--from {display(table.reference.name)} --to {display(table.candidate.name)}"
        return f"tracer transfer {names} -o FILE{option}   (the weights are unrelated)"
    return f"tracer weights --all{option}   or   tracer explain{option}"
