"""``python -m tests.docs PAGE …``: write what the commands of a page print now into the page."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.docs.matching import differing
from tests.docs.reading import read
from tests.docs.rules import rules_of
from tests.docs.running import Runner


def main() -> int:
    code = 0
    for name in sys.argv[1:]:
        page = read(Path(name).resolve())
        with tempfile.TemporaryDirectory() as folder:
            runner = Runner(page, rules_of(page), Path(folder))
            runner.run()
        lines = page.path.read_text(encoding="utf-8").split("\n")
        for item, printed in reversed(runner.printed):
            if differing(item.shown or [], printed):
                at = item.shown_at - 1
                lines[at : at + len(item.shown or ())] = [line.rstrip() for line in printed]
        page.path.write_text("\n".join(lines), encoding="utf-8")
        others = [fault for fault in runner.faults if "the page shows" not in fault and "printed" not in fault]
        print(*others, sep="\n\n")
        code |= bool(others)
    return code


if __name__ == "__main__":
    sys.exit(main())
