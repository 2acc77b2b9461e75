"""What in a model file would run code when it is loaded, found without loading it."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tracer.adapter import LoadRequest
from tracer.errors import InputError
from tracer.names import display
from tracer.text import some
from tracer_torch import preflight, scan

_LARGEST_MEMBER = 64 << 20
_SETSTATE = re.compile(r"^class (\w+)\(|^  def (__setstate__)\(", re.MULTILINE)
_TOUCHES = re.compile(r"\bops?\.aten\.(save|from_file)\b|\btorch\.(save|from_file)\(")
_PLAIN = frozenset({"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"})


def runs_code(request: LoadRequest) -> tuple[str, ...]:
    """A sentence for each thing in the files that makes loading them run code. Raises InputError."""
    found: list[str] = []
    for path in (request.path, request.weights):
        if path is None:
            continue
        form = preflight.check_file(path, trust=True)
        name = display(path.name)
        if form == "torchscript":
            found += (f"{name}: {sentence}" for sentence in _torchscript(path))
        elif form == "exported":
            found += (f"{name}: {sentence}" for sentence in _exported(path))
        elif form in ("zip", "pickle"):
            found += (f"{name}: {sentence}" for sentence in _pickle(path, form, request))
    return tuple(found)


def _torchscript(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        sources = [m for m in archive.infolist() if "/code/" in m.filename and m.filename.endswith(".py")]
        count = f"{len(sources)} source file{'s' if len(sources) != 1 else ''}"
        yield f"TorchScript: loading it compiles its own code ({count}), and runs what that gives as __setstate__"
        classes, touches = [], set()
        for text in _texts(archive, sources):
            last = ""
            for name, method in _SETSTATE.findall(text):
                last = name or last
                if method:
                    classes.append(last)
            touches |= {f"torch.{a or b}" for a, b in _TOUCHES.findall(text)}
    if classes:
        yield f"its code has a __setstate__, which runs on loading, in {some(sorted(set(classes)), 5)}"
    if touches:
        yield f"its code reads or writes files with {some(sorted(touches))}"


def _exported(path: Path) -> Iterator[str]:
    yield "a torch.export archive: torch.export.load unpickles parts of it and evaluates the formulas of its shapes"
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            if member.filename.endswith((".pt", ".pkl")) and member.file_size <= _LARGEST_MEMBER:
                unusual = _globals(_content(archive, member)) - _PLAIN
                unusual = {n for n in unusual if not (n.startswith("torch.") and n.endswith("Storage"))}
                if unusual:
                    inner = display(member.filename.rpartition("/")[2], 60)
                    yield f"the pickle {inner} in it names {some(sorted(unusual), 5)}"
        tables = [m for m in members if m.filename.endswith("_config.json")]
        if any(re.search(r'"use_pickle": *true', text) for text in _texts(archive, tables)):
            yield "some of its weights are pickles, which are loaded with weights_only=False"
        graphs = [m for m in members if "/models/" in m.filename and m.filename.endswith(".json")]
        formulas = {
            f for text in _texts(archive, graphs) for f in re.findall(r'"expr_str": *"((?:[^"\\]|\\.)*)"', text)
        }
        if formulas:
            count = f"{len(formulas)} formula{'s' if len(formulas) != 1 else ''}"
            yield f"it has {count} for shapes, evaluated as Python: {some(sorted(formulas), 2)}"


def _pickle(path: Path, form: str, request: LoadRequest) -> Iterator[str]:
    from tracer_torch import allowed, loading

    granted = allowed.consented(request.imports, request.allow)
    unsafe = loading.unsafe_globals(path, form, allowed.curated() | granted)
    running = [name for name in unsafe if allowed.runs_any_code(name)]
    others = [name for name in unsafe if name not in running]
    if running:
        yield f"a pickle that calls {some(running, 5)}"
    if others:
        yield f"a pickle that calls or makes {some(others, 5)}, which nobody has allowed"


def _globals(data: bytes) -> set[str]:
    """The globals that a pickle names, alone or in a zip archive of torch.save; empty where it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pickles = [_content(archive, m) for m in archive.infolist() if m.filename.endswith("data.pkl")]
    except zipfile.BadZipFile:
        pickles = [data]
    try:
        return {name for pickle in pickles for name in scan.globals_in(pickle)}
    except scan.Unreadable:
        return set()


def _texts(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Iterator[str]:
    for member in members:
        if member.file_size <= _LARGEST_MEMBER:
            yield _content(archive, member).decode("utf-8", "replace")


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as file:
            return file.read(_LARGEST_MEMBER)
    except Exception as error:
        raise InputError(
            f"{display(member.filename, 80)} in the archive is damaged ({type(error).__name__})"
        ) from error
