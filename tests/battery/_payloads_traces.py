"""Traces that somebody sent: links, pipes, shapes of terabytes, paths that lead out, models to be run again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.battery._attack import OUTPUTS, TRACE, Case, Command, Place
from tests.battery._payloads_plain import recorded
from tests.battery._payloads_torch import rezipped, saved, system

GROUP = "traces"
_COMMANDS: Sequence[Command] = (
    ("runs",), ("diff", "a", "b"), ("diff", "a", "b", "--local"), ("weights", "a", "b"), ("map", "a", "b"),
    ("explain", "a", "b"), ("transfer", "--from", "a", "--to", "b", "-o", f"{OUTPUTS}/filled.pt"), ("pack", "b"),
)  # fmt: skip
_VALUES = "values.zarr.zip"


def _edited(change: Callable[[Place, dict[str, Any]], None]) -> Callable[[Place, Path], None]:
    """Changes what is said of recording ``b``."""

    def write(at: Place, trace: Path) -> None:
        path = trace / "recordings" / "b" / "zarr.json"
        whole = json.loads(path.read_text())
        change(at, whole["attributes"])
        path.write_text(json.dumps(whole))

    return write


def _instead(place: str, make: Callable[[Place, Path], None]) -> Callable[[Place, Path], None]:
    """Puts something else where a file or folder of the trace was."""

    def write(at: Place, trace: Path) -> None:
        path = trace / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(at, path)

    return write


def _activation(number: int, value: Any) -> Callable[[Place, Path], None]:
    def change(at: Place, attributes: dict[str, Any]) -> None:
        attributes["activations"][-1][number] = value

    return _edited(change)


def _again(evil: bool) -> Callable[[Place, Path], None]:
    """Says that the model was loaded from a file that runs code, trusted."""

    def change(at: Place, attributes: dict[str, Any]) -> None:
        path = at.work / "evil.pt"
        path.write_bytes(saved({"x": system(at)}))
        attributes["model"]["file"] = {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        attributes["model"]["trust"] = True
        attributes["model"]["load"] |= {"path": str(path), "trust": True}
        if evil:
            attributes["model"]["load"]["python"] = str(_program(at))

    return _edited(change)


def _program(at: Place) -> Path:
    path = at.work / "python"
    path.write_text(f"#!/bin/sh\ntouch {at.marker}\n")
    path.chmod(0o755)
    return path


def _secret(at: Place, path: Path) -> None:
    path.symlink_to(at.secret)


def _terabyte(_: Place, path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def _own_parent(node: dict[str, Any]) -> None:
    node["parents"] = [node["name"]]


def _rezipped(at: Place, trace: Path) -> None:
    path = trace / "recordings" / "b" / _VALUES
    path.write_bytes(rezipped(path.read_bytes(), ("../../../../outside/marker", b"x"), compression=8))


_EVIL: dict[str, Callable[[Place, Path], None]] = {
    "values are a link": _instead(f"recordings/b/{_VALUES}", _secret),
    "values are a pipe": _instead(f"recordings/b/{_VALUES}", lambda _, path: os.mkfifo(path)),
    "values are a folder": _instead(f"recordings/b/{_VALUES}", lambda _, path: path.mkdir()),
    "values are a hole": _instead(f"recordings/b/{_VALUES}", _terabyte),
    "values compressed anew": _rezipped,
    "a description is a link": _instead("recordings/b/zarr.json", _secret),
    "a description is a pipe": _instead("recordings/b/zarr.json", lambda _, path: os.mkfifo(path)),
    "a description is a hole": _instead("recordings/b/zarr.json", _terabyte),
    "a description is empty": _instead("recordings/b/zarr.json", lambda _, path: path.write_bytes(b"") and None),
    "a description without end": _instead(
        "recordings/b/zarr.json", lambda _, path: path.write_bytes(b"[" * 1_000_000) and None
    ),
    "a recording is a link": _instead("recordings/b", lambda at, path: path.symlink_to(at.outside)),
    "inputs are a link": _instead("inputs", lambda at, path: path.symlink_to(at.outside)),
    "a shape of terabytes": _activation(2, [1 << 20, 1 << 20]),
    "a shape below zero": _activation(2, [-2, -2]),
    "a shape that is no list": _activation(2, "terabytes"),
    "a type of objects": _activation(3, "object"),
    "a type of bytes": _activation(3, "V2147483647"),
    "a place outside": _activation(1, "../../../../outside/secret"),
    "an offset outside": _activation(5, 1 << 62),
    "an offset below zero": _activation(5, -5),
    "no activations": _edited(lambda _, attributes: attributes.update(activations={"a": 1})),
    "no structure": _edited(lambda _, attributes: attributes.update(structure=[])),
    "a structure of one million": _edited(
        lambda _, attributes: attributes["structure"].update(nodes=[attributes["structure"]["nodes"][0]] * 1_000_000)
    ),
    "a node that is its own parent": _edited(lambda _, attributes: _own_parent(attributes["structure"]["nodes"][-1])),
    "an input outside": _edited(lambda _, attributes: attributes.update(input="../../../outside")),
    "a reference to itself": _edited(lambda _, attributes: attributes.update(reference="b")),
    "a model that runs code": _again(False),
    "a Python that is none": _again(True),
    "a name that prints": _edited(lambda _, attributes: attributes.update(name="\x1b]52;c;evil\x07[red]")),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Every attack by a trace."""
    for name, write in _EVIL.items():

        def received(at: Place, write: Callable[[Place, Path], None] = write) -> Sequence[Command]:
            recorded(at)
            (at.work / OUTPUTS).mkdir()
            write(at, at.work / TRACE)
            return _COMMANDS

        yield Case(GROUP, name, received, refused=False)
