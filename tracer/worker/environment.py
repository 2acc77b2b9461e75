"""What of our environment the worker gets: enough to find its libraries and their settings, and no secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping

_NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "XLA_FLAGS",
})  # fmt: skip
_PREFIXES = (
    "LC_", "PYTHON", "KERAS_", "TF_", "TORCH_", "PYTORCH_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "CUDA_", "NVIDIA_",
    "XDG_", "JAX_",
)  # fmt: skip
# Binding threads to processors sets other threads' affinity, which the sandbox denies: the thread pool would fail.
_BINDING = frozenset({"OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY"})
# A thread that BLAS starts when numpy is imported would stay outside the sandbox: one until the sandbox is closed.
_BLAS = "OPENBLAS_NUM_THREADS"
_BLAS_OF_USER = f"TRACER_{_BLAS}"
_SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|_KEY", re.IGNORECASE)


def scrubbed(environment: Mapping[str, str], temporary: str) -> dict[str, str]:
    """The variables of ``environment`` for a worker whose temporary directory is ``temporary``."""
    kept = {
        name: value
        for name, value in environment.items()
        if (name in _NAMES or name.startswith(_PREFIXES)) and name not in _BINDING and not _SECRET.search(name)
    }
    if _BLAS in kept:
        kept[_BLAS_OF_USER] = kept[_BLAS]
    return {"LOGNAME": str(os.getuid()), **kept, _BLAS: "1", "TMPDIR": temporary}


def give_threads(environment: MutableMapping[str, str]) -> None:
    """Let ``environment``, which :func:`scrubbed` made, say of BLAS's threads what the user's does."""
    environment.pop(_BLAS, None)
    wanted = environment.pop(_BLAS_OF_USER, None)
    if wanted is not None:
        environment[_BLAS] = wanted
