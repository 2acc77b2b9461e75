"""``tracer map``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.text import Text

from tracer.alignment import align, dumping
from tracer.alignment.mapping import Mapping, load
from tracer.alignment.patterns import block_pairs
from tracer.alignment.result import Alignment
from tracer.cli import formatting, settings
from tracer.cli.formatting import DiffFormat
from tracer.errors import ExitCode, InputError
from tracer.names import display
from tracer.report import pairing, words
from tracer.selection import choose
from tracer.store import Recording, Trace

SCHEMA = "tracer-map/1"


def show(
    path: Path,
    reference: str | None,
    candidate: str | None,
    *,
    mapping: Path | None,
    write: Path | None,
    accept: float | None,
    force: bool,
    everything: bool,
    form: DiffFormat = "table",
    ascii_only: bool,
) -> int:
    """Print or write the alignment; needs no values, so it works on failed recordings too."""
    if write is not None and write.suffix.lower() in (".json", ".toml"):
        raise InputError(f"a mapping is written as YAML, and {display(str(write))} would be read as something else")
    if write is not None:
        settings.check_free(write, force)
    ours, theirs = choose(Trace.open(path), reference, candidate, complete=False)
    given = None if mapping is None else load(mapping)
    alignment = align(ours, theirs, given)
    if write is not None:
        settings.write_text(
            write, dumping.dump(alignment, ours.name, theirs.name, mapping=given, accept=accept or 0.0), force
        )
    if form != "table":
        formatting.write(_described(alignment, ours, theirs), form)
        return ExitCode.OK
    bar = dumping.SURE if accept is None else accept
    plain = settings.ascii_only(ascii_only)
    listing = pairing.Listing(alignment, (ours.name, theirs.name), ours.structure, bar, everything, ascii_only=plain)
    option = settings.trace_option(path)
    if write is not None:
        _tell(write, listing, given, accept)
        settings.hint(f"tracer diff --map {shlex.quote(str(write))}{option}")
        return ExitCode.OK
    for line in listing.lines(settings.out().width):
        settings.out().print(line)
    again = "" if mapping is None else f" --map {shlex.quote(str(mapping))}"
    settled = not listing.doubtful and not alignment.ambiguous
    settings.hint(
        f"tracer diff{again}{option}" if settled else f"tracer map{again} --write mapping.yaml{option}, and edit it"
    )
    return ExitCode.OK


def _tell(path: Path, listing: pairing.Listing, given: Mapping | None, accept: float | None) -> None:
    pairs = listing.alignment.pairs
    left = len(listing.doubtful) if accept is not None else 0
    parts = [f"wrote {words.count(len(pairs) - left, 'pair')} to {display(str(path))}"]
    if left:
        parts.append(f"{left} below {accept:g} as comments")
    if listing.alignment.ambiguous:
        parts.append(f"{len(listing.alignment.ambiguous)} ambiguous as comments")
    settings.out().print(Text(", ".join(parts)))


def _described(alignment: Alignment, ours: Recording, theirs: Recording) -> dict[str, Any]:
    """The documented object of ``tracer map --json``."""
    found = {"schema": SCHEMA, "reference": ours.name, "candidate": theirs.name, **alignment.to_json()}
    shapes = {n.name: None if n.shape is None else list(n.shape) for n in ours.structure}
    for pair in found["pairs"]:
        pair["shape"] = shapes.get(pair["aligned"])
    found["unmatched"] = {side: list(names) for side, names in found["unmatched"].items()}
    found["ambiguous"] = [
        {
            "reference": [one.reference],
            "candidates": [[name, round(value, 4)] for name, value in one.candidates],
            "reason": one.reason,
        }
        for one in alignment.ambiguous
    ]
    found["outputs"] = [output.to_json() for output in alignment.outputs]
    found["parameters"] = [pair.to_json() for pair in alignment.parameters.pairs]
    found["unmatched_parameters"] = {
        "reference": [list(key) for key in alignment.parameters.unmatched_reference],
        "candidate": [list(key) for key in alignment.parameters.unmatched_candidate],
    }
    found["patterns"] = [
        {
            "reference": str(blocks.reference),
            "candidate": str(blocks.candidate),
            "variables": list(blocks.reference.variables),
            "blocks": [list(point) for point in blocks.points],
            "pairs": [len(inside) for inside in blocks.pairs],
            "confidence": round(min(alignment.pairs[at].confidence for inside in blocks.pairs for at in inside), 4),
        }
        for blocks in block_pairs([(pair.reference, pair.candidate) for pair in alignment.pairs])
    ]
    return found
