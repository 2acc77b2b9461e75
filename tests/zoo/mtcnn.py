"""MTCNN ported twice by others: `mtcnn` (subclassed Keras) and `facenet_pytorch`, each with its own real weights.

Neither package imports here (joblib, torchvision, PIL are missing), and neither needs to:

- mtcnn's networks are loaded from their files without running the package's `__init__`; its weights are a
  joblib pickle of numpy arrays in an LZ4 frame, read below under an allow-list of three globals.
- facenet's three classes are the only part of `models/mtcnn.py` that is executed.

Who is whose twin was read off the weights: the two heads are named the other way round (Keras's `conv4-1` is the
box regression, PyTorch's `conv4_1` the classification), likewise in R-Net and O-Net. Keras fuses the softmax into
the head, PyTorch has a module for it. Keras pools SAME (and VALID where nothing is left over), PyTorch with
ceil_mode: the same windows at all sizes used here. Both exchange height and width before flattening.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .pair import Pair

HEADS = {
    "PNet": ({"conv4-1": "conv4_2"}, {"conv4-2": ("conv4_1", "softmax4_1")}),
    "RNet": ({"fc5-1": "dense5_2"}, {"fc5-2": ("dense5_1", "softmax5_1")}),
    "ONet": ({"fc6-1": "dense6_2", "fc6-2": "dense6_3"}, {"fc6-3": ("dense6_1", "softmax6_1")}),
}
INPUTS = {"PNet": (2, 24, 30, 3), "RNet": (2, 24, 24, 3), "ONet": (2, 48, 48, 3)}


def _body(convs: int, pools: int) -> dict[str, str]:
    same = [f"{stem}{i}" for i in range(1, convs + 1) for stem in ("conv", "prelu")]
    return {name: name for name in same} | {f"maxpooling{i}": f"pool{i}" for i in range(1, pools + 1)}


def _dense(i: int) -> dict[str, str]:
    return {"permute": "permute", f"flatten{i - 1}": "view", f"fc{i}": f"dense{i}", f"prelu{i}": f"prelu{i}"}


BODIES = {"PNet": _body(3, 1), "RNet": _body(3, 2) | _dense(4), "ONet": _body(4, 3) | _dense(5)}


def _package(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent


def build_keras(net: str) -> Any:
    """PNet, RNet or ONet of `mtcnn` with its weights."""
    folder = _package("mtcnn")
    spec = importlib.util.spec_from_file_location(f"_mtcnn_{net}", folder / "network" / f"{net.lower()}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = getattr(module, net)(name=net.lower())
    model.build()
    model.set_weights(read_weights(folder / "assets" / "weights" / f"{net.lower()}.lz4"))
    return model


def build_torch(net: str) -> Any:
    """PNet, RNet or ONet of `facenet_pytorch` with its weights."""
    import torch

    path = _package("facenet_pytorch") / "models" / "mtcnn.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == net]
    scope: dict[str, Any] = {"torch": torch, "nn": torch.nn, "os": os, "__file__": str(path), "__name__": __name__}
    exec(compile(tree, path, "exec"), scope)
    return scope[net]().eval()


def read_weights(path: Path) -> list[np.ndarray]:
    """What `joblib.load` would give for a list of arrays."""
    stream = io.BytesIO(_lz4_frame(path.read_bytes()))

    class Array:
        """joblib's NumpyArrayWrapper: its description is pickled, the values follow in the stream."""

        def __setstate__(self, state: dict[str, Any]) -> None:
            stream.read(stream.read(1)[0])
            dtype, shape, order = state["dtype"], state["shape"], state["order"]
            data = stream.read(dtype.itemsize * int(np.prod(shape)))
            self.value = np.frombuffer(data, dtype).reshape(shape, order=order)

    # The Python unpickler, as in joblib: the one in C reads ahead, past the values.
    class Unpickler(pickle._Unpickler):  # type: ignore[name-defined]
        def find_class(self, module: str, name: str) -> Any:
            allowed = {
                ("joblib.numpy_pickle", "NumpyArrayWrapper"): Array,
                ("numpy", "ndarray"): np.ndarray,
                ("numpy", "dtype"): np.dtype,
            }
            return allowed[module, name]

    return [array.value for array in Unpickler(stream).load()]


def _lz4_frame(data: bytes) -> bytes:
    assert data[:4] == b"\x04\x22\x4d\x18", "not an LZ4 frame"
    flags = data[4]
    at = 7 + 8 * bool(flags & 8) + 4 * bool(flags & 1)
    out = bytearray()
    while size := int.from_bytes(data[at : at + 4], "little"):
        block = data[at + 4 : at + 4 + (size & 0x7FFFFFFF)]
        if size >> 31:
            out += block
        else:
            _lz4_block(block, out)
        at += 4 + len(block) + 4 * bool(flags & 16)
    return bytes(out)


def _lz4_block(block: bytes, out: bytearray) -> None:
    stream = io.BytesIO(block)
    while token := stream.read(1):
        out += stream.read(_lz4_length(token[0] >> 4, stream))
        if offset := int.from_bytes(stream.read(2), "little"):
            count = _lz4_length(token[0] & 15, stream) + 4
            repeated = bytes(out[-offset:][:count])
            out += (repeated * (count // len(repeated) + 1))[:count]


def _lz4_length(nibble: int, stream: io.BytesIO) -> int:
    total, more = nibble, nibble == 15
    while more:
        byte = stream.read(1)[0]
        total, more = total + byte, byte == 255
    return total


def _image(shape: tuple[int, ...]) -> np.ndarray:
    """Pixels as both ports normalise them: (value - 127.5) / 128."""
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    return ((pixels - 127.5) / 128).astype(np.float32)


PAIRS = [
    Pair(
        name=f"mtcnn_{net.lower()}",
        keras=partial(build_keras, net),
        torch=partial(build_torch, net),
        input_shape=INPUTS[net],
        truth=BODIES[net] | HEADS[net][0],
        fused=HEADS[net][1],
        data=_image,
        notes="independent ports with real weights; the heads' names are swapped",
    )
    for net in HEADS
]
