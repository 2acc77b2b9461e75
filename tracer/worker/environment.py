"""What of our environment the worker gets: enough to find its libraries and their settings, and no secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "XLA_FLAGS",
})  # fmt: skip
_PREFIXES = (
    "LC_", "PYTHON", "KERAS_", "TF_", "TORCH_", "PYTORCH_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "CUDA_", "NVIDIA_",
    "XDG_", "JAX_",
)  # fmt: skip
# Binding threads to processors sets other threads' affinity, which the sandbox denies: the thread pool would fail.
_BINDING = frozenset({"OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY"})
_SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|_KEY", re.IGNORECASE)


def scrubbed(environment: Mapping[str, str], temporary: str) -> dict[str, str]:
    """The variables of ``environment`` for a worker whose temporary directory is ``temporary``."""
    kept = {
        name: value
        for name, value in environment.items()
        if (name in _NAMES or name.startswith(_PREFIXES)) and name not in _BINDING and not _SECRET.search(name)
    }
    return {"LOGNAME": str(os.getuid()), **kept, "TMPDIR": temporary}
