"""``tracer show``."""

from __future__ import annotations

import json
from pathlib import Path

from rich.text import Text

from tracer.cli import settings
from tracer.cli.exporting import at_a_step
from tracer.errors import ExitCode
from tracer.exporting.chosen import PREFIXES
from tracer.names import display
from tracer.report import found as find_
from tracer.report import words
from tracer.report.page import page, table
from tracer.store import Trace

SCHEMA = "tracer-show/1"


def show(
    path: Path, name: str, address: str | None, *, values: bool, cut: str | None, as_json: bool, ascii_only: bool
) -> int:
    """Print all that is known of one tensor, or a line for each of several."""
    trace = Trace.open(path)
    recording = at_a_step(trace.recording(name))
    found = find_.find(recording, address)
    several = len(found) > 1 or address is None
    wanted = not several and (values or cut is not None)
    shown = found[0].part(cut) if wanted else None
    beside = None if several else find_.twin(trace, found[0])
    if as_json:
        each = [find_.described(one) for one in found] if several else [find_.detailed(found[0], beside, shown)]
        said = {"schema": SCHEMA, "recording": recording.name, "tensors": each}
        settings.out().print(json.dumps(said, allow_nan=False))
        return ExitCode.OK
    plain = settings.ascii_only(ascii_only)
    lines = table(found, settings.out().width) if several else page(found[0], beside, shown, plain=plain)
    for line in lines:
        settings.out().print(Text(words.to_ascii(line) if plain else line))
    option = settings.trace_option(path)
    if several:
        settings.hint(f"tracer show {display(name)} {display(found[0].name)}{option}")
    elif found[0].stored is not None:
        target = f"{PREFIXES[found[0].kind]}{found[0].name}"
        settings.hint(f"tracer export {display(name)} '{display(target)}' -o values.npz{option}")
    return ExitCode.OK
