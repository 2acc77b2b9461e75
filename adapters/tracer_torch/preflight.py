"""Cheap checks of model files before torch is imported: whole, and of a form that can be loaded as data."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tracer.errors import InputError, RefusedError
from tracer.names import display
from tracer.preflight import check_regular_file, sniff, zip_check

_RETRACE = "hooks do not fire inside it: build the nn.Module in Python and give its weights with --arch"
_OTHERS = {
    "hdf5": "is an HDF5 file (Keras): record it with 'tracer record tf'",
    "tar": "is a tar archive; files of torch before 0.2 are not read: unpack or save it again",
    "gzip": "is gzip-compressed: unpack it first",
    "npy": "is a numpy array, not a model",
}


def check_file(path: Path) -> str:
    """Say what ``path`` holds: ``zip``, ``pickle`` (old torch.save) or ``safetensors``.

    Raises InputError for anything that is not a whole regular file of these, RefusedError for files that are
    programs (TorchScript, torch.export, torch.package) or built to exhaust memory.
    """
    check_regular_file(path)
    shown = display(str(path))
    kind = sniff(path)
    if kind == "zip":
        _check_zip(path, shown)
    elif path.suffix.lower() == ".safetensors" and kind != "safetensors":
        raise InputError(f"{shown} is not a safetensors file, or it is truncated")
    elif kind not in ("pickle", "safetensors"):
        what = _OTHERS.get(kind, "is not a PyTorch file: expected a torch.save zip or pickle, or .safetensors")
        raise InputError(f"{shown} {what}")
    return kind


def _check_zip(path: Path, shown: str) -> None:
    zip_check(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = [_inner(member.filename) for member in members]
    _check_contents(set(names), {member.filename for member in members}, shown)
    for name, member in zip(names, members, strict=True):
        if member.compress_type != zipfile.ZIP_STORED and name.startswith("data/"):
            # torch.save never compresses; torch.load would unpack whatever size is claimed.
            raise RefusedError(
                f"{shown} holds compressed records ({member.file_size:,} bytes out of "
                f"{member.compress_size:,}), which torch.save never writes: refused; save it again with torch.save"
            )
    if "data.pkl" not in names:
        raise InputError(f"{shown} is a zip archive but not a torch.save file (no data.pkl)")


def _inner(name: str) -> str:
    """The record's name without the archive's own top folder."""
    return name.partition("/")[2] or name


def _check_contents(inner: set[str], full: set[str], shown: str) -> None:
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise RefusedError(f"{shown} is TorchScript, which runs code while it is loaded, and {_RETRACE}")
    exported = ("archive_format", "serialized_exported_program.json")
    if any(name.endswith(exported) for name in full):
        raise RefusedError(f"{shown} is a torch.export archive, which can run code while it is loaded, and {_RETRACE}")
    if any(name.startswith(".data/") or "/.data/extern_modules" in name for name in full | inner) and any(
        name.endswith("extern_modules") for name in full
    ):
        raise RefusedError(f"{shown} is a torch.package archive: loading it runs the Python inside; not supported")
    if any(name.endswith("model.weights.h5") for name in full):
        raise InputError(f"{shown} is a Keras file: record it with 'tracer record tf'")
    if full and all(name.endswith(".npy") for name in full):
        raise InputError(f"{shown} is a numpy .npz archive, not a model")
