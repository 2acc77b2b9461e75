"""Running the command as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-c", "from tracer.cli.main import main; main()"]
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("TRACER_")},
    "PYTHONPATH": str(Path(__file__).parent.parent),
    "PYTHONUTF8": "1",
}


def run(*arguments: object, cwd: Path, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``tracer ARGUMENTS``; the exit code must be ``code`` (None: any)."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300,
        stdin=subprocess.DEVNULL, env={**ENVIRONMENT, **environment},
    )  # fmt: skip
    assert code is None or done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def refused(*arguments: object, cwd: Path, code: int = 2, says: str, **environment: str) -> str:
    """A command that fails as it should: one line on stderr that holds ``says``, nothing on stdout."""
    done = run(*arguments, cwd=cwd, code=code, **environment)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("tracer: ")
    assert says in lines[0], lines[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return lines[0]
