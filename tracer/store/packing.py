"""Writing the file of a recording anew after it was recorded: its arrays compressed without loss, or as they were."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tracer import dtypes, names
from tracer.errors import InputError, TraceError
from tracer.graph import lengths
from tracer.store import packed, places, zarr3, zips
from tracer.store.packs import PACKED, Pack, Text, groups, packs
from tracer.store.recordings import STEPS, VALUES, Recording, unwritable
from tracer.store.trace import lock

Sizes = tuple[int, int]
"""Bytes of a recording's files before and after."""


def files(recording: Recording) -> list[Path]:
    """The packs of a recording, of its one run or of its steps."""
    steps = packs(recording.folder / STEPS).values()
    return list(steps) if recording.attributes.get("steps") else [recording.folder / VALUES]


def rewrite(recording: Recording, compress: bool, progress: Callable[[int, int], None] | None = None) -> Sizes:
    """Compress a recording's arrays, or undo that; a file that is as wanted is left alone.

    Each file is replaced in one step, when it is whole and on the disk: killed at any time, it is the former one or the
    new one, and readers that have it open read on. Raises InputError for a recording without an end, TraceError where
    another process writes it, where it is damaged or the disk fails.
    """
    if recording.state not in ("complete", "failed"):
        name = names.display(recording.name)
        raise InputError(f"recording '{name}' is {recording.state}: only whole ones are packed")
    before = after = 0
    with lock(recording.folder):
        found = files(recording)
        for folder in {path.parent for path in found}:
            for left in folder.glob(f"{zarr3.TEMPORARY}-*"):  # of a process that was killed
                left.unlink(missing_ok=True)
        for done, path in enumerate(found):
            if progress is not None:
                progress(done, len(found))
            try:
                pack = Pack(path)
                before += pack.size
                after += _rewritten(pack, compress) if pack.packed != compress else pack.size
            except FileNotFoundError:
                raise TraceError(f"damaged: {names.display(str(path))} is missing") from None
            except TraceError:
                raise
            except OSError as error:
                raise TraceError(unwritable(recording.root, error)) from error
    return before, after


def _rewritten(pack: Pack, compress: bool) -> int:
    """Write a pack anew. Bytes of the new file; raises TraceError and OSError, with the former file untouched."""
    temporary = pack.path.parent / f"{zarr3.TEMPORARY}-{uuid.uuid4().hex}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        writer = _Writer(descriptor)
        writer.text(Text.of("", zarr3.group_text({**pack.attributes, PACKED: compress})))
        described: list[str] = []
        for place, metadata in pack.arrays():
            writer.array(place, *_array(pack, place, metadata, compress))
            described.append(place)
        for text in groups(described).values():
            writer.text(text)
        size = writer.end()
        os.fsync(descriptor)
        os.replace(temporary, pack.path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    zarr3.sync(pack.path.parent)
    return size


def _array(
    pack: Pack, place: str, metadata: Mapping[str, Any], compress: bool
) -> tuple[Iterator[tuple[str, bytes | memoryview]], dict[str, Any]]:
    """The chunks of an array, key and bytes, as they are to be written, and what is said of it."""
    own = metadata["attributes"]
    try:
        shape, on_disk = lengths(metadata["shape"]), dtypes.by_name(str(metadata["data_type"]))
        dtype = dtypes.by_name(str(own.get("dtype", on_disk.name)))
        dimensions = list(metadata.get("dimension_names") or places.dimensions(place, len(shape)))
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"damaged: {names.display(place)} has no usable array metadata") from error
    values = pack.read_array(place, shape, dtype)
    if compress:
        chunks: Iterator[tuple[str, bytes | memoryview]] = packed.encoded(values) if values.size else iter(())
        return chunks, packed.metadata_of(shape, on_disk, own, dimensions)
    raw = zarr3.bytes_of(values, on_disk)
    whole = iter([(zarr3.chunk_name(len(shape)), raw)] if raw else [])
    return whole, zarr3.array_metadata(shape, on_disk, own, dimensions, checksum=False)


class _Writer:
    """Writes a stored zip from beginning to end. Raises OSError."""

    def __init__(self, descriptor: int) -> None:
        self._file = descriptor
        self._layout = zips.Layout()

    def array(self, place: str, chunks: Iterator[tuple[str, bytes | memoryview]], metadata: Mapping[str, Any]) -> None:
        for key, raw in chunks:
            entry, head = self._layout.data(f"{place}/{key}".encode(), len(raw), zips.crc32(raw))
            self._layout.entries.append(entry)
            self._put(head, raw)
        self.text(Text.of(place, zarr3.as_json(metadata).encode()))

    def text(self, text: Text) -> None:
        self._put(self._layout.whole(text.name, text.size, text.crc, text.whole))

    def end(self) -> int:
        """Write the directory; the size of the file."""
        directory = self._layout.end()
        self._put(directory)
        return self._layout.at + len(directory)

    def _put(self, *pieces: bytes | memoryview) -> None:
        for piece in pieces:
            zarr3.write_all(self._file, memoryview(piece))


__all__ = ["Sizes", "files", "rewrite"]
