"""The trace: one investigation in a Zarr v3 hierarchy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.lazy import exports

if TYPE_CHECKING:
    from tracer.store.recordings import Recording, Step, Stored
    from tracer.store.trace import Trace
    from tracer.store.writer import RecordingWriter

__all__ = ["Recording", "RecordingWriter", "Step", "Stored", "Trace"]

__getattr__, __dir__ = exports(
    __name__,
    {
        **dict.fromkeys(("Recording", "Step", "Stored"), "tracer.store.recordings"),
        "RecordingWriter": "tracer.store.writer",
        "Trace": "tracer.store.trace",
    },
)
