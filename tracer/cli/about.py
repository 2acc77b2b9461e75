"""``tracer info``."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version

from rich.text import Text

from tracer import adapter as adapters
from tracer import schemas
from tracer.cli import formatting, settings
from tracer.errors import ExitCode, InputError, TracerError
from tracer.names import display
from tracer.worker import landlock

SCHEMA = "tracer-info/1"
_PACKAGES = ("tracer-nn", "numpy", "zarr", "textual", "torch", "safetensors", "tensorflow", "keras", "tf-keras", "h5py")


def info(*, as_json: bool) -> int:
    """Versions (looked up, nothing is imported), adapters and confinement."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    found = {}
    for name in adapters.names():
        try:
            adapter = adapters.get(name)
            found[name] = f"ready: {adapter.formats}"
        except TracerError as error:
            found[name] = str(error)
    abi = landlock.supported()
    if as_json:
        settings.out().print(
            json.dumps(
                {
                    "schema": SCHEMA, "python": platform.python_version(), "packages": packages, "adapters": found,
                    "landlock": abi,
                }
            )
        )  # fmt: skip
        return ExitCode.OK
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    lines += [f"{name} {number or 'not installed'}" for name, number in packages.items()]
    lines += [f"adapter {name}: {state}" for name, state in found.items()]
    lines += [f"{home}: {fault}" for home, fault in adapters.shadowed().items()]
    lines.append(f"Landlock ABI {abi}" if abi else "no Landlock: model files run without a sandbox")
    settings.out().print(Text("\n".join(lines)))
    return ExitCode.OK


def schema(name: str | None) -> int:
    """Print a schema; without a name, the names of all with what each describes."""
    if name is None:
        for one in schemas.names():
            settings.out().print(Text(f"{one:10}{schemas.load(one)['description'].splitlines()[0]}"))
        return ExitCode.OK
    try:
        formatting.raw(schemas.text(name))
    except KeyError:
        raise InputError(f"no schema '{display(name)}': {', '.join(schemas.names())}") from None
    return ExitCode.OK
