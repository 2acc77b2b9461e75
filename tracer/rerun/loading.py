"""A recorded model once more: what it was loaded from, what it was fed, and how it was run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer import adapter as adapters
from tracer import inputs as inputs_
from tracer.adapter import Array, LoadedModel, LoadRequest, Run
from tracer.batches import WHOLE, split
from tracer.errors import ReplayError
from tracer.graph import Structure
from tracer.names import display
from tracer.store import Recording, Trace
from tracer.worker import protocol

if TYPE_CHECKING:
    from tracer.worker.protocol import Event, Job


@dataclass(frozen=True)
class Source:
    """Where a recording's model came from; ``python`` as in :func:`described`."""

    adapter: str
    request: LoadRequest
    python: str | None = None


def described(adapter: str, request: LoadRequest, python: str | None = None) -> dict[str, Any]:
    """What a recording keeps of how its model was loaded, for :func:`source`; consent to run code is not kept.

    ``python`` is the interpreter that loaded it, where that is another environment's.
    """
    found = protocol.request_to_json(request)
    del found["trust"]
    found["arch"] = _absolute(found["arch"])
    found["imports"] = [_absolute(name) for name in found["imports"]]
    return {"adapter": adapter, **found, **({} if python is None else {"python": python})}


def _absolute(name: str | None) -> str | None:
    """``file.py`` or ``file.py:callable`` with its whole path; a module's name as it is."""
    file, colon, what = (name or "").partition(".py")
    return f"{Path(file).absolute()}.py{what}" if colon and (not what or what.startswith(":")) else name


def source(recording: Recording, *, trust: bool = False) -> Source:
    """Where to load a recording's model from.

    Raises ReplayError where it was recorded from a live object, and where its files are gone or have changed.
    """
    shown = display(recording.name)
    model = recording.attributes.get("model")
    load = model.get("load") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(load, Mapping):
        raise ReplayError(
            f"'{shown}' was recorded from a live model, or by an earlier tracer: give the models themselves "
            "(models=(…, …) in Python), or record its file again"
        )
    try:
        request = protocol.request_from_json({**load, "trust": trust})
        adapter, python = str(load["adapter"]), load.get("python")
    except (KeyError, TypeError) as error:
        raise ReplayError(f"damaged: how the model of '{shown}' was loaded") from error
    for key, path in (("file", request.path), ("weights", request.weights)):
        if path is None:
            continue
        if not path.exists():
            raise ReplayError(f"the model of '{shown}' is gone: {display(str(path))}")
        known = model.get(key)
        try:
            same = not isinstance(known, Mapping) or digest(path) == known.get("sha256")
        except OSError as error:
            raise ReplayError(f"cannot read {display(str(path))}: {error.strerror}") from error
        if not same:
            raise ReplayError(
                f"{display(str(path))} has changed since '{shown}' was recorded: record it again (--force)"
            )
    return Source(adapter, request, None if python is None else str(python))


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
        return found.hexdigest()


def prepare(
    model: LoadedModel, recording: Recording, *, weights: bool = True, batches: bool = False
) -> dict[str, Array]:
    """What ``recording`` was fed, in the model's own axes; the model is set to run as it was recorded.

    Without ``weights`` it may have others than it was recorded with. With ``batches`` a recording in several is no
    mistake: what is given is what was fed to all of them.

    Raises ReplayError where it was recorded in a way that cannot be repeated, or its graph is another one now,
    InputError where the model does not take the input any more.
    """
    shown = display(recording.name)
    parts = split(recording)
    if parts != WHOLE and not batches:
        raise ReplayError(f"'{shown}' was recorded in several batches: record it in one")
    model.run = Run("train" if recording.attributes.get("mode") == "train" else "eval")
    saved = Trace.open(recording.root).inputs(recording.input_id)
    axes = recording.attributes.get("input_axes")
    if not isinstance(axes, Mapping) or len(axes) != len(saved):
        raise ReplayError(f"the input of '{shown}' is not in the trace")
    specs = {spec.name: spec for spec in (*model.signature(), *model.optional())}
    found: dict[str, Array] = {}
    for (values, _), (name, order) in zip(saved.values(), axes.items(), strict=True):
        turned = np.ascontiguousarray(np.asarray(values).transpose([int(axis) for axis in order]))
        found[name] = inputs_.as_wanted(turned, specs.get(name))
    ordered = {name: found[name] for name in specs if name in found}
    inputs = ordered if len(ordered) == len(found) else found
    _, first = next(iter(parts.each(inputs)))
    check_same(model.structure(first), recording)
    if weights and (changed := _revalued(model, recording)):
        raise _other(recording, changed)
    return inputs


def _other(recording: Recording, changed: str) -> ReplayError:
    return ReplayError(
        f"the model of '{display(recording.name)}' is not the one that was recorded ({changed}): record it again"
    )


def check_same(now: Structure, recording: Recording) -> None:
    """Raises ReplayError where a structure is another than was recorded: code and live objects have no checksum."""
    changed = _changed(now, recording.structure)
    if changed:
        raise _other(recording, changed)


def _changed(now: Structure, then: Structure) -> str:
    """What is another in one structure than in the other, in words."""
    if [node.name for node in now.stored()] != [node.name for node in then.stored()]:
        return "it runs other operations"
    same = Structure.from_json(json.loads(json.dumps(now.to_json())))
    for node in same:
        before = then.by_name.get(node.name)
        if before is None or (node.kind, node.config) == (before.kind, before.config):
            continue
        keys = [key for key in {**before.config, **node.config} if before.config.get(key) != node.config.get(key)]
        where = display(node.name)
        if not keys:
            return f"{where} is {display(node.kind)}, and was {display(before.kind)}"
        was, is_ = (display(str(side.config.get(keys[0])), 40) for side in (before, node))
        return f"{display(keys[0])} of {where} is {is_}, and was {was}"
    return ""


def _revalued(model: LoadedModel, recording: Recording) -> str:
    """Which parameter holds other values than were recorded, in words."""
    for owner, param, value in model.parameters():
        stored = recording.weights.get((owner, param.name))
        if stored is None:
            continue
        kept = recording.read_stored(stored)
        if kept.shape != value.shape or not np.array_equal(kept, value, equal_nan=value.dtype.kind in "fc"):
            return f"{display(param.name)} of {display(owner)} has other values"
    return ""


def live(
    model: object, recording: Recording, *, weights: bool = True, batches: bool = False
) -> tuple[LoadedModel, dict[str, Array]]:
    """The live ``model`` of a recording, and what it was fed. Raises as :func:`prepare`, and where none knows it."""
    loaded = adapters.for_object(model)[1].wrap(model)
    return loaded, prepare(loaded, recording, weights=weights, batches=batches)


def of_job(
    job: Job, emit: Callable[[Event], None], *, batches: bool = False
) -> tuple[LoadedModel, dict[str, Array], Recording]:
    """In a worker: the recorded model that the job is about, what it was fed, and the recording.

    Raises InputError and RefusedError of the loading, and as :func:`prepare`.
    """
    recording = Trace.open(job.options["trace"]).recording(job.options["recording"])
    model = adapters.get(job.adapter).load(protocol.request_from_json(job.request))
    emit(protocol.phase(protocol.PREPARING))
    inputs = prepare(model, recording, batches=batches)
    emit(protocol.phase("running it again"))
    return model, inputs, recording
