"""Storage calls that fail on purpose: those below a folder are counted, and one of them, or all that follow, fail.

Everything that tracer writes goes through :mod:`os`, but for what Python's own ``open`` does in C: ``_pyio`` does it
through :mod:`os` too. What is written through a mapping is seen when it is synced. Linux alone.
"""

from __future__ import annotations

import _pyio
import builtins
import errno
import io
import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("kill before", "kill after", "torn write", "short write", "disk full", "I/O error")
_WRITES = ("write", "pwrite")
_GROWS = (*_WRITES, "posix_fallocate", "ftruncate", "mkdir", "open", "link")
_ONE_PATH = ("mkdir", "unlink", "remove", "rmdir", "truncate")
_TWO_PATHS = ("rename", "replace", "link")
_FILES = ("write", "pwrite", "ftruncate", "posix_fallocate", "fsync", "fdatasync", "preadv")


@dataclass(frozen=True)
class Fault:
    """What happens at the storage call of this number, the first being 0; ``kind`` is one of :data:`KINDS`."""

    at: int
    kind: str


class Disk:
    """Counts, fails and logs the storage calls of this process below ``root``, from :meth:`watch` on.

    Attributes:
        count: how many there were.
        log: what each did, for :class:`PowerCut`; empty unless ``logged``.
    """

    def __init__(self, root: Path, fault: Fault | None = None, *, logged: bool = False) -> None:
        self.count = 0
        self.log: list[tuple[Any, ...]] = []
        self._root = os.path.realpath(root)
        self._fault = fault
        self._logged = logged
        self._full = False
        self._lock = threading.RLock()
        self._real: dict[str, Callable[..., Any]] = {}

    def watch(self) -> None:
        """For good: the process is to end afterwards."""
        for name in {*_FILES, *_ONE_PATH, *_TWO_PATHS, "open"}:
            self._real[name] = getattr(os, name)
            setattr(os, name, self._instead(name))
        vars(builtins)["open"] = vars(io)["open"] = _pyio.open

    def mark(self, what: str) -> None:
        """Note a promise that holds from now on."""
        with self._lock:
            self.log.append(("mark", what))

    def _instead(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            where = self._where(name, given, more)
            if where is None:
                return self._real[name](*given, **more)
            with self._lock:
                return self._counted(name, where, given, more)

        return call

    def _where(self, name: str, given: tuple[Any, ...], more: dict[str, Any]) -> list[str] | None:
        """The paths that a call is about; None where it changes nothing below the root."""
        if name in _FILES:
            paths = [os.readlink(f"/proc/self/fd/{given[0]}").removesuffix(" (deleted)")]
        elif name == "open":
            if not given[1] & (os.O_CREAT | os.O_TRUNC):
                return None
            paths = [self._absolute(given[0], more.get("dir_fd"))]
        elif isinstance(given[0], int):
            return None
        else:
            paths = [self._absolute(one, more.get("dir_fd")) for one in given[: 2 if name in _TWO_PATHS else 1]]
        return paths if any(f"{path}/".startswith(f"{self._root}/") for path in paths) else None

    def _absolute(self, path: Any, folder: int | None) -> str:
        start = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
        return os.path.normpath(os.path.join(start, os.fsdecode(path)))

    def _counted(self, name: str, where: list[str], given: tuple[Any, ...], more: dict[str, Any]) -> Any:
        number, self.count = self.count, self.count + 1
        fault = self._fault
        if self._full and name in _GROWS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where[0])
        if fault is None or fault.at != number:
            return self._done(name, where, given, more)
        half = (given[0], given[1][: len(given[1]) // 2], *given[2:]) if name in _WRITES else given
        match fault.kind:
            case "kill before":
                self._die()
            case "kill after" | "torn write":
                self._done(name, where, half if fault.kind == "torn write" else given, more)
                self._die()
            case "short write":
                return self._done(name, where, half if len(half[1:2] or ()) else given, more)
            case "disk full":
                self._full = True
                if name in _WRITES and len(half[1]):  # what still fits is written
                    return self._done(name, where, half, more)
                if name in _GROWS:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where[0])
                return self._done(name, where, given, more)
            case "I/O error":
                raise OSError(errno.EIO, os.strerror(errno.EIO), where[0])
        raise AssertionError(fault.kind)

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    def _done(self, name: str, where: list[str], given: tuple[Any, ...], more: dict[str, Any]) -> Any:
        """The call itself, and what it changed noted."""
        if not self._logged:
            return self._real[name](*given, **more)
        new = name == "open" and not os.path.lexists(where[0])
        place = os.lseek(given[0], 0, os.SEEK_CUR) if name == "write" else 0
        result = self._real[name](*given, **more)
        match name:
            case "open" if new or given[1] & os.O_TRUNC:
                self.log.append(("create" if new else "empty", where[0]))
            case "write" | "pwrite":
                if name == "write" and os.lseek(given[0], 0, os.SEEK_CUR) != place + result:  # it was appended
                    place = os.lseek(given[0], 0, os.SEEK_CUR) - result
                at = place if name == "write" else given[2]
                self.log.append(("write", where[0], at, bytes(memoryview(given[1]).cast("B")[:result])))
            case "ftruncate" | "posix_fallocate":
                self.log.append(("size", where[0], os.fstat(given[0]).st_size))
            case "fsync" | "fdatasync":
                folder = os.path.isdir(where[0])
                self.log.append(
                    ("sync folder", where[0]) if folder else ("sync", where[0], Path(where[0]).read_bytes())
                )
            case "mkdir" | "unlink" | "remove" | "rmdir":
                self.log.append(("unlink" if name == "remove" else name, where[0]))
            case "rename" | "replace":
                self.log.append(("rename", *where))
            case "link":
                self.log.append(("link", *where))
        return result


# -- a power cut --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _File:
    """``now`` is what a reader sees, ``kept`` what was synced; ``since``: the writes that were not."""

    now: bytearray
    kept: bytes
    since: list[tuple[int, bytes]] = field(default_factory=list)

    def left(self, rng: random.Random) -> bytes:
        """What may be there afterwards: of what was not synced all, nothing, its length without it, or some of it."""
        how = rng.randrange(4)
        if how == 0 or not (self.since or len(self.now) != len(self.kept)):
            return self.kept
        if how == 1:
            return bytes(self.now)
        found = bytearray(self.kept)
        if how == 2:
            found.extend(bytes(max(0, len(self.now) - len(found))))
            return bytes(found)
        for at, data in self.since:
            if rng.random() < 0.5:
                found.extend(bytes(max(0, at + len(data) - len(found))))
                found[at : at + len(data)] = data
        return bytes(found)


@dataclass(eq=False)
class _Folder:
    """``now`` is what a reader sees; of ``since``, the changes that were not synced, the first few may be kept."""

    now: dict[str, _File | _Folder] = field(default_factory=dict)
    kept: dict[str, _File | _Folder] = field(default_factory=dict)
    since: list[dict[str, _File | _Folder]] = field(default_factory=list)

    def changed(self) -> None:
        self.since.append(dict(self.now))

    def sync(self) -> None:
        self.kept = dict(self.now)
        self.since.clear()

    def write(self, path: Path, rng: random.Random) -> None:
        """What may be there afterwards."""
        path.mkdir()
        states = [self.kept, *self.since]
        for name, one in rng.choice([states[0], states[-1], rng.choice(states)]).items():
            if isinstance(one, _Folder):
                one.write(path / name, rng)
            else:
                (path / name).write_bytes(one.left(rng))


class PowerCut:
    """What a disk may hold after the power went, while a logged process wrote below ``root``.

    Of a file that was not synced, any of its content may be missing; of a folder, the last of its changes. Folders are
    independent of one another, as POSIX has it, though most file systems keep an order.
    """

    def __init__(self, before: Path, root: Path, log: list[tuple[Any, ...]]) -> None:
        self._before, self._root, self._log = before, os.path.realpath(root), log

    def after(self, calls: int, path: Path, rng: random.Random) -> list[str]:
        """Write what is left after so many entries of the log to ``path``; what was promised by then."""
        tree = _tree(self._before)
        marks = []
        for entry in self._log[:calls]:
            if entry[0] == "mark":
                marks.append(entry[1])
            else:
                self._apply(tree, *entry)
        tree.write(path, rng)
        return marks

    def _apply(self, tree: _Folder, what: str, path: str, *more: Any) -> None:
        if what == "sync folder" and not path.startswith(self._root):
            return
        if what == "sync folder":
            found = self._at(tree, path)
            if isinstance(found, _Folder):
                found.sync()
            return
        folder, name = self._parent(tree, path)
        if folder is None:
            return
        match what:
            case "create":
                folder.now[name] = _File(bytearray(), b"")
            case "mkdir":
                folder.now[name] = _Folder()
            case "unlink" | "rmdir":
                folder.now.pop(name, None)
            case "link":
                target, other = self._parent(tree, more[0])
                assert target is not None
                target.now[other] = folder.now[name]
                target.changed()
                return
            case "rename":
                target, other = self._parent(tree, more[0])
                assert target is folder, "renamed into another folder"
                folder.now[other] = folder.now.pop(name)
            case _:
                file = folder.now[name]
                assert isinstance(file, _File)
                self._written(file, what, *more)
                return
        folder.changed()

    def _written(self, file: _File, what: str, *more: Any) -> None:
        match what:
            case "empty":
                file.now.clear()
            case "size":
                del file.now[more[0] :]
                file.now.extend(bytes(more[0] - len(file.now)))
            case "write":
                at, data = more
                file.now.extend(bytes(max(0, at + len(data) - len(file.now))))
                file.now[at : at + len(data)] = data
                file.since.append((at, data))
            case "sync":
                file.now, file.kept = bytearray(more[0]), more[0]
                file.since.clear()

    def _at(self, tree: _Folder, path: str) -> _File | _Folder | None:
        found: _File | _Folder | None = tree
        for part in Path(path).relative_to(self._root).parts:
            found = found.now.get(part) if isinstance(found, _Folder) else None
        return found

    def _parent(self, tree: _Folder, path: str) -> tuple[_Folder | None, str]:
        """The folder that an entry is in; None where it is not below the root."""
        if not path.startswith(f"{self._root}/"):
            return None, ""
        found = self._at(tree, os.path.dirname(path))
        return (found if isinstance(found, _Folder) else None), os.path.basename(path)


def _tree(path: Path) -> _Folder:
    """A folder that lies on the disk with all that is in it."""
    found = _Folder()
    for entry in path.iterdir():
        raw = b"" if entry.is_dir() else entry.read_bytes()
        found.now[entry.name] = _tree(entry) if entry.is_dir() else _File(bytearray(raw), raw)
    found.sync()
    return found
