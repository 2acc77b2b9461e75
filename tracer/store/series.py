"""Writing a recording of many steps: each is committed as a whole, or is not there."""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from tracer import dtypes, names
from tracer.errors import InputError, TraceError
from tracer.graph import Structure
from tracer.store import places, zarr3
from tracer.store.packs import PackWriter, Slot, pack_name
from tracer.store.recordings import STEPS, unwritable
from tracer.store.trace import Trace, lock, sweep
from tracer.text import text_of

if TYPE_CHECKING:
    from typing import Self

Part = Literal["value", "gradient", "weight", "weight_gradient"]
_INDEX: dict[Part, str] = {
    "value": "activations", "gradient": "gradients", "weight": "weights", "weight_gradient": "weight_gradients",
}  # fmt: skip


@dataclass(frozen=True)
class _Line:
    """What of a tensor is the same at every step: the attribute of the step that lists it, the JSON of what stands
    there, and its place in the file."""

    index: str
    text: str
    slot: Slot


class SeriesWriter:
    """Writes the steps of one recording, one at a time; used by one thread, as a context manager.

    What another process left unfinished under this name is gone on with where ``resume`` says so: its steps stay.

    Args:
        keys: node name to the aligned name it is stored under; nodes that are missing are stored as unaligned.
        weights: as ``keys``, by owner and parameter: the aligned layer and the parameter's name there.
    """

    def __init__(
        self,
        trace: Trace,
        name: str,
        structure: Structure,
        attributes: Mapping[str, Any],
        keys: Mapping[str, str],
        weights: Mapping[tuple[str, str], tuple[str, str]],
        *,
        resume: bool = False,
    ) -> None:
        self.trace = trace
        self.name = name
        self._key = names.encode(name)
        self._folder = trace.root / "recordings" / self._key
        self._steps = self._folder / STEPS
        self._attributes = {
            **attributes, "name": name, "created": time.time(), "steps": True,
            "structure": structure.to_json(), "planned": sum(1 for _ in structure.stored()),
        }  # fmt: skip
        self._keys = dict(keys)
        self._weights = dict(weights)
        self._resume = resume
        self._pack: PackWriter | None = None
        self._lines: dict[tuple[Part, str, str], _Line] = {}
        self._index: defaultdict[str, list[str]] = defaultdict(list)
        self._statistics: list[Any] = []
        self._before: PackWriter | None = None
        self._skipped: dict[str, str] = {}
        self._step = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Raises InputError where the name is taken, TraceError where it is being written or the disk fails."""
        with self._disk():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._stack.enter_context(lock(self._folder))
            try:
                self._begin()
            except BaseException:
                self._stack.close()
                raise
        return self

    def _begin(self) -> None:
        if (self._folder / zarr3.METADATA).exists():
            before = zarr3.read_metadata(self._folder)["attributes"]
            if not self._resume or not before.get("steps"):
                raise InputError(f"recording '{names.display(self.name)}' exists already: give another name")
            self._attributes["created"] = before.get("created", self._attributes["created"])
        else:
            sweep(self._folder)  # steps of one that was deleted half-way are not ours
        self._steps.mkdir(exist_ok=True)
        for left in self._steps.glob(f"{zarr3.TEMPORARY}-*"):  # of a writer that was killed
            left.unlink()
        self._describe("recording")
        if self.trace.durable:
            zarr3.sync(self._folder.parent)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.finish(None if error is None else text_of(error) or type(error).__name__)

    def finish(self, fault: str | None = None) -> None:
        """No more steps come; ``fault`` says why, where that was not meant. Raises TraceError."""
        self.abort()
        with self._stack, self._disk():
            self._describe("failed" if fault else "complete", error=fault)

    def leave(self) -> None:
        """Write no more, but say nothing of an end: the recording reads as interrupted, and may be gone on with."""
        self.abort()
        self._stack.close()

    @property
    def step(self) -> int | None:
        """The step that was begun and not committed."""
        return None if self._pack is None else self._step

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Of the recording."""
        return self._attributes

    # -- one step ----------------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """What comes now belongs to this step; one that was not committed is given up. Raises TraceError."""
        self.abort()
        with self._disk():
            self._pack = PackWriter(self._steps / pack_name(step), self._before, durable=self.trace.durable)
        if len(self._lines) > 64 + 2 * sum(map(len, self._index.values())):  # names that do not come again
            self._lines.clear()
        self._step, self._skipped = step, {}
        self._index.clear()
        self._statistics.clear()

    def put(self, part: Part, name: str, values: NDArray[Any], owner: str = "") -> None:
        """Write a tensor of the step: a node's, or of the parameter ``name`` of ``owner``. ``values`` may be changed
        afterwards. Raises TraceError."""
        assert self._pack is not None, "no step was begun"
        line = self._lines.get((part, owner, name))
        if line is None or line.slot.shape != values.shape or line.slot.dtype != values.dtype:
            if not dtypes.storable(values.dtype):
                label = f"{owner}:{name}" if owner or part.startswith("weight") else name
                self.skip(part, label, f"elements of type {values.dtype}")
                return
            line = self._lines[part, owner, name] = self._line(part, owner, name, values)
        try:
            self._pack.put(line.slot, values)
        except OSError as error:
            raise self._failed(error) from error
        self._index[line.index].append(line.text)

    def _line(self, part: Part, owner: str, name: str, values: NDArray[Any]) -> _Line:
        in_gradients = places.GRADIENTS if part.endswith("gradient") else ""
        attributes: dict[str, Any]
        if part.startswith("weight"):
            where = self._weights.get((owner, name), (owner, name))
            place = places.weight(*where, in_gradients)
            attributes, entry = {"owner": owner, "param": name}, [owner, name]
        else:
            place = places.activation(name, self._keys, in_gradients)
            attributes, entry = {"node": name}, [name]
            if name in self._keys:
                attributes["aligned"] = self._keys[name]
        text = json.dumps([*entry, place, list(values.shape), values.dtype.name, {}], separators=(",", ":"))
        return _Line(_INDEX[part], text, Slot.of(place, values, attributes, places.dimensions(place, values.ndim)))

    def statistics(self, name: str, shape: tuple[int, ...], dtype: str, summary: Mapping[str, float | int]) -> None:
        """Keep the numbers of a node's tensor (:mod:`tracer.store.summary`) in place of its values."""
        self._statistics.append([name, list(shape), dtype, dict(summary)])

    def skip(self, part: Part, name: str, why: str) -> None:
        """Say why something of the step is not stored."""
        if part == "value":
            self._skipped[name] = why

    def commit(self, **more: Any) -> int:
        """Make the step readable, with further attributes; its size in bytes. Raises TraceError."""
        assert self._pack is not None, "no step was begun"
        attributes = {
            "step": self._step, "written": time.time(), "skipped": self._skipped, "input": f"step {self._step}",
            **({"statistics": self._statistics} if self._statistics else {}), **more,
        }  # fmt: skip
        with self._disk():
            size = self._pack.commit(attributes, {"activations": (), **self._index})
        self._pack, self._before = None, self._pack
        return size

    def abort(self) -> None:
        """Give up the step that was begun."""
        if self._pack is not None:
            self._pack.abort()
            self._pack = None

    def _describe(self, state: str, **more: Any) -> None:
        attributes = {**self._attributes, "state": state, **more}
        zarr3.make_group(self._folder, attributes, durable=self.trace.durable)

    @contextlib.contextmanager
    def _disk(self) -> Any:
        try:
            yield
        except TraceError:
            self.abort()
            raise
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> TraceError:
        self.abort()
        return TraceError(unwritable(self.trace.root, error))


__all__ = ["Part", "SeriesWriter"]
