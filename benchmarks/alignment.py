"""Precision, recall and abstentions of the alignment on the corpus: equal weights, unrelated ones, structures alone.

python -m benchmarks.alignment [--record] [--held-out] [--verbose] [NAME …]     from the repository's root

A second line for each scores the parameter map, where the port says whose weights go where.

Only the pairs that the engine was tuned on are looked at; ``--held-out`` scores those that were kept aside as well,
which is for reports, not for tuning. Recordings are kept in the user's cache folder; ``--record`` makes them anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.corpus import parameters, ports
from benchmarks.corpus.parameters import ParameterScore
from benchmarks.corpus.record import Kept, kept, record
from benchmarks.corpus.score import Score, score
from benchmarks.corpus.truth import right_axes
from tracer.alignment import Alignment, align

REGIMES = ("values", "unrelated", "structure")


def aligned(pair: Kept, regime: str) -> Alignment:
    """A pair's alignment: with equal weights and values, with unrelated ones, or from the structures alone."""
    ours = pair.recording("reference")
    theirs = pair.recording("unrelated" if regime == "unrelated" else "equal")
    return align(ours.structure, theirs.structure) if regime == "structure" else align(ours, theirs)


def axes(pair: Kept, alignment: Alignment) -> dict[str, int]:
    """Axes of right pairs: right, wrong, left open."""
    counts = {"right": 0, "wrong": 0, "open": 0}
    truth = pair.truth
    ours, theirs = pair.recording("reference"), pair.recording("equal")
    for found in alignment.pairs:
        a, b = found.reference[-1], found.candidate[-1]
        if truth.reference.get(a, -1) != truth.candidate.get(b, -2):
            continue
        good = right_axes(ours, theirs, a, b)
        if not good:
            continue
        open_ = found.axes is None or bool(found.other_axes)
        counts["open" if open_ else "right" if found.axes in good else "wrong"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--axes", action="store_true")
    parser.add_argument("--truth", action="store_true", help="work out the truth of what is recorded anew")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    totals: dict[tuple[bool, str], Score] = {}
    weights: dict[tuple[bool, str], ParameterScore] = {}
    for name, port in ports().items():
        chosen = not options.names or any(fnmatchcase(name, pattern) for pattern in options.names)
        if not chosen or (port.held_out and not options.held_out):
            continue
        try:
            pair = record(port) if options.record else kept(port) or record(port)
            if options.truth:
                pair.judge(pair.truth.parameters)
        except Exception:
            traceback.print_exc()
            print(f"{name}: could not be recorded", file=sys.stderr)
            continue
        for regime in REGIMES:
            began = time.perf_counter()
            alignment = aligned(pair, regime)
            took = time.perf_counter() - began
            result = score(alignment, pair.truth)
            moved = axes(pair, alignment) if options.axes else {}
            totals.setdefault((port.held_out, regime), Score()).__iadd__(result)
            print(f"{name:34} {regime:9} {result.line()}  {took:6.2f} s {moved or ''}", flush=True)
            maps = parameters.score(alignment.parameters.pairs, pair.truth.parameters)
            if pair.truth.parameters:
                weights.setdefault((port.held_out, regime), ParameterScore()).__iadd__(maps)
                print(f"{'':34} {'parameters':10}{maps.line()}", flush=True)
            if options.verbose:
                print(
                    *(f"      wrong parameter {error}" for error in maps.errors), sep="\n", end="\n" * bool(maps.errors)
                )
                print(*(f"      wrong {error}" for error in result.errors), sep="\n", end="\n" * bool(result.errors))
                print(*(f"      missed {node}" for node in result.missed), sep="\n", end="\n" * bool(result.missed))
            rows.append(
                {
                    "pair": name,
                    "held_out": port.held_out,
                    "regime": regime,
                    "precision": result.precision,
                    "recall": result.recall,
                    "f1": result.f1,
                    "wrong": result.wrong,
                    "expected": result.expected,
                    "ambiguous": result.ambiguous,
                    "sure_precision": result.sure_precision,
                    "coverage": result.coverage,
                    "axes": moved,
                    "parameters": {"right": maps.right, "wrong": maps.wrong, "expected": maps.expected},
                    "seconds": round(took, 3),
                }
            )
    for (held_out, regime), total in totals.items():
        print(f"{'HELD OUT' if held_out else 'TUNING':34} {regime:9} {total.line()}")
        if (held_out, regime) in weights:
            print(f"{'':34} {'parameters':10}{weights[held_out, regime].line()}")
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
