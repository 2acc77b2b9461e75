"""Files that hold no model: inputs, mappings, and what stands in place of a model and is no file."""

from __future__ import annotations

import io
import os
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.battery._attack import Case, Command, Place, loading
from tests.battery._payloads_torch import system

_Write = Callable[[Place, Path], None]


# -- inputs ------------------------------------------------------------------------------------------------------------


def _npy(at: Place, values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def _headed(header: str, version: int = 1) -> bytes:
    raw = header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(raw)) + raw


def _evil(at: Place) -> Any:
    array = np.empty(2, object)
    array[:] = [system(at), 1]
    return array


def _npz(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, raw in members:
            archive.writestr(name, raw)
    return buffer.getvalue()


def _with_lie() -> bytes:
    """A small member that is said to be of terabytes."""
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}\n"
    return _npz(("x.npy", _headed(header) + b"1234"))


def inputs() -> dict[str, tuple[str, Callable[[Place], bytes]]]:
    """Each: the name of the file and what makes it."""
    f4 = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}\n"
    return {
        "objects": ("x.npy", lambda at: _npy(at, _evil(at))),
        "objects in an archive": ("x.npz", lambda at: _npz(("x.npy", _npy(at, _evil(at))))),
        "a second array of objects": (
            "x.npz", lambda at: _npz(("a.npy", _npy(at, np.ones((2, 3), "f4"))), ("b.npy", _npy(at, _evil(at)))),
        ),
        "fields of objects": ("x.npy", lambda at: _npy(at, np.array([(1, _evil(at))], [("a", "f4"), ("b", "O")]))),
        "a pickle": ("x.npy", lambda at: __import__("pickle").dumps(system(at))),
        "a torch file": ("x.npy", lambda at: _torch(system(at))),
        "a member outside": ("x.npz", lambda at: _npz(("../../outside/marker.npy", _npy(at, np.ones(2))))),
        "zeros of 512 MiB": ("x.npz", lambda _: _npz(("x.npy", _zeros(1 << 27)), compression=zipfile.ZIP_DEFLATED)),
        "a shape of terabytes": ("x.npy", lambda _: _headed(f4 % "(1099511627776,)") + b"1234"),
        "a shape of terabytes in an archive": ("x.npz", lambda _: _with_lie()),
        "a negative shape": ("x.npy", lambda _: _headed(f4 % "(-1, 3)") + b"1234"),
        "a shape that overflows": ("x.npy", lambda _: _headed(f4 % "(4294967296, 4294967296, 16)") + b"1234"),
        "a header that calls": ("x.npy", lambda at: _headed(f"__import__('os').mkdir({str(at.marker)!r})\n")),
        "a deep header": ("x.npy", lambda _: _headed("(" * 60_000)),
        "a header of gigabytes": ("x.npy", lambda _: b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFFF) + b"{"),
        "a header that is none": ("x.npy", lambda _: _headed("'" * 1000)),
        "no bytes": ("x.npy", lambda _: b""),
        "no array": ("x.npz", lambda _: _npz()),
        "a large type": ("x.npy", lambda _: _headed("{'descr': '|V2000000000', 'fortran_order': 0, 'shape': 9}")),
    }  # fmt: skip


def _zeros(count: int) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},)}}\n"
    return _headed(header) + bytes(1 << 28) * (count >> 26)


def _torch(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


# -- no files ----------------------------------------------------------------------------------------------------------


def _socket(at: Place, path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # its path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _pointer(at: Place, path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")


STANDINS: dict[str, _Write] = {
    "a pipe": lambda _, path: os.mkfifo(path),
    "a folder": lambda _, path: path.mkdir(),
    "a socket": _socket,
    "a link to a device": lambda _, path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda _, path: path.symlink_to("nothing"),
    "a link to itself": lambda _, path: path.symlink_to(path.name),
    "a link to a secret": lambda at, path: path.symlink_to(at.secret),
    "a link to a pipe": lambda at, path: (os.mkfifo(at.work / "fifo"), path.symlink_to("fifo"))[1],
    "a git-lfs pointer": _pointer,
    "a web page": lambda _, path: (path.write_bytes(b"<!DOCTYPE html><html></html>"), None)[1],
    "nothing": lambda _, path: (path.write_bytes(b""), None)[1],
    "noise": lambda _, path: (path.write_bytes(bytes(range(256)) * 9), None)[1],
    "a hole of a terabyte": lambda _, path: _hole(path),
}


def _hole(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


MODELS = {
    "tf": ("m.keras", "m.h5", "m.json", "m.pb"), "pt": ("m.pt", "m.pth", "m.safetensors", "m.pt2"), "onnx": ("m.onnx",),
}  # fmt: skip


def _model() -> bytes:
    return _torch(torch.nn.Sequential(torch.nn.Linear(3, 2)))


def recorded(at: Place) -> None:
    """Two recordings of one model in the trace of the place."""
    from tests import cli

    (at.work / "good.pt").write_bytes(_model())
    for name in ("a", "b"):
        cli.run("record", "pt", "good.pt", "--name", name, cwd=at.work)


MAPPINGS: dict[str, tuple[str, Callable[[Place], bytes]]] = {
    "a tag that calls": ("m.yaml", lambda at: f"pairs: !!python/object/apply:os.mkdir ['{at.marker}']".encode()),
    "a tag": ("m.yaml", lambda _: b"pairs: !!set {a, b}"),
    "aliases without end": ("m.yaml", lambda _: _laughs()),
    "twice a key": ("m.yaml", lambda _: b"pairs: []\npairs: []\n"),
    "twice a key of JSON": ("m.json", lambda _: b'{"pairs": [], "pairs": []}'),
    "deep lists": ("m.yaml", lambda _: b"[" * 50_000),
    "deep JSON": ("m.json", lambda _: b"[" * 500_000),
    "deep TOML": ("m.toml", lambda _: b"a = " + b"[" * 50_000),
    "many dots": ("m.toml", lambda _: b".".join([b"a"] * 50_000) + b" = 1"),
    "a number of a million digits": ("m.json", lambda _: b'{"pairs": ' + b"9" * 1_000_000 + b"}"),
    "sixteen million": ("m.yaml", lambda _: b"# " + b"x" * (16 << 20)),
    "a million ranges": ("m.yaml", lambda _: b"pairs:\n- {reference: 'a{i}', candidate: 'b{i}', i: 1..999999999999}\n"),
    "three ranges": (
        "m.yaml",
        lambda _: b"pairs:\n- {reference: 'a{i}{j}{k}', candidate: 'b{i}{j}{k}', i: 1..9999, j: 1..9999, k: 1..9999}\n",
    ),
    "a glob without end": ("m.yaml", lambda _: b"ignore: {reference: ['" + b"*a" * 3000 + b"b']}\n"),
    "noise": ("m.yaml", lambda _: bytes(range(256)) * 9),
    "UTF-16": ("m.yaml", lambda _: "pairs: []".encode("utf-16")),
}


def _laughs() -> bytes:
    rows = [b"a0: &a0 [x, x]"] + [b"a%d: &a%d [*a%d, *a%d]" % (n, n, n - 1, n - 1) for n in range(1, 40)]
    return b"\n".join(rows)


def cases() -> Iterator[Case]:
    """Every attack by a file that is no model."""
    for name, (file, raw) in inputs().items():

        def feeds(at: Place, file: str = file, raw: Callable[[Place], bytes] = raw) -> Sequence[Command]:
            (at.work / "good.pt").write_bytes(_model())
            (at.work / file).write_bytes(raw(at))
            return [("record", "pt", "good.pt", "--input", file)]

        yield Case("inputs", name, feeds)
    for name, (file, raw) in MAPPINGS.items():

        def maps(at: Place, file: str = file, raw: Callable[[Place], bytes] = raw) -> Sequence[Command]:
            recorded(at)
            (at.work / file).write_bytes(raw(at))
            return [(command, "a", "b", "--map", file) for command in ("diff", "weights")]

        yield Case("mappings", name, maps, name != "a glob without end")
    for name, write in STANDINS.items():
        for adapter, files in MODELS.items():
            for file in files:

                def stands(
                    at: Place, adapter: str = adapter, file: str = file, write: _Write = write
                ) -> Sequence[Command]:
                    write(at, at.work / file)
                    return [*loading(adapter, file), ("inspect", file)]

                yield Case("no files", f"{name} as {file}", stands)
        for file in ("x.npy", "x.npz"):

            def fed(at: Place, file: str = file, write: _Write = write) -> Sequence[Command]:
                (at.work / "good.pt").write_bytes(_model())
                write(at, at.work / file)
                return [("record", "pt", "good.pt", "--input", file)]

            yield Case("no files", f"{name} as {file}", fed)
        for file in ("m.yaml", "m.json", "m.toml"):

            def mapped(at: Place, file: str = file, write: _Write = write) -> Sequence[Command]:
                recorded(at)
                write(at, at.work / file)
                return [("diff", "a", "b", "--map", file)]

            # A mapping in YAML or TOML may be empty.
            yield Case("no files", f"{name} as {file}", mapped, refused=name != "nothing" or file == "m.json")
