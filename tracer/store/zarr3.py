"""Zarr v3 metadata and chunks, written and read directly.

Creating an array through zarr-python costs milliseconds and writes no checksum that a reader must honour; the hot
path therefore writes the documented bytes itself (https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html):
one uncompressed little-endian chunk an array, followed by its CRC-32C. The tests let zarr-python judge them. Reading
here knows exactly this form and refuses any other, so a hostile trace reaches no codec.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import math
import mmap
import os
import stat
import struct
import sys
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.errors import TraceError
from tracer.names import display
from tracer.store.crc32c import checksum

try:
    import orjson
except ImportError:  # in an environment of --python
    orjson = None  # type: ignore[assignment]

METADATA = "zarr.json"
TEMPORARY = ".tracer-tmp"
_LARGEST_METADATA = 256 << 20
_AT_ONCE = 256 << 10
"""Bytes of one write: for larger ones Linux looks for large pages, which was measured to take four times as long."""
_TINY = 1 << 10
"""Bytes that are copied sooner than a view of them is made."""
_LITTLE = sys.byteorder == "little"
_CRC = struct.Struct("<I")
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _fill_value(dtype: np.dtype[Any]) -> Any:
    # A chunk that is missing must not read as zeros, which a dead ReLU could have produced.
    if dtype.kind == "f":
        return "NaN"
    if dtype.kind == "c":
        return ["NaN", "NaN"]
    return False if dtype.kind == "b" else 0


def array_metadata(
    shape: Sequence[int],
    dtype: np.dtype[Any],
    attributes: Mapping[str, Any],
    dimensions: Sequence[str],
    *,
    checksum: bool = True,
) -> dict[str, Any]:
    """``zarr.json`` of an array in one chunk; ``dtype`` is the data type in the file, ``checksum`` whether one follows
    the chunk's data."""
    bytes_codec: dict[str, Any] = {"name": "bytes"}
    if dtype.itemsize > 1:
        bytes_codec["configuration"] = {"endian": "little"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, d) for d in shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": _fill_value(dtype),
        "codecs": [bytes_codec, *([{"name": "crc32c"}] if checksum else [])],
        "attributes": dict(attributes),
        "dimension_names": list(dimensions),
    }


@lru_cache(maxsize=4096)
def _frame(shape: tuple[int, ...], dtype: np.dtype[Any], checksum: bool) -> str:
    """The text of :func:`array_metadata` up to its attributes, which come last with the dimensions."""
    return as_json(array_metadata(shape, dtype, {}, [], checksum=checksum)).removesuffix(
        '"attributes":{},"dimension_names":[]}'
    )


def described(
    shape: Sequence[int],
    dtype: np.dtype[Any],
    attributes: Mapping[str, Any] | str,
    dimensions: Sequence[str] | str,
    *,
    checksum: bool = True,
) -> bytes:
    """The text of the ``zarr.json`` of an array whose true data type is ``dtype``.

    Args:
        attributes: or the JSON of them, as of ``dimensions``.
        checksum: whether one follows the data in the chunk.
    """
    on_disk = dtypes.stored_as(dtype)
    own = attributes if isinstance(attributes, str) else as_json(attributes)
    if on_disk != dtype:
        own = spliced(own, {"dtype": brief(dtypes.name_of(dtype))})
    frame = _frame(tuple(shape), on_disk, checksum)
    named = dimensions if isinstance(dimensions, str) else brief(list(dimensions))
    return f'{frame}"attributes":{own},"dimension_names":{named}}}'.encode()


def bytes_of(values: NDArray[Any], on_disk: np.dtype[Any]) -> bytes | memoryview:
    """The bytes of an array's one chunk, empty for an empty array; ``on_disk`` is the data type in the file."""
    if values.nbytes < _TINY and values.dtype == on_disk and _LITTLE and on_disk.isnative:
        return values.tobytes()
    if values.dtype == on_disk and _LITTLE and values.ndim and values.size and values.flags.c_contiguous:
        return values.data.cast("B")
    # numpy's ascontiguousarray would turn a 0-d array into a 1-d one.
    data = np.asarray(values, order="C").view(on_disk).astype(on_disk.newbyteorder("<"), copy=False)
    return data.reshape(-1).view(np.uint8).data


def as_json(value: Any) -> str:
    """JSON without spaces. Raises ValueError for what is none (NaN among it)."""
    if orjson is not None:
        try:
            quick = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)
        except TypeError:  # of numbers beyond 64 bits and lone surrogates
            pass
        else:
            if b"null" not in quick:  # which it makes of NaN, too
                return str(quick, "utf-8")
    return _JSON.encode(value)


def brief(value: Any) -> str:
    """The same of what is surely JSON, in a tenth of the time where orjson is installed, which makes null of NaN."""
    if orjson is not None:
        try:
            return str(orjson.dumps(value), "utf-8")
        except TypeError:  # of numbers beyond 64 bits and lone surrogates
            pass
    return as_json(value)


def briefly(rows: Sequence[tuple[Sequence[Any], str, Sequence[Any]]]) -> str:
    """:func:`brief` of a list of lists, which are given as what comes first, one item's JSON, and the rest."""
    if orjson is not None:
        try:
            whole = [[*first, orjson.Fragment(given), *rest] for first, given, rest in rows]
            return str(orjson.dumps(whole), "utf-8")
        except TypeError:
            pass
    one = (
        f"[{brief([*first])[1:-1]},{given}{''.join(f',{brief(item)}' for item in rest)}]" for first, given, rest in rows
    )
    return f"[{','.join(one)}]"


@lru_cache(maxsize=256)
def _quoted(key: str) -> str:
    return brief(key)


def spliced(whole: str, more: Mapping[str, str]) -> str:
    """The JSON of an object with more items, whose values are given as JSON themselves."""
    items = ",".join(f"{_quoted(key)}:{value}" for key, value in more.items())
    return f"{whole[:-1]}{',' if items and whole != '{}' else ''}{items}}}"


def group_text(attributes: Mapping[str, Any], more: Mapping[str, str] | None = None) -> bytes:
    """The text of the ``zarr.json`` of a group; ``more`` are attributes whose values are given as JSON."""
    own = spliced(as_json(dict(attributes)), more or {})
    return f'{{"zarr_format":3,"node_type":"group","attributes":{own}}}'.encode()


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, outlast a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settle(folder: Path) -> None:
    """:func:`sync` of a folder, all that is in it, and its own name. Raises OSError."""
    for inside, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(inside, name))
        sync(Path(inside))
    sync(folder.absolute().parent)


def write_metadata(folder: Path, text: bytes, *, durable: bool = False) -> None:
    """Replace ``folder/zarr.json`` in one step: a reader sees the old one or the new one; ``durable`` after a power cut
    too."""
    _replace(folder / METADATA, [memoryview(text)], durable)


def _replace(path: Path, pieces: Sequence[memoryview], durable: bool) -> None:
    temporary = path.with_name(f"{TEMPORARY}-{uuid.uuid4().hex}")  # threads and containers may share a group
    try:
        with open(temporary, "wb", buffering=0) as file:
            for piece in pieces:
                write_all(file.fileno(), piece)
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def make_group(
    folder: Path,
    attributes: Mapping[str, Any] | None = None,
    more: Mapping[str, str] | None = None,
    *,
    durable: bool = False,
) -> None:
    """Create a group with its parents' folders; an existing one is left as it is where no attributes are given.

    ``more`` are attributes whose values are given as JSON; ``durable`` as of :func:`write_metadata`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if attributes is not None or not (folder / METADATA).exists():
        write_metadata(folder, group_text(attributes or {}, more), durable=durable)


@lru_cache(maxsize=256)
def chunk_name(rank: int) -> str:
    return ".".join(["c", *["0"] * rank])


def write_array(folder: Path, values: NDArray[Any], attributes: Mapping[str, Any], dimensions: Sequence[str]) -> None:
    """Write ``values`` as an array: chunk first, metadata last, so that an array that is listed is whole.

    Another process may be writing the same. Raises OSError.
    """
    raw = bytes_of(values, dtypes.stored_as(values.dtype))
    text = described(values.shape, values.dtype, attributes, dimensions)
    folder.mkdir(parents=True, exist_ok=True)
    if raw:
        _replace(
            folder / chunk_name(values.ndim), [memoryview(raw), memoryview(_CRC.pack(checksum(raw)))], durable=False
        )
    write_metadata(folder, text)


def write_all(descriptor: int, data: memoryview, at: int | None = None) -> None:
    """Write all of ``data``, at a place of the file where one is given. Raises OSError."""
    while data:
        piece = data[:_AT_ONCE]
        written = os.write(descriptor, piece) if at is None else os.pwrite(descriptor, piece, at)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[written:]
        at = None if at is None else at + written


def read_metadata(folder: Path) -> dict[str, Any]:
    """``zarr.json`` of a folder. Raises FileNotFoundError when there is none, TraceError when it is damaged."""
    path = folder / METADATA
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_size > _LARGEST_METADATA:
            raise TraceError(f"{display(str(path))} is unreasonably large")
        return decoded(file.read(), display(str(path)))


def _loads(raw: bytes) -> Any:
    if orjson is not None:
        with contextlib.suppress(ValueError):  # of lone surrogates, which json takes
            return orjson.loads(raw)
    return json.loads(raw)


def decoded(raw: bytes, where: str) -> dict[str, Any]:
    """What a ``zarr.json`` says. Raises TraceError, naming ``where``, when it is damaged."""
    # Values without cycles: what the garbage collector looks for among all of a framework's objects is not here.
    collecting = gc.isenabled()
    gc.disable()
    try:
        value = _loads(raw)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"damaged: {where} is not JSON") from error
    finally:
        if collecting:
            gc.enable()
    if not isinstance(value, dict) or value.get("zarr_format") != 3:
        raise TraceError(f"damaged: {where} is not Zarr v3 metadata")
    if not isinstance(value.setdefault("attributes", {}), dict):
        raise TraceError(f"damaged: {where} has attributes that are no object")
    return value


def read_array(folder: Path, *, verify: bool = True) -> NDArray[Any]:
    """The array in ``folder``, memory-mapped and read-only, in its true element type.

    Raises TraceError when anything is missing or damaged: a lost chunk never reads as zeros. With ``verify`` the
    checksum is computed, which reads the whole chunk.
    """
    where = display(str(folder))
    try:
        metadata = read_metadata(folder)
    except FileNotFoundError as error:
        raise TraceError(f"damaged: {where} is missing") from error
    shape, on_disk, dtype = layout_of(metadata, where)
    count = math.prod(shape)
    if count == 0:
        return np.empty(shape, dtype)
    path = folder / chunk_name(len(shape))
    try:
        descriptor = open_regular(path)
    except FileNotFoundError as error:
        raise TraceError(f"damaged: the data of {where} is missing") from error
    try:
        expected = count * on_disk.itemsize + _CRC.size
        size = os.fstat(descriptor).st_size
        if size != expected:
            raise TraceError(f"damaged: {where} holds {size} bytes where {expected} were written")
        mapped = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    if verify:
        view = memoryview(mapped)
        if checksum(view[: -_CRC.size]) != _CRC.unpack(view[-_CRC.size :])[0]:
            raise TraceError(f"damaged: the checksum of {where} does not fit its data")
    flat = np.frombuffer(mapped, on_disk.newbyteorder("<"), count)
    return flat.view(dtype).reshape(shape)


def layout_of(metadata: Mapping[str, Any], where: str) -> tuple[tuple[int, ...], np.dtype[Any], np.dtype[Any]]:
    """Shape, data type in the file and true element type of an array as tracer writes it.

    Raises TraceError for any other array.
    """
    try:
        shape = tuple(int(d) for d in metadata["shape"])
        on_disk = dtypes.by_name(str(metadata["data_type"]))
        expected = array_metadata(shape, on_disk, {}, [])
        same = all(metadata[key] == expected[key] for key in ("chunk_grid", "chunk_key_encoding", "codecs"))
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"damaged: {where} has no usable array metadata") from error
    if not same or any(d < 0 for d in shape):
        raise TraceError(f"{where} is not an array that tracer wrote")
    dtype = dtypes.by_name(str(metadata["attributes"].get("dtype", on_disk.name)))
    if dtypes.stored_as(dtype) != on_disk:
        raise TraceError(f"damaged: {where} declares {dtype.name} over {on_disk.name}")
    return shape, on_disk, dtype


def open_regular(path: Path) -> int:
    """A descriptor of a regular file that is no link: a received trace must not lead to other files."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise TraceError(f"{display(str(path))} is a link: refused") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TraceError(f"{display(str(path))} is not a regular file")
    return descriptor
