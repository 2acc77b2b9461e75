"""Cheap checks of ONNX files before onnx is imported: whole, and an ONNX graph as far as the outermost fields show."""

from __future__ import annotations

import mmap
import os
import re
import stat
from pathlib import Path

from tracer.errors import InputError
from tracer.names import display
from tracer.preflight import check_regular_file, sniff

_LARGEST = (1 << 31) - 1
"""A protobuf message ends at 2 GiB."""
_GRAPH = 7
_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, _GRAPH: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""ModelProto's fields and their wire types: ir_version, producer …, graph, opset_import, metadata, functions."""
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x1f])")
"""An entry of TensorProto.external_data as every serializer writes it: key, value's tag, value's length."""
_MOST_FILES = 100_000
_OTHERS = {
    "hdf5": "is an HDF5 file (Keras): record it with 'tracer record tf'",
    "zip": "is a zip archive, not an ONNX file: unpack it, or record it with 'tracer record pt' or 'tf'",
    "tflite": "is a TFLite file, which is not read",
    "npy": "is a numpy array, not a model",
    "gzip": "is gzip-compressed: unpack it first",
    "tar": "is a tar archive: unpack it first",
}


def claims(path: Path) -> bool:
    """Whether the file is named like an ONNX file."""
    return path.suffix.lower() == ".onnx"


def check_file(path: Path) -> None:
    """See that ``path`` is a whole ONNX file, from its outermost fields alone. Raises InputError."""
    check_regular_file(path)
    shown = display(str(path))
    kind = sniff(path)
    if kind in _OTHERS:
        raise InputError(f"{shown} {_OTHERS[kind]}")
    size = path.stat().st_size
    if size > _LARGEST:
        raise InputError(f"{shown} is over 2 GiB, which no ONNX file can be: large weights lie in files beside it")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[4:8] == b"ORTM":
            raise InputError(f"{shown} is in onnxruntime's own format (.ort): give the .onnx it was made from")
        fault = _fault(data)
    if fault:
        raise InputError(f"{shown} {fault}")


def _fault(data: mmap.mmap) -> str:
    """What is wrong with the outermost fields; empty when nothing is."""
    position, seen = 0, set()
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if _FIELDS.get(number) != wire:
            return "is damaged" if _GRAPH in seen else "is not an ONNX file"
        seen.add(number)
        value, position = _varint(data, position)
        if position < 0:
            break
        if wire == 2:
            position += value
    if position != len(data):
        return "is truncated or damaged" if {1, _GRAPH} & seen else "is not an ONNX file"
    return "" if _GRAPH in seen else "holds no graph: it is not an ONNX model"


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    """A varint and the position after it; (0, -1) when there is none."""
    value = 0
    for index, byte in enumerate(data[position : position + 10] if position >= 0 else b""):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    return 0, -1


def beside(path: Path) -> tuple[Path, ...]:
    """The external data files that the model names: regular files in its folder or below, links left out.

    Found by the bytes of the entries, so that a confined process can be let read them before anything is parsed.
    """
    folder, found = path.parent, dict[str, Path]()
    try:
        if not path.stat().st_size:
            return ()
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for match in _LOCATION.finditer(data):
                length, start = _varint(data, match.start(1))
                name = data[start : start + length].decode("utf-8", "replace")
                if name not in found and len(found) < _MOST_FILES and inside(folder, name) is None:
                    found[name] = folder / name
    except (OSError, ValueError):
        return ()
    return tuple(found.values())


def inside(folder: Path, name: str) -> str | None:
    """Why the external data file ``name`` is not taken; None for a regular file in ``folder`` or below.

    Every part of the way is looked at: a link could lead out of the folder.
    """
    parts = re.split(r"[/\\]", name)
    if not name or "\0" in name or os.path.isabs(name) or re.match("[A-Za-z]:", name) or ".." in parts:
        return "lies outside the model's folder"
    place = folder
    for part in name.split("/"):
        place = place / part
        try:
            mode = os.lstat(place).st_mode
        except (OSError, ValueError):
            return "does not exist"
        if stat.S_ISLNK(mode):
            return "is a symbolic link"
    return None if stat.S_ISREG(mode) else "is not a regular file"
