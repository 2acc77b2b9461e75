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
from tracer.store.trace import Recording, Stored, Trace, lock

_SECTIONS = (("activations", ""), ("gradients", places.GRADIENTS))
"""The indices of a recording whose arrays lie under aligned names, and what stands before their places."""


def rekey(trace: Trace, name: str, keys: Mapping[str, str], attributes: Mapping[str, Any]) -> None:
    """Store a recording's activations under new aligned names and update its attributes.

    New folders are made beside the old ones (hard links: no data is copied), then the recording's metadata is
    replaced in one step, then the old folders go. Killed at any instant, the recording is as before or as wanted
    (or, where two activations change places, has ``pending_keys`` that :func:`finish_rekeys` carries out).

    Raises TraceError when the recording is being written or the disk fails.
    """
    recording = trace.recording(name)
    with lock(recording.folder):
        key = names.encode(name)
        held = {
            (index, node): stored.path for index, _ in _SECTIONS for node, stored in _section(recording, index).items()
        }
        parts = dict(_SECTIONS)
        wanted = {(index, node): places.activation(node, keys, key, parts[index]) for index, node in held}
        occupied = {path: what for what, path in held.items()}
        in_the_way = {occupied[path] for what, path in wanted.items() if occupied.get(path, what) != what}
        if in_the_way:
            aside = {what: path for what, path in held.items() if what not in in_the_way}
            aside |= {(index, node): places.activation(node, {}, key, parts[index]) for index, node in in_the_way}
            pending = {"pending_keys": dict(keys), "pending_attributes": dict(attributes)}
            recording = _move(trace, recording, aside, {}, pending)
        _move(trace, recording, wanted, keys, attributes)


def finish_rekeys(trace: Trace) -> None:
    """Carry out what a killed :func:`rekey` had begun; a recording that is being written is left alone."""
    for recording in trace.recordings():
        if "pending_keys" in recording.attributes:
            with contextlib.suppress(TraceError):
                keys, attributes = (
                    recording.attributes["pending_keys"],
                    recording.attributes["pending_attributes"],
                )
                rekey(trace, recording.name, keys, attributes)


def _section(recording: Recording, index: str) -> Mapping[str, Stored]:
    return recording.activations if index == "activations" else recording.gradients


def _move(
    trace: Trace,
    recording: Recording,
    paths: Mapping[tuple[str, str], str],
    keys: Mapping[str, str],
    more: Mapping[str, Any],
) -> Recording:
    entries: dict[str, list[list[Any]]] = {index: [] for index, _ in _SECTIONS}
    for index, found in entries.items():
        for node, stored in _section(recording, index).items():
            path = paths[index, node]
            if path != stored.path:
                _link(trace.root / stored.path, trace.root / path, trace.root, keys.get(node))
            found.append([node, path, list(stored.shape), stored.dtype, dict(stored.summary)])
    if not entries["gradients"]:
        del entries["gradients"]
    dropped = {"plan", "pending_keys", "pending_attributes"}
    attributes = {k: v for k, v in recording.attributes.items() if k not in dropped}
    try:
        zarr3.make_group(recording.folder, {**attributes, **more, **entries})
    except OSError as error:
        raise TraceError(f"cannot rewrite recording '{names.display(recording.name)}': {error.strerror}") from error
    keep = [*paths.values(), *(stored.path for stored in _parameters(recording))]
    trace.sweep(recording.name, keep=frozenset(keep))
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
