"""The command that writes a comparison as one HTML file, and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracer.cli.app import (
    AtolOption,
    BaselineOption,
    CandidateArgument,
    GradientsOption,
    LoadTimeOption,
    LocalOption,
    MapOption,
    MemoryOption,
    PythonsOption,
    ReferenceArgument,
    RtolOption,
    SandboxOption,
    StrictOption,
    TraceOption,
    TrustOption,
)
from tracer.cli.daemonapp import app
from tracer.cli.settings import DEFAULT_TRACE

__all__ = ["app"]


@app.command()
def report(
    reference: ReferenceArgument = None,
    candidate: CandidateArgument = None,
    trace: TraceOption = DEFAULT_TRACE,
    out: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; - for standard output.", metavar="FILE.html")
    ] = Path("tracer-report.html"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    atol: AtolOption = 1e-5,
    rtol: RtolOption = 1e-5,
    map: MapOption = None,
    gradients: GradientsOption = False,
    local: LocalOption = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make the fixes in memory, run the candidate again: what error is left?")
    ] = False,
    baseline: BaselineOption = None,
    strict: StrictOption = False,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Time for causes that are not known yet, in all; 0 for none.", min=0)
    ] = 10.0,
    details: Annotated[
        int, typer.Option("--details", help="Layers that are shown with their tensors, at most.", min=0)
    ] = 10,
    weights: Annotated[bool, typer.Option("--weights/--no-weights", help="Compare the weights too.")] = True,
    trust: TrustOption = False,
    sandbox: SandboxOption = True,
    python: PythonsOption = None,
    memory_limit: MemoryOption = None,
    load_timeout: LoadTimeOption = 300.0,
) -> int:
    """Write the comparison as one HTML file to hand on: verdict, causes, pictures, weights (exit codes as diff's)."""
    from tracer.cli import reporting, rerunning
    from tracer.compare import Tolerance

    again = rerunning.Again(trust, sandbox, load_timeout, memory_limit, tuple(python or ()))
    wanted = reporting.Wanted(
        out, force, Tolerance(atol, rtol), map, gradients, baseline, strict, seconds, weights, details,
        again if local else None, again if verify else None,
    )  # fmt: skip
    return reporting.report(trace, reference, candidate, wanted)
