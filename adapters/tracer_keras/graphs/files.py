"""Frozen graphs and SavedModels on disk, looked at without TensorFlow.

The bytes are walked as protobuf fields, just deep enough to see every operation's name: in the graph, in its
functions, in all graphs of a SavedModel. Nothing is executed and nothing is copied.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tracer.adapter import LoadRequest
from tracer.errors import InputError, RefusedError
from tracer.names import display
from tracer.preflight import check_regular_file, sniff
from tracer.text import some
from tracer_keras.graphs.allowed import ALLOWED, never_run

Format = Literal["frozen", "saved_model"]
Span = tuple[int, int]

LARGEST = 2 << 30
"""Bytes of one protobuf; TensorFlow itself takes no more."""
_OP = re.compile(rb"[A-Za-z0-9_.>][A-Za-z0-9_.>/\\-]{0,300}")
_GRAPH, _LIBRARY, _FUNCTION, _BODY = 1, 2, 1, 3
_META_GRAPH, _GRAPH_OF_META = 2, 2


def is_graph(path: Path) -> bool:
    """Whether ``path`` is a SavedModel's folder, or has the suffix of a graph."""
    if path.is_dir():
        return any((path / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt"))
    return path.suffix.lower() in (".pb", ".pbtxt", ".graphdef")


@dataclass
class Scan:
    """What a graph file holds: each operation's type with one node that has it; ``functions`` are its own."""

    path: Path
    format: Format
    operations: dict[str, str] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)

    def unsafe(self) -> dict[str, str]:
        """Operations outside the list, with the node that has them."""
        own = self.functions - ALLOWED
        return {
            op: node
            for op, node in self.operations.items()
            if op not in ALLOWED and op not in own and not never_run(op)
        }


def preflight(request: LoadRequest) -> None:
    """Check the files of a graph. Raises InputError or RefusedError, in one line."""
    assert request.path is not None
    if request.weights is not None:
        raise InputError(f"{display(str(request.path))} is a graph and brings its own weights: leave out --weights")
    found = scan(request.path)
    if not request.trust:
        refuse(found)


def findings(request: LoadRequest) -> tuple[str, ...]:
    """A sentence for each operation that keeps the graph from running without ``--trust``. Raises InputError."""
    assert request.path is not None
    return tuple(
        f"operation {display(op)} (in '{display(node)}') may run code or touch files"
        for op, node in sorted(scan(request.path).unsafe().items())
    )


def refuse(found: Scan) -> None:
    """Raises RefusedError when the file holds operations outside the list."""
    unsafe = found.unsafe()
    if unsafe:
        names = [f"{op} in '{node}'" if node else op for op, node in sorted(unsafe.items())]
        raise RefusedError(
            f"{display(str(found.path))} holds operations that may run code or touch files: {some(names, 5)} "
            "(--trust runs them)"
        )


def located(path: Path) -> tuple[Path, Format]:
    """The protobuf of a model and what it is. Raises InputError."""
    shown = display(str(path))
    if path.is_dir():
        inner = path / "saved_model.pb"
        if not inner.exists():
            if (path / "saved_model.pbtxt").exists():
                raise InputError(f"{shown} is a SavedModel in text form: save it again as saved_model.pb")
            raise InputError(f"{shown} is a directory without a saved_model.pb")
        check_regular_file(inner)
        return inner, "saved_model"
    check_regular_file(path)
    return path, "saved_model" if path.name == "saved_model.pb" else "frozen"


def scan(path: Path) -> Scan:
    """The operations of a graph file. Raises InputError when it is none, RefusedError when it is too large."""
    inner, kind = located(path)
    shown = display(str(path))
    size = inner.stat().st_size
    if size > LARGEST:
        raise RefusedError(f"{shown} holds {size >> 20} MiB of protobuf; TensorFlow takes at most {LARGEST >> 20}")
    _other_format(inner, shown)
    found = Scan(path, kind)
    with open(inner, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            if kind == "saved_model":
                for number, span in _parts(data, (0, size)):
                    if number == _META_GRAPH:
                        for inside, graph in _parts(data, span):
                            if inside == _GRAPH_OF_META:
                                _graph(data, graph, found)
            else:
                _graph(data, (0, size), found)
        except _DamagedError as error:
            raise InputError(f"{shown} is no TensorFlow graph, or it is truncated ({error})") from None
    if not found.operations:
        what = "a SavedModel" if kind == "saved_model" else "a frozen graph"
        raise InputError(f"{shown} is not {what}: it holds no operations")
    return found


def _other_format(path: Path, shown: str) -> None:
    kind = sniff(path)
    with open(path, "rb") as file:
        head = file.read(64)
    if path.suffix.lower() == ".pbtxt" or re.match(rb"\s*(node|library|versions|meta_info_def)\s*\{", head):
        raise InputError(f"{shown} is a graph in text form: save it in binary (.pb)")
    if kind not in ("unknown", "safetensors"):
        raise InputError(f"{shown} is no TensorFlow graph but {kind}")
    if path.name != "saved_model.pb" and head[:1] == b"\x08" and len(head) > 2 and head[1] < 0x20:
        # Field 1 as a number: of an ONNX model the version of its format, of a SavedModel its schema's.
        if head[2:3] == b"\x12" and b"\x0a" in head[3:16]:
            raise InputError(f"{shown} looks like the saved_model.pb of a SavedModel: give its folder")
        raise InputError(f"{shown} is no TensorFlow graph; it looks like an ONNX model")


# -- walking protobuf fields -----------------------------------------------------------------------------------


class _DamagedError(Exception):
    pass


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise _DamagedError(f"at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _parts(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span]]:
    """The fields of the message in ``span`` that have a length, with where their content lies."""
    at, end = span
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == 2:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise _DamagedError(f"at byte {at}")
            yield number, (at, at + length)
            at += length
        elif wire == 0:
            _, at = _varint(data, at, end)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:  # groups, which TensorFlow does not use: parsers disagree about them
            raise _DamagedError(f"at byte {at}")
        if number == 0 or at > end:
            raise _DamagedError(f"at byte {at}")


def _graph(data: mmap.mmap, span: Span, found: Scan) -> None:
    for number, part in _parts(data, span):
        if number == _GRAPH:
            _node(data, part, found)
        elif number == _LIBRARY:
            for inside, function in _parts(data, part):
                if inside == _FUNCTION:
                    _function(data, function, found)


def _function(data: mmap.mmap, span: Span, found: Scan) -> None:
    for number, part in _parts(data, span):
        if number == _BODY:
            _node(data, part, found)
        elif number == 1:  # the signature: its name is an operation that calls the function
            for inside, name in _parts(data, part):
                if inside == 1:
                    found.functions.add(data[slice(*name)].decode("utf-8", "replace"))


def _node(data: mmap.mmap, span: Span, found: Scan) -> None:
    """Every name that the node gives its operation: parsers take the last, the list must hold all."""
    name, ops = "", []
    for number, part in _parts(data, span):
        if number == 1:
            name = data[slice(*part)].decode("utf-8", "replace")
        elif number == 2:
            raw = data[slice(*part)]
            if _OP.fullmatch(raw) is None:
                raise _DamagedError(f"at byte {part[0]}")
            ops.append(raw.decode())
    for op in ops:
        found.operations.setdefault(op, name)
