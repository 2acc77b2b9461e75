"""Opening a trace and reading what it holds. Needs neither zarr nor a framework."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tracer import dtypes, names
from tracer.errors import InputError, TraceError
from tracer.store import places, sources, zarr3
from tracer.store.packs import Pack, Walk, pack_name
from tracer.store.recordings import AT, STEPS, VALUES, Recording, unwritable
from tracer.store.summary import summarize

if TYPE_CHECKING:
    from typing import Self

FORMAT = "tracer-trace"
VERSION = 2
"""Since 2 the tensors of a recording lie in one file, not in folders of their own."""
PARTS = ("recordings", "inputs")
COMPARISONS = "comparisons"
_ALL_PARTS = (*PARTS, COMPARISONS)
"""With what is made when it is needed."""


class Trace:
    """A trace on disk. Cheap to open; recordings are read when asked for.

    Attributes:
        durable: whether what is said to be written outlasts a power cut, not only the end of the process.
    """

    def __init__(self, root: Path, *, durable: bool = False) -> None:
        self.root = root
        self.durable = durable

    def __repr__(self) -> str:
        return f"<Trace {names.display(str(self.root))}>"

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open an existing trace.

        ``path`` may be the URL of an object store (:mod:`tracer.store.remote`). Raises InputError when there is none,
        when the folder is something else, or when a newer tracer made it; RemoteError when the store cannot be used.
        """
        if ":/" in (given := os.fspath(path)):
            from tracer.store import remote

            if (url := remote.url_of(given)) is not None:
                return cls.open(remote.mirrored(url))
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
        if version < VERSION:
            raise InputError(f"{shown} was made by an earlier tracer (format {version}): record into another --trace")
        for part in _ALL_PARTS:
            folder = root / part
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                raise InputError(f"{shown} is no trace to be used: its '{part}' is a link or a file")
        return cls(root)

    @classmethod
    def at(cls, path: str | os.PathLike[str], *, durable: bool = False) -> Self:
        """The trace at ``path``, which need not exist yet; nothing is written before :meth:`make`.

        With ``durable`` what is written outlasts a power cut.

        Raises InputError when something else is there.
        """
        if ":/" in (given := os.fspath(path)):
            from tracer.store import remote

            if (url := remote.url_of(given)) is not None:
                raise InputError(
                    f"{names.display(url)} cannot be recorded into: record here, then tracer push TRACE URL"
                )
        root = Path(path)
        if root.exists() and not (root.is_dir() and _empty(root)):
            cls.open(root)
        return cls(root, durable=durable)

    def make(self) -> None:
        """Create what is missing of an empty trace. Raises InputError when that cannot be done."""
        folders = [self.root, *(self.root / part for part in PARTS)]
        try:
            for folder in folders:
                is_root = folder == self.root  # without what it says nothing else can be read
                attributes = {"format": FORMAT, "version": VERSION} if is_root else {}
                if not (folder / zarr3.METADATA).exists():
                    zarr3.make_group(folder, attributes, durable=self.durable or is_root)
            if self.durable:  # who made it may not have cared
                for folder in folders:
                    zarr3.sync(folder / zarr3.METADATA)
                    zarr3.sync(folder)
                with contextlib.suppress(PermissionError):  # a sandboxed worker's supervisor does it
                    zarr3.sync(self.root.absolute().parent)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
            raise (TraceError if full else InputError)(unwritable(self.root, error)) from error

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Self:
        """Open the trace at ``path``, or make an empty one where nothing is yet. Raises InputError as :meth:`at`."""
        trace = cls.at(path)
        trace.make()
        return trace

    def _repr_html_(self) -> str:
        from tracer.report.html import fragment

        return fragment(self.recordings())

    def recordings(self) -> list[Recording]:
        """All recordings, oldest first."""
        folder = self.root / "recordings"
        found = []
        for entry in _subfolders(folder) if folder.is_dir() else []:
            with contextlib.suppress(FileNotFoundError):  # none yet, or none any more
                found.append(self._load(entry))
        return sorted(found, key=lambda r: (r.created, r.name))

    def recording(self, name: str) -> Recording:
        """The recording ``name``, or the step ``name@step`` of one.

        Raises InputError, with the names and steps there are, when there is none.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return self._load(self.root / "recordings" / names.encode(name))
        of, _, step = name.rpartition(AT)
        if step.isascii() and step.isdigit() and len(step) <= 18 and self.has(of):
            return self.recording(of).at(int(step))
        have = ", ".join(names.display(r.name) for r in self.recordings()) or "none yet"
        raise InputError(f"no recording '{names.display(name)}' in {sources.shown(self.root)} (have: {have})")

    def has(self, name: str) -> bool:
        """Whether there is a recording of a name."""
        return (self.root / "recordings" / names.encode(name) / zarr3.METADATA).exists()

    def has_step(self, name: str, step: int) -> bool:
        """Whether a step of the recording ``name`` is kept, which one look at the disk says."""
        return (self.root / "recordings" / names.encode(name) / STEPS / pack_name(step)).exists()

    def _load(self, folder: Path) -> Recording:
        """Raises FileNotFoundError and NotADirectoryError where there is none."""
        try:
            known = names.decode(folder.name)
        except ValueError:
            known = None
        name = folder.name if known is None else known
        try:
            attributes = zarr3.read_metadata(folder)["attributes"]
            if attributes.get("state") == "recording" and not is_locked(folder):
                # The writer may have finished between our read and our look at the lock.
                attributes = zarr3.read_metadata(folder)["attributes"]
                if attributes.get("state") == "recording":
                    attributes = {**attributes, **_Salvage(folder).look(), "state": "interrupted"}
        except (FileNotFoundError, NotADirectoryError):
            raise
        except (TraceError, OSError) as error:  # the others can still be read
            return Recording(name, folder, self.root, {"error": str(error)}, "damaged")
        if known is None and isinstance(attributes.get("name"), str):  # a long name's key does not give it back
            name = attributes["name"]
        state = attributes.get("state")
        if state not in ("recording", "complete", "failed", "interrupted"):
            return Recording(name, folder, self.root, {**attributes, "error": "its state is unknown"}, "damaged")
        return Recording(name, folder, self.root, attributes, state)

    def so_far(self, recording: Recording) -> Recording:
        """A recording that is being written with the tensors that are saved by now; any other one as it is."""
        if recording.state != "recording":
            return recording
        known = vars(recording)
        salvage = known.setdefault("salvage", _Salvage(recording.folder))
        more = salvage.look()
        if len(more.get("activations", ())) == len(recording.activations):
            return recording
        attributes = {**recording.attributes, **more}
        found = Recording(recording.name, recording.folder, recording.root, attributes, recording.state)
        # The structure is parsed already, and the same; what was walked through is not walked through again.
        vars(found).update(structure=recording.structure, salvage=salvage)
        return found

    def has_inputs(self, input_id: str) -> bool:
        """Whether the input ``input_id`` is saved."""
        return (self.root / "inputs" / names.encode(input_id) / zarr3.METADATA).exists()

    def inputs(self, input_id: str) -> dict[str, tuple[NDArray[Any], Mapping[str, Any]]]:
        """The saved input ``input_id``: name to (values, attributes), in call order.

        Raises TraceError when it is missing or damaged.
        """
        folder = self.root / "inputs" / names.encode(input_id)
        try:
            order = [*zarr3.read_metadata(folder)["attributes"]["names"]]
        except (FileNotFoundError, KeyError, TypeError) as error:
            raise TraceError(f"damaged: input {names.display(input_id)} is missing") from error
        found = {}
        for name in order:
            path = folder / names.encode(str(name))
            found[str(name)] = (zarr3.read_array(path), zarr3.read_metadata(path)["attributes"])
        return found

    def save_inputs(
        self, input_id: str, inputs: Mapping[str, NDArray[Any]], attributes: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Save the ``inputs`` of ``input_id`` by name, with the ``attributes`` of each, once.

        What is there already, and not damaged, is left alone. Raises OSError.
        """
        folder = self.root / "inputs" / names.encode(input_id)
        try:
            self.inputs(input_id)
        except TraceError:
            folder.mkdir(parents=True, exist_ok=True)
            for index, (name, values) in enumerate(inputs.items()):
                dimensions = [f"input_{names.encode(input_id)}_{index}_axis{axis}" for axis in range(values.ndim)]
                own = {"name": name, **attributes.get(name, {})}
                zarr3.write_array(folder / names.encode(name), values, own, dimensions)
            if self.durable:
                zarr3.settle(folder)
            zarr3.make_group(folder, {"names": list(inputs)}, durable=self.durable)
        else:
            if self.durable:  # who saved it may not have cared
                zarr3.settle(folder)

    def delete(self, name: str) -> None:
        """Remove the recording ``name`` and everything stored for it alone. Raises TraceError when it is being written
        or the disk fails."""
        recording = self.recording(name)
        with lock(recording.folder):
            try:
                # What says that it is there goes first: what is left over if we are killed is nobody's.
                (recording.folder / zarr3.METADATA).unlink()
                if self.durable:
                    zarr3.sync(recording.folder)
            except OSError as error:
                what = f"cannot delete recording '{names.display(name)}'"
                raise TraceError(f"{what}: {error.strerror or error}") from error
            shutil.rmtree(recording.folder, ignore_errors=True)
        self._forget(name)

    def _forget(self, name: str) -> None:
        """Remove what was kept of comparisons with a recording."""
        key, folder = names.encode(name), self.root / COMPARISONS
        for reference in _subfolders(folder) if folder.is_dir() else ():
            shutil.rmtree(reference if reference.name == key else reference / key, ignore_errors=True)
            if reference.is_dir() and not _subfolders(reference):
                shutil.rmtree(reference, ignore_errors=True)

    def update(self, name: str, attributes: Mapping[str, Any]) -> Recording:
        """Change ``attributes`` of the recording ``name``, which is given as it is then.

        A reader sees the former ones or these. Raises TraceError when it is being written or the disk fails.
        """
        recording = self.recording(name)
        with lock(recording.folder):
            try:
                zarr3.make_group(recording.folder, {**recording.attributes, **attributes}, durable=self.durable)
            except OSError as error:
                what = f"cannot rewrite recording '{names.display(name)}'"
                raise TraceError(f"{what}: {error.strerror or error}") from error
        return self.recording(name)

    def rename(self, old: str, new: str) -> None:
        """Give the recording ``old`` the name ``new``, replacing the one that has it.

        Killed half way, at least one of the two is whole. Raises TraceError.
        """
        recording = self.recording(old)
        with lock(recording.folder):
            if self.has(new):
                self.delete(new)
            target = self.root / "recordings" / names.encode(new)
            try:
                shutil.rmtree(target, ignore_errors=True)  # left over by a process that was killed
                os.rename(recording.folder, target)
                if self.durable:
                    zarr3.sync(target.parent)
                zarr3.make_group(target, {**recording.attributes, "name": new}, durable=self.durable)
            except OSError as error:
                what = f"cannot rename recording '{names.display(old)}'"
                raise TraceError(f"{what}: {error.strerror or error}") from error
        self._forget(old)


class _Salvage:
    """The indices of what a recording without an end has written. Of a file that grows each look reads what is new."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / VALUES
        self._walk = Walk()
        self._found: dict[str, list[Any]] = {}

    def look(self) -> dict[str, list[Any]]:
        with contextlib.suppress(OSError, TraceError):
            pack = Pack(self._file)
            for place, at, metadata in pack.so_far(self._walk):
                with contextlib.suppress(TypeError, KeyError):
                    own, gradient = metadata["attributes"], place.startswith(places.GRADIENTS)
                    dtype = own.get("dtype", metadata["data_type"])
                    if "param" in own:
                        index, whose = "weight_gradients" if gradient else "weights", [own["owner"], own["param"]]
                    else:
                        index, whose = "gradients" if gradient else "activations", [own["node"]]
                    summary = own.get("summary")
                    if summary is None and index in ("activations", "weights"):  # the writer did not come to it
                        values = pack.read_array(
                            place, tuple(metadata["shape"]), dtypes.by_name(dtype), at, verify=False
                        )
                        summary = summarize(values, quick=index == "activations")
                    entry = [*whose, place, metadata["shape"], dtype, summary or {}, at]
                    self._found.setdefault(index, []).append(entry)
        return {index: list(entries) for index, entries in self._found.items()}


def _empty(folder: Path) -> bool:
    """Whether nothing is in a folder but what a process left that was killed."""
    return all(entry.name.startswith(zarr3.TEMPORARY) for entry in folder.iterdir())


def _subfolders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]


_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_TRIES = 0.001, 0.01, 0.1
"""Seconds between looks at a lock that is taken: who only asks for it, as :func:`is_locked`, has it for a moment."""


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a recording's folder. Raises TraceError when another process writes it, OSError.

    The folder itself is locked, so no extra file lies in the Zarr hierarchy, and a killed writer leaves no lock.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for pause in (*_TRIES, None):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                if pause is None:
                    shown = names.display(names.decode(folder.name) or folder.name)
                    raise TraceError(f"recording '{shown}' is being written by another process") from error
                time.sleep(pause)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """:func:`lock` of a folder in which a recording begins. Raises InputError where one is there, as that and as
    :func:`sweep` does."""
    with lock(folder):
        if (folder / zarr3.METADATA).exists():
            shown = names.display(names.decode(folder.name) or folder.name)
            raise InputError(f"recording '{shown}' exists already: --force replaces it, --name keeps both")
        sweep(folder)
        yield


def sweep(folder: Path) -> None:
    """Empty a folder that holds no recording any more: one was deleted, or never said to be there. Raises OSError."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry)
        else:
            os.unlink(entry)


def is_locked(folder: Path) -> bool:
    """Whether a recording is being written; several may ask at once."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _TAKEN
    else:
        return False
    finally:
        os.close(descriptor)
