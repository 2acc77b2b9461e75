"""Moving what is stored: new aligned names, a new name for a recording."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tracer import names
from tracer.errors import TraceError
from tracer.store import places, zarr3
from tracer.store.recordings import Recording, Stored
from tracer.store.trace import Trace, lock

Weight = tuple[str, str]
"""Owner and name of a parameter; or the aligned layer and the name that it is stored under."""
_Named = str | Weight
_SECTIONS = (("activations", ""), ("gradients", places.GRADIENTS))
"""The indices of a recording whose arrays lie under aligned names, and what stands before their places."""
_WEIGHTS = (("weights", ""), ("weight_gradients", places.GRADIENTS))
_PARTS = dict((*_SECTIONS, *_WEIGHTS))
_PENDING = frozenset({"pending_keys", "pending_weights", "pending_attributes"})
_ASIDE = "\0moving"
"""The layer under which weights lie that are in each other's way."""


def rekey(
    trace: Trace,
    name: str,
    keys: Mapping[str, str],
    attributes: Mapping[str, Any],
    weights: Mapping[Weight, Weight] | None = None,
) -> None:
    """Store a recording's activations, and weights where ``weights`` says so, under new aligned names and update its
    attributes.

    New folders are made beside the old ones (hard links: no data is copied), then the recording's metadata is
    replaced in one step, then the old folders go. Killed at any instant, the recording is as before or as wanted
    (or, where two arrays change places, has ``pending_keys`` that :func:`finish_rekeys` carries out).

    Raises TraceError when the recording is being written or the disk fails.
    """
    recording = trace.recording(name)
    with lock(recording.folder):
        key = names.encode(name)
        held: dict[tuple[str, _Named], str] = {
            (index, what): stored.path for index in _PARTS for what, stored in _section(recording, index).items()
        }
        wanted = dict(held)
        for index, what in held:
            if isinstance(what, str):
                wanted[index, what] = places.activation(what, keys, key, _PARTS[index])
            elif weights is not None and what in weights:
                wanted[index, what] = places.weight(*weights[what], key, _PARTS[index])
        occupied = {path: what for what, path in held.items()}
        in_the_way = {occupied[path] for what, path in wanted.items() if occupied.get(path, what) != what}
        if in_the_way:
            aside = {**held, **{entry: _aside(entry, key) for entry in in_the_way}}
            pending = {
                "pending_keys": dict(keys),
                "pending_weights": [[list(old), list(new)] for old, new in (weights or {}).items()],
                "pending_attributes": dict(attributes),
            }
            recording = _move(trace, recording, aside, {}, pending)
        _move(trace, recording, wanted, keys, attributes)


def _aside(entry: tuple[str, _Named], key: str) -> str:
    index, what = entry
    if isinstance(what, str):
        return places.activation(what, {}, key, _PARTS[index])
    return places.weight(_ASIDE, "\0".join(what), key, _PARTS[index])


def finish_rekeys(trace: Trace) -> None:
    """Carry out what a killed :func:`rekey` had begun; a recording that is being written is left alone."""
    for recording in trace.recordings():
        if "pending_keys" in recording.attributes:
            with contextlib.suppress(TraceError):
                found = recording.attributes
                weights = {tuple(old): tuple(new) for old, new in found.get("pending_weights", ())}
                rekey(trace, recording.name, found["pending_keys"], found["pending_attributes"], weights)


def _section(recording: Recording, index: str) -> Mapping[Any, Stored]:
    found: Mapping[Any, Stored] = getattr(recording, index)
    return found


def _move(
    trace: Trace,
    recording: Recording,
    paths: Mapping[tuple[str, _Named], str],
    keys: Mapping[str, str],
    more: Mapping[str, Any],
) -> Recording:
    entries: dict[str, list[list[Any]]] = {index: [] for index in _PARTS}
    for index, found in entries.items():
        for what, stored in _section(recording, index).items():
            path = paths[index, what]
            if path != stored.path:
                aligned = keys.get(what) if isinstance(what, str) else None
                _link(trace.root / stored.path, trace.root / path, trace.root, aligned)
            label = [what] if isinstance(what, str) else list(what)
            found.append([*label, path, list(stored.shape), stored.dtype, dict(stored.summary)])
    entries = {index: found for index, found in entries.items() if found or index in ("activations", "weights")}
    attributes = {k: v for k, v in recording.attributes.items() if k not in {"plan", *_PENDING}}
    try:
        zarr3.make_group(recording.folder, {**attributes, **more, **entries})
    except OSError as error:
        raise TraceError(f"cannot rewrite recording '{names.display(recording.name)}': {error.strerror}") from error
    trace.sweep(recording.name, keep=frozenset(paths.values()))
    return trace.recording(recording.name)


def _parameters(recording: Recording) -> Iterator[Stored]:
    yield from recording.weights.values()
    yield from recording.weight_gradients.values()


def rename(trace: Trace, old: str, new: str) -> None:
    """Give a recording another name, replacing the one that has it.

    The replaced recording is deleted only when everything of the other lies under the new name; killed half way, at
    least one of the two is whole. Raises TraceError.
    """
    recording = trace.recording(old)
    key, old_key = names.encode(new), names.encode(old)

    with lock(recording.folder):
        if trace.has(new):
            trace.delete(new)
        every = [*recording.activations.values(), *recording.gradients.values(), *_parameters(recording)]
        for path in (stored.path for stored in every):
            target = trace.root / places.renamed(path, key)
            _link(trace.root / path, target, trace.root, None, names_=(old_key, key, new))
        attributes = dict(recording.attributes)
        for index, place in (("activations", 1), ("gradients", 1), ("weights", 2), ("weight_gradients", 2)):
            if index in attributes:
                attributes[index] = [
                    [*entry[:place], places.renamed(entry[place], key), *entry[place + 1 :]]
                    for entry in attributes[index]
                ]
        attributes.pop("plan", None)
        try:
            zarr3.make_group(trace.root / "recordings" / key, {**attributes, "name": new})
        except OSError as error:
            raise TraceError(f"cannot rename recording '{names.display(old)}': {error.strerror}") from error
    trace.delete(old)


def _link(
    source: Path, target: Path, root: Path, aligned: str | None, names_: tuple[str, str, str] | None = None
) -> None:
    """Have the array ``source`` at ``target`` too, its chunk shared where the file system can.

    ``names_`` (old key, new key, new name) moves it to another recording and leaves its aligned name.
    """
    try:
        for parent in reversed(target.parents):
            if len(parent.parts) > len(root.parts):
                zarr3.make_group(parent)
        if target.exists():
            shutil.rmtree(target)
        target.mkdir()
        metadata = zarr3.read_metadata(source)
        for entry in os.scandir(source):
            if entry.name != zarr3.METADATA:
                try:
                    os.link(entry.path, target / entry.name)
                except OSError:
                    shutil.copyfile(entry.path, target / entry.name)
        if names_ is None:
            metadata["attributes"].pop("aligned", None)
            if aligned is not None:
                metadata["attributes"]["aligned"] = aligned
        else:
            old_key, key, name = names_
            metadata["attributes"]["recording"] = name
            dimensions = metadata.get("dimension_names") or []
            metadata["dimension_names"] = [d.replace(f"{old_key}_axis", f"{key}_axis") for d in dimensions]
        zarr3.write_metadata(target, metadata)
    except OSError as error:
        raise TraceError(f"cannot move {names.display(source.name)} in the trace: {error.strerror}") from error
