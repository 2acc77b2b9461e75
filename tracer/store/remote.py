"""Traces on object stores: read where they lie, by ranges of bytes; sent there, and fetched.

What describes a trace (every ``zarr.json``) is copied into a temporary folder when it is opened. The files that hold
tensors are stood for by sparse ones of their size there, which nothing but :mod:`tracer.store.sources` opens: that asks
the store for the bytes that are wanted.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import IO, Any

from tracer.errors import InputError, RemoteError, TraceError
from tracer.names import display
from tracer.store import sources, zarr3
from tracer.store.packs import SUFFIX
from tracer.store.recordings import unwritable
from tracer.store.trace import Trace, is_locked, lock

SCHEMES = ("s3", "gs", "az", "abfs")
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}(.+?)/*")
_LARGEST = 256 << 20
"""Bytes of a ``zarr.json`` at most."""
_AT_ONCE = 8
_NEAR, _AHEAD = 64 << 10, 8 << 20
"""Bytes that are asked for at least: anywhere, and where a file is read on."""
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
         "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE")  # fmt: skip
_SIGNS = {
    "error sending request": "the server does not answer",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "AccessDenied": "access denied",
}
"""What tells an error, and what is said of it."""
Progress = Callable[[int, int], None]


def url_of(path: str | os.PathLike[str]) -> str | None:
    """The URL that a path is; a ``Path`` makes one slash of its two. None for a path on this machine."""
    found = _URL.fullmatch(os.fspath(path))
    return f"{found[1]}://{found[2]}" if found else None


@dataclass(frozen=True)
class Object:
    """A file of a store: its place below the trace, its size in bytes and when it changed (ns)."""

    key: str
    size: int
    changed: int


class Bucket:
    """What lies below a URL. Raises RemoteError, one line, where the store cannot be used."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import obstore
        except ImportError:
            raise RemoteError(f"{display(url)} needs obstore: pip install 'tracer-nn[s3]'") from None
        self._api = obstore
        plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
        with self._said():
            self._store = obstore.store.from_url(
                url,
                client_options={"allow_http": plain, "timeout": "60s", "connect_timeout": "5s"},
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=15)},
            )

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (self._api.exceptions.BaseError, OSError, ValueError) as error:
            raise RemoteError(f"{display(self.url)}: {_why(error, self.url)}") from error

    def objects(self) -> list[Object]:
        """All files, by their keys."""
        with self._said():
            found = [
                Object(meta["path"], meta["size"], int(meta["last_modified"].timestamp() * 1e9))
                for chunk in self._api.list(self._store)
                for meta in chunk
            ]
        for one in found:
            if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in one.key.split("/")):
                raise RemoteError(f"{display(self.url)} is no trace: {display(one.key)!r} is no path of one")
        return sorted(found, key=lambda one: one.key)

    def read(self, key: str, start: int, stop: int) -> memoryview:
        """A range of a file's bytes."""
        with self._said():
            return memoryview(self._api.get_range(self._store, key, start=start, end=stop))

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            pieces = iter(self._stream(key))
            while (piece := self._next(pieces)) is not None:
                file.write(piece)

    def _stream(self, key: str) -> Any:
        with self._said():
            return self._api.get(self._store, key).stream(min_chunk_size=8 << 20)

    def _next(self, pieces: Iterator[Any]) -> memoryview | None:
        with self._said():
            piece = next(pieces, None)
            return None if piece is None else memoryview(piece)

    def upload(self, path: Path, key: str) -> None:
        with self._said():
            self._api.put(self._store, key, path)

    def delete(self, keys: list[str]) -> None:
        with self._said():
            self._api.delete(self._store, keys)


def _why(error: BaseException, url: str) -> str:
    """What a store said, in words and one line."""
    text = " ".join(str(error).split())
    if "NoSuchBucket" in text:
        return "no such bucket"
    if url.startswith("s3:") and not any(map(os.environ.get, _KEYS)):
        return "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    for sign, words in _SIGNS.items():
        if sign in text:
            return words
    said = re.search(r"<Message>(.*?)</Message>", text)
    return display(said[1] if said else text.partition(" Debug source:")[0], 200)


class _Window(threading.local):
    """What a thread has last read of a file: others read elsewhere."""

    begin = -1
    data = memoryview(b"")


class _Remote:
    """A file of a store as :class:`tracer.store.sources.Source`."""

    mapped = False

    def __init__(self, bucket: Bucket, object: Object) -> None:
        self._bucket, self._key = bucket, object.key
        self.size, self.changed = object.size, object.changed
        self._last = _Window()

    def view(self, start: int, stop: int) -> memoryview:
        stop = min(stop, self.size)
        if stop <= start:
            return memoryview(b"")
        last = self._last
        end = last.begin + len(last.data)
        if not last.begin <= start <= stop <= end:
            # Who reads on where the last window ends will go on: what takes long is asking, not the bytes.
            ahead = _AHEAD if last.begin <= start <= end else _NEAR
            last.data = self._bucket.read(self._key, start, min(self.size, max(stop, start + ahead)))
            last.begin = start
        return last.data[start - last.begin : stop - last.begin]

    def open(self) -> IO[bytes]:
        return io.BufferedReader(_Ranges(self), 1 << 16)


class _Ranges(io.RawIOBase):
    """A remote file to be read as one that is open."""

    def __init__(self, remote: _Remote) -> None:
        self._remote, self._at = remote, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._remote.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        found = self._remote.view(self._at, self._at + len(buffer))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


_files: dict[Path, tuple[Bucket, Object]] = {}


def _opened(path: Path) -> sources.Source | None:
    found = _files.get(path)
    return None if found is None else _Remote(*found)


@cache
def _begin() -> None:
    sources.also(_opened)


def mirrored(url: str) -> Path:
    """A folder that reads as the trace at ``url`` does, until this process ends.

    Raises InputError where there is none, RemoteError where the store cannot be used.
    """
    _begin()
    bucket = Bucket(url)
    objects = bucket.objects()
    if not any(one.key == zarr3.METADATA for one in objects):
        raise InputError(f"no trace at {display(url)}: tracer push TRACE {display(url)} puts one there")
    root = Path(tempfile.mkdtemp(prefix="tracer-remote-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    sources.called[root] = url
    described = [one for one in objects if one.key.rpartition("/")[2] == zarr3.METADATA]
    if any(one.size > _LARGEST for one in described):
        raise TraceError(f"{display(url)}: a zarr.json there is unreasonably large")
    for one in objects:
        if one.key.endswith(SUFFIX):
            path = root / one.key
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file:
                file.truncate(one.size)
            _files[path] = bucket, one
            sources.called[path] = f"{url}/{one.key}"
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda one: bucket.download(one.key, root / one.key), described))
    return root


def push(trace: Trace, url: str, *, force: bool = False, progress: Progress | None = None) -> int:
    """Copy a trace to a store; what describes it goes last, so that it is there when it is whole. Bytes that were sent.

    Raises InputError where a recording is being written, and where something is at ``url``, unless ``force`` replaces
    it; RemoteError where the store cannot be used.
    """
    for recording in trace.recordings():
        if recording.state == "recording":
            raise InputError(f"recording '{display(recording.name)}' is being written: push when it is done")
    bucket = Bucket(url)
    there = bucket.objects()
    if there and not force:
        raise InputError(f"something lies at {display(url)} already: --force replaces it")
    if any(one.key == zarr3.METADATA for one in there):  # half of each is no trace
        bucket.delete([zarr3.METADATA])
    paths = sorted(_paths(trace.root), key=lambda path: (_late(trace.root, path), path))
    for done, path in enumerate(paths):
        if progress is not None:
            progress(done, len(paths))
        bucket.upload(path, path.relative_to(trace.root).as_posix())
    kept = {path.relative_to(trace.root).as_posix() for path in paths}
    left = [one.key for one in there if one.key not in kept]
    if left:
        bucket.delete(left)
    return sum(path.stat().st_size for path in paths)


def _late(root: Path, path: Path) -> int:
    """How late a file is sent: what describes recordings after their tensors, what says that it is a trace last."""
    return 2 if path == root / zarr3.METADATA else int(path.name == zarr3.METADATA)


def _paths(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not (Path(folder) / name).is_symlink()]
        for name in names:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink() and not name.startswith(zarr3.TEMPORARY):
                yield path


def pull(url: str, path: Path, *, progress: Progress | None = None) -> int:
    """Copy a trace from a store to ``path``, whole or not at all. Bytes that came.

    Raises InputError where something is at ``path`` or no trace at ``url``, RemoteError where the store cannot be used,
    TraceError where the disk fails.
    """
    if path.exists():
        raise InputError(f"{display(str(path))} exists already: name another --trace")
    bucket = Bucket(url)
    objects = bucket.objects()
    if not any(one.key == zarr3.METADATA for one in objects):
        raise InputError(f"no trace at {display(url)}")
    temporary = path.with_name(f"{zarr3.TEMPORARY}-{uuid.uuid4().hex}")
    for left in path.absolute().parent.glob(f"{zarr3.TEMPORARY}-*"):  # of one that was killed
        if left.is_dir() and not left.is_symlink() and not is_locked(left):
            shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        with lock(temporary):
            for done, one in enumerate(objects):
                if progress is not None:
                    progress(done, len(objects))
                bucket.download(one.key, temporary / one.key)
            Trace.open(temporary)
            temporary.rename(path)
    except OSError as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(unwritable(path, error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sum(one.size for one in objects)


__all__ = ["Bucket", "mirrored", "pull", "push", "url_of"]
