"""The trace: one investigation in a Zarr v3 hierarchy."""

from tracer.store.trace import Recording, Stored, Trace
from tracer.store.writer import RecordingWriter

__all__ = ["Recording", "RecordingWriter", "Stored", "Trace"]
