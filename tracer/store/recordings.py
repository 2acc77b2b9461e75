"""What a trace says of one recording, and reading its tensors. Needs neither zarr nor a framework."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from tracer import dtypes, names
from tracer.collecting import rarely_collected
from tracer.errors import InputError, TraceError
from tracer.graph import Structure, lengths, text
from tracer.store.packs import SUFFIX, Pack, pack_name, packs

VALUES = f"values{SUFFIX}"
"""The pack in a recording's folder that holds the tensors of its one run."""
STEPS = "steps"
"""The folder of a recording that holds its steps."""
AT = "@"
"""What stands between a recording's name and a step in the name of that step."""
_NUMBERS = frozenset({int, float})


class Stored(NamedTuple):
    """Where an activation or weight lies and what it is.

    Attributes:
        path: in the hierarchy of the recording's pack.
        at: where its data begins in the pack's file, with what the zip says of it; None for an empty array.
        trainable: of a parameter, where that is known.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    summary: Mapping[str, float | int]
    at: int | None = None
    trainable: bool | None = None


@dataclass(frozen=True)
class Recording:
    """One recorded model run, as the trace describes it.

    ``state`` is ``recording``, ``complete`` or ``failed``; ``interrupted`` is a recording whose writer is gone,
    ``damaged`` one whose metadata cannot be read.
    """

    name: str
    folder: Path
    root: Path
    attributes: Mapping[str, Any] = field(repr=False)
    state: str

    def _repr_html_(self) -> str:
        from tracer.report.html import fragment

        return fragment([self])

    @cached_property
    @rarely_collected()
    def structure(self) -> Structure:
        """The model's graph. Raises TraceError where what is kept of it is damaged."""
        try:
            return Structure.from_json(self.attributes["structure"])
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(f"damaged: the structure of recording '{names.display(self.name)}'") from error

    @cached_property
    def activations(self) -> dict[str, Stored]:
        """What was saved, by node name."""
        return self._index("activations")

    @cached_property
    def weights(self) -> dict[tuple[str, str], Stored]:
        """Saved parameters and buffers, by owner and local name; without a summary in traces of earlier versions."""
        return self._parameters("weights")

    @cached_property
    def weight_keys(self) -> dict[tuple[str, str], tuple[str, str]]:
        """The aligned layer and parameter of each saved parameter, by owner and local name."""
        own = {key: key for key in (*self.weights, *self.weight_gradients)}
        try:
            found = self.attributes.get("weight_keys", ())
            return own | {(text(a), text(b)): (text(c), text(d)) for a, b, c, d in found}
        except (TypeError, ValueError) as error:
            raise TraceError(f"damaged: the weights of recording '{names.display(self.name)}'") from error

    @cached_property
    def gradients(self) -> dict[str, Stored]:
        """Saved gradients of the loss with respect to activations, by node name."""
        return self._index("gradients")

    @cached_property
    def weight_gradients(self) -> dict[tuple[str, str], Stored]:
        """Saved gradients of the loss with respect to parameters, by owner and local name."""
        return self._parameters("weight_gradients")

    @cached_property
    def summaries(self) -> dict[str, Mapping[str, float | int]]:
        """The order-free numbers of every activation whose values or statistics were saved, by node name."""
        try:
            alone = {
                text(node): _stored("", shape, dtype, summary).summary
                for node, shape, dtype, summary in self.attributes.get("statistics", [])
            }
        except (TypeError, ValueError) as error:
            raise TraceError(f"damaged: the statistics of recording '{names.display(self.name)}'") from error
        return {**alone, **{node: stored.summary for node, stored in self.activations.items()}}

    @rarely_collected()
    def _parameters(self, key: str) -> dict[tuple[str, str], Stored]:
        try:
            return {(text(owner), text(name)): _stored(*how) for owner, name, *how in self.attributes.get(key, [])}
        except (TypeError, ValueError) as error:
            raise TraceError(f"damaged: the {key} of recording '{names.display(self.name)}'") from error

    @rarely_collected()
    def _index(self, key: str) -> dict[str, Stored]:
        try:
            return {text(node): _stored(*how) for node, *how in self.attributes.get(key, [])}
        except (TypeError, ValueError) as error:
            raise TraceError(f"damaged: the index of recording '{names.display(self.name)}'") from error

    @property
    def framework(self) -> str:
        """``pytorch``, ``tensorflow``, ``onnx`` …; ``?`` where the recording does not say."""
        return str(self.attributes.get("framework", "?"))

    @property
    def created(self) -> float:
        """When it was recorded, in seconds since 1970 (UTC)."""
        return number(self.attributes.get("created"))

    @property
    def input_id(self) -> str:
        """Which input it was made on: equal for recordings of equal inputs."""
        return str(self.attributes.get("input", ""))

    @property
    def model(self) -> str:
        """The model file's name, or the class of a live object."""
        found = self.attributes.get("model")
        return str(found.get("name", "?")) if isinstance(found, dict) else "?"

    @property
    def planned(self) -> int:
        """How many tensors the model has to store."""
        return int(number(self.attributes.get("planned", len(self.activations))))

    @property
    def skipped(self) -> Mapping[str, str]:
        """Nodes that could not be stored, with the reason."""
        found = self.attributes.get("skipped", {})
        return found if isinstance(found, dict) else {}

    @property
    def nbytes(self) -> int:
        """Bytes of what was saved; of a recording of many steps, of all its steps' files."""
        if self.attributes.get("steps") and not isinstance(self, Step):
            return sum(path.stat().st_size for path in packs(self.folder / STEPS).values())
        return sum(
            math.prod(s.shape) * dtypes.by_name(s.dtype).itemsize
            for s in (
                *self.activations.values(), *self.weights.values(),
                *self.gradients.values(), *self.weight_gradients.values(),
            )
        )  # fmt: skip

    def resolve(self, node: str) -> str:
        """The node under which the tensor of ``node`` is stored (itself, or what it is an alias of)."""
        for _ in range(len(self.structure) + 1):
            found = self.structure.by_name.get(node)
            if found is None or found.alias_of is None:
                break
            node = found.alias_of
        return node

    def stored(self, node: str) -> Stored | None:
        """The index entry of a node's tensor, aliases followed; None when it was not saved."""
        return self.activations.get(self.resolve(node))

    def summary(self, node: str) -> Mapping[str, float | int] | None:
        """The order-free numbers of a node's tensor, aliases followed; None when nothing of it was saved."""
        return self.summaries.get(self.resolve(node))

    def why_missing(self, node: str) -> str:
        """Why a node's values were not saved, in words."""
        stored = self.resolve(node)
        if stored in self.skipped:
            return str(self.skipped[stored])
        if stored in self.summaries:
            return "only its statistics were recorded (--stats-only)"
        if self.state == "recording":
            return "its turn has not come"
        return "left out by --layers or --exclude" if self.left_out(node) else "it was not saved"

    def why_no_gradient(self, node: str) -> str:
        """Why the gradient with respect to a node was not saved, in words."""
        if not self.attributes.get("loss"):
            return "the recording has no gradients: record it with --grad"
        found = self.attributes.get("skipped_gradients", {})
        why = found.get(self.resolve(node)) if isinstance(found, dict) else None
        if self.attributes.get("statistics_only"):
            return "only statistics were recorded (--stats-only)"
        return str(why) if why else "left out by --layers or --exclude" if self.left_out(node) else "it was not saved"

    def left_out(self, node: str) -> bool:
        """Whether the user did not want a node's tensor."""
        stored = self.resolve(node)
        chosen = bool(self.attributes.get("layers") or self.attributes.get("exclude"))
        return chosen and stored not in self.skipped and stored not in self.summaries and self.state == "complete"

    def read(self, node: str, *, verify: bool = True) -> NDArray[Any]:
        """A node's tensor, memory-mapped and read-only, in its own axes, batch first as the model has it.

        With ``verify`` its checksum is looked at, for which the whole of it is read. Raises KeyError when it was not
        saved, TraceError when it is missing or damaged on disk.
        """
        stored = self.stored(node)
        if stored is None:
            raise KeyError(node)
        return self.read_stored(stored, verify=verify)

    def read_gradient(self, node: str, *, verify: bool = True) -> NDArray[Any]:
        """The gradient of the loss with respect to a node's tensor, of its shape; ``verify`` as in :meth:`read`, which
        raises the same."""
        stored = self.gradients.get(self.resolve(node))
        if stored is None:
            raise KeyError(node)
        return self.read_stored(stored, verify=verify)

    def read_weight(self, owner: str, name: str, *, verify: bool = True) -> NDArray[Any]:
        """A parameter or buffer by its ``owner`` and its ``name`` there (``weights`` lists them), in its own axes;
        ``verify`` as in :meth:`read`, which raises the same."""
        stored = self.weights.get((owner, name))
        if stored is None:
            raise KeyError((owner, name))
        return self.read_stored(stored, verify=verify)

    def read_stored(self, stored: Stored, *, verify: bool = True) -> NDArray[Any]:
        """The array of an index entry, ``stored``; ``verify`` as in :meth:`read`. Raises TraceError as that."""
        return self.pack.read_array(stored.path, stored.shape, dtypes.by_name(stored.dtype), stored.at, verify=verify)

    def fingerprint(self, stored: Stored) -> list[Any]:
        """What changes when a stored tensor does, without reading it: its type, shape, and more of how it is stored.

        Raises TraceError where the array is missing.
        """
        return [stored.dtype, list(stored.shape), *self.pack.fingerprint(stored.path, stored.shape, stored.at)]

    @cached_property
    def pack(self) -> Pack:
        """The file that holds the tensors. Raises TraceError."""
        try:
            return Pack(self.folder / VALUES)
        except FileNotFoundError:
            raise TraceError(f"damaged: the tensors of recording '{names.display(self.name)}' are missing") from None

    # -- steps -------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of the steps that are kept, in order; none where one run was recorded."""
        return tuple(packs(self.folder / STEPS)) if self.attributes.get("steps") else ()

    def at(self, step: int) -> Step:
        """One step, which reads as a recording of one run does.

        Raises InputError, with the steps there are, where it is not kept; TraceError where it is damaged.
        """
        try:
            pack = Pack(self.folder / STEPS / pack_name(step))
            own = pack.attributes
        except FileNotFoundError:  # perhaps only since it was opened
            have = ranges(self.steps)
            raise InputError(
                f"recording '{names.display(self.name)}' has no step {step} (have: {have or 'none'})"
            ) from None
        attributes = {**self.attributes, **own, "state": "complete"}
        found = Step(f"{self.name}{AT}{step}", self.folder, self.root, attributes, "complete", step)
        vars(found)["pack"] = pack
        return found


@dataclass(frozen=True)
class Step(Recording):
    """One step of a recording of many: everything that is read of it comes from its pack."""

    number: int

    @property
    def of(self) -> str:
        """The name of the whole recording."""
        return self.name.rpartition(AT)[0]

    @property
    def steps(self) -> tuple[int, ...]:
        """This step's number alone."""
        return (self.number,)


def ranges(steps: Sequence[int]) -> str:
    """Numbers as a person lists them: ``0, 100, 200 … 900``; ``4–9`` where they follow one another."""
    if len(steps) > 3 and steps[-1] - steps[0] == len(steps) - 1:
        return f"{steps[0]}–{steps[-1]}"
    shown = [str(step) for step in steps]
    return ", ".join(shown) if len(shown) <= 5 else f"{', '.join(shown[:3])} … {shown[-1]}"


def _stored(path: Any, shape: Any, dtype: Any, summary: Any = (), at: Any = None, trainable: Any = None) -> Stored:
    """An index entry as a file says it. Raises TypeError or ValueError for what is none."""
    numbers = summary if type(summary) is dict else dict(summary)
    if not _NUMBERS.issuperset(map(type, numbers.values())):
        numbers = {key: value for key, value in numbers.items() if type(value) in _NUMBERS}
    if at is not None and (not isinstance(at, int) or at < 0):
        raise ValueError("not a place in a file")
    trainable = trainable if isinstance(trainable, bool) else None
    dtypes.by_name(text(dtype))  # raises where it is none
    return Stored(text(path), lengths(shape), dtype, numbers, at, trainable)


def unwritable(root: Path, error: OSError) -> str:
    """Why a trace cannot be written, in words."""
    return f"cannot write the trace {names.display(str(root))}: {error.strerror or error}"


def number(value: Any) -> float:
    """``value`` as a finite number; 0 for anything else that a damaged trace may hold."""
    usable = isinstance(value, int | float) and abs(value) < 1e15
    return float(value) if usable else 0.0


def inside(root: Path, relative: str) -> Path:
    """A path of the trace's index below ``root``. Raises TraceError for one that leads elsewhere."""
    parts = relative.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise TraceError(f"damaged: {names.display(relative)!r} is not a path inside the trace")
    path = root
    for part in parts:
        path /= part
        if path.is_symlink():
            raise TraceError(f"{names.display(relative)} leads through a link: refused")
    return path
