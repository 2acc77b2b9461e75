"""Writing one recording: copies come in, a thread writes them, memory stays bounded."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes, names
from tracer.adapter import NotRecorded
from tracer.errors import InputError, TraceError
from tracer.graph import Param, Structure
from tracer.store import zarr3
from tracer.store.summary import summarize
from tracer.store.trace import Recording, Trace, inside, lock

DEFAULT_MEMORY = 256 << 20

_Item = tuple[str, NDArray[Any]]


class RecordingWriter:
    """A sink (see :class:`tracer.adapter.Sink`) that writes a recording into a trace.

    Use as a context manager; on a normal exit the recording is ``complete`` if every planned tensor was saved,
    otherwise, and after an exception, it is ``failed`` and keeps what was saved.

    Args:
        keys: node name to the aligned name it is stored under; nodes that are missing are stored as unaligned.
        memory: bytes of copies that may wait to be written; a full queue makes the model wait.
        progress: called with the number of tensors taken so far.
    """

    def __init__(
        self,
        trace: Trace,
        name: str,
        structure: Structure,
        attributes: Mapping[str, Any],
        keys: Mapping[str, str],
        *,
        memory: int = DEFAULT_MEMORY,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.trace = trace
        self.name = name
        self._key = names.encode(name)
        self._folder = trace.root / "recordings" / self._key
        self._planned = {node.name for node in structure.stored()}
        self._paths = {
            node: f"layers/{names.encode(keys[node])}/{self._key}"
            if node in keys
            else f"unaligned/{self._key}/{names.encode(node)}"
            for node in self._planned
        }
        self._attributes = {
            **attributes,
            "name": name,
            "created": time.time(),
            "structure": structure.to_json(),
            "planned": len(self._planned),
        }
        self._keys = dict(keys)
        self._activations: dict[str, list[Any]] = {}
        self._weights: list[list[Any]] = []
        self.skipped: dict[str, str] = {}
        self._fault: OSError | None = None
        self._taken = 0
        self._progress = progress
        self._memory = max(memory, 1 << 20)
        self._waiting = 0
        self._room = threading.Condition()
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if (self._folder / zarr3.METADATA).exists():
            raise InputError(
                f"recording '{names.display(self.name)}' exists already: --force replaces it, --name keeps both"
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._stack.enter_context(lock(self._folder))
            self.trace.sweep(self.name)  # left over by a process that was killed
            plan = [[node, path] for node, path in self._paths.items()]
            self._write_attributes(state="recording", plan=plan)
        except OSError as error:
            self._stack.close()
            if isinstance(error, TraceError):
                raise
            raise TraceError(self._explain(error)) from error
        self._thread = threading.Thread(target=self._drain, name="tracer-writer", daemon=True)
        self._thread.start()
        return self

    def __call__(self, name: str, value: NDArray[Any] | NotRecorded, *, owned: bool = False) -> None:
        """Take a node's tensor; copied before this returns unless ``owned``. Never raises."""
        self._taken += 1
        if self._progress is not None:
            self._progress(self._taken)
        if isinstance(value, NotRecorded):
            self.skipped[name] = value.reason
            return
        if name not in self._planned:
            self.skipped[name] = "not in the structure that was seen first"
            return
        if not dtypes.storable(value.dtype):
            self.skipped[name] = f"elements of type {value.dtype}"
            return
        size = value.nbytes
        with self._room:
            # A tensor larger than the whole budget passes alone.
            self._room.wait_for(
                lambda: self._fault is not None or self._waiting == 0 or self._waiting + size <= self._memory
            )
            if self._fault is not None:
                return
            self._waiting += size
        self._queue.put((name, value if owned else np.array(value, order="C", copy=True)))

    def put_weights(self, owner: str, param: Param, value: NDArray[Any], key: tuple[str, str]) -> None:
        """Write a parameter under ``weights/<key[0]>/<key[1]>/<recording>``. Raises TraceError."""
        if not dtypes.storable(value.dtype):
            self.skipped[f"{owner}:{param.name}"] = f"elements of type {value.dtype}"
            return
        path = f"weights/{names.encode(key[0])}/{names.encode(key[1])}/{self._key}"
        try:
            self._write(path, value, {"owner": owner, "param": param.name, "trainable": param.trainable})
        except OSError as error:
            raise self.failure(error) from error
        self._weights.append([owner, param.name, path, list(value.shape), value.dtype.name])

    def _write(self, path: str, values: NDArray[Any], attributes: Mapping[str, Any]) -> None:
        folder = inside(self.trace.root, path)
        for parent in reversed(folder.parents):
            if len(parent.parts) > len(self.trace.root.parts) + 1:
                zarr3.make_group(parent)
        dimensions = [f"{self._key}_axis{axis}" for axis in range(values.ndim)]
        zarr3.write_array(folder, values, attributes, dimensions)

    def _drain(self) -> None:
        while (item := self._queue.get()) is not None:
            name, values = item
            if self._fault is None:
                try:
                    summary = summarize(values)
                    attributes = {"node": name, "recording": self.name, "summary": summary}
                    if name in self._keys:
                        attributes["aligned"] = self._keys[name]
                    self._write(self._paths[name], values, attributes)
                    entry = [name, self._paths[name], list(values.shape), values.dtype.name, summary]
                    self._activations[name] = entry
                except OSError as error:
                    self._fault = error
                except Exception as error:  # the model must go on; the recording says what is missing
                    self.skipped[name] = f"{type(error).__name__}: {error}"
            with self._room:
                self._waiting -= values.nbytes
                self._room.notify()

    def _write_attributes(self, *, state: str, **more: Any) -> None:
        zarr3.make_group(self._folder, {**self._attributes, "state": state, **more})

    def _explain(self, error: OSError) -> str:
        where = names.display(str(self.trace.root))
        return f"cannot write the trace {where}: {error.strerror or error}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._queue.put(None)
        self._thread.join()
        with self._stack:
            missing = sorted(self._planned - self._activations.keys() - self.skipped.keys())
            reason = None
            if error is not None:
                reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
            elif self._fault is not None:
                reason = self._explain(self._fault)
            elif missing:
                reason = f"{len(missing)} of {len(self._planned)} tensors never came, the first: {missing[0]}"
            self._attributes["seconds"] = time.time() - self._attributes["created"]
            try:
                self._write_attributes(
                    state="failed" if reason else "complete",
                    error=reason,
                    activations=list(self._activations.values()),
                    weights=self._weights,
                    skipped=self.skipped,
                )
            except OSError as fault:
                # Not even this fits on the disk: the recording then reads as interrupted, with what was saved.
                self._fault = self._fault or fault
        if error is None and self._fault is not None:
            raise TraceError(self._explain(self._fault)) from self._fault
        if error is None and missing:
            raise TraceError(f"recording '{names.display(self.name)}' is incomplete: {reason}")

    def failure(self, error: OSError) -> TraceError:
        """Note a fault of the disk, and the error to raise for it."""
        self._fault = self._fault or error
        return TraceError(self._explain(error))

    @property
    def saved(self) -> int:
        return len(self._activations)


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
        wanted = {
            node: f"layers/{names.encode(keys[node])}/{key}"
            if node in keys
            else f"unaligned/{key}/{names.encode(node)}"
            for node in recording.activations
        }
        occupied = {stored.path: node for node, stored in recording.activations.items()}
        in_the_way = {occupied[path] for node, path in wanted.items() if occupied.get(path, node) != node}
        if in_the_way:
            aside = {node: stored.path for node, stored in recording.activations.items()}
            aside |= {node: f"unaligned/{key}/{names.encode(node)}" for node in in_the_way}
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


def _move(
    trace: Trace,
    recording: Recording,
    paths: Mapping[str, str],
    keys: Mapping[str, str],
    more: Mapping[str, Any],
) -> Recording:
    entries = []
    for node, stored in recording.activations.items():
        if paths[node] != stored.path:
            _link(trace.root / stored.path, trace.root / paths[node], trace.root, keys.get(node))
        entries.append([node, paths[node], list(stored.shape), stored.dtype, dict(stored.summary)])
    dropped = {"plan", "pending_keys", "pending_attributes"}
    attributes = {k: v for k, v in recording.attributes.items() if k not in dropped}
    try:
        zarr3.make_group(recording.folder, {**attributes, **more, "activations": entries})
    except OSError as error:
        raise TraceError(f"cannot rewrite recording '{names.display(recording.name)}': {error.strerror}") from error
    keep = [*paths.values(), *(stored.path for stored in recording.weights.values())]
    trace.sweep(recording.name, keep=frozenset(keep))
    return trace.recording(recording.name)


def rename(trace: Trace, old: str, new: str) -> None:
    """Give a recording another name, replacing the one that has it.

    The replaced recording is deleted only when everything of the other lies under the new name; killed half way, at
    least one of the two is whole. Raises TraceError.
    """
    recording = trace.recording(old)
    key, old_key = names.encode(new), names.encode(old)

    def moved(path: str) -> str:
        head, _, last = path.rpartition("/")
        return f"{head}/{key}" if not path.startswith("unaligned/") else f"unaligned/{key}/{last}"

    with lock(recording.folder):
        if trace.has(new):
            trace.delete(new)
        for path in (s.path for s in (*recording.activations.values(), *recording.weights.values())):
            _link(trace.root / path, trace.root / moved(path), trace.root, None, names_=(old_key, key, new))
        attributes = dict(recording.attributes)
        attributes["activations"] = [[n, moved(path), *rest] for n, path, *rest in attributes.get("activations", [])]
        attributes["weights"] = [[o, p, moved(path), *rest] for o, p, path, *rest in attributes.get("weights", [])]
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
            if len(parent.parts) > len(root.parts) + 1:
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
