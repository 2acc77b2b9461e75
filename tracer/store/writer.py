"""Writing one recording: copies come in, a thread writes them, memory stays bounded."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes, forked, names
from tracer.adapter import NotRecorded
from tracer.collecting import rarely_collected
from tracer.errors import TraceError
from tracer.graph import Param, Structure
from tracer.store import places, zarr3
from tracer.store.buffers import Buffers
from tracer.store.entries import Row, Weight, encoded, listed
from tracer.store.joining import Growing, Unfit, overflows
from tracer.store.recordings import VALUES, inside, unwritable
from tracer.store.runs import RunWriter
from tracer.store.storage import Storage
from tracer.store.streaming import Copy
from tracer.store.summary import summaries, summarize
from tracer.store.summing import Sums
from tracer.store.trace import Trace, claimed
from tracer.text import described, text_of

if TYPE_CHECKING:
    from typing import Self

DEFAULT_MEMORY = 256 << 20

_Kind = Literal["value", "gradient"]
_Item = tuple[_Kind, str, int, NDArray[Any]]
_SMALL = 1 << 16
"""Bytes: smaller tensors wait for others, to be written together. A thread that writes each at once would keep taking
the interpreter from the model, whose every operation then waits for it."""
_TOGETHER = 4 << 20
_LONGEST = 0.5
"""Bytes and seconds that they wait for at most."""
_LITTLE, _WEIGHTS = 1 << 12, 256
"""Parameters of fewer bytes are written so many together: they come one right after the other."""


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
        storage: Storage | None = None,
        memory: int = DEFAULT_MEMORY,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.trace = trace
        self.name = name
        self._storage = storage or Storage()
        self._key = names.encode(name)
        self._folder = trace.root / "recordings" / self._key
        only = self._storage.only
        self._planned = {node.name for node in structure.stored() if only is None or node.name in only}
        self._attributes = {**attributes, "name": name, "created": time.time(), "planned": len(self._planned)}
        with rarely_collected():
            self._structure = zarr3.as_json(structure.to_json())
        self._keys = dict(keys)
        self._saved: dict[_Kind, dict[str, Row]] = {"value": {}, "gradient": {}}
        self._weights: dict[str, list[Row]] = {"weights": [], "weight_gradients": []}
        self._pack: RunWriter | None = None
        self._writing = threading.Lock()
        self._weight_keys: dict[tuple[str, str], tuple[str, str]] = {}
        self._growing: dict[str, Growing] = {}
        self._constants: dict[str, bytes] = {}
        self.skipped: dict[str, str] = {}
        self.skipped_gradients: dict[str, str] = {}
        self._wide: list[str] = []
        self._fault: OSError | None = None
        self._taken = 0
        self._progress = progress
        self._batch = 0
        self._memory = max(memory, 1 << 20)
        self._waiting = 0
        self._buffers = Buffers(self._memory)
        self._room = threading.Condition()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._as_it_is = self._storage.precision is None and not self._storage.statistics_only
        self._sums = Sums(self._buffers, structure, self._planned if self._as_it_is else ())
        self._taking = threading.Lock()
        self._small_weights: list[tuple[Weight, NDArray[Any]]] = []
        self._small: list[_Item] = []
        self._small_bytes = 0
        self._small_since = 0.0
        self._stack = contextlib.ExitStack()
        self._child = False

    def forked(self) -> None:
        """The file is the parent's to write, and so is the end of the recording."""
        self._child = True

    def __enter__(self) -> Self:
        try:
            inside(self.trace.root, f"recordings/{self._key}").mkdir(parents=True, exist_ok=True)
            self._stack.enter_context(claimed(self._folder))
            self._pack = RunWriter(self._folder / VALUES, self._memory, self._sums.compute)
            self._write_attributes(state="recording")
        except OSError as error:
            self._stack.close()
            if isinstance(error, TraceError):
                raise
            raise TraceError(unwritable(self.trace.root, error)) from error
        self._thread = threading.Thread(target=self._work, name="tracer-writer", daemon=True)
        self._thread.start()
        forked.ends_with_process(self)
        return self

    # -- taking tensors ----------------------------------------------------------------------------------------

    def wants(self, name: str) -> bool:
        """Whether node ``name`` is to be stored."""
        return name in self._planned

    def next_batch(self) -> None:
        """What comes from now on belongs to the next batch."""
        self._batch += 1

    def __call__(self, name: str, value: NDArray[Any] | NotRecorded, *, owned: bool = False) -> None:
        """Take a node's tensor; copied before this returns unless ``owned``. Never raises."""
        self._take("value", name, value, owned)

    def gradient(self, name: str, value: NDArray[Any] | NotRecorded, *, owned: bool = False) -> None:
        """Take the gradient with respect to a node's tensor, as :meth:`__call__`."""
        self._take("gradient", name, value, owned)

    def _take(self, kind: _Kind, name: str, value: NDArray[Any] | NotRecorded, owned: bool) -> None:
        if self._child:
            return
        skipped = self.skipped if kind == "value" else self.skipped_gradients
        if kind == "value":
            self._taken += 1
            if self._progress is not None:
                self._progress(self._taken)
        if name not in self._planned:
            if self._storage.only is None:
                skipped[name] = "not in the structure that was seen first"
            return
        if name in skipped:
            return
        if isinstance(value, NotRecorded):
            skipped[name] = value.reason
            return
        if not dtypes.storable(value.dtype):
            skipped[name] = f"elements of type {value.dtype}"
            return
        if value.nbytes >= _SMALL and self._as_it_is and name not in self._storage.joined:
            self._write_now(kind, name, value)
            return
        with self._taking:
            if value.nbytes >= _SMALL:
                if name in self._storage.joined:  # its batches keep their order
                    self._pass_on()
                if self._reserve(value.nbytes):
                    item = kind, name, self._batch, value if owned else self._buffers.copy(value)
                    self._queue.put(partial(self._drain, [item], value.nbytes))
                return
            now = time.monotonic()
            if not self._small:
                self._small_since = now
            self._small.append((kind, name, self._batch, value if owned else self._buffers.copy(value)))
            self._small_bytes += value.nbytes
            if self._small_bytes >= _TOGETHER or now - self._small_since >= _LONGEST:
                self._pass_on()

    def _pass_on(self) -> None:
        """Have the small tensors written that wait for others."""
        small, self._small = self._small, []
        size, self._small_bytes = self._small_bytes, 0
        if small and self._reserve(size):
            self._queue.put(partial(self._drain, small, size))

    def _write_now(self, kind: _Kind, name: str, values: NDArray[Any]) -> None:
        """Write a large tensor as it is."""
        if self._fault is not None:
            return
        try:
            whole = values if values.flags.c_contiguous else self._buffers.copy(values)
            place, dtype = self._place(kind, name), dtypes.name_of(values.dtype)
            found = self._sums.while_copied(whole)
            at = self._write([(place, whole, self._own(kind, name, dtype))], None if found is None else found[1])[0]
            assert at is not None, "an empty array"
        except OSError as error:
            self._fault = error
        except Exception as error:
            self._skip(kind, name, error)
        else:
            numbers = "{}" if found is None else zarr3.brief(found[0].result())
            row = self._saved[kind][name] = Row([name, place, values.shape, dtype], numbers, [at])
            if found is None:
                self._sums.later(row, self._open.start(at), values, quick=True)

    def _reserve(self, size: int) -> bool:
        """Wait until so many bytes may wait to be written; False where none are written any more."""
        with self._room:
            # What is larger than the whole budget passes alone.
            self._room.wait_for(
                lambda: self._fault is not None or self._waiting == 0 or self._waiting + size <= self._memory
            )
            if self._fault is not None:
                return False
            self._waiting += size
            return True

    def put_weights(self, owner: str, param: Param, value: NDArray[Any], key: tuple[str, str]) -> None:
        """Write a parameter under ``weights/<key[0]>/<key[1]>/<recording>``; small ones wait for each other, until
        :meth:`weight_keys` at the latest. Raises TraceError."""
        self._weight_keys[owner, param.name] = key
        if not dtypes.storable(value.dtype):
            self.skipped[f"{owner}:{param.name}"] = f"elements of type {value.dtype}"
            return
        weight = Weight("weights", owner, param.name, key, (param.trainable,))
        if value.nbytes < _LITTLE:
            self._small_weights.append((weight, np.array(value)))
            if len(self._small_weights) >= _WEIGHTS:
                self._put_small_weights()
        else:
            self._put_small_weights()
            self._put([(weight, value)])

    def weight_gradient(self, owner: str, name: str, value: NDArray[Any] | NotRecorded, *, owned: bool = False) -> None:
        """Write the gradient with respect to a parameter, as the parameter itself is. Never raises."""
        label = f"{owner}:{name}"
        if self._child or (self._storage.only is not None and (owner, name) not in self._weight_keys):
            return
        if isinstance(value, NotRecorded):
            self.skipped_gradients[label] = value.reason
        elif not dtypes.storable(value.dtype):
            self.skipped_gradients[label] = f"elements of type {value.dtype}"
        else:
            key = self._weight_keys.get((owner, name), (owner, name))
            with contextlib.suppress(TraceError):  # kept, and raised at the end
                self._put([(Weight("weight_gradients", owner, name, key), value)])

    def weight_keys(self, keys: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        """Say under which aligned layer and parameter what belongs to an owner's parameter is stored; no more
        parameters come. Raises TraceError."""
        self._weight_keys.update(keys)
        self._put_small_weights()

    def _put_small_weights(self) -> None:
        weights, self._small_weights = self._small_weights, []
        if weights:
            self._put(weights)

    def _put(self, weights: Sequence[tuple[Weight, NDArray[Any]]]) -> None:
        """Write parameters or their gradients: several small ones, or one."""
        own = [zarr3.brief({"owner": weight.owner, "param": weight.name}) for weight, _ in weights]
        try:
            arrays = [(weight.place, value, one) for (weight, value), one in zip(weights, own, strict=True)]
            starts = self._write(arrays)
        except OSError as error:
            raise self.failure(error) from error
        rows = []
        for (weight, value), at in zip(weights, starts, strict=True):
            start = [weight.owner, weight.name, weight.place, value.shape, dtypes.name_of(value.dtype)]
            rows.append(Row(start, "{}", [at, *weight.more]))
            self._weights[weight.kind].append(rows[-1])
        if weights[0][0].kind != "weights":
            return
        # They are known again by their numbers, however the other framework lays them out.
        values = [value for _, value in weights]
        if len(values) > 1 or values[0].nbytes < _SMALL:
            for row, summary in zip(rows, summaries(values), strict=True):
                row.summary = zarr3.brief(summary)
        else:
            at = starts[0]
            assert at is not None, "an empty array"
            self._sums.later(rows[0], self._open.start(at), values[0], quick=False)

    # -- writing -----------------------------------------------------------------------------------------------

    def _place(self, kind: _Kind, node: str) -> str:
        return places.activation(node, self._keys, places.GRADIENTS if kind == "gradient" else "")

    def _write(self, arrays: Sequence[tuple[str, NDArray[Any], str]], copy: Copy | None = None) -> list[int | None]:
        """Write arrays at their places, each with the JSON of its attributes: where they begin in the file."""
        whole = [(place, values, own, places.dimensions_json(place, values.ndim)) for place, values, own in arrays]
        with self._writing:
            return self._open.put_all(whole, copy)

    @property
    def _open(self) -> RunWriter:
        assert self._pack is not None, "used outside its context"
        return self._pack

    def _work(self) -> None:
        task: Callable[[], None] | None = self._drain_small
        while task is not None:
            try:
                task()
            except OSError as error:
                self._fault = self._fault or error
            del task
            try:
                task = self._queue.get(timeout=_LONGEST)
            except queue.Empty:  # the model takes its time: what it gave so far is to be seen
                task = self._drain_small

    def _drain_small(self) -> None:
        with self._taking, self._room:
            small, size = self._small, self._small_bytes
            self._waiting += size
            self._small, self._small_bytes = [], 0
        self._drain(small, size)

    def _drain(self, items: list[_Item], size: int) -> None:
        """Write tensors that waited. Raises OSError."""
        try:
            if self._fault is None:
                self._store_all(items)
                with self._writing:
                    self._open.push()
        finally:
            items.clear()
            with self._room:
                self._waiting -= size
                self._room.notify()

    def _store_all(self, items: Sequence[_Item]) -> None:
        """Raises OSError; any other fault costs the tensor that it is about."""
        joined = self._storage.joined
        alone = [item for item in items if item[1] in joined] if joined else []
        together = [item for item in items if item[1] not in joined] if joined else items
        try:
            self._finish([(kind, name, values) for kind, name, _, values in together])
        except OSError:
            raise
        except Exception:  # one of them
            alone = list(items)
        for kind, name, batch, values in alone:
            try:
                self._store(kind, name, batch, values)
            except OSError:
                raise
            except Exception as error:
                self._skip(kind, name, error)
                self._growing.pop(name, None)

    def _skip(self, kind: _Kind, name: str, error: Exception) -> None:
        """Note why a tensor is missing: the model must go on."""
        skipped = self.skipped if kind == "value" else self.skipped_gradients
        skipped[name] = str(error) if isinstance(error, Unfit) else described(error)

    def _store(self, kind: _Kind, name: str, batch: int, values: NDArray[Any]) -> None:
        joined = self._storage.joined.get(name)
        if batch and name in self.skipped:  # a batch before this one did not fit
            return
        if joined is None or joined.axis is None:
            if batch == 0:
                self._finish([(kind, name, values)])
            if joined is not None:
                self._same_in_every_batch(name, values)
            return
        growing = self._growing.get(name)
        if growing is None:
            growing = self._growing[name] = Growing(joined, values.dtype)
        growing.summary.add(values)
        if not self._storage.statistics_only:
            if growing.array is None:
                dtype = self._narrow(values).dtype
                with self._writing:
                    growing.array = self._open.reserve(self._place(kind, name), joined.shape, dtype, joined.axis)
            if values.dtype != growing.dtype:
                raise Unfit(f"{growing.dtype} in one batch, {values.dtype} in another")
            stored = self._narrow(values)
            if overflows(values, stored):
                raise Unfit(f"its values overflow {stored.dtype}: use another --precision")
            try:
                growing.array.append(stored)
            except ValueError:
                raise Unfit(f"its shape {values.shape} does not continue {joined.shape}") from None
        growing.batches += 1
        if growing.batches == self._storage.batches:
            self._close(name, self._growing.pop(name))

    def _same_in_every_batch(self, name: str, values: NDArray[Any]) -> None:
        """Drop a tensor without a sample axis that depends on the batch all the same: no single value stands for it."""
        digest = hashlib.sha256(values.tobytes()).digest()
        if self._constants.setdefault(name, digest) == digest:
            return
        self._saved["value"].pop(name, None)
        raise Unfit("it has no axis of samples and differs from batch to batch")

    def _close(self, name: str, growing: Growing) -> None:
        """Make what was put together of a node readable, all of it or what there is."""
        summary = growing.summary.result()
        dtype, encoded = dtypes.name_of(growing.dtype), zarr3.as_json(summary)
        if growing.array is None:
            if self._storage.statistics_only:  # else there was no room for it
                self._saved["value"][name] = Row([name, growing.joined.shape, dtype], encoded)
            return
        place, stored = growing.array.place, dtypes.name_of(growing.array.dtype)
        dimensions = places.dimensions(place, len(growing.joined.shape))
        with self._writing:
            shape, at = growing.array.finish(self._own("value", name, dtype, encoded), dimensions)
        self._saved["value"][name] = Row([name, place, shape, stored], encoded, [at])

    def _finish(self, tensors: Sequence[tuple[_Kind, str, NDArray[Any]]]) -> None:
        """Write whole tensors, several where they are small."""
        whole = [values for *_, values in tensors]
        numbers = summaries(whole) if len(whole) > 1 else [summarize(values, quick=True) for values in whole]
        found = map(zarr3.brief, numbers)
        arrays, rows = [], []
        for (kind, name, values), summary in zip(tensors, found, strict=True):
            computed = dtypes.name_of(values.dtype)
            if self._storage.statistics_only:
                self._saved[kind][name] = Row([name, values.shape, computed], summary)
                continue
            stored = self._narrow(values)
            if overflows(values, stored):
                # A tensor that overflows would look as if the model had made infinities.
                self._wide.append(name)
                stored = values
            place = self._place(kind, name)
            arrays.append((place, stored, self._own(kind, name, computed, summary)))
            rows.append((kind, name, [name, place, values.shape, dtypes.name_of(stored.dtype)], summary))
        for (kind, name, row, summary), at in zip(rows, self._write(arrays), strict=True):
            self._saved[kind][name] = Row(row, summary, [at])

    def _narrow(self, values: NDArray[Any]) -> NDArray[Any]:
        if self._storage.precision is None or values.dtype.kind == "c" or not dtypes.epsilon(values.dtype.name):
            return values
        target = dtypes.by_name(self._storage.precision)
        if target.itemsize >= values.dtype.itemsize:
            return values
        with np.errstate(over="ignore"):
            return values.astype(target)

    def _own(self, kind: _Kind, name: str, computed: str, summary: str | None = None) -> str:
        """The JSON of an array's attributes; ``summary`` is given as JSON."""
        attributes: dict[str, Any] = {"node": name, "computed_dtype": computed}
        if name in self._keys:
            attributes["aligned"] = self._keys[name]
        if kind == "gradient":
            attributes["gradient_of"] = self._attributes.get("loss", "")
        joined = self._storage.joined.get(name) if self._storage.joined else None
        if joined is not None and joined.axis is not None:
            attributes["sample_axis"] = joined.axis
        own = zarr3.brief(attributes)
        return own if summary is None else f'{own[:-1]},"summary":{summary}}}'

    def _write_attributes(self, index: Mapping[str, str] | None = None, **more: Any) -> None:
        encoded = {"structure": self._structure, **(index or {})}
        zarr3.make_group(self._folder, {**self._attributes, **more}, encoded, durable=self.trace.durable)

    # -- the end -----------------------------------------------------------------------------------------------

    @rarely_collected()
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._child:
            return
        with contextlib.suppress(TraceError):  # kept, and raised at the end
            self._put_small_weights()
        with self._taking:
            waiting = list(self._small)
            self._pass_on()
        self._queue.put(None)
        self._thread.join()
        with self._stack:
            self._settle()
            if self._fault is not None:  # of a larger tensor, perhaps: these may still fit
                with contextlib.suppress(OSError):
                    known = self._storage.joined
                    self._store_all([i for i in waiting if i[1] not in self._saved[i[0]] and i[1] not in known])
                self._settle()
            self._close_unfinished()
            self._settle()
            self._sum_up_the_rest()
            values = self._saved["value"]
            missing = sorted(self._planned - values.keys() - self.skipped.keys())
            reason = None
            if error is not None:
                said = text_of(error) or type(error).__name__
                reason = "interrupted" if isinstance(error, KeyboardInterrupt) else said
            elif self._fault is not None:
                reason = unwritable(self.trace.root, self._fault)
            elif missing:
                reason = f"{len(missing)} of {len(self._planned)} tensors never came, the first: {missing[0]}"
            self._attributes["seconds"] = time.time() - self._attributes["created"]
            try:
                self._close_pack()
                if self.trace.durable:
                    zarr3.settle(self._folder)
                rare = {
                    "skipped_gradients": self.skipped_gradients,
                    "kept_wide": self._wide,
                    "weight_keys": listed(self._weight_keys),
                }
                self._write_attributes(
                    self._index(),
                    state="failed" if reason else "complete",
                    error=reason,
                    skipped=self.skipped,
                    **{key: value for key, value in rare.items() if value},
                )
            except OSError as fault:
                # Not even this fits on the disk: the recording then reads as interrupted, with what was saved.
                self._fault = self._fault or fault
                self._open.close()
        if error is None and self._fault is not None:
            raise TraceError(unwritable(self.trace.root, self._fault)) from self._fault
        if error is None and missing:
            raise TraceError(f"recording '{names.display(self.name)}' is incomplete: {reason}")

    def _settle(self) -> None:
        """Wait for the disk; what did not come to it was not saved."""
        try:
            self._open.settle()
        except OSError as fault:
            self._fault = self._fault or fault
            end = self._open.recover()
            for rows in self._saved.values():
                for name in [name for name, row in rows.items() if row.rest and (row.rest[0] or 0) >= end]:
                    del rows[name]
            for index, weights in self._weights.items():
                self._weights[index] = [row for row in weights if (row.rest[0] or 0) < end]
            self._sums.forget(end)

    def _close_unfinished(self) -> None:
        """What came in the batches before the model raised stays readable."""
        while self._growing:
            name, growing = self._growing.popitem()
            try:
                self._close(name, growing)
            except OSError as fault:
                self._fault = self._fault or fault

    def _sum_up_the_rest(self) -> None:
        try:
            self._sums.compute(self._open, sys.maxsize)
        except OSError as fault:
            self._fault = self._fault or fault

    def _close_pack(self) -> None:
        """What was put is found by the recording's index, and by other readers of a whole zip."""
        if self._fault is None:
            self._open.commit({"framework": self._attributes.get("framework", "?")})
        else:
            self._open.close()

    def _index(self) -> dict[str, str]:
        """The attributes that say what was saved, as JSON; empty ones are left out, but for the usual two."""
        alone = self._storage.statistics_only
        values, gradients = self._saved["value"].values(), self._saved["gradient"].values()
        found: dict[str, Collection[Row]] = {
            "activations": () if alone else values,
            "weights": self._weights["weights"],
            "statistics": values if alone else (),
            "gradients": () if alone else gradients,
            "gradient_statistics": gradients if alone else (),
            "weight_gradients": self._weights["weight_gradients"],
        }
        usual = {"activations", "weights"}
        return {key: encoded(rows) for key, rows in found.items() if rows or key in usual}

    def failure(self, error: OSError) -> TraceError:
        """Note a fault of the disk, and the error to raise for it."""
        self._fault = self._fault or error
        return TraceError(unwritable(self.trace.root, error))
