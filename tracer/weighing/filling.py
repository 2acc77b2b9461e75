"""The target's model with the weights put in: saved, loaded again from what was saved, and recorded.

The recording lies under the names that its structure was aligned to: who fills it compares it, and refines them with
the alignment of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tracer import adapter as adapters
from tracer import dtypes, recording
from tracer.adapter import LoadedModel, LoadRequest
from tracer.alignment.owned import Key
from tracer.batches import WHOLE, split
from tracer.errors import InputError, TraceError, TracerError
from tracer.names import display
from tracer.options import Options
from tracer.rerun import loading
from tracer.store import Recording, Trace
from tracer.text import described
from tracer.weighing.carrying import Carried
from tracer.worker import protocol

if TYPE_CHECKING:
    from tracer.worker.protocol import Event, Job

Array = NDArray[Any]


@dataclass(frozen=True)
class Again:
    """How the filled model is to be recorded.

    Attributes:
        name: of the recording.
        source: the recording whose input it is run on, in whose mode, and to which it is aligned.
        layout, batch: how the input's axes move, and how many samples run at a time, as in :class:`Options`.
    """

    name: str
    source: str
    mode: str = "eval"
    layout: str = "auto"
    batch: int | None = None

    @classmethod
    def of(cls, name: str, source: Recording, target: Recording) -> Again:
        """As the target was recorded, on the source's input."""
        mode = str(source.attributes.get("mode", "eval"))
        parts = split(target)
        return cls(name, source.name, mode, _layout(source, target), None if parts == WHOLE else parts.size)

    def ready(self, model: LoadedModel, target: Recording, values: Mapping[Key, Array]) -> bool:
        """Whether ``model`` can be filled as it is, and recording it will show whether it is the target's.

        Otherwise it is run here, as the target was recorded: its weights are only made by that, or it will be recorded
        on another input. Raises as :func:`loading.prepare`.
        """
        made = {(owner, param.name) for owner, param, _ in model.parameters()}
        source = Trace.open(target.root).recording(self.source)
        as_then = source.input_id == target.input_id and self.mode == target.attributes.get("mode", "eval")
        if as_then and values.keys() <= made:
            return True
        loading.prepare(model, target, weights=False, batches=True)
        return False

    @property
    def options(self) -> Options:
        return Options(
            self.name,
            reference=self.source,
            mode="train" if self.mode == "train" else "eval",
            layout=self.layout,
            batch=self.batch,
        )


def _layout(source: Recording, target: Recording) -> str:
    """How the target's input was turned; ``auto`` where that says nothing of the source's."""
    axes = target.attributes.get("input_axes")
    if not isinstance(axes, Mapping) or source.input_id != target.input_id:
        return "auto"
    found = {_move(list(order)) for order in axes.values() if len(order) > 2}
    return found.pop() if len(found) == 1 else "auto"


def _move(order: list[int]) -> str:
    rank = len(order)
    if order == [*range(rank)]:
        return "same"
    if order == [0, rank - 1, *range(1, rank - 1)]:
        return "NHWC->NCHW"
    return "NCHW->NHWC" if order == [0, *range(2, rank), 1] else "auto"


def put(folder: Path, values: Mapping[Key, Array]) -> list[list[str]]:
    """Write arrays into ``folder``: owner, name, type and file of each, for :func:`taken`. Raises TraceError."""
    listed = []
    for number, ((owner, name), value) in enumerate(values.items()):
        file = f"{number}.npy"
        plain = np.asarray(value, order="C")
        if plain.dtype.kind == "V":  # numpy's format has no names for bfloat16 and float8
            plain = plain.view(f"u{plain.itemsize}")
        try:
            np.save(folder / file, plain, allow_pickle=False)
        except OSError as error:
            raise TraceError(f"cannot write temporary files: {error.strerror or error}") from error
        listed.append([owner, name, value.dtype.name, file])
    return listed


def taken(folder: Path, listed: Iterable[list[str]]) -> dict[Key, Array]:
    """What :func:`put` wrote. Raises OSError, ValueError."""
    found = {}
    for owner, name, dtype, file in listed:
        value = np.load(folder / file, allow_pickle=False)
        found[owner, name] = value if value.dtype.name == dtype else value.view(dtypes.by_name(dtype))
    return found


def save(model: LoadedModel, path: Path) -> None:
    """Write the model's weights. Raises InputError and ReplayError of the model, TraceError where the disk fails."""
    try:
        model.save_weights(path)
    except (OSError, RuntimeError) as error:  # torch's writer and HDF5 tell of a full disk by either
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"cannot write {display(path.name)}: {described(error, 160)}") from error


def loaded_again(
    adapter: str, request: LoadRequest, saved: Path, final: Path, python: str | None = None
) -> tuple[LoadedModel, dict[str, Any]]:
    """The model of ``request`` with the weights of the file ``saved``, and how it is described once that is ``final``.

    ``python`` is the interpreter, where it is another environment's. Raises as :meth:`Adapter.load`.
    """
    found = adapters.get(adapter)
    now = found.filled(request, saved)
    attributes = recording.describe_files(now)
    for part in ("file", "weights"):
        if attributes.get(part, {}).get("path") == str(saved):
            attributes[part]["path"] = str(final)
    attributes |= {"load": loading.described(adapter, found.filled(request, final), python), "trust": request.trust}
    try:
        return found.load(now), attributes
    except TracerError as error:
        error.args = (f"what was written cannot be loaded: {error}".replace(str(saved), str(final)),)
        raise


class Live:
    """Fills the live model of the target's recording, in place.

    ``saved`` is the file that its weights are written to; None where they are not.
    """

    def __init__(self, source: Recording, target: Recording, model: object, saved: Path | None) -> None:
        self._source, self._target, self._model, self._saved = source, target, model, saved
        self._before: dict[Key, Array] = {}
        self._filled: LoadedModel | None = None

    def __call__(self, carried: Carried, name: str) -> None:
        """Raises InputError where no adapter knows the model or it does not take the weights, ReplayError where it is
        not the one that was recorded, ModelError, TraceError."""
        model = adapters.for_object(self._model)[1].wrap(self._model)
        again = Again.of(name, self._source, self._target)
        ready = again.ready(model, self._target, carried.values)
        self._before = {
            (owner, param.name): np.array(value)
            for owner, param, value in model.parameters()
            if (owner, param.name) in carried.values
        }
        model.assign(carried.values)
        self._filled = model
        if self._saved is not None:
            save(model, self._saved)
        attributes = recording.describe_object(self._model)
        trace = Trace.open(self._target.root)
        recording.record(model, trace, again.options, model_attributes=attributes, refined=False)
        if ready:
            loading.check_same(trace.recording(name).structure, self._target)

    def undo(self) -> None:
        """Give the model its own weights back."""
        if self._filled is not None:
            self._filled.assign(self._before)


def check_constant(target: Recording, origin: loading.Source) -> None:
    """Raises InputError where the target's file holds its weights as constants."""
    what = adapters.get(origin.adapter).constant(origin.request)
    if what:
        raise InputError(
            f"'{display(target.name)}' is {what}: its weights are constants. Fill the model that it was made from: "
            "record that one, and name it with --to"
        )


def check_format(adapter: str, path: Path) -> None:
    """Raises InputError where the adapter's models cannot be written to a file of that name."""
    known = adapters.get(adapter).weight_files
    if not known:
        raise InputError(f"models of '{display(adapter)}' hold their weights as constants: nothing can be filled there")
    if not path.name.endswith(known):
        raise InputError(f"{display(path.name)}: weights of '{display(adapter)}' are written to {', '.join(known)}")


def run_transfer(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``transfer`` command: fill the recorded model, save it, load what was saved, and record that."""
    options = job.options
    folder, trace = Path(options["folder"]), Trace.open(options["trace"])
    target = trace.recording(options["recording"])
    request = protocol.request_from_json(job.request)
    model = adapters.get(job.adapter).load(request)
    emit(protocol.phase(protocol.PREPARING))
    again, values = Again(**options["again"]), taken(folder, options["values"])
    ready = again.ready(model, target, values)
    emit(protocol.phase("filling it"))
    model.assign(values)
    saved = folder / options["file"]
    save(model, saved)
    del model
    emit(protocol.phase("loading what was written"))
    filled, attributes = loaded_again(job.adapter, request, saved, Path(options["final"]), job.python)
    summary = recording.record_emitting(
        emit, filled, trace, again.options, {**attributes, "sandbox": job.confinement}, refined=False
    )  # fmt: skip
    if ready:
        loading.check_same(trace.recording(again.name).structure, target)
    return {"recorded": asdict(summary)}
