"""The trace: one investigation in a Zarr v3 hierarchy."""

from tracer.store.recordings import Recording, Step, Stored
from tracer.store.trace import Trace
from tracer.store.writer import RecordingWriter

__all__ = ["Recording", "RecordingWriter", "Step", "Stored", "Trace"]
