"""The tables of the results, and keeping them."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.with_suffix(".json")
OUTCOMES = ("first", "among", "vague", "unknown", "wrong", "missed")


def table(title: str, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """Counts of the outcomes by one column."""
    print(f"\n{title:28} {'all':>4} {'located':>7} {'proven':>6} " + " ".join(f"{o:>7}" for o in OUTCOMES) + "  false")
    for value in (*sorted(dict.fromkeys(row[key] for row in rows)), None):
        chosen = [row for row in rows if value is None or row[key] == value]
        counts = Counter(row["outcome"] for row in chosen)
        located = len(chosen) - counts["missed"]
        false = sum(len(row["false"]) for row in chosen)
        print(f"{value or 'ALL':28} {len(chosen):4} {located:7} {sum(row['proven'] for row in chosen):6} "
              + " ".join(f"{counts[o] or '':>7}" for o in OUTCOMES) + f"  {false or ''}")  # fmt: skip
    if key == "port":
        _totals(rows)


def _totals(rows: Sequence[Mapping[str, Any]]) -> None:
    count = len(rows)
    counts = Counter(row["outcome"] for row in rows)
    parts, seconds = sum(row["parts"] for row in rows), sum(row["seconds"] for row in rows)
    shares = ", ".join(f"{counts[o]} {o} ({counts[o] / count:.1%})" for o in OUTCOMES)
    print(f"\n{count} defects: {shares}; {sum(row['proven'] for row in rows) / count:.1%} reproduced")
    together = [row for row in rows if row["together"]]
    if together:
        first = sum(row["outcome"] == "first" for row in together)
        print(f"of these in one layer with another: {len(together)}, {first} first ({first / len(together):.1%})")
    models = sum(bool(row["false"]) for row in rows)
    print(f"false findings {sum(len(row['false']) for row in rows)} in {models} models; {seconds:.0f} s in all, "
          f"{seconds / max(parts, 1):.2f} s for each pair that parts, "
          f"the slowest {max(row['slowest'] for row in rows):.1f}")  # fmt: skip


def keep(what: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Keep the results of a run over everything."""
    if options.names or options.kinds != ["*"]:
        return
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**known, what: rows}, indent=1))
