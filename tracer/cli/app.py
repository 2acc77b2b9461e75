"""The commands and their options. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from tracer.cli.formatting import DiffFormatOption, FormatOption, chosen
from tracer.cli.settings import DEFAULT_TRACE

app = typer.Typer(
    name="tracer",
    help="Record a network in TensorFlow/Keras and in PyTorch, pair its layers, and find the first that differs.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TraceOption = Annotated[
    Path, typer.Option("--trace", envvar="TRACER_TRACE", help="The trace to write or read.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
AsciiOption = Annotated[bool, typer.Option("--ascii", help="Keep to ASCII characters.")]
MapOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--map", help="A mapping file (YAML, TOML, JSON); what it says wins."),
]
ReferenceArgument = Annotated[Optional[str], typer.Argument(help="Reference recording.", metavar="[REF]")]  # noqa: UP045
CandidateArgument = Annotated[Optional[str], typer.Argument(help="Candidate recording.", metavar="[CAND]")]  # noqa: UP045
ModelArgument = Annotated[Optional[Path], typer.Argument(help="Model file (none when --arch builds it).")]  # noqa: UP045
WeightsOption = Annotated[Optional[Path], typer.Option("--weights", help="A separate weights file.")]  # noqa: UP045
ArchOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--arch", help="What builds the model: pkg.mod:callable or file.py:callable. Runs that code."),
]
ArchArgsOption = Annotated[str, typer.Option("--arch-args", help="Arguments of --arch: a JSON list or object.")]
ImportOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--import", help="Module or file.py whose classes the model may use. Runs that code."),
]
AllowOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--allow", help="A class a pickle may name, pkg.mod.Class."),
]
TrustOption = Annotated[bool, typer.Option("--trust", help="Load even what runs code from the model file.")]
InputsOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--inputs", help="Names of the tensors that a bare graph is fed, comma-separated."),
]
OutputsOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--outputs", help="Names of the tensors that a bare graph is run up to, comma-separated."),
]
ShapeOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--input-shape", help="Shape of the generated input, batch first: 2,500,12 or NAME=2,500,12."),
]
SandboxOption = Annotated[bool, typer.Option("--sandbox/--no-sandbox", help="Confine the worker where the kernel can.")]
MemoryOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--memory-limit", help="Gigabytes the worker may take (90 % of what is free; less to load a file).", min=0.1
    ),
]
PythonOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--python", help="Load it in another environment: its Python, which needs the framework and numpy."),
]
PythonsOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--python", help="Run models (or RECORDING=PATH) with another Python than recorded them."),
]
AtolOption = Annotated[float, typer.Option("--atol", help="Absolute tolerance.", min=0)]
RtolOption = Annotated[float, typer.Option("--rtol", help="Relative tolerance.", min=0)]
GradientsOption = Annotated[
    bool, typer.Option("--gradients", help="Compare the gradients that were recorded with --grad.")
]
LocalOption = Annotated[
    bool,
    typer.Option("--local", help="Run both models again: what each layer adds itself, against its own rounding."),
]
BaselineOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--baseline", help="Differences accepted before: only what is new or grows fails."),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit 4 when layers have no twin.")]
LoadTimeOption = Annotated[float, typer.Option("--load-timeout", help="Seconds that loading may take.", min=1)]


@app.command()
def record(
    adapter: Annotated[
        str, typer.Argument(help="Adapter: tf (Keras, TensorFlow), pt (PyTorch), onnx … (tracer info lists them).")
    ],
    model: ModelArgument = None,
    weights: WeightsOption = None,
    arch: ArchOption = None,
    arch_args: ArchArgsOption = "[]",
    name: Annotated[Optional[str], typer.Option("--name", help="Name of the recording.")] = None,  # noqa: UP045
    trace: TraceOption = DEFAULT_TRACE,
    input: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--input", help=".npy, .npz (one array a named input) or seed:N."),
    ] = None,
    input_shape: ShapeOption = None,
    layout: Annotated[
        str, typer.Option("--layout", help="How the input's axes move: auto, same, NHWC->NCHW, NCHW->NHWC.")
    ] = "auto",
    samples: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--samples", help="How many samples: generated, or the first of a given input.", min=1),
    ] = None,
    batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--batch", help="Run so many samples at a time (default: all at once).", min=1),
    ] = None,
    mode: Annotated[
        Literal["eval", "train"], typer.Option("--mode", help="train: dropout draws, batch statistics.")
    ] = "eval",
    grad: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--grad",
            metavar="[LOSS]",
            help="Gradients too: of the outputs' sum (the default), mean, square (half the sum of squares), "
            "or of pkg.mod:callable(outputs).",
        ),
    ] = None,
    layers: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--layers", help="Record only these: a glob over names, a path, or op:conv* (repeatable)."),
    ] = None,
    exclude: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--exclude", help="Leave these out: as --layers (repeatable)."),
    ] = None,
    stats_only: Annotated[
        bool, typer.Option("--stats-only", help="Keep statistics of each activation instead of its values.")
    ] = False,
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--precision", help="Round activations to float32, float16 or bfloat16 before they are stored."),
    ] = None,
    inputs: InputsOption = None,
    outputs: OutputsOption = None,
    reference: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--reference", help="Recording to align to (default: the trace's first)."),
    ] = None,
    imports: ImportOption = None,
    allow: AllowOption = None,
    trust: TrustOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a recording of this name.")] = False,
    save_weights: Annotated[bool, typer.Option("--save-weights/--no-save-weights", help="Weights too.")] = True,
    memory: Annotated[int, typer.Option("--memory", help="Megabytes of copies that may wait for the disk.")] = 256,
    durable: Annotated[
        bool, typer.Option("--durable", help="Wait for the disk: what was recorded outlasts a power cut.")
    ] = False,
    memory_limit: MemoryOption = None,
    load_timeout: LoadTimeOption = 300.0,
    sandbox: SandboxOption = True,
    python: PythonOption = None,
    json: JsonOption = False,
) -> int:
    """Run a model once and record every activation."""
    from tracer.cli import pythons, recording
    from tracer.options import Options

    loading = recording.Loading(
        adapter, model, weights, arch, arch_args, tuple(imports or ()), tuple(allow or ()), trust,
        sandbox, load_timeout, memory_limit, recording.named(inputs), recording.named(outputs), pythons.named(python),
    )  # fmt: skip
    options = Options(
        name=adapter if name is None else name, input=recording.absolute(input), input_shape=tuple(input_shape or ()),
        layout=layout, weights=save_weights, force=force, memory=memory << 20, reference=reference, samples=samples,
        batch=batch, mode=mode, loss=recording.absolute_loss(grad), layers=tuple(layers or ()),
        exclude=tuple(exclude or ()), statistics_only=stats_only, precision=precision, durable=durable,
    )  # fmt: skip
    return recording.record(loading, options, trace=trace, as_json=json)


@app.command()
def inspect(
    model: ModelArgument = None,
    adapter: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--adapter", help="tf or pt (default: from the file)."),
    ] = None,
    weights: WeightsOption = None,
    arch: ArchOption = None,
    arch_args: ArchArgsOption = "[]",
    input_shape: ShapeOption = None,
    inputs: InputsOption = None,
    outputs: OutputsOption = None,
    imports: ImportOption = None,
    allow: AllowOption = None,
    trust: TrustOption = False,
    save_weights: Annotated[
        Optional[tuple[str, str]],  # noqa: UP045
        typer.Option("--save-weights", help="Save a layer's weights as .npy.", metavar="LAYER OUT.npy"),
    ] = None,
    memory_limit: MemoryOption = None,
    load_timeout: LoadTimeOption = 300.0,
    sandbox: SandboxOption = True,
    python: PythonOption = None,
    depth: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--depth", help="Levels of containers to show (default: all).", min=1),
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Whole names and configurations, however long.")] = False,
    ascii: AsciiOption = False,
    json: JsonOption = False,
) -> int:
    """Print a model's layers, configuration, shapes and parameters, and what would run code on loading."""
    from tracer.cli import inspecting, pythons, recording

    loading = recording.Loading(
        adapter or inspecting.guess_adapter(model, arch), model, weights, arch, arch_args, tuple(imports or ()),
        tuple(allow or ()), trust, sandbox, load_timeout, memory_limit,
        recording.named(inputs), recording.named(outputs), pythons.named(python),
    )  # fmt: skip
    return inspecting.inspect(
        loading, input_shape=tuple(input_shape or ()), save=save_weights, as_json=json, depth=depth, wide=wide,
        ascii_only=ascii,
    )  # fmt: skip


@app.command()
def runs(trace: TraceOption = DEFAULT_TRACE, format: FormatOption = None, json: JsonOption = False) -> int:
    """List the recordings of a trace."""
    from tracer.cli import reading

    return reading.runs(trace, form=chosen(format, json))


@app.command()
def diff(
    reference: ReferenceArgument = None,
    candidate: CandidateArgument = None,
    trace: TraceOption = DEFAULT_TRACE,
    atol: AtolOption = 1e-5,
    rtol: RtolOption = 1e-5,
    map: MapOption = None,
    gradients: GradientsOption = False,
    local: LocalOption = False,
    baseline: BaselineOption = None,
    write_baseline: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--write-baseline", help="Accept all differences of now in a file."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --write-baseline.")] = False,
    strict: StrictOption = False,
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Look for the causes of what diverged, for a few seconds.")
    ] = True,
    all: Annotated[bool, typer.Option("--all", help="Print the table of all pairs.")] = False,
    dask: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--dask", help="Compare on the workers of this Dask scheduler.", metavar="ADDRESS"),
    ] = None,
    trust: TrustOption = False,
    sandbox: SandboxOption = True,
    python: PythonsOption = None,
    memory_limit: MemoryOption = None,
    load_timeout: LoadTimeOption = 300.0,
    format: DiffFormatOption = None,
    json: JsonOption = False,
    ascii: AsciiOption = False,
) -> int:
    """Compare two recordings: the verdict and the first divergence (exit 1 if there is one)."""
    from tracer.cli import reading

    again = None
    if local:
        from tracer.cli.rerunning import Again

        again = Again(trust, sandbox, load_timeout, memory_limit, tuple(python or ()))
    return reading.diff(
        trace, reference, candidate, atol=atol, rtol=rtol, mapping=map, gradients=gradients, strict=strict,
        everything=all, form=chosen(format, json), ascii_only=ascii, again=again,
        baseline=baseline, accept=write_baseline, force=force, why=explain, dask=dask,
    )  # fmt: skip


@app.command()
def graft(
    reference: ReferenceArgument = None,
    candidate: CandidateArgument = None,
    trace: TraceOption = DEFAULT_TRACE,
    at: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--at", help="Put the other model's activation in here: a layer's name or glob (repeatable)."),
    ] = None,
    into: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--into", help="The recording whose model runs on from there (default: the candidate)."),
    ] = None,
    grows: Annotated[
        bool, typer.Option("--grows", help="Only how much a small change at each layer grows to the outputs.")
    ] = False,
    atol: Annotated[float, typer.Option("--atol", help="Absolute tolerance of the outputs.", min=0)] = 1e-5,
    rtol: Annotated[float, typer.Option("--rtol", help="Relative tolerance of the outputs.", min=0)] = 1e-5,
    map: MapOption = None,
    trust: TrustOption = False,
    sandbox: SandboxOption = True,
    python: PythonsOption = None,
    memory_limit: MemoryOption = None,
    load_timeout: LoadTimeOption = 300.0,
    format: FormatOption = None,
    json: JsonOption = False,
    ascii: AsciiOption = False,
) -> int:
    """Run one model on from the other's activation at a layer; without --at, find which defects explain the outputs."""
    from tracer.cli import grafting, rerunning
    from tracer.compare import Tolerance

    again = rerunning.Again(trust, sandbox, load_timeout, memory_limit, tuple(python or ()))
    return grafting.graft(
        trace, reference, candidate, names=tuple(at or ()), into=into, grows=grows, tolerance=Tolerance(atol, rtol),
        mapping=map, again=again, form=chosen(format, json), ascii_only=ascii,
    )  # fmt: skip


@app.command()
def explain(
    reference: ReferenceArgument = None,
    candidate: CandidateArgument = None,
    trace: TraceOption = DEFAULT_TRACE,
    atol: AtolOption = 1e-5,
    rtol: RtolOption = 1e-5,
    map: MapOption = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Time for each pair at most.", min=0.01)] = 2.0,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--only", help="Explain only these: a layer's name or glob (repeatable)."),
    ] = None,
    patch: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--patch", help="Write the fixes as a Python file with a function apply(model)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --patch.")] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Run layers on random input: it decides what this input leaves open.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make the fixes in memory, run the candidate again: what error is left?")
    ] = False,
    all: Annotated[bool, typer.Option("--all", help="Name every layer, and why a pair could not be computed.")] = False,
    trust: TrustOption = False,
    sandbox: SandboxOption = True,
    python: PythonsOption = None,
    memory_limit: MemoryOption = None,
    load_timeout: LoadTimeOption = 300.0,
    format: FormatOption = None,
    json: JsonOption = False,
    ascii: AsciiOption = False,
) -> int:
    """Say why layers part: each cause with the computation that proves it, and what to change (exit 1 if any do)."""
    from tracer.cli import explaining
    from tracer.compare import Tolerance

    asked = explaining.Asked(Tolerance(atol, rtol), map, seconds, tuple(only or ()))
    again = None
    if probe or verify:
        from tracer.cli.rerunning import Again

        again = Again(trust, sandbox, load_timeout, memory_limit, tuple(python or ()))
    return explaining.explain(
        trace, reference, candidate, asked, patch=patch, force=force, probe=again if probe else None,
        verify=again if verify else None, everything=all, form=chosen(format, json), ascii_only=ascii,
    )  # fmt: skip


@app.command(name="map")
def map_(
    reference: ReferenceArgument = None,
    candidate: CandidateArgument = None,
    trace: TraceOption = DEFAULT_TRACE,
    map: MapOption = None,
    write: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--write", help="Write the mapping as a file to edit."),
    ] = None,
    accept: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--accept",
            help="Confidence of a sure pair (0.9); with --write, pairs below it become comments.",
            min=0,
            max=1,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --write.")] = False,
    all: Annotated[bool, typer.Option("--all", help="Each pair and node for itself, nothing folded or cut.")] = False,
    format: FormatOption = None,
    json: JsonOption = False,
    ascii: AsciiOption = False,
) -> int:
    """Show which layers are paired, with axes, confidence and evidence, and which are left open."""
    from tracer.cli import mapping

    return mapping.show(
        trace, reference, candidate, mapping=map, write=write, accept=accept, force=force, everything=all,
        form=chosen(format, json), ascii_only=ascii,
    )  # fmt: skip


@app.command()
def transfer(
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--from", help="Recording whose weights are taken."),
    ] = None,
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--to", help="Recording of the model that gets them."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="File to write: .pt, .pth, .safetensors; .weights.h5, .keras, .h5 (by its name)."
        ),
    ] = None,
    emit_python: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--emit-python", help="Write the transfer as a Python script, which does not need tracer."),
    ] = None,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--name", help="Name of the filled model's recording (default: TO-transferred)."),
    ] = None,
    trace: TraceOption = DEFAULT_TRACE,
    partial: Annotated[
        bool, typer.Option("--partial", help="Write it although weights are missing or left over.")
    ] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Write it although the outputs stay different.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file, and a recording of this name.")] = False,
    atol: AtolOption = 1e-5,
    rtol: RtolOption = 1e-5,
    map: MapOption = None,
    all: Annotated[bool, typer.Option("--all", help="Say of every tensor how it was made.")] = False,
    trust: TrustOption = False,
    sandbox: SandboxOption = True,
    python: PythonsOption = None,
    memory_limit: MemoryOption = None,
    load_timeout: LoadTimeOption = 300.0,
    json: JsonOption = False,
    ascii: AsciiOption = False,
) -> int:
    """Carry one model's weights over to another, run it, and write them if both compute the same (exit 1 if not)."""
    from tracer.cli import rerunning, transferring
    from tracer.compare import Tolerance

    wanted = transferring.Wanted(out, emit_python, name, partial, anyway, force, Tolerance(atol, rtol), map)
    again = rerunning.Again(trust, sandbox, load_timeout, memory_limit, tuple(python or ()))
    return transferring.run(
        trace, source, target, wanted, again, everything=all, as_json=json, ascii_only=ascii
    )  # fmt: skip


@app.command()
def weights(
    reference: ReferenceArgument = None,
    candidate: CandidateArgument = None,
    trace: TraceOption = DEFAULT_TRACE,
    map: MapOption = None,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--only", help="Only these: a parameter's or a layer's name, or a glob (repeatable)."),
    ] = None,
    sort: Annotated[
        Literal["order", "name", "diff"], typer.Option("--sort", help="diff: the largest relative difference first.")
    ] = "order",
    export: Annotated[
        Optional[tuple[str, Path]],  # noqa: UP045
        typer.Option("--export", help="Write one parameter's values instead.", metavar="NAME FILE.npy"),
    ] = None,
    side: Annotated[
        Optional[Literal["reference", "candidate"]],  # noqa: UP045
        typer.Option("--side", help="Whose values --export writes (default: of the side that has the name)."),
    ] = None,
    layout: Annotated[
        Optional[Literal["reference", "candidate"]],  # noqa: UP045
        typer.Option("--layout", help="Laid out as which side has it (default: as they are)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --export.")] = False,
    all: Annotated[bool, typer.Option("--all", help="Each parameter for itself, equal ones and buffers too.")] = False,
    format: FormatOption = None,
    json: JsonOption = False,
    ascii: AsciiOption = False,
) -> int:
    """Compare the weights, whatever their layout, and say what those that differ would equal (exit 1 if any do)."""
    from tracer.cli import weighing

    shown = weighing.Shown(tuple(only or ()), all, sort, chosen(format, json), ascii)
    exports = weighing.exports(export, side, layout, force)
    return weighing.weights(trace, reference, candidate, shown, mapping=map, exports=exports)


@app.command()
def ui(
    reference: ReferenceArgument = None,
    candidate: CandidateArgument = None,
    trace: TraceOption = DEFAULT_TRACE,
    atol: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--atol", help="Absolute tolerance (default 1e-5, or as it was left).", min=0),
    ] = None,
    rtol: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--rtol", help="Relative tolerance (default 1e-5, or as it was left).", min=0),
    ] = None,
    map: MapOption = None,
    ascii: AsciiOption = False,
    screenshot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--screenshot", help="Draw the first screen into this SVG file instead.", metavar="FILE.svg"),
    ] = None,
    size: Annotated[str, typer.Option("--size", help="Columns and lines of --screenshot.")] = "120x40",
    press: Annotated[str, typer.Option("--press", help='Keys to press before --screenshot: "enter c".')] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --screenshot.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Serve it to a browser on this machine.")] = False,
    port: Annotated[int, typer.Option("--port", help="Port of --web.", min=1024, max=65535)] = 8008,
) -> int:
    """Look at a trace in the terminal."""
    from tracer.cli import ui as ui_

    how = ui_.Shown(ascii, screenshot, size, press, force, web, port)
    return ui_.run(trace, reference, candidate, atol=atol, rtol=rtol, mapping=map, how=how)


@app.command()
def info(json: JsonOption = False) -> int:
    """Show versions, adapters, and what the kernel offers to confine a worker."""
    from tracer.cli import about

    return about.info(as_json=json)


@app.command()
def schema(
    name: Annotated[Optional[str], typer.Argument(help="Of which document: diff, explain, weights …")] = None,  # noqa: UP045
) -> int:
    """Print the JSON Schema of what a command prints with --json, or list the schemas."""
    from tracer.cli import about

    return about.schema(name)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"tracer {version('tracer-nn')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks for errors (anywhere on the line).")] = False,
) -> None:
    """Options before the command."""
