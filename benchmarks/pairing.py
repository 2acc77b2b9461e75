"""What is paired, missed and wrong on the real pairs of tests/zoo, and where the first divergence is reported.

python -m benchmarks.pairing [NAME …]     from the repository's root; prints a table, writes benchmarks/pairing.json
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import tracer
from tests.zoo import PAIRS, Pair


def measure(pair: Pair, keras: Callable[[], Any], torch: Callable[[], Any], cause: str | None) -> dict[str, Any]:
    """Record both sides, compare, and count against the truth."""
    x = pair.inputs()
    sides: list[tuple[Any, Any]] = [(keras(), x), (torch(), None)]
    if pair.reference == "torch":
        moved = np.ascontiguousarray(x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1)))
        sides = [(torch(), moved), (keras(), None)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        recordings = [tracer.record(model, data, trace=Path(folder) / "t.zarr", weights=False) for model, data in sides]
        recorded = time.perf_counter()
        diff = tracer.diff(*recordings)
        compared = time.perf_counter()
    truth: dict[str, str | None] = {**pair.nodes}
    if pair.reference == "torch":
        truth = {str(theirs): ours for ours, theirs in truth.items()}
    defect = pair.defects[cause] if cause else None
    truth |= defect.truth if defect else {}
    found = {p.aligned: p.pair.candidate[-1] for p in diff.pairs if "output" not in p.pair.evidence}
    return {
        "model": pair.name,
        "defect": cause or "",
        "nodes": [len(r.structure) for r in recordings],
        "pairs": len(found),
        "truth": len(truth),
        "wrong": sum(found.get(name, twin) != twin for name, twin in truth.items()),
        "missed": sum(twin is not None and name not in found for name, twin in truth.items()),
        "unmatched": [len(diff.alignment.unmatched_reference), len(diff.alignment.unmatched_candidate)],
        "verdicts": {str(verdict): count for verdict, count in diff.counts.items()},
        "first": diff.first.aligned if diff.first else None,
        "expected": defect.first if defect else None,
        "record_s": round(recorded - began, 2),
        "diff_s": round(compared - recorded, 2),
    }


def main(names: list[str]) -> None:
    rows = []
    for name in names or list(PAIRS):
        pair = PAIRS[name]
        for cause in (None, *pair.defects):
            builders = pair.defective(cause) if cause else (pair.keras, pair.torch)
            row = measure(pair, *builders, cause)
            rows.append(row)
            right = "as it should" if row["first"] == row["expected"] else f"EXPECTED {row['expected']}"
            print(
                f"{name:22} {row['defect']:16} nodes {row['nodes'][0]}/{row['nodes'][1]}  pairs {row['pairs']}  "
                f"wrong {row['wrong']}  missed {row['missed']}  unmatched {row['unmatched'][0]}+{row['unmatched'][1]}  "
                f"first {row['first'] or '-'} ({right})  record {row['record_s']} s  diff {row['diff_s']} s",
                flush=True,
            )
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1))
    total = {key: sum(row[key] for row in rows) for key in ("pairs", "truth", "wrong", "missed")}
    placed = sum(row["first"] == row["expected"] for row in rows)
    print(f"{len(rows)} comparisons: {total}; first divergence right in {placed}")


if __name__ == "__main__":
    main(sys.argv[1:])
