"""No tests: other environments, each with a few packages of this one and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from importlib.util import find_spec
from pathlib import Path


def environment(place: Path, *distributions: str, tracer: bool = False) -> Path:
    """Make a virtual environment at ``place`` that has these and what they need: its interpreter.

    With ``tracer`` it has that, too, and nothing of what that needs.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    packages = next(place.glob("lib/python*/site-packages"))
    for name in dict.fromkeys(_needed(distributions)):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            (packages / top).symlink_to(str(found.locate_file(top)))
    if tracer:
        for name in ("tracer", *sorted(point.module for point in entry_points(group="tracer.adapters"))):
            spec = find_spec(name)
            assert spec is not None
            (packages / name).symlink_to(next(iter(spec.submodule_search_locations or ())))
        said = next(file.parts[0] for file in distribution("tracer-nn").files or () if file.name == "METADATA")
        (packages / said).symlink_to(str(distribution("tracer-nn").locate_file(said)))
    return place / "bin" / "python"


def _needed(names: Iterable[str], known: frozenset[str] = frozenset()) -> Iterator[str]:
    for name in names:
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        yield found.name
        required = [
            re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in found.requires or () if "extra ==" not in need
        ]
        yield from _needed((need for need in required if need not in known), known | {name, *required})


def lacks(python: Path, *modules: str) -> bool:
    """Whether none of these can be imported there."""
    code = f"from importlib.util import find_spec; print([m for m in {modules!r} if find_spec(m)])"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "[]"
