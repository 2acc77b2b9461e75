"""Opening a trace and reading what it holds. Needs neither zarr nor a framework."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from tracer import names
from tracer.errors import InputError, TraceError
from tracer.graph import text
from tracer.store import places, zarr3
from tracer.store.packs import pack_name
from tracer.store.recordings import AT, STEPS, Recording, inside, unwritable

FORMAT = "tracer-trace"
VERSION = 1
PARTS = ("recordings", "inputs", "layers", "unaligned", "weights")
COMPARISONS = "comparisons"
_ALL_PARTS = (*PARTS, COMPARISONS, "gradients", "gradients/layers", "gradients/unaligned", "gradients/weights")
"""With those that are made when they are needed."""


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
            raise (TraceError if full else InputError)(unwritable(self.root, error)) from error

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
        """The recording ``name``, or the step ``name@step`` of one.

        Raises InputError, with the names and steps there are, when there is none.
        """
        folder = self.root / "recordings" / names.encode(name)
        if not (folder / zarr3.METADATA).exists():
            of, _, step = name.rpartition(AT)
            if step.isascii() and step.isdigit() and len(step) <= 18 and self.has(of):
                return self.recording(of).at(int(step))
            have = ", ".join(names.display(r.name) for r in self.recordings()) or "none yet"
            raise InputError(f"no recording '{names.display(name)}' in {names.display(str(self.root))} (have: {have})")
        return self._load(folder)

    def has(self, name: str) -> bool:
        return (self.root / "recordings" / names.encode(name) / zarr3.METADATA).exists()

    def has_step(self, name: str, step: int) -> bool:
        """Whether a step of the recording is kept, which one look at the disk says."""
        return (self.root / "recordings" / names.encode(name) / STEPS / pack_name(step)).exists()

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
