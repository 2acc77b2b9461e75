"""``tracer record``: checks, the worker, and the line that says what was recorded."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from tracer import adapter as adapters
from tracer.adapter import Adapter, LoadRequest
from tracer.cli import settings
from tracer.errors import ExitCode, InputError, MissingFrameworkError
from tracer.names import display
from tracer.options import Options
from tracer.recording import check_name, check_run
from tracer.report.words import bytes_text, count, shape_text
from tracer.store import Trace, zarr3
from tracer.worker import protocol, supervise
from tracer.worker.results import parse_record

SCHEMA = "tracer-record/1"
_NAMED = 5
"""How many of the tensors that could not be stored are named."""


@dataclass(frozen=True)
class Loading:
    """How to load the model, as typed."""

    adapter: str
    model: Path | None
    weights: Path | None
    arch: str | None
    arch_args: str
    imports: tuple[str, ...]
    allow: tuple[str, ...]
    trust: bool
    sandbox: bool
    load_timeout: float
    memory_limit: float | None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    python: str | None = None
    """Another environment's interpreter that is to load it, as :func:`tracer.worker.elsewhere.interpreter` gives it."""

    def request(self) -> LoadRequest:
        """Raises InputError when nothing names a model, or --arch-args is no JSON list or object."""
        if self.model is None and self.arch is None:
            raise InputError("name a model file, or --arch pkg.mod:callable that builds the model")
        try:
            arguments = json.loads(self.arch_args)
        except (ValueError, RecursionError) as error:
            raise InputError(f"--arch-args is no JSON: {display(str(error))}") from error
        if not isinstance(arguments, list | dict):
            raise InputError("--arch-args wants a JSON list or object")
        return LoadRequest(
            self.model, self.weights, self.arch, arguments, self.imports, self.allow, self.trust,
            self.inputs, self.outputs,
        )  # fmt: skip

    def run(
        self, command: str, label: str, options: dict[str, Any], *, read: tuple[str, ...] = (),
        despite: tuple[type[InputError], ...] = (), **more: Any
    ) -> dict[str, Any]:  # fmt: skip
        """Run a command in the worker, with progress; ``despite`` are the faults of the files that do not keep it.

        Raises TracerError, KeyboardInterrupt.
        """
        request = self.request()
        adapter = self.known_adapter()
        with contextlib.suppress(*despite, *([] if self.python is None else [ImportError])):
            adapter.preflight(request)  # there once more: what reads the file may be only there
        settings_files = (os.path.expanduser(name) for name in adapter.settings_files)
        job = protocol.Job(
            command=command,  # type: ignore[arg-type]
            adapter=self.adapter,
            request=protocol.request_to_json(request),
            options=options,
            read=(*read, *settings_files),
            sandbox=self.sandbox,
            debug=settings.debug,
            **more,
        )
        if self.memory_limit is not None and not math.isfinite(self.memory_limit):
            raise InputError("--memory-limit wants a number of gigabytes")
        limit = None if self.memory_limit is None else int(self.memory_limit * 1e9)
        with _Narration(label) as narrate:
            return supervise.run(
                job, on_event=narrate, python=self.python or sys.executable, load_timeout=self.load_timeout,
                memory_limit=limit,
            )  # fmt: skip

    def known_adapter(self) -> Adapter:
        """The adapter, whose framework may be in another environment alone. Raises InputError, AdapterError."""
        try:
            return adapters.get(self.adapter, check=self.python is None)
        except MissingFrameworkError as error:
            error.args = (f"{error} (or --python PATH: an environment that has it)", *error.args[1:])
            raise


class _Narration:
    """Shows a worker's events: a spinner while it loads, a bar with an ETA while it records, notices as lines."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._status: Any = None
        self._bar: Any = None
        self._show: Any = None

    def __enter__(self) -> _Narration:
        self._status = settings.err().status(Text(f"{self._label}: starting"))
        if settings.err().is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_bar()
        self._status.stop()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def __call__(self, event: protocol.Event) -> None:
        if event["event"] == "notice":
            settings.say(f"note: {event['text']}")
        elif event["event"] == "phase":
            self._stop_bar()
            if settings.err().is_terminal:
                self._status.update(Text(f"{self._label}: {event['text']}"))
                self._status.start()
        elif event["event"] == "progress" and settings.err().is_terminal:
            if self._bar is None:
                self._status.stop()
                self._bar = settings.progress(f"{self._label}: recording")
                self._show = self._bar.__enter__()
            self._show(event["done"], event["total"])


def record(loading: Loading, options: Options, *, trace: Path, as_json: bool) -> int:
    """Record a model file: PARTIAL where some of its tensors could not be stored.

    Raises TracerError in one line; the trace's other recordings are never touched.
    """
    result = recorded(loading, options, trace)
    code = ExitCode.PARTIAL if result["skipped"] else ExitCode.OK
    if as_json:
        settings.out().print(json.dumps({"schema": SCHEMA, **result}))
        return code
    _say(loading, result, trace)
    _next(loading, result, trace)
    return code


def recorded(loading: Loading, options: Options, trace: Path) -> dict[str, Any]:
    """Record a model file in a worker: what it says of the recording. Raises TracerError."""
    from tracer.inputs import LAYOUTS

    if options.layout not in LAYOUTS:
        raise InputError(f"--layout is one of {', '.join(LAYOUTS)}, not '{display(options.layout)}'")
    loading.request()
    check_run(loading.known_adapter(), loading.adapter, options)
    opened = Trace.at(trace)
    check_name(opened, options)
    if options.reference is not None:
        opened.recording(options.reference)
    readable = () if options.input is None or options.input.startswith("seed:") else (options.input,)
    if readable:
        from tracer.preflight import check_regular_file

        check_regular_file(Path(readable[0]))
    label = f"{loading.adapter} {_subject(loading)}"
    answer = loading.run("record", label, asdict(options), trace=str(trace.absolute()), read=readable)
    result = parse_record(answer).model_dump()
    if options.durable:
        with contextlib.suppress(PermissionError):  # a folder that may not be read cannot be synced
            zarr3.sync(trace.absolute().parent)
    return result


def named(names: str | None) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(part.strip() for part in (names or "").split(",") if part.strip())


def absolute_loss(loss: str | None) -> str | None:
    """``file.py:callable`` with the file's whole path: the worker has a directory of its own."""
    where, colon, what = (loss or "").rpartition(":")
    return f"{Path(where).absolute()}{colon}{what}" if where.endswith(".py") else loss


def absolute(source: str | None) -> str | None:
    """An input file's whole path; ``seed:N`` stays as it is."""
    return source if source is None or source.startswith("seed:") else str(Path(source).absolute())


def _subject(loading: Loading) -> str:
    return display(loading.model.name if loading.model is not None else loading.arch or "", 40)


def _say(loading: Loading, result: dict[str, Any], trace: Path) -> None:
    shapes = ", ".join(shape_text(shape) for shape in result["input_shapes"].values()) or "(none)"
    there = "" if loading.python is None else f" of {display(loading.python)}"
    line = (
        f"recorded '{display(result['name'])}': {result['saved']} of {result['planned']} activations "
        f"({result['nodes']} nodes), {bytes_text(result['nbytes'])} in {result['seconds']:.1f} s "
        f"→ {display(str(trace))}\n"
        f"  by {display(result['loader'])}{there}; input {display(result['input_id'])} {shapes}"
    )
    if result["gradients"] or result["weight_gradients"]:
        line += f"; gradients of {result['gradients']} activations and {result['weight_gradients']} weights"
    settings.out().print(Text(line))
    if result["pairs"] is not None:
        settings.out().print(Text(f"aligned to '{display(result['reference'])}': {count(result['pairs'], 'pair')}"))
    skipped = list(result["skipped"].items())
    for name, reason in skipped[:_NAMED]:
        settings.say(f"note: {display(name)} not recorded: {display(reason)}")
    if len(skipped) > _NAMED:
        settings.say(f"note: {len(skipped) - _NAMED} more were not recorded: tracer runs --json names them")
    for note in result["notes"][result["model_notes"] :]:  # those about loading were shown while it loaded
        settings.say(f"note: {display(note)}")


def _next(loading: Loading, result: dict[str, Any], trace: Path) -> None:
    option = settings.trace_option(trace)
    if result["pairs"] is None:
        other = "pt model.pt" if loading.adapter == "tf" else "tf model.h5"
        settings.hint(f"tracer record {other}{option}")
    elif Trace.at(trace).recording(result["reference"]).input_id != result["input_id"]:
        given = display(result["reference"])
        settings.hint(f"the same again with --force and without --input: it gets the input of '{given}'")
    else:
        settings.hint(f"tracer diff{option}   or   tracer ui{option}")
