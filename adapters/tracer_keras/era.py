"""Which Keras made a file, from a cheap look at it: no framework, and no library that follows what is in the file."""

from __future__ import annotations

import json
import mmap
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracer.adapter import LoadRequest
from tracer.preflight import sniff

_NAME = b"keras_version\0"
_VERSION = re.compile(r"\d+\.\d+\.\d+(?:-tf|\.?(?:dev|rc|a|b)\d+)?")
_REFERENCE = struct.Struct("<IQI")  # length, address of a heap, number in it
_OBJECT = struct.Struct("<HHIQ")  # number, count, reserved, length
_STRING = 3
"""HDF5's class of text of fixed length."""
_LARGEST_JSON = 64 << 20


def is_keras_2(version: str) -> bool:
    """Whether a version is one that tf_keras loads."""
    return version.split(".", 1)[0] in ("0", "1", "2")


_KEYS_3 = frozenset({"batch_shape", "quantization_config"})
_KEYS_2 = frozenset({"batch_input_shape", "time_major", "node_def"})
_KEYS_1 = frozenset({"nb_filter", "nb_row", "border_mode", "subsample", "inner_init", "W_regularizer", "nb_feature"})


def evidence(config: Any) -> tuple[int, str]:
    """Which Keras, 1 to 3, wrote an architecture that states no version, and what shows it."""
    pending, module = [config], False
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        if not isinstance(value, Mapping):
            continue
        for major, keys in ((3, _KEYS_3), (1, _KEYS_1), (2, _KEYS_2)):
            found = sorted(keys & value.keys())
            if found:
                return major, f"it says '{found[0]}'"
        nodes = value.get("inbound_nodes")
        if isinstance(nodes, list) and nodes:
            new = isinstance(nodes[0], Mapping)
            return (3, "its inbound_nodes are mappings") if new else (2, "its inbound_nodes are lists")
        module = module or "module" in value
        pending.extend(value.values())
    return (3, "it says 'module'") if module else (2, "it says no 'module'")


def environment(request: LoadRequest) -> dict[str, str]:
    """Lets ``tf.keras`` in the user's own code mean tf_keras where the file is of Keras 2.

    TensorFlow decides it for good when it is imported, which is before anything reads the file.
    """
    path = request.path if request.arch is None else request.weights or request.path
    if path is None or not (request.imports or request.allow or request.arch):
        return {}
    version = peek(path)
    return {"TF_USE_LEGACY_KERAS": "1"} if version is not None and is_keras_2(version) else {}


def peek(path: Path) -> str | None:
    """The Keras version that a file states, as far as a cheap look tells; never raises for what is in the file."""
    try:
        kind = sniff(path)
        if kind == "zip":
            found = _zip(path)
        elif kind == "hdf5":
            found = _hdf5(path)
        else:
            found = _json(path.read_bytes()) if path.stat().st_size <= _LARGEST_JSON else None
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RecursionError, EOFError):
        return None
    return found if found is not None and _VERSION.fullmatch(found) else None


def _zip(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("metadata.json") if "metadata.json" in archive.namelist() else None
        return _json(archive.read(member)) if member is not None and member.file_size <= _LARGEST_JSON else None


def _json(raw: bytes) -> str | None:
    value = json.loads(raw.decode("utf-8-sig"))
    value = json.loads(value) if isinstance(value, str) else value
    version = value.get("keras_version") if isinstance(value, dict) else None
    return version if isinstance(version, str) else None


def _hdf5(path: Path) -> str | None:
    """The attribute's text stands in the file either behind its name or in a heap that is referred to there."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = -1
        while (at := data.find(_NAME, at + 1)) >= 0:
            message = data[at + len(_NAME) : at + len(_NAME) + 96]
            for offset in range(len(message) - _REFERENCE.size + 1):
                length, heap, number = _REFERENCE.unpack_from(message, offset)
                if 3 <= length <= 32 and 0 < number <= 0xFFFF and data[heap : heap + 4] == b"GCOL":
                    text = _heap_object(data, heap, number)[:length].decode("ascii", "replace")
                    if _VERSION.fullmatch(text):
                        return text
            text = _inline(message)
            if _VERSION.fullmatch(text):
                return text
    return None


def _inline(message: bytes) -> str:
    """The text of an attribute of fixed length; nothing but that length says where it ends."""
    for start in range(8):  # the name is padded
        if message[start : start + 1] and message[start] & 0x0F == _STRING:
            size = int.from_bytes(message[start + 4 : start + 8], "little")
            found = re.search(rb"\d", message[start + 8 :])
            if found and 3 <= size <= 64:
                begin = start + 8 + found.start()
                return message[begin : begin + size].split(b"\0")[0].decode("ascii", "replace").strip()
    return ""


def _heap_object(data: mmap.mmap, heap: int, number: int) -> bytes:
    """Object ``number`` of the global heap at ``heap``; empty when it is not there."""
    end = min(len(data), heap + int.from_bytes(data[heap + 8 : heap + 16], "little"))
    at = heap + 16
    while at + _OBJECT.size <= end:
        index, _, _, length = _OBJECT.unpack_from(data, at)
        if index == number:
            return data[at + _OBJECT.size : min(at + _OBJECT.size + min(length, 64), end)]
        if index == 0:
            break
        at += _OBJECT.size + (length + 7) // 8 * 8
    return b""
