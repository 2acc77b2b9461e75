"""Arrays that a worker left as files: nothing of them is believed."""

from __future__ import annotations

import contextlib
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def opened(path: Path) -> BinaryIO:
    """The file, at its start. Raises ValueError unless it is a regular one that a plain array fills, no objects."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(f"no array: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("no array")
    with contextlib.ExitStack() as unless:
        file = unless.enter_context(open(descriptor, "rb"))
        if not _is_array(file):
            raise ValueError("no array")
        unless.pop_all()
    return file


def _is_array(file: BinaryIO) -> bool:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, OSError):
        return False
    size = file.tell() + math.prod(shape) * dtype.itemsize
    file.seek(0)
    return not dtype.hasobject and size == os.fstat(file.fileno()).st_size


def numbers(path: Path) -> NDArray[Any]:
    """The array. Raises ValueError as :func:`opened` does, and where it holds no numbers."""
    with opened(path) as file:
        found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    if found.dtype.kind not in "biufc":
        raise ValueError("no numbers")
    return found
