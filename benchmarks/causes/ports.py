"""Explaining correct ports, of which nothing should be said."""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
import traceback
from collections import Counter
from fnmatch import fnmatchcase
from typing import Any

from benchmarks.causes.judging import SAID, line, shown
from benchmarks.causes.results import keep
from benchmarks.corpus import ports
from benchmarks.corpus.record import kept
from tracer.causes.explain import Explained, explain
from tracer.compare.comparing import diff


def run_ports(options: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    profile = cProfile.Profile() if options.profile else None
    for name, port in ports().items():
        pair = kept(port)
        if pair is None or (port.held_out and not options.held_out):
            continue
        if options.names and not any(fnmatchcase(name, pattern) for pattern in options.names):
            continue
        found = diff(pair.recording("reference"), pair.recording("equal"))
        began = time.perf_counter()
        if profile is not None:
            profile.enable()
        try:
            explained = explain(found, seconds=options.seconds)
        except Exception as error:
            print(f"{name:28} FAILED {type(error).__name__}: {str(error)[:200]}", flush=True)
            if options.verbose:
                traceback.print_exc()
            continue
        finally:
            if profile is not None:
                profile.disable()
        took = time.perf_counter() - began
        rows.append(_port_row(name, port.held_out, explained, took))
        row = rows[-1]
        print(f"{name:28} {row['pairs']:4} pairs {row['looked']:4} read ({row['looked'] / max(row['pairs'], 1):.0%})  "
              f"{len(row['false'])} false {row['unknown']} unknown  {took / max(row['pairs'], 1):.3f} s a pair  "
              f"{'' if port.held_out else row['latent']}", flush=True)  # fmt: skip
        if not port.held_out:
            for finding in explained.findings:
                if finding.status != "latent" or options.verbose:
                    for text in shown(finding) if options.verbose else (line(finding),):
                        print(f"      {text[:240]}")
            for why, count in Counter(map(_short, explained.unread.values())).most_common(
                None if options.verbose else 4
            ):
                print(f"      not read: {count} x {why}")
    if rows:
        pairs, looked = sum(r["pairs"] for r in rows), sum(r["looked"] for r in rows)
        latent: Counter[str] = sum((Counter(row["latent"]) for row in rows), Counter())
        false, unknown = sum(len(row["false"]) for row in rows), sum(row["unknown"] for row in rows)
        print(f"\n{len(rows)} ports, {pairs} pairs, {looked / pairs:.1%} read; {false} false, {unknown} unknown; "
              f"{sum(row['seconds'] for row in rows) / pairs:.3f} s a pair; latent {dict(latent)}")  # fmt: skip
        keep("ports", rows, options)
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


def _short(why: str) -> str:
    return why if len(why) < 110 else f"{why[:107]}…"


def _port_row(name: str, held_out: bool, explained: Explained, took: float) -> dict[str, Any]:
    latent = Counter(f"{c.id}:{c.key}" for f in explained.findings if f.status == "latent" for c in f.causes)
    return {
        "port": name,
        "held_out": held_out,
        "pairs": explained.looked + len(explained.unread),
        "looked": explained.looked,
        "false": [line(f) for f in explained.findings if f.status in SAID],
        "unknown": sum(f.status == "unknown" for f in explained.findings),
        "latent": dict(latent),
        "unread": dict(Counter(explained.unread.values())),
        "seconds": round(took, 2),
    }
