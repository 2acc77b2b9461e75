"""tracer: record a network in two frameworks, pair its layers, find where they part.

The public names are imported when first used, so that ``import tracer`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.lazy import exports

if TYPE_CHECKING:
    from tracer.alignment import Alignment, Pair, align
    from tracer.alignment.declared import LayerWeights, layer_weights
    from tracer.api import attach, diff, explain, graft, open, record, transfer, weights
    from tracer.compare import Diff, PairDiff, Stats, Tolerance, Verdict
    from tracer.errors import InputError, ModelError, RefusedError, TraceError, TracerError
    from tracer.store import Recording, Trace

_WHERE = {
    **dict.fromkeys(("Alignment", "Pair", "align"), "tracer.alignment"),
    **dict.fromkeys(("LayerWeights", "layer_weights"), "tracer.alignment.declared"),
    **dict.fromkeys(("attach", "diff", "explain", "graft", "open", "record", "transfer", "weights"), "tracer.api"),
    **dict.fromkeys(("Diff", "PairDiff", "Stats", "Tolerance", "Verdict"), "tracer.compare"),
    **dict.fromkeys(("InputError", "ModelError", "RefusedError", "TraceError", "TracerError"), "tracer.errors"),
    **dict.fromkeys(("Recording", "Trace"), "tracer.store"),
    "KerasCallback": "tracer_keras.callback",
    "LightningCallback": "tracer_torch.lightning",
}

__all__ = [
    "Alignment",
    "Diff",
    "InputError",
    "LayerWeights",
    "ModelError",
    "Pair",
    "PairDiff",
    "Recording",
    "RefusedError",
    "Stats",
    "Tolerance",
    "Trace",
    "TraceError",
    "TracerError",
    "Verdict",
    "align",
    "attach",
    "diff",
    "explain",
    "graft",
    "layer_weights",
    "open",
    "record",
    "transfer",
    "weights",
]

# dir() names the callbacks too, which "import *" leaves out: they need their frameworks.
__getattr__, __dir__ = exports(__name__, _WHERE)
