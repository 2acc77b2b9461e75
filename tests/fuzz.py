"""``python -m tests.fuzz TARGET [libFuzzer's options]``: what reads bytes of strangers, fuzzed by atheris.

Only what needs no framework, so that hundreds of inputs a second are tried; the frameworks' own loaders are reached
by ``scripts/battery files``. An exception that is not one of ours, a hang, or memory beyond libFuzzer's limits is a
finding.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris  # type: ignore[import-not-found]  # in an environment of its own: scripts/fuzz

_READERS = [
    "tracer.alignment.mapping", "tracer.alignment.templates", "tracer.compare.baseline", "tracer.inputs",
    "tracer.live.wire",
    "tracer.preflight", "tracer.store.packed", "tracer.store.zarr3", "tracer.store.zips", "tracer.worker.protocol",
    "tracer_keras.preflight", "tracer_keras.graphs.files", "tracer_onnx.preflight", "tracer_torch.preflight",
    "tracer_torch.scan", "yaml", "tomllib", "zipfile",
]  # fmt: skip

with atheris.instrument_imports(include=_READERS):
    import numpy as np

    from tracer import inputs, preflight
    from tracer.alignment import mapping
    from tracer.compare import baseline
    from tracer.errors import TracerError
    from tracer.live import wire
    from tracer.store import packed, zarr3, zips
    from tracer.worker import protocol
    from tracer_keras import preflight as keras_files
    from tracer_keras.graphs import files as graphs
    from tracer_onnx import preflight as onnx_files
    from tracer_torch import preflight as torch_files
    from tracer_torch import scan

_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
_VALUES = np.arange(4000, dtype="f4").reshape(40, 100)
Try = Callable[[bytes], object]


def _file(name: str, read: Callable[[Path], object]) -> Try:
    path = _FOLDER / name

    def one(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return one


def _archive(path: Path) -> None:
    preflight.check_regular_file(path)
    preflight.zip_check(path)


def _event(data: bytes) -> None:
    with suppress(ValueError):  # what its supervisor takes for a breach of protocol
        protocol.parse(data)


def _pickle(data: bytes) -> None:
    with suppress(scan.Unreadable):
        scan.globals_in(data)


def _chunk(data: bytes) -> None:
    list(packed.decoded(_VALUES.shape, _VALUES.dtype, lambda _: data, "here"))


TARGETS: dict[str, tuple[Try, tuple[bytes, ...]]] = {
    "mapping.yaml": (_file("m.yaml", mapping.load), (b"pairs:\n- {reference: a, candidate: 'b{i}', i: 1..5}\n",)),
    "mapping.toml": (_file("m.toml", mapping.load), (b'[[pairs]]\nreference = "a"\naxes = [0, 1]\n',)),
    "mapping.json": (_file("m.json", mapping.load), (b'{"pairs": [{"reference": "a", "candidate": "b"}]}',)),
    "baseline": (_file("b.json", baseline.load), (b'{"schema": "tracer-baseline/1", "pairs": {}}',)),
    "npy": (_file("x.npy", inputs.read_file), ()),
    "npz": (_file("x.npz", inputs.read_file), ()),
    "zip": (_file("m.keras", _archive), ()),
    "torch": (_file("m.pt", torch_files.check_file), ()),
    "pickle": (_pickle, (b"\x80\x02ctorch\nFloatStorage\nq\x00.", b"\x80\x04\x8c\x02os\x8c\x06system\x93.")),
    "keras": (_file("m.json", keras_files.check), (b'{"class_name": "Sequential", "config": {"layers": []}}',)),
    "graph": (_file("m.pb", graphs.scan), (b"\x0a\x10\x0a\x01x\x12\x0bPlaceholder",)),
    "onnx": (_file("m.onnx", onnx_files.check_file), (b"\x08\x0a\x3a\x04\x0a\x02\x22\x00",)),
    "event": (_event, (b'{"event": "progress", "done": 1, "total": 2}',)),
    "wire": (wire.decoded, (b'{"kind": "hello", "protocol": 2, "role": "recorder"}', b'{"kind": "begin", "step": 1}')),
    "chunk": (_chunk, ()),
    "entry": (lambda data: zips.entry_at(memoryview(data), 0, "here"), (zips.aligned(b"a", 4, 0, 1) + b"1234",)),
    "metadata": (
        lambda data: zarr3.layout_of(zarr3.decoded(data, "here"), "here"),
        (zarr3.described((2, 3), np.dtype("f4"), {}, ["a", "b"]),),
    ),
}


def _seeds(name: str) -> list[bytes]:
    """What the fuzzer begins with."""
    found = list(TARGETS[name][1])
    buffer = io.BytesIO()
    if name == "npy":
        np.save(buffer, _VALUES)
    elif name in ("npz", "zip"):
        np.savez_compressed(buffer, x=_VALUES)
    elif name == "torch":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("m/data.pkl", b"\x80\x02}q\x00.")
    elif name == "chunk":
        found += [bytes(raw) for _, raw in packed.encoded(_VALUES)]
    return [*found, *([buffer.getvalue()] if buffer.getvalue() else [])]


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"usage: scripts/fuzz TARGET [-max_total_time=60 …]; targets: {', '.join(TARGETS)}")
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-corpus-"))
    for number, seed in enumerate(_seeds(name)):
        (corpus / str(number)).write_bytes(seed)
    target = TARGETS[name][0]

    def one(data: bytes) -> None:
        with suppress(TracerError):
            target(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
