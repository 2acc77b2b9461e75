"""Reads from a pickle, without running it, which globals it names."""

from __future__ import annotations

import _compat_pickle
import io
import pickletools
import zipfile
from pathlib import Path
from typing import IO

_LARGEST_PICKLE = 512 << 20
_LEGACY_PICKLES = 4
"""An old torch.save file begins with four pickles: magic number, protocol, system, the object."""


class Unreadable(Exception):
    """The file is no sequence of pickles."""


def globals_of(path: Path, form: str) -> tuple[set[str], int]:
    """The globals that the file names (``module.name``) and the highest pickle protocol in it.

    ``form`` is what :func:`tracer_torch.preflight.check_file` said. Raises Unreadable.
    """
    try:
        if form == "zip":
            with zipfile.ZipFile(path) as archive:
                member = next(m for m in archive.infolist() if m.filename.partition("/")[2] == "data.pkl")
                if member.file_size > _LARGEST_PICKLE:
                    raise Unreadable("its data.pkl is larger than any model's")
                return _scan(io.BytesIO(archive.read(member)), 1)
        with open(path, "rb") as file:
            return _scan(file, _LEGACY_PICKLES)
    except Unreadable:
        raise
    except Exception as error:
        # pickletools, zipfile and zlib raise a dozen kinds on damaged input.
        raise Unreadable("it is truncated or damaged") from error


def globals_in(pickle: bytes) -> set[str]:
    """The same of one pickle. Raises Unreadable."""
    try:
        return _scan(io.BytesIO(pickle), 1)[0]
    except Exception as error:
        raise Unreadable("it is truncated or damaged") from error


def _scan(file: IO[bytes], pickles: int) -> tuple[set[str], int]:
    found: set[str] = set()
    protocol = 0
    for _ in range(pickles):
        strings: list[str] = []
        memo: dict[int, str] = {}
        last = ""
        for opcode, argument, _position in pickletools.genops(file):
            name = opcode.name
            if name == "PROTO":
                protocol = max(protocol, int(str(argument)))
            elif name in ("GLOBAL", "INST"):
                module, _, attribute = str(argument).partition(" ")
                found.add(_modern(module, attribute))
            elif name == "STACK_GLOBAL":
                if len(strings) < 2:
                    raise Unreadable("its pickle hides the names it uses")
                found.add(f"{strings[-2]}.{strings[-1]}")
            elif isinstance(argument, str) and "UNICODE" in name:
                last = argument
                strings.append(argument)
            elif name == "MEMOIZE":
                memo[len(memo)] = last
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[int(str(argument))] = last
            elif name in ("BINGET", "LONG_BINGET", "GET") and int(str(argument)) in memo:
                strings.append(memo[int(str(argument))])
    return found, protocol


def _modern(module: str, name: str) -> str:
    """Python 2's name of a global, which protocol 2 still writes, as Python 3's."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[(module, name)]
    else:
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    return f"{module}.{name}"
