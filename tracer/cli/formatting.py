"""``--format``: what a command prints on standard output, for people and for other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Optional

import typer

from tracer.cli import settings
from tracer.errors import InputError

Format = Literal["table", "json", "jsonl", "csv", "markdown"]
DiffFormat = Literal["table", "json", "jsonl", "csv", "markdown", "junit", "github"]
FormatOption = Annotated[
    Optional[Format],  # noqa: UP045
    typer.Option("--format", help="What to print; jsonl, csv and markdown have a line for each row."),
]
DiffFormatOption = Annotated[
    Optional[DiffFormat],  # noqa: UP045
    typer.Option("--format", help="What to print; junit: XML for CI; github: annotations, and the job's summary."),
]


def chosen(form: DiffFormat | None, as_json: bool) -> DiffFormat:
    """The format that is meant; ``--json`` is short for one. Raises InputError where the two contradict each other."""
    if as_json and form not in (None, "json"):
        raise InputError(f"--json is short for --format json: leave it out for --format {form}")
    return "json" if as_json else form or "table"


def write(document: Mapping[str, Any], form: DiffFormat) -> None:
    """Print a document of ``--json`` in one of the formats that every listing has."""
    from tracer.report.formats import delimited, markdown

    match form:
        case "jsonl":
            for line in delimited.lines(document):
                raw(f"{line}\n")
        case "csv":
            raw(delimited.csv_text(document))
        case "markdown":
            raw(markdown.listing_markdown(document))
        case _:
            settings.out().print(json.dumps(document, allow_nan=False))


def raw(text: str) -> None:
    """Data on standard output, byte for byte: UTF-8 whatever the terminal has, and line ends as they are."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # what a test or a notebook has put in its place
        sys.stdout.write(text)
        return
    buffer.write(text.encode("utf-8", "backslashreplace"))
    buffer.flush()
