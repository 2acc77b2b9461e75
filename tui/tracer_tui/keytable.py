"""The table of keys in the documentation: ``python -m tracer_tui.keytable docs/ui.md`` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

from tracer_tui import actions

BEGIN = "<!-- keys: written by python -m tracer_tui.keytable docs/ui.md -->"
END = "<!-- end of keys -->"


def markdown() -> str:
    """A table for what all screens have, and one for each screen."""
    common = [action for action in actions.ACTIONS if set(action.areas) == set(actions.AREAS)]
    parts = ["### Everywhere", *_table(common)]
    for area in actions.AREAS:
        parts += ["", f"### {area.capitalize()}"]
        parts += _table([action for action in actions.of(area) if action not in common])
    return "\n".join(parts)


def _table(chosen: list[actions.Action]) -> list[str]:
    lines = ["", "| Key | Action | What it does |", "|---|---|---|"]
    for action in chosen:
        keys = " ".join(f"`{actions.shown(key)}`" for key in action.keys)
        lines.append(f"| {keys} | `{action.name}` | {action.help.replace('|', chr(92) + '|')} |")
    return lines


def updated(text: str) -> str:
    """A document with the table as it is now. Raises ValueError where it has no place for one."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document has no lines '{BEGIN}' and '{END}'")
    return f"{before}{BEGIN}\n{markdown()}\n{END}{after}"


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(updated(document.read_text("utf-8")), "utf-8")
