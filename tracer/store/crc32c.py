"""CRC-32C: google-crc32c's, or in a worker in another environment that has none, the C library which that brings."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tracer.errors import TracerError

LIBRARY = "TRACER_CRC32C"
"""The variable that names the library to a worker in another environment."""
_STEP = 1 << 20

google_crc32c: Any = None
with contextlib.suppress(ImportError):
    google_crc32c = import_module("google_crc32c")


def checksum(data: memoryview | bytes) -> int:
    """CRC-32C of ``data`` as Zarr's ``crc32c`` codec stores it."""
    crc = 0
    for start in range(0, len(data), _STEP):  # the package takes bytes only: copies that fit the cache
        crc = _extend(crc, data[start : start + _STEP])
    return crc


def library() -> str | None:
    """The file of the C library that this environment's google-crc32c has loaded; None where it is not to be found."""
    if google_crc32c is None or google_crc32c.implementation != "c":
        return os.environ.get(LIBRARY)
    beside = Path(google_crc32c.__file__).parent
    for folder in (beside.with_name("google_crc32c.libs"), beside / ".dylibs"):  # of a wheel, Linux and macOS
        for found in sorted(folder.glob("libcrc32c*")):
            return str(found)
    with contextlib.suppress(OSError):  # a distribution's
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "libcrc32c" in line:
                return line[line.index("/") :]
    return None


def _of_package(crc: int, data: memoryview | bytes) -> int:
    return int(google_crc32c.extend(crc, bytes(data)))


def _of_library(path: str) -> Callable[[int, memoryview | bytes], int]:
    extend = ctypes.CDLL(path).crc32c_extend
    extend.argtypes = (ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t)
    extend.restype = ctypes.c_uint32

    def extended(crc: int, data: memoryview | bytes) -> int:
        array = np.frombuffer(data, np.uint8)
        return int(extend(crc, array.ctypes.data, array.nbytes))

    return extended


def _missing(crc: int, data: memoryview | bytes) -> int:
    raise TracerError(f"no CRC-32C for {sys.executable}: pip install google-crc32c there")


_path = os.environ.get(LIBRARY)
_extend: Callable[[int, memoryview | bytes], int] = _missing
if google_crc32c is not None:
    _extend = _of_package
elif _path is not None:
    _extend = _of_library(_path)
