"""The commands that move and rewrite what was recorded, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tracer.cli.app import JsonOption, TraceOption
from tracer.cli.reportapp import app
from tracer.cli.settings import DEFAULT_TRACE

__all__ = ["app"]


@app.command()
def pack(
    recordings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="Recordings (default: all that are whole).", metavar="[RECORDING]..."),
    ] = None,
    trace: TraceOption = DEFAULT_TRACE,
    unpack: Annotated[bool, typer.Option("--unpack", help="Write them as they were recorded again.")] = False,
    json: JsonOption = False,
) -> int:
    """Compress recordings without loss; every command reads them as before."""
    from tracer.cli import packing

    return packing.pack(trace, recordings or (), undo=unpack, as_json=json)


@app.command()
def push(
    trace: Annotated[Path, typer.Argument(help="The trace to send.")],
    url: Annotated[str, typer.Argument(help="Where to: s3://bucket/path (AWS_ENDPOINT_URL: another server).")],
    force: Annotated[bool, typer.Option("--force", help="Replace what lies there.")] = False,
    json: JsonOption = False,
) -> int:
    """Copy a trace to an object store, where diff, explain and ui read it with --trace URL."""
    from tracer.cli import packing

    return packing.push(trace, url, force=force, as_json=json)


@app.command()
def pull(
    url: Annotated[str, typer.Argument(help="Where it lies: s3://bucket/path.")],
    trace: Annotated[Path, typer.Argument(help="Where to put it.")] = DEFAULT_TRACE,
    json: JsonOption = False,
) -> int:
    """Copy a trace from an object store."""
    from tracer.cli import packing

    return packing.pull(url, trace, as_json=json)
