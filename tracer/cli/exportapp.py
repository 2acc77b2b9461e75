"""The commands that look at single tensors and hand them on, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tracer.cli.app import AsciiOption, JsonOption, MapOption, TraceOption
from tracer.cli.settings import DEFAULT_TRACE
from tracer.cli.storeapp import app

__all__ = ["app"]


@app.command()
def show(
    recording: Annotated[str, typer.Argument(help="The recording, or one of its steps: NAME@STEP.")],
    layer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            help="A node's name; a glob, a path or op:conv* lists those that have it (default: all); "
            "gradients/NAME, weights/LAYER/PARAMETER.",
            metavar="[LAYER]",
        ),
    ] = None,
    trace: TraceOption = DEFAULT_TRACE,
    values: Annotated[bool, typer.Option("--values", help="The values in a corner too.")] = False,
    slice: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--slice", help='The values there, as numpy writes it: "0,:,3" (of a plane at most a screenful).'),
    ] = None,
    json: JsonOption = False,
    ascii: AsciiOption = False,
) -> int:
    """Show what is known of an activation: shape, statistics, histogram, settings, twin, verdict, values."""
    from tracer.cli import showing

    return showing.show(trace, recording, layer, values=values, cut=slice, as_json=json, ascii_only=ascii)


@app.command()
def export(
    recordings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            help="The recording (or NAME@STEP), then layers: names, globs, paths, op:conv* (default: all). "
            "With --model-explorer: reference and candidate.",
            metavar="RECORDING [LAYER]...",
        ),
    ] = None,
    trace: TraceOption = DEFAULT_TRACE,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Where to: FILE.npz, FILE.safetensors, or a folder of .npy files."),
    ] = None,
    layers: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--layers", help="Only these, as the words behind the recording (repeatable)."),
    ] = None,
    exclude: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--exclude", help="Leave these out (repeatable)."),
    ] = None,
    activations: Annotated[bool, typer.Option("--activations/--no-activations", help="Activations.")] = True,
    gradients: Annotated[bool, typer.Option("--gradients", help="Gradients too, as gradients/NAME.")] = False,
    weights: Annotated[bool, typer.Option("--weights", help="Weights too, as weights/LAYER/PARAMETER.")] = False,
    like: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--like", help="Under the names and in the axes of this recording.", metavar="REF"),
    ] = None,
    map: MapOption = None,
    model_explorer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--model-explorer",
            help="Write both graphs, their errors and how they are paired for Google's Model Explorer.",
            metavar="FILE.json",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    json: JsonOption = False,
) -> int:
    """Write recorded tensors for numpy, torch and others, or both graphs for Model Explorer."""
    from tracer.cli import exporting
    from tracer.errors import InputError

    named = recordings or []
    if model_explorer is not None:
        if out is not None or layers or exclude or gradients or weights or like or not activations or len(named) > 2:
            raise InputError("--model-explorer FILE.json takes REF, CAND, --map and --force, and writes no tensors")
        ours, theirs = [*named, None, None][:2]
        return exporting.graphs(trace, ours, theirs, model_explorer, mapping=map, force=force, as_json=json)
    if not named:
        raise InputError("name the recording to export: tracer export RECORDING -o FILE.npz")
    if out is None:
        raise InputError("say where to: -o FILE.npz, -o FILE.safetensors or -o FOLDER")
    selected = exporting.Selected(
        (*named[1:], *(layers or ())), exclude or (), activations, gradients, weights, like, map
    )  # fmt: skip
    return exporting.tensors(trace, named[0], out, selected, force=force, as_json=json)
