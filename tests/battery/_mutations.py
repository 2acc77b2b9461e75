"""Damaged files of every format that is read: cut off, with flipped bits, runs overwritten, parts repeated."""

from __future__ import annotations

import atexit
import io
import random
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import torch
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from torch import nn

from tests import cli
from tests.battery import Tally
from tests.battery._attack import TRACE, Command, Listener, attempt, place
from tests.battery._payloads_keras import saved
from tests.battery._payloads_onnx import good as onnx_model
from tests.battery._payloads_plain import recorded
from tests.battery._payloads_torch import exported

_NET = "from torch.nn import *\ndef Net():\n    return Sequential(Linear(3, 8), ReLU(), Linear(8, 2))\n"
_MAPPING = {
    "m.yaml": "reference: a\ncandidate: b\npairs:\n- reference: '0'\n  candidate: '0'\n  axes: [0, 1]\n"
    "ignore:\n  reference: ['1*']\ntolerances:\n- match: '*'\n  atol: 1e-3\n  reason: so\n",
    "m.json": '{"reference": "a", "candidate": "b", "pairs": [{"reference": "0", "candidate": "0", "axes": [0, 1]}]}',
    "m.toml": 'reference = "a"\ncandidate = "b"\n[[pairs]]\nreference = "0"\ncandidate = "0"\naxes = [0, 1]\n',
}  # fmt: skip


@dataclass(frozen=True)
class Format:
    """A format: what lies in the working directory, the file in it that is damaged, the command that reads it.

    Damage to an archive can also be to a member, which is packed again with the checksum that it then has.
    """

    name: str
    files: Callable[[], dict[str, bytes]]
    damaged: str
    command: Command
    zipped: bool = False
    recordings: bool = False


def _torch(**how: Any) -> bytes:
    torch.manual_seed(0)
    buffer = io.BytesIO()
    torch.save(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), buffer, **how)
    return buffer.getvalue()


def _state(**how: Any) -> bytes:
    torch.manual_seed(0)
    buffer = io.BytesIO()
    torch.save(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).state_dict(), buffer, **how)
    return buffer.getvalue()


def _safetensors() -> bytes:
    from safetensors.torch import save

    return bytes(save(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).state_dict()))


def _script() -> bytes:
    buffer = io.BytesIO()
    compiled: Any = torch.jit.script
    torch.jit.save(compiled(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))), buffer)
    return buffer.getvalue()


class _Module(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(tf.ones((3, 4)), name="w")

    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, name="x")])
    def __call__(self, x: Any) -> Any:
        return tf.nn.relu(x @ self.w + 1.0)


def _frozen() -> bytes:
    module = _Module()
    concrete = convert_variables_to_constants_v2(module.__call__.get_concrete_function())
    return bytes(concrete.graph.as_graph_def().SerializeToString())


def _saved_model() -> dict[str, bytes]:
    module = _Module()
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=module.__call__)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {f"m/{path.relative_to(folder)}": path.read_bytes() for path in paths}


def _array(suffix: str) -> bytes:
    buffer = io.BytesIO()
    values = np.arange(12, dtype="f4").reshape(4, 3)
    np.save(buffer, values) if suffix == ".npy" else np.savez_compressed(buffer, x=values)
    return buffer.getvalue()


def _record(adapter: str, *words: str) -> Command:
    return ("record", adapter, *words, "--force", "--load-timeout", "60")


def _one(name: str, raw: Callable[[], bytes], **more: bytes) -> Callable[[], dict[str, bytes]]:
    return lambda: {name: raw(), **{key.replace("_", "."): value for key, value in more.items()}}


def formats() -> list[Format]:
    """Every format that is read, packed traces among them."""
    net = _NET.encode()
    arch = ("--arch", "net.py:Net")
    graph = "m/saved_model.pb"
    found = [
        Format("pt", _one("m.pt", _torch), "m.pt", _record("pt", "m.pt"), True),
        Format("pth", _one("m.pth", lambda: _state(_use_new_zipfile_serialization=False), net_py=net), "m.pth",
               _record("pt", "m.pth", *arch)),
        Format("ckpt", _one("m.ckpt", _state, net_py=net), "m.ckpt", _record("pt", "m.ckpt", *arch), True),
        Format("safetensors", _one("m.safetensors", _safetensors, net_py=net), "m.safetensors",
               _record("pt", "m.safetensors", *arch)),
        Format("TorchScript --trust", _one("m.pt", _script), "m.pt",
               _record("pt", "m.pt", "--trust", "--input-shape", "2,3"), True),
        Format("pt2 --trust", _one("m.pt2", exported), "m.pt2", _record("pt", "m.pt2", "--trust"), True),
        Format("keras", _one("m.keras", lambda: saved("Keras 3", ".keras")), "m.keras", _record("tf", "m.keras"), True),
        Format("keras --trust", _one("m.keras", lambda: saved("Keras 3", ".keras")), "m.keras",
               _record("tf", "m.keras", "--trust"), True),
        Format("h5", _one("m.h5", lambda: saved("Keras 3", ".h5")), "m.h5", _record("tf", "m.h5")),
        Format("h5 of Keras 2", _one("m.h5", lambda: saved("Keras 2", ".h5")), "m.h5", _record("tf", "m.h5")),
        Format("json", _one("m.json", lambda: saved("Keras 3", ".json"), w_weights_h5=saved("Keras 3", ".weights.h5")),
               "m.json", _record("tf", "m.json", "--weights", "w.weights.h5")),
        Format("weights.h5", _one("w.weights.h5", lambda: saved("Keras 3", ".weights.h5"),
               m_json=saved("Keras 3", ".json")), "w.weights.h5", _record("tf", "m.json", "--weights", "w.weights.h5")),
        Format("pb", _one("m.pb", _frozen), "m.pb", _record("tf", "m.pb")),
        Format("SavedModel", _saved_model, graph, _record("tf", "m")),
        Format("SavedModel's variables", _saved_model, "m/variables/variables.index", _record("tf", "m")),
        Format("onnx", _one("m.onnx", onnx_model), "m.onnx", _record("onnx", "m.onnx")),
        *(Format(suffix, _one(f"x{suffix}", lambda suffix=suffix: _array(suffix), m_pt=_torch()), f"x{suffix}",
                 _record("pt", "m.pt", "--input", f"x{suffix}"), suffix == ".npz") for suffix in (".npy", ".npz")),
        *(Format(f"mapping {name}", _one(name, text.encode), name, ("diff", "a", "b", "--map", name), False, True)
          for name, text in _MAPPING.items()),
    ]  # fmt: skip
    for packed in (False, True):
        for command in (("diff", "a", "b"), ("runs",), ("weights", "a", "b")):
            title = f"{'packed ' * packed}trace, tracer {command[0]}"
            found.append(Format(title, dict, f"{TRACE}/{'packed' * packed}", command, False, True))
    return found


# -- damage ------------------------------------------------------------------------------------------------------------


def damaged(raw: bytes, source: random.Random) -> bytes:
    """``raw`` with one kind of damage."""
    data, how = bytearray(raw), source.randrange(7)
    at = source.randrange(max(1, len(data)))
    if how == 0:
        return bytes(data[:at])
    if how <= 2:  # bits
        for _ in range(1 if how == 1 else source.randint(2, 16)):
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    elif how == 3:  # a run of noise, or of one byte
        run = source.randint(1, 64)
        data[at : at + run] = source.choice([source.randbytes(run), b"\0" * run, b"\xff" * run])
    elif how == 4:  # a part again
        data[at:at] = data[at : at + source.randint(1, 64)]
    elif how == 5:  # a part less
        del data[at : at + source.randint(1, 64)]
    else:  # a number that counts or measures something
        value = source.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1])
        size = next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size)
        data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data)


def _member_damaged(raw: bytes, source: random.Random) -> bytes:
    """An archive with one damaged member, whose checksum fits."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old:
        members = old.infolist()
        chosen = source.choice([member for member in members if member.file_size])
        with zipfile.ZipFile(buffer, "w") as new:
            for member in members:
                content = old.read(member)
                new.writestr(member, damaged(content, source) if member is chosen else content)
    return buffer.getvalue()


def _resealed(raw: bytes, source: random.Random) -> bytes:
    """A stored zip with another entry's bytes changed in place, whose checksum fits: what no chance would make."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        entry = source.choice([entry for entry in archive.infolist() if entry.file_size])
        content = bytearray(archive.read(entry))
    at = raw.index(bytes(content), entry.header_offset)
    for _ in range(source.randint(1, 4)):
        place = source.choice([source.randrange(len(content)), source.randrange(min(48, len(content)))])
        content[place] = source.choice([0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)])
    old, new = (struct.pack("<L", crc) for crc in (entry.CRC, zlib.crc32(content)))
    return (raw[:at] + bytes(content) + raw[at + len(content) :]).replace(old, new)


# -- trying it ---------------------------------------------------------------------------------------------------------


@cache
def _trace(packed: bool) -> Path:
    """A folder with a trace of two recordings."""
    listener = Listener()
    with place(listener) as where:
        recorded(where)
        if packed:
            for name in ("a", "b"):
                cli.run("pack", name, cwd=where.work)
        folder = Path(tempfile.mkdtemp(prefix="battery-trace-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        shutil.copytree(where.work / TRACE, folder / TRACE)
    listener.close()
    return folder / TRACE


def run(form: Format, count: int, seed: int, listener: Listener, tally: Tally) -> None:
    """Damage a format's file ``count`` times and count what became of it."""
    files = form.files()
    with place(listener) as where:
        for name, raw in files.items():
            (where.work / name).parent.mkdir(parents=True, exist_ok=True)
            (where.work / name).write_bytes(raw)
        of_trace = form.damaged.startswith(TRACE)
        for number in range(count):
            source = random.Random(f"{form.name} {seed} {number}")
            if of_trace or (form.recordings and number == 0):
                _fresh_trace(where.work, form.damaged.endswith("packed"))
            path = source.choice(_parts(where.work / TRACE)) if of_trace else where.work / form.damaged
            whole = path.read_bytes()
            damage = damaged
            if form.zipped and source.random() < 0.6:
                damage = _member_damaged
            elif of_trace and whole[:2] == b"PK" and source.random() < 0.7:
                damage = _resealed
            path.write_bytes(damage(whole, source))
            fault, outcome = attempt(form.command, where, listener)
            if fault:
                tally.breaks(f"damaged {form.name}", f"seed {seed}, case {number}", fault)
            else:
                tally.add(f"damaged {form.name}", outcome)
            path.write_bytes(whole)


def _parts(trace: Path) -> Sequence[Path]:
    return sorted(path for path in trace.rglob("*") if path.is_file() and path.stat().st_size)


def _fresh_trace(work: Path, packed: bool) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(work / TRACE)
    shutil.copytree(_trace(packed), work / TRACE)


def chosen(names: Sequence[str] = ()) -> Iterator[Format]:
    """The formats of these names, or all."""
    return (form for form in formats() if not names or form.name in names)
