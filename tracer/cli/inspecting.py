"""``tracer inspect``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from tracer.cli import settings
from tracer.cli.recording import Loading
from tracer.errors import ExitCode, InputError
from tracer.graph import Structure
from tracer.inspection import keep_weights
from tracer.names import display
from tracer.report.words import shape_text
from tracer.worker import janitor
from tracer.worker.failure import WorkerError
from tracer.worker.results import NONSENSE, Parameter, parse_inspect

_BY_SUFFIX = {
    ".keras": "tf", ".h5": "tf", ".hdf5": "tf", ".json": "tf",
    ".pt": "pt", ".pth": "pt", ".bin": "pt", ".ckpt": "pt", ".safetensors": "pt",
}  # fmt: skip


def guess_adapter(model: Path | None, arch: str | None) -> str:
    """The adapter for a file, by its suffix. Raises InputError when that says nothing."""
    found = _BY_SUFFIX.get(model.suffix.lower()) if model is not None else None
    if found is None:
        what = display(str(model)) if model is not None else f"--arch {display(arch or '')}"
        raise InputError(f"cannot tell the framework of {what}: say --adapter tf or --adapter pt")
    return found


def inspect(loading: Loading, *, input_shape: tuple[str, ...], save: tuple[str, str] | None, as_json: bool) -> int:
    """Print a table like a model summary, or its JSON."""
    options: dict[str, Any] = {"input_shape": list(input_shape)}
    label = f"inspect {display(loading.model.name if loading.model else '')}"
    saved: list[str] = []
    if save is None:
        found = parse_inspect(loading.run("inspect", label, options))
    else:
        target = Path(save[1]).absolute()
        if not target.parent.is_dir():
            raise InputError(f"no directory {display(str(target.parent))}")
        with janitor.folder() as folder:
            answer = loading.run("inspect", label, {**options, "save": save[0]}, write=(folder,))
            found = parse_inspect(answer)
            if not found.saved:
                raise WorkerError(NONSENSE, ExitCode.PARTIAL, "protocol")
            saved = keep_weights(Path(folder), found.saved, target)
    if as_json:
        values = {**found.model_dump(), "file": found.file.model_dump(exclude_unset=True), "saved": saved}
        settings.out().print(json.dumps({"schema": "tracer-inspect/1", **values}))
        return ExitCode.OK
    heading = f"{display(found.file.name)}: {display(found.framework)}, {display(found.loader)}"
    settings.out().print(Text(heading))
    for spec in found.signature:
        shape = "any shape" if spec.shape is None else shape_text(["?" if d is None else d for d in spec.shape])
        settings.out().print(Text(f"input {display(spec.name)}: {shape} {display(spec.dtype)}"))
    if found.structure is not None:
        settings.out().print(_layers(Structure.from_json(found.structure)))
    else:
        settings.out().print(_parameters(found.parameters))
        settings.say(f"note: shapes and functional operations are not shown: {display(found.why_no_structure or '')}")
    settings.out().print(Text(f"parameters: {found.totals.parameters:,} ({found.totals.trainable:,} trainable)"))
    for note in found.notes:
        settings.say(f"note: {display(note)}")
    for path in saved:
        settings.out().print(Text(f"saved {display(path)}"))
    return ExitCode.OK


def _layers(structure: Structure) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "op", "output", "parameters", "configuration"):
        table.add_column(title, justify="right" if title == "parameters" else "left")
    for node in structure:
        count = sum(math.prod(p.shape) for p in node.params)
        config = " ".join(f"{key}={_short(value)}" for key, value in node.config.items())
        cells = (node.name, node.label, shape_text(node.shape), f"{count:,}" if count else "", config)
        table.add_row(*(Text(display(cell), "dim" if node.role == "container" else "") for cell in cells))
    return table


def _parameters(parameters: list[Parameter]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("layer", "parameter", "shape", "dtype"):
        table.add_column(title)
    for p in parameters:
        cells = (p.owner, p.name, shape_text(p.shape), p.dtype)
        table.add_row(*(Text(display(cell, 100)) for cell in cells))
    return table


def _short(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)
