"""Temporary folders that do not outlive us, and workers that do not either: whatever kills the supervisor."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"tracer-([0-9]+)-([0-9]+)-[^-].*")

# Waits until the supervisor ends (its end of the pipe closes), then ends the worker's group and takes its folder.
_SCRIPT = """
read -r _
kill -s KILL -- "-$1" 2>/dev/null
rm -rf -- "$2" 2>/dev/null || { sleep 1; rm -rf -- "$2"; }
"""


def _namespace() -> int:
    """Which process ids we know: those of another container on the same folder say nothing to us."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def make_folder() -> str:
    """A new private folder whose name says whose it is. Raises OSError."""
    return tempfile.mkdtemp(prefix=f"tracer-{os.getpid()}-{_namespace()}-t")


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """:func:`make_folder`, for as long as the context lasts. Raises OSError."""
    made = make_folder()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _dead(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def sweep() -> None:
    """Remove the folders that dead supervisors of this user left behind; raises nothing."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(tempfile.gettempdir()):
            match = _NAME.fullmatch(entry.name)
            if match is None or int(match[2]) != _namespace():
                continue
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and _dead(int(match[1])):
                    shutil.rmtree(Path(entry.path), ignore_errors=True)


@contextlib.contextmanager
def watching(worker: int, temporary: str) -> Iterator[None]:
    """Have a small process end the group of ``worker`` and remove ``temporary`` should we die meanwhile."""
    janitor: subprocess.Popen[bytes] | None = None
    with contextlib.ExitStack() as descriptors:
        try:
            with contextlib.suppress(OSError):  # without it, sweep and the parent-death signal remain
                theirs, ours = os.pipe()
                descriptors.callback(os.close, ours)
                with open(theirs, "rb") as waits_on:
                    janitor = subprocess.Popen(
                        ["/bin/sh", "-c", _SCRIPT, "tracer-janitor", str(worker), temporary],
                        stdin=waits_on,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,
                        cwd="/",
                        env={"PATH": os.environ.get("PATH", os.defpath)},
                    )
            yield
        finally:
            if janitor is not None:
                janitor.kill()
                janitor.wait()
