"""Tensors in one file that others read, or in a folder: written one by one, so that memory stays flat.

numpy reads ``.npz`` and ``.npy`` (their format: numpy's ``lib.format`` and a stored zip), the ``safetensors`` package
``.safetensors``. The same index, JSON, lies in each: ``tracer.json`` in the archive or the folder, ``tracer`` in the
metadata of a ``.safetensors`` file.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from tracer import dtypes, names
from tracer.errors import InputError, TraceError
from tracer.exporting.chosen import INDEX, Chosen, Item, Wanted, choose
from tracer.relations import Array
from tracer.store import Recording, zarr3
from tracer.store.sources import forget
from tracer.weighing import writing

SCHEMA = "tracer-export/1"
_BLOCK = 1 << 20
"""Elements that are converted at a time."""
_SAFETENSORS = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32",
     "float64", "float8_e4m3fn", "float8_e5m2", "complex64"]
)  # fmt: skip
"""Types that such a file has."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file or folder.
        index: the documented object that lies in it.
        nbytes: bytes of all files.
        notes: sentences about what was left out or stored in another type.
    """

    path: Path
    index: dict[str, Any]
    nbytes: int
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """What the tensors are called in the file, in running order."""
        return tuple(entry["key"] for entry in self.index["tensors"])

    def __str__(self) -> str:
        from tracer.report.words import bytes_text, count

        return f"{names.display(str(self.path))}: {count(len(self.keys), 'tensor')}, {bytes_text(self.nbytes)}"


def export(
    recording: Recording, path: Path, wanted: Wanted, *, force: bool = False, progress: Progress | None = None
) -> Exported:
    """Write tensors of a recording; the name's end says how: ``.npz``, ``.safetensors``, none for a folder.

    Raises InputError for what cannot be chosen, a name that says no format and what is in the way; TraceError where the
    recording is damaged or the disk fails. Nothing is left behind then.
    """
    writing.check_name(path)
    kind = path.suffix.lower()
    if kind not in (".npz", ".safetensors", ""):
        raise InputError(
            f"{names.display(str(path))}: tensors go into a .npz or .safetensors file, or into a folder (no ending)"
        )
    if kind:
        writing.check(path, force)
    else:
        try:
            _check_folder(path, force)
        except OSError as error:
            raise writing.failed(path, error) from error
    if kind == ".safetensors":
        _library()
    chosen = choose(recording, wanted)
    step = progress or (lambda done, total: None)
    write = {".npz": _npz, ".safetensors": _safetensors, "": _folder}[kind]
    index = write(recording, wanted, chosen, path, force, step)
    size = path.stat().st_size if kind else sum(file.stat().st_size for file in path.iterdir())
    return Exported(path, index, size, (*chosen.notes, *_converted(index)))


def _index(recording: Recording, wanted: Wanted, chosen: Chosen, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is said of the tensors, beside them."""
    return {
        "schema": SCHEMA,
        "tracer": version("tracer-nn"),
        "recording": recording.name,
        "state": recording.state,
        "framework": recording.framework,
        "model": recording.model,
        "input": recording.input_id,
        "like": None if wanted.like is None else wanted.like.name,
        "tensors": list(entries),
        "aliases": chosen.aliases,
    }


def _entry(item: Item, values: Array, stored: np.dtype[Any], **more: str) -> dict[str, Any]:
    """What is said of one: its type is that of the recorded values, ``stored`` that in the file where it differs."""

    def said(name: str | tuple[str, str]) -> dict[str, str]:
        return {"name": name} if isinstance(name, str) else {"owner": name[0], "parameter": name[1]}

    return {
        "key": item.key,
        "kind": item.kind,
        **said(item.aligned),
        "of": said(item.name),
        "shape": list(values.shape),
        "dtype": item.dtype,
        "stored": dtypes.name_of(stored),
        "moved": item.relation,
        **more,
    }


def _converted(index: dict[str, Any]) -> Iterator[str]:
    """A sentence about tensors that the format has no type for."""
    other = sorted({(e["dtype"], e["stored"]) for e in index["tensors"] if e["dtype"] != e["stored"]})
    for dtype, stored in other:
        count = sum((e["dtype"], e["stored"]) == (dtype, stored) for e in index["tensors"])
        yield f"{count} of {dtype}, which this format lacks, stored as {stored}, which holds every value"


# -- numpy's formats ---------------------------------------------------------------------------------------------------


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that numpy's own files have for one: bfloat16 and float8 become float32, which holds every value."""
    found = dtype if dtype.isbuiltin == 1 else np.dtype(np.float32)
    return found.newbyteorder("<")


def _write_npy(out: IO[bytes], values: Array) -> np.dtype[Any]:
    """A tensor as ``.npy``, block by block in C order; its type there."""
    dtype = _native(values.dtype)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": values.shape}
    np.lib.format.write_array_header_1_0(out, header)
    for block in _blocks(values, dtype):
        out.write(block.data)
    forget(values)
    return dtype


def _blocks(values: Array, dtype: np.dtype[Any]) -> Iterator[Array]:
    """The elements in C order as blocks of one axis."""
    if not values.size:
        return
    flags: Any = ["external_loop", "buffered"]
    for block in np.nditer(values, flags, order="C", op_dtypes=dtype, casting="unsafe", buffersize=_BLOCK):
        yield np.ascontiguousarray(block).view(np.uint8)


def _member(name: str) -> zipfile.ZipInfo:
    """Of an archive that is the same whenever it is written."""
    found = zipfile.ZipInfo(name)
    found.external_attr = 0o644 << 16
    return found


def _npz(
    recording: Recording, wanted: Wanted, chosen: Chosen, path: Path, force: bool, progress: Progress
) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []

    def fill(out: BinaryIO) -> None:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for done, item in enumerate(chosen.items):
                progress(done, len(chosen.items))
                values = item.read()
                with archive.open(_member(f"{item.key}.npy"), "w", force_zip64=True) as member:
                    entries.append(_entry(item, values, _write_npy(member, values)))
            index = json.dumps(_index(recording, wanted, chosen, entries))
            archive.writestr(_member(INDEX), index)

    writing.publish_filled(fill, path, force)
    return _index(recording, wanted, chosen, entries)


def _folder(
    recording: Recording, wanted: Wanted, chosen: Chosen, path: Path, force: bool, progress: Progress
) -> dict[str, Any]:
    path = path.absolute()
    made = path.with_name(f".tracer-{secrets.token_hex(8)}")
    aside = path.with_name(f".tracer-{secrets.token_hex(8)}")
    entries = []
    try:
        made.mkdir()
        for done, item in enumerate(chosen.items):
            progress(done, len(chosen.items))
            values = item.read()
            file = f"{names.encode(item.key)}.npy"
            with (made / file).open("xb") as out:
                entries.append(_entry(item, values, _write_npy(out, values), file=file))
        index = _index(recording, wanted, chosen, entries)
        (made / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        zarr3.settle(made)
        _check_folder(path, force)
        if path.exists():
            os.rename(path, aside)
        os.rename(made, path)
        zarr3.sync(path.parent)
    except TraceError:
        raise
    except OSError as error:
        raise writing.failed(path, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if not path.exists() and aside.exists():
            os.rename(aside, path)
        shutil.rmtree(aside, ignore_errors=True)
    return index


def _check_folder(path: Path, force: bool) -> None:
    """Raises InputError where a folder cannot be made: only an empty one, or with ``force`` an export, is replaced.

    Raises OSError where the file system cannot tell.
    """
    shown, parent = names.display(str(path)), path.absolute().parent
    if not parent.is_dir():
        raise InputError(f"there is no folder {names.display(str(parent))}")
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise InputError(f"{shown} is no folder: name another one, or a file that ends in .npz or .safetensors")
    if any(path.iterdir()) and not (force and _is_export(path)):
        known = "--force replaces it" if _is_export(path) else "it is no export of tracer's, name another folder"
        raise InputError(f"{shown} exists already: {known}")


def _is_export(path: Path) -> bool:
    """Whether a folder is one that :func:`export` wrote, and nothing else is in it."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        index = json.loads((path / INDEX).read_bytes())
        files = {INDEX, *(entry["file"] for entry in index["tensors"])}
        return index["schema"] == SCHEMA and {one.name for one in path.iterdir()} <= files
    return False


# -- safetensors -------------------------------------------------------------------------------------------------------


def _library() -> Any:
    try:
        import_module("safetensors.numpy")
        return import_module("safetensors")
    except ImportError:
        raise InputError("a .safetensors file needs: pip install 'tracer-nn[safetensors]'") from None


def _copied(scratch: IO[bytes], values: Array, dtype: np.dtype[Any]) -> Array:
    """The values in C order and of a type, in a file whose pages the kernel takes back. Raises OSError."""
    size = values.size * dtype.itemsize
    if not size:
        return np.empty(values.shape, dtype)
    at = -(-scratch.seek(0, os.SEEK_END) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
    scratch.seek(at)
    for block in _blocks(values, dtype):
        scratch.write(block.data)
    scratch.flush()
    forget(values)
    view = mmap.mmap(scratch.fileno(), size, access=mmap.ACCESS_READ, offset=at)
    return np.frombuffer(view, dtype).reshape(values.shape)


def _safetensors(
    recording: Recording, wanted: Wanted, chosen: Chosen, path: Path, force: bool, progress: Progress
) -> dict[str, Any]:
    library = _library()
    entries: list[dict[str, Any]] = []

    def prepared(item: Item, scratch: IO[bytes]) -> Array:
        values = item.read()
        name = dtypes.name_of(values.dtype)
        dtype = values.dtype if name in _SAFETENSORS else _native(values.dtype)
        if dtype.kind == "c" and name not in _SAFETENSORS:
            raise InputError(f"a .safetensors file has no {name} ({names.display(item.key)}): export to .npz")
        if dtype != values.dtype or not values.flags.c_contiguous or not recording.pack.in_place:
            values = _copied(scratch, values, dtype)  # what lies in the trace stays there
        entries.append(_entry(item, values, dtype))
        return values

    def fill(out: BinaryIO) -> None:
        tensors = {}
        with tempfile.TemporaryFile(dir=path.absolute().parent) as scratch:
            for done, item in enumerate(chosen.items):
                progress(done, len(chosen.items))
                tensors[item.key] = prepared(item, scratch)
        index = json.dumps(_index(recording, wanted, chosen, entries))
        try:
            library.numpy.save_file(tensors, out.name, metadata={"format": "np", "tracer": index})
        except library.SafetensorError as error:
            raise TraceError(f"cannot write {names.display(str(path))}: {error}") from error
        os.chmod(out.name, os.fstat(out.fileno()).st_mode & 0o777)  # it is a new file, which only we may read
        zarr3.sync(Path(out.name))

    writing.publish_filled(fill, path, force)
    return _index(recording, wanted, chosen, entries)


__all__ = ["SCHEMA", "Exported", "export"]
