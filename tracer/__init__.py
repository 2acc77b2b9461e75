"""tracer: record a network in two frameworks, pair its layers, find where they part.

The public names are imported when first used, so that ``import tracer`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.lazy import exports

if TYPE_CHECKING:
    from tracer.alignment import Alignment, Pair, align
    from tracer.alignment.declared import LayerWeights, layer_weights
    from tracer.alignment.mapping import Mapping
    from tracer.api import attach, diff, explain, graft, open, record, transfer, weights
    from tracer.causes.explain import Explained
    from tracer.causes.finding import Finding
    from tracer.compare import Diff, PairDiff, Stats, Tolerance, Verdict
    from tracer.errors import (
        InputError,
        MissingFrameworkError,
        ModelError,
        RefusedError,
        RemoteError,
        ReplayError,
        TraceError,
        TracerError,
        TransferError,
    )  # fmt: skip
    from tracer.exporting.files import Exported
    from tracer.filed import (
        export,
        find,
        inspect,
        load_mapping,
        pack,
        pull,
        push,
        record_file,
        save_mapping,
        steps,
        watch,
    )  # fmt: skip
    from tracer.live.attach import Attached as Attached
    from tracer.live.serial import Steps
    from tracer.porting import assert_port
    from tracer.report.found import Found
    from tracer.rerun.grafted import Explanation, Graft
    from tracer.store import Recording, Step, Trace
    from tracer.weighing.table import WeightTable
    from tracer.weighing.transfer import Transferred

_WHERE = {
    **dict.fromkeys(("Alignment", "Pair", "align"), "tracer.alignment"),
    **dict.fromkeys(("LayerWeights", "layer_weights"), "tracer.alignment.declared"),
    **dict.fromkeys(("attach", "diff", "explain", "graft", "open", "record", "transfer", "weights"), "tracer.api"),
    **dict.fromkeys(("Diff", "PairDiff", "Stats", "Tolerance", "Verdict"), "tracer.compare"),
    **dict.fromkeys(
        ("InputError", "MissingFrameworkError", "ModelError", "RefusedError", "RemoteError", "ReplayError",
         "TraceError", "TracerError", "TransferError"),
        "tracer.errors",
    ),
    **dict.fromkeys(
        ("export", "find", "inspect", "load_mapping", "pack", "pull", "push", "record_file", "save_mapping", "steps",
         "watch"),
        "tracer.filed",
    ),
    **dict.fromkeys(("Recording", "Step", "Trace"), "tracer.store"),
    "Attached": "tracer.live.attach",
    "Explained": "tracer.causes.explain",
    **dict.fromkeys(("Explanation", "Graft"), "tracer.rerun.grafted"),
    "Exported": "tracer.exporting.files",
    "Finding": "tracer.causes.finding",
    "Found": "tracer.report.found",
    "Mapping": "tracer.alignment.mapping",
    "Steps": "tracer.live.serial",
    "Transferred": "tracer.weighing.transfer",
    "WeightTable": "tracer.weighing.table",
    "assert_port": "tracer.porting",
    "KerasCallback": "tracer_keras.callback",
    "LightningCallback": "tracer_torch.lightning",
}  # fmt: skip

__all__ = [
    "Alignment",
    "Diff",
    "Explained",
    "Explanation",
    "Exported",
    "Finding",
    "Found",
    "Graft",
    "InputError",
    "LayerWeights",
    "Mapping",
    "MissingFrameworkError",
    "ModelError",
    "Pair",
    "PairDiff",
    "Recording",
    "RefusedError",
    "RemoteError",
    "ReplayError",
    "Stats",
    "Step",
    "Steps",
    "Tolerance",
    "Trace",
    "TraceError",
    "TracerError",
    "TransferError",
    "Transferred",
    "Verdict",
    "WeightTable",
    "align",
    "assert_port",
    "attach",
    "diff",
    "explain",
    "export",
    "find",
    "graft",
    "inspect",
    "layer_weights",
    "load_mapping",
    "open",
    "pack",
    "pull",
    "push",
    "record",
    "record_file",
    "save_mapping",
    "steps",
    "transfer",
    "watch",
    "weights",
]

# dir() names the callbacks too, which "import *" leaves out: they need their frameworks.
__getattr__, __dir__ = exports(__name__, _WHERE)
