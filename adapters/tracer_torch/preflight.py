"""Cheap checks of model files before torch is imported: whole, and of a form that can be loaded as data."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tracer.errors import InputError, RefusedError
from tracer.names import display
from tracer.preflight import check_regular_file, sniff, zip_check, zip_names

_RETRACE = "runs code while it is loaded: give the nn.Module it was made from, or --trust if this file may run code"
_OTHERS = {
    "hdf5": "is an HDF5 file (Keras): record it with 'tracer record tf'",
    "tar": "is a tar archive; files of torch before 0.2 are not read: unpack or save it again",
    "gzip": "is gzip-compressed: unpack it first",
    "npy": "is a numpy array, not a model",
}


_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".pt2", ".jit", ".ts", ".torchscript", ".bin")
_MEMBERS = ("data.pkl", "constants.pkl", "archive_format", "serialized_exported_program.json")
"""Members of a zip archive that only torch writes, below its own top folder."""
_EXPORTED = ("archive_format", "serialized_exported_program.json")


def claims(path: Path) -> bool:
    """Whether a file is one of torch's or of safetensors, by its name or its first bytes."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    if not path.is_file():
        return False
    kind = sniff(path)
    if kind == "zip" and zipfile.is_zipfile(path):
        return any(_inner(name) in _MEMBERS for name in zip_names(path))
    return kind in ("pickle", "safetensors")


def check_file(path: Path, *, trust: bool = False) -> str:
    """Say what ``path`` holds: ``zip``, ``pickle`` (old torch.save), ``safetensors``, ``torchscript`` or ``exported``.

    Raises InputError for anything that is not a whole regular file of these, RefusedError for files that are
    programs (TorchScript, torch.export: without ``trust``; torch.package) or built to exhaust memory.
    """
    check_regular_file(path)
    shown = display(str(path))
    kind = sniff(path)
    if kind == "zip":
        return _check_zip(path, shown, trust)
    if path.suffix.lower() == ".safetensors" and kind != "safetensors":
        raise InputError(f"{shown} is not a safetensors file, or it is truncated")
    if kind not in ("pickle", "safetensors"):
        what = _OTHERS.get(kind, "is not a PyTorch file: expected a torch.save zip or pickle, or .safetensors")
        raise InputError(f"{shown} {what}")
    return kind


def _check_zip(path: Path, shown: str, trust: bool) -> str:
    zip_check(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = [_inner(member.filename) for member in members]
    form = _form(set(names), {member.filename for member in members}, shown)
    if form != "zip" and not trust:
        raise RefusedError(f"{shown} is {_PROGRAMS[form]}, which {_RETRACE}")
    for name, member in zip(names, members, strict=True):
        if member.compress_type != zipfile.ZIP_STORED and name.startswith("data/"):
            # torch.save never compresses; torch.load would unpack whatever size is claimed.
            raise RefusedError(
                f"{shown} holds compressed records ({member.file_size:,} bytes out of "
                f"{member.compress_size:,}), which torch.save never writes: refused; save it again with torch.save"
            )
    if form != "exported" and "data.pkl" not in names:
        raise InputError(f"{shown} is a zip archive but not a torch.save file (no data.pkl)")
    return form


def _inner(name: str) -> str:
    """The record's name without the archive's own top folder."""
    return name.partition("/")[2] or name


_PROGRAMS = {"torchscript": "TorchScript", "exported": "a torch.export archive"}


def program(form: str) -> str:
    """What a program of PyTorch is called, by what :func:`check_file` found; empty for other files."""
    return _PROGRAMS.get(form, "")


def _form(inner: set[str], full: set[str], shown: str) -> str:
    """Which kind of torch's archives the members make: ``zip`` is what torch.save writes."""
    if any(name.startswith(".data/") or "/.data/extern_modules" in name for name in full | inner) and any(
        name.endswith("extern_modules") for name in full
    ):
        raise RefusedError(f"{shown} is a torch.package archive: loading it runs the Python inside; not supported")
    if any("/aotinductor/" in name for name in full):
        raise InputError(
            f"{shown} is an AOTInductor package, compiled code with nothing to see inside: give the nn.Module, or what "
            "torch.export.save writes"
        )
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "torchscript"
    if any(name.endswith(_EXPORTED) for name in full):
        return "exported"
    if any(name.endswith("model.weights.h5") for name in full):
        raise InputError(f"{shown} is a Keras file: record it with 'tracer record tf'")
    if full and all(name.endswith(".npy") for name in full):
        raise InputError(f"{shown} is a numpy .npz archive, not a model")
    return "zip"
