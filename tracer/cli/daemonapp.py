"""The options of ``tracer daemon …``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from tracer.cli.app import AtolOption, CandidateArgument, JsonOption, ReferenceArgument, RtolOption, TraceOption, app
from tracer.cli.formatting import FormatOption, chosen
from tracer.cli.settings import DEFAULT_TRACE

__all__ = ["app"]

group = typer.Typer(help="Take the steps that running programs send (tracer.attach), compare them, tell of events.")
app.add_typer(group, name="daemon", no_args_is_help=True)

RecordingOption = Annotated[str, typer.Option("--recording", help="Whose: a glob over the recordings' names.")]
EveryOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--every", help="Record one call of so many.", min=1),
]
LayersOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--layers", help="Record only these (repeatable; '*' for all again)."),
]
ExcludeOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--exclude", help="Do not record these (repeatable)."),
]


@group.command()
def start(
    trace: TraceOption = DEFAULT_TRACE,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and log here: systemd, containers.")] = False,
    port: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--port", help="Listen on this port of 127.0.0.1 too, with a token.", min=1024, max=65535),
    ] = None,
    keep_last: Annotated[int, typer.Option("--keep-last", help="Keep so many of the newest steps.", min=0)] = 0,
    keep_every: Annotated[
        int, typer.Option("--keep-every", help="With --keep-last: of older ones every so many-th.", min=0)
    ] = 0,
    budget: Annotated[
        float, typer.Option("--budget", help="Gigabytes that a recording may take; the oldest steps go.", min=0)
    ] = 0.0,
    atol: AtolOption = 1e-5,
    rtol: RtolOption = 1e-5,
    durable: Annotated[
        bool, typer.Option("--durable", help="Wait for the disk at each step: it outlasts a power cut.")
    ] = False,
) -> int:
    """Start the daemon of this user."""
    from tracer.cli import daemon

    return daemon.start(
        trace, foreground=foreground, port=port, last=keep_last, every=keep_every, budget=budget, atol=atol, rtol=rtol,
        durable=durable,
    )  # fmt: skip


@group.command()
def status(json: JsonOption = False) -> int:
    """Show recorders, rates, queues, and where pairs of recordings part."""
    from tracer.cli import daemon

    return daemon.status(as_json=json)


@group.command()
def stop() -> int:
    """Write what came, and end the daemon; programs that are recorded go on."""
    from tracer.cli import daemon

    return daemon.stop()


@group.command()
def logs(
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many lines.", min=1)] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Print what comes, too.")] = False,
) -> int:
    """Show the end of the daemon's log."""
    from tracer.cli import daemon

    return daemon.logs(lines, follow=follow)


@group.command()
def capture(
    switch: Annotated[str, typer.Argument(help="on, off, or keep (change the rest only).", metavar="on|off|keep")],
    recording: RecordingOption = "*",
    every: EveryOption = None,
    layers: LayersOption = None,
    exclude: ExcludeOption = None,
    statistics_only: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--stats-only/--values", help="Numbers in place of values, or values again."),
    ] = None,
) -> int:
    """Switch recording on and off, or change what is recorded, while the programs run."""
    from tracer.cli import daemon
    from tracer.errors import InputError

    if switch not in ("on", "off", "keep"):
        raise InputError(f"capture takes on, off or keep, not '{switch}'")
    on = {"on": True, "off": False, "keep": None}[switch]
    return daemon.capture(
        on, recording, every=every, layers=layers or [], exclude=exclude or [], statistics_only=statistics_only
    )


@app.command()
def steps(
    reference: ReferenceArgument = None,
    candidate: CandidateArgument = None,
    trace: TraceOption = DEFAULT_TRACE,
    atol: AtolOption = 1e-5,
    rtol: RtolOption = 1e-5,
    format: FormatOption = None,
    json: JsonOption = False,
) -> int:
    """Compare two recordings of many steps: at which step they part, and how that grows (exit 1 if they do)."""
    from tracer.cli import stepping

    return stepping.steps(trace, reference, candidate, atol=atol, rtol=rtol, form=chosen(format, json))


@app.command()
def watch(
    once: Annotated[bool, typer.Option("--once", help="End with exit code 1 on the first event.")] = False,
    steps: Annotated[bool, typer.Option("--steps", help="Steps and comparisons too.")] = False,
    json: JsonOption = False,
) -> int:
    """Print what the daemon's rules find, as it happens."""
    from tracer.cli import daemon

    return daemon.watch(once=once, as_json=json, steps=steps)
