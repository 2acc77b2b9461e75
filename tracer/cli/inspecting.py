"""``tracer inspect``."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.text import Text

from tracer import adapter as adapters
from tracer.cli import settings
from tracer.cli.recording import Loading
from tracer.errors import ExitCode, InputError, NoModelError, RefusedError, TracerError
from tracer.graph import Structure
from tracer.inspection import keep_weights
from tracer.names import display
from tracer.report import outline
from tracer.report.words import bytes_text, shape_text, to_ascii
from tracer.worker import janitor
from tracer.worker.failure import WorkerError
from tracer.worker.results import NONSENSE, InspectResult, parse_inspect

SCHEMA = "tracer-inspect/2"
_ROLES = {
    "input": ("input", "inputs"), "layer": ("layer", "layers"), "op": ("operation", "operations"),
    "container": ("container", "containers"), "activation": ("before a fused activation",) * 2,
    "inner": ("inside a layer",) * 2, "item": ("further output", "further outputs"),
}  # fmt: skip
"""What to call one node of a role, and several."""


def guess_adapter(model: Path | None, arch: str | None) -> str:
    """The adapter that claims the file. Raises InputError when none does, or several do."""
    found = adapters.claiming(model) if model is not None else ()
    if len(found) == 1:
        return found[0]
    what = display(str(model)) if model is not None else f"--arch {display(arch or '')}"
    choice = " or ".join(f"--adapter {display(name)}" for name in found or adapters.names())
    formats = "" if found or model is None else "; ".join(_formats())
    known = formats and f" (none of {formats})"
    raise InputError(f"cannot tell the framework of {what}: say {choice}{known}")


def _formats() -> Iterator[str]:
    """What the adapters take; those that are broken are passed over."""
    for name in adapters.names():
        with contextlib.suppress(TracerError):
            yield f"{name}: {adapters.get(name, check=False).formats}"


def inspect(
    loading: Loading,
    *,
    input_shape: tuple[str, ...],
    save: tuple[str, str] | None,
    as_json: bool,
    depth: int | None = None,
    wide: bool = False,
    ascii_only: bool = False,
) -> int:
    """Print a table like a model summary, or its JSON.

    A file of weights is no fault: its tensors are printed. Raises RefusedError for what cannot be loaded safely, after
    printing what can be said without loading; InputError, WorkerError.
    """
    found, saved = look(loading, input_shape, save)
    if as_json:
        values = {**found.model_dump(), "file": found.file.model_dump(exclude_unset=True), "saved": saved}
        settings.out().print(json.dumps({"schema": SCHEMA, **values}))
    else:
        plain = settings.ascii_only(ascii_only)
        page = _Page(None if wide else shutil.get_terminal_size().columns, plain)
        page.show(found, depth)
        for path in saved:
            page.line(f"saved {display(path)}")
    if found.refused is not None:
        raise RefusedError(found.refused)
    return ExitCode.OK


def look(
    loading: Loading, input_shape: tuple[str, ...], save: tuple[str, str] | None
) -> tuple[InspectResult, list[str]]:
    """What the worker found, and the paths of the weights that were saved."""
    options: dict[str, Any] = {"input_shape": list(input_shape)}
    label = f"inspect {display(loading.model.name if loading.model else '')}"
    if save is None:
        # Of a file that is refused, or of weights alone, the worker can still say what it holds.
        return parse_inspect(loading.run("inspect", label, options, despite=(RefusedError, NoModelError))), []
    target = Path(save[1]).absolute()
    if not target.parent.is_dir():
        raise InputError(f"no directory {display(str(target.parent))}")
    with janitor.folder() as folder:
        found = parse_inspect(loading.run("inspect", label, {**options, "save": save[0]}, write=(folder,)))
        if not found.saved:
            raise WorkerError(NONSENSE, ExitCode.PARTIAL, "protocol")
        return found, keep_weights(Path(folder), found.saved, target)


class _Page:
    """Writes lines of a width, in ASCII where that is asked for."""

    def __init__(self, width: int | None, plain: bool) -> None:
        self._width = width
        self._plain = plain

    def line(self, content: str, style: str = "") -> None:
        settings.out().print(Text(to_ascii(content) if self._plain else content, style))

    def table(self, rows: list[list[str]], styles: list[str], right: frozenset[int]) -> None:
        for content, style in zip(outline.columns(rows, width=self._width, right=right), styles, strict=True):
            self.line(content, style)

    def show(self, found: InspectResult, depth: int | None) -> None:
        loader = f", {display(found.loader)}" if found.loader is not None else ", not loaded"
        self.line(f"{display(found.file.name)}: {display(found.framework)}{loader}")
        structure = Structure.from_json(found.structure) if found.structure is not None else None
        self._ends(found, structure)
        if structure is not None:
            self._layers(found, structure, depth)
        elif found.parameters:
            self._parameters([(f"{p.owner} {p.name}".strip(), p.shape, p.dtype) for p in found.parameters])
        elif found.tensors:
            self._parameters([(t.name, t.shape, t.dtype) for t in found.tensors])
        self._totals(found)
        if found.loader is not None:
            if structure is None:
                settings.say(f"note: shapes and functional operations are not shown: {found.why_no_structure}")
            for note in found.notes:
                settings.say(f"note: {note}")
        elif found.refused is None:
            settings.say(f"note: {found.why_no_structure}")

    def _ends(self, found: InspectResult, structure: Structure | None) -> None:
        """The signature: inputs with what they were fed, outputs."""
        by_name = structure.by_name if structure is not None else {}
        for spec in found.signature:
            shape = "any shape" if spec.shape is None else shape_text(["?" if d is None else d for d in spec.shape])
            fed = by_name[spec.name].shape if spec.name in by_name else None
            given = f" (fed {shape_text(fed)})" if fed is not None else ""
            words = [f"input {display(spec.name)}: {shape}", display(spec.dtype), (spec.layout or "").replace("_", " ")]
            if spec.maximum is not None:
                words.append(f"0 to {spec.maximum}")
            self.line(" ".join(word for word in words if word) + given)
        for name in structure.outputs if structure is not None else ():
            node = by_name.get(name)
            if node is not None:
                self.line(f"output {display(name)}: {shape_text(node.shape)} {display(node.dtype or '')}".rstrip())

    def _layers(self, found: InspectResult, structure: Structure, depth: int | None) -> None:
        sizes = [(p.owner, p.name, math.prod(p.shape)) for p in found.parameters]
        whole = self._width is None
        lines = outline.lines(*outline.outline(structure, sizes), depth=depth, whole=whole)
        rows = [["name", "operation", "output", "params", "configuration"]]
        for row in lines:
            indent = "  " * row.deep
            rows.append([indent + row.name, row.operation, row.output, row.parameters, row.configuration])
        self.line("")
        self.table(rows, ["bold", *("dim" if row.dim else "" for row in lines)], frozenset({3}))

    def _parameters(self, tensors: list[tuple[str, list[int], str]]) -> None:
        rows = [["parameter", "shape", "dtype", "elements"]]
        rows += [
            [display(name), shape_text(shape), display(dtype), f"{math.prod(shape):,}"]
            for name, shape, dtype in tensors
        ]
        self.line("")
        self.table(rows, ["bold", *("" for _ in tensors)], frozenset({3}))

    def _totals(self, found: InspectResult) -> None:
        totals = found.totals
        if found.loader is not None or found.tensors or found.runs_code:
            self.line("")
        if found.loader is not None:
            fixed = totals.parameters - totals.trainable
            what = f"({totals.trainable:,} trainable, {fixed:,} not)" if fixed else f"({totals.trainable:,} trainable)"
            self.line(f"parameters: {totals.parameters:,} {what}, {bytes_text(totals.parameter_bytes)}")
        elif found.tensors:
            elements = f"{totals.parameters:,} elements, {bytes_text(totals.parameter_bytes)}"
            self.line(f"{len(found.tensors)} tensors: {elements}")
        if totals.nodes:
            known = [(totals.nodes[role], words) for role, words in _ROLES.items() if role in totals.nodes]
            counts = ", ".join(f"{count} {words[count > 1]}" for count, words in known)
            self.line(f"nodes: {sum(totals.nodes.values())} ({counts})")
            self.line(f"activations: {bytes_text(totals.activation_bytes)} for this input")
        if found.runs_code:
            self.line("runs code on loading:")
            for sentence in found.runs_code:
                self.line(f"  {display(sentence)}")
        elif found.refused is None:
            self.line("runs code on loading: nothing")
