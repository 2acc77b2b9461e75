"""``python -m tests.battery [NAME …] [--cases N] [--seed S] [--json FILE]``: every battery, at full length."""

from __future__ import annotations

import argparse
import json
import pkgutil
import sys
import time
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import tests.battery
from tests.battery import MADE, Tally


def main() -> int:
    names = [module.name for module in pkgutil.iter_modules(tests.battery.__path__) if not module.name.startswith("_")]
    parser = argparse.ArgumentParser(prog="scripts/battery", description="Attacks and faults, their outcomes counted.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (all)")
    parser.add_argument("--cases", type=int, help="how many cases of each group (each battery's own number)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the counts here too")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(names):
        parser.error(f"no battery is called {', '.join(sorted(unknown))}: {', '.join(names)}")
    console = Console()
    table = Table("battery", "group", "outcome", "cases")
    broken, figures = [], {}
    for name in asked.names or names:
        started = time.monotonic()
        battery, over, known = import_module(f"tests.battery.{name}"), True, len(MADE)
        try:
            tally = battery.run(asked.seed, asked.cases)
        except KeyboardInterrupt:
            tally, over = MADE[known] if len(MADE) > known else Tally(), False
        took = f"{time.monotonic() - started:.0f} s{'' if over else ', interrupted'}"
        console.print(f"{name}: {tally.cases} cases in {took}, {len(tally.broken)} broken")
        figures[name] = {"seconds": time.monotonic() - started, "broken": tally.broken, "outcomes": {}}
        for (group, outcome), count in sorted(tally.outcomes.items()):
            table.add_row(name, Text(group), Text(outcome), f"{count:,}")
            figures[name]["outcomes"].setdefault(group, {})[outcome] = count
        broken += [f"{name}: {line}" for line in tally.broken]
        if not over:
            break
    console.print(table)
    for line in broken:
        console.print(Text(line), style="red")
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=1))
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
