"""Opening a trace and reading what it holds. Needs neither zarr nor a framework."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from tracer import names
from tracer.errors import InputError, TraceError
from tracer.graph import Structure, lengths, text
from tracer.store import places, zarr3

FORMAT = "tracer-trace"
VERSION = 1
PARTS = ("recordings", "inputs", "layers", "unaligned", "weights")
COMPARISONS = "comparisons"
_ALL_PARTS = (*PARTS, COMPARISONS, "gradients", "gradients/layers", "gradients/unaligned", "gradients/weights")
"""With those that are made when they are needed."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an activation or weight lies (relative to the trace) and what it is."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    summary: Mapping[str, float | int]


@dataclass(frozen=True)
class Recording:
    """One recorded model run, as the trace describes it.

    ``state`` is ``recording``, ``complete`` or ``failed``; ``interrupted`` is a recording whose writer is gone,
    ``damaged`` one whose metadata cannot be read.
    """

    name: str
    folder: Path
    root: Path
    attributes: Mapping[str, Any]
    state: str

    @cached_property
    def structure(self) -> Structure:
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

    def _parameters(self, key: str) -> dict[tuple[str, str], Stored]:
        try:
            return {
                (text(owner), text(name)): _stored(path, shape, dtype, *(summary or [{}]))
                for owner, name, path, shape, dtype, *summary in self.attributes.get(key, [])
            }
        except (TypeError, ValueError) as error:
            raise TraceError(f"damaged: the {key} of recording '{names.display(self.name)}'") from error

    def _index(self, key: str) -> dict[str, Stored]:
        try:
            return {
                text(node): _stored(path, shape, dtype, summary)
                for node, path, shape, dtype, summary in self.attributes.get(key, [])
            }
        except (TypeError, ValueError) as error:
            raise TraceError(f"damaged: the index of recording '{names.display(self.name)}'") from error

    @property
    def framework(self) -> str:
        return str(self.attributes.get("framework", "?"))

    @property
    def created(self) -> float:
        return number(self.attributes.get("created"))

    @property
    def input_id(self) -> str:
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
        from tracer import dtypes

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
        """A node's tensor, memory-mapped and read-only, in its own axes.

        Raises KeyError when it was not saved, TraceError when it is missing or damaged on disk.
        """
        stored = self.stored(node)
        if stored is None:
            raise KeyError(node)
        return self.read_stored(stored, verify=verify)

    def read_gradient(self, node: str, *, verify: bool = True) -> NDArray[Any]:
        """The gradient of the loss with respect to a node's tensor, as :meth:`read`. Raises as it does."""
        stored = self.gradients.get(self.resolve(node))
        if stored is None:
            raise KeyError(node)
        return self.read_stored(stored, verify=verify)

    def read_stored(self, stored: Stored, *, verify: bool = True) -> NDArray[Any]:
        """The array of an index entry. Raises TraceError as :meth:`read`."""
        values = zarr3.read_array(inside(self.root, stored.path), verify=verify)
        if values.shape != stored.shape or values.dtype.name != stored.dtype:
            raise TraceError(f"damaged: {names.display(stored.path)} is not what the recording says it is")
        return values


def _stored(path: Any, shape: Any, dtype: Any, summary: Any) -> Stored:
    from tracer import dtypes

    numbers = {
        text(key): value
        for key, value in dict(summary).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Stored(text(path), lengths(shape), dtypes.by_name(text(dtype)).name, numbers)


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
        path = path / part
        if path.is_symlink():
            raise TraceError(f"{names.display(relative)} leads through a link: refused")
    return path


class Trace:
    """A trace on disk. Cheap to open; recordings are read when asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open an existing trace.

        Raises InputError when there is none, when the folder is something else, or when a newer tracer made it.
        """
        root = Path(path)
        shown = names.display(str(root))
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise InputError(f"trace {shown} {what}: record a model first (tracer record …), or name it with --trace")
        try:
            attributes = zarr3.read_metadata(root)["attributes"]
        except FileNotFoundError:
            raise InputError(f"{shown} is not a trace (it has no zarr.json)") from None
        if attributes.get("format") != FORMAT:
            raise InputError(f"{shown} is a Zarr hierarchy, but not one of tracer's")
        version = attributes.get("version")
        if not isinstance(version, int) or not 1 <= version <= VERSION:
            raise InputError(
                f"{shown} was made by a newer tracer (format {names.display(str(version))}, this one reads up to "
                f"{VERSION}): upgrade tracer, or record into another --trace"
            )
        for part in _ALL_PARTS:
            folder = root / part
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                raise InputError(f"{shown} is no trace to be used: its '{part}' is a link or a file")
        return cls(root)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Self:
        """The trace at ``path``, which need not exist yet; nothing is written before :meth:`make`.

        Raises InputError when something else is there.
        """
        root = Path(path)
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            return cls.open(root)
        return cls(root)

    def make(self) -> None:
        """Create what is missing of an empty trace. Raises InputError when that cannot be done."""
        try:
            if not (self.root / zarr3.METADATA).exists():
                zarr3.make_group(self.root, {"format": FORMAT, "version": VERSION})
            for part in PARTS:
                zarr3.make_group(self.root / part)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
            raise (TraceError if full else InputError)(
                f"cannot write the trace {names.display(str(self.root))}: {error.strerror}"
            ) from error

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Self:
        """Open a trace, or make an empty one where nothing is yet. Raises InputError as :meth:`at`."""
        trace = cls.at(path)
        trace.make()
        return trace

    def recordings(self) -> list[Recording]:
        """All recordings, oldest first."""
        folder = self.root / "recordings"
        entries = _subfolders(folder) if folder.is_dir() else []
        found = [self._load(entry) for entry in entries if (entry / zarr3.METADATA).exists()]
        return sorted(found, key=lambda r: (r.created, r.name))

    def recording(self, name: str) -> Recording:
        """The recording ``name``. Raises InputError, with the names there are, when there is none."""
        folder = self.root / "recordings" / names.encode(name)
        if not (folder / zarr3.METADATA).exists():
            have = ", ".join(names.display(r.name) for r in self.recordings()) or "none yet"
            raise InputError(f"no recording '{names.display(name)}' in {names.display(str(self.root))} (have: {have})")
        return self._load(folder)

    def has(self, name: str) -> bool:
        return (self.root / "recordings" / names.encode(name) / zarr3.METADATA).exists()

    def _load(self, folder: Path) -> Recording:
        try:
            name = names.decode(folder.name) or folder.name
        except ValueError:
            name = folder.name
        try:
            attributes = zarr3.read_metadata(folder)["attributes"]
        except (TraceError, OSError) as error:  # the others can still be read
            return Recording(name, folder, self.root, {"error": str(error)}, "damaged")
        name = attributes["name"] if isinstance(attributes.get("name"), str) else name
        state = attributes.get("state")
        if state not in ("recording", "complete", "failed"):
            return Recording(name, folder, self.root, {**attributes, "error": "its state is unknown"}, "damaged")
        if state == "recording" and not is_locked(folder):
            # The writer may have finished between our read and our look at the lock.
            attributes = zarr3.read_metadata(folder)["attributes"]
            state = str(attributes.get("state", "?"))
            if state == "recording":
                state = "interrupted"
                attributes = {**attributes, "activations": list(self._salvage(attributes))}
        return Recording(name, folder, self.root, attributes, state)

    def so_far(self, recording: Recording) -> Recording:
        """A recording that is being written with the activations that are saved by now; any other one as it is.

        What ``recording`` knows already is not looked for again.
        """
        if recording.state != "recording":
            return recording
        more = list(self._salvage(recording.attributes, frozenset(recording.activations)))
        if not more:
            return recording
        known = recording.attributes.get("activations", [])
        found = replace(recording, attributes={**recording.attributes, "activations": [*known, *more]})
        vars(found)["structure"] = recording.structure  # parsed already, and the same
        return found

    def _salvage(self, attributes: Mapping[str, Any], known: frozenset[str] = frozenset()) -> Iterator[list[Any]]:
        """Index entries of the activations, but for ``known`` ones, that a recording without an end has written."""
        plan = attributes.get("plan", ())
        for entry in plan if isinstance(plan, list) else ():
            with contextlib.suppress(FileNotFoundError, TraceError, ValueError, TypeError, KeyError):
                node, path = entry
                if node in known:
                    continue
                folder = inside(self.root, text(path))
                metadata = zarr3.read_metadata(folder)
                own = metadata["attributes"]
                dtype = str(own.get("dtype", metadata.get("data_type")))
                yield [node, path, metadata["shape"], dtype, own.get("summary", {})]

    def has_inputs(self, input_id: str) -> bool:
        return (self.root / "inputs" / names.encode(input_id) / zarr3.METADATA).exists()

    def inputs(self, input_id: str) -> dict[str, tuple[NDArray[Any], Mapping[str, Any]]]:
        """The saved input ``input_id``: name to (values, attributes), in call order.

        Raises TraceError when it is missing or damaged.
        """
        folder = self.root / "inputs" / names.encode(input_id)
        try:
            order = zarr3.read_metadata(folder)["attributes"]["names"]
        except (FileNotFoundError, KeyError) as error:
            raise TraceError(f"damaged: input {names.display(input_id)} is missing") from error
        found = {}
        for name in order:
            path = folder / names.encode(str(name))
            found[str(name)] = (zarr3.read_array(path), zarr3.read_metadata(path)["attributes"])
        return found

    def save_inputs(
        self, input_id: str, inputs: Mapping[str, NDArray[Any]], attributes: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Save an input once; one that is there already is left alone. Raises OSError."""
        folder = self.root / "inputs" / names.encode(input_id)
        if self.has_inputs(input_id):
            return
        folder.mkdir(parents=True, exist_ok=True)
        for index, (name, values) in enumerate(inputs.items()):
            dimensions = [f"input_{names.encode(input_id)}_{index}_axis{axis}" for axis in range(values.ndim)]
            own = {"name": name, **attributes.get(name, {})}
            zarr3.write_array(folder / names.encode(name), values, own, dimensions)
        zarr3.make_group(folder, {"names": list(inputs)})

    def delete(self, name: str) -> None:
        """Remove a recording and everything stored for it alone. Raises TraceError when it is being written."""
        recording = self.recording(name)
        with lock(recording.folder):
            # The recording goes first: what is left over if we are killed is found by `sweep`.
            (recording.folder / zarr3.METADATA).unlink()
            shutil.rmtree(recording.folder, ignore_errors=True)
        self.sweep(name)
        key = names.encode(name)
        for reference in self._folders(COMPARISONS):
            shutil.rmtree(reference if reference.name == key else reference / key, ignore_errors=True)
            if reference.is_dir():
                self._prune(reference)

    def sweep(self, name: str, keep: frozenset[str] = frozenset()) -> None:
        """Remove what lies under a recording's name but is not in ``keep`` (paths relative to the trace)."""
        key = names.encode(name)
        for part in ("", places.GRADIENTS):
            weights = [p for layer in self._folders(f"{part}weights") for p in _subfolders(layer)]
            for parent in (*self._folders(f"{part}layers"), *weights):
                target = parent / key
                if target.is_dir() and str(target.relative_to(self.root)) not in keep:
                    shutil.rmtree(target, ignore_errors=True)
                    self._prune(parent)
            own = self.root / f"{part}unaligned" / key
            for target in _subfolders(own) if own.is_dir() else ():
                if str(target.relative_to(self.root)) not in keep:
                    shutil.rmtree(target, ignore_errors=True)
            if own.is_dir():
                self._prune(own)

    def _prune(self, folder: Path) -> None:
        """Remove groups that hold nothing any more, upwards to the top-level ones."""
        while str(folder.relative_to(self.root)) not in _ALL_PARTS and not _subfolders(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder = folder.parent

    def _folders(self, part: str) -> list[Path]:
        folder = self.root / part
        return _subfolders(folder) if folder.is_dir() else []


def _subfolders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a recording's folder. Raises TraceError when another process writes it.

    The folder itself is locked, so no extra file lies in the Zarr hierarchy, and a killed writer leaves no lock.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                shown = names.display(names.decode(folder.name) or folder.name)
                raise TraceError(f"recording '{shown}' is being written by another process") from error
            raise
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    try:
        with lock(folder):
            return False
    except TraceError:
        return True
    except OSError:
        return False
