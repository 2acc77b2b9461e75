"""A page's commands, as a person runs them: on a terminal of their own, in the page's directory."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import tty
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.cli import COMMAND, ENVIRONMENT, ask
from tests.warm import Request

# Not "a terminal" to rich alone: what it draws and takes away again would take a thread, which no fork survives.
TERMINAL = {"TTY_COMPATIBLE": "0", "COLUMNS": "90", "LINES": "50"}
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Shell:
    """One shell for a page: the directory, the variables that it exported, and the last exit code."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.exported: dict[str, str] = {}
        self.code = 0
        bin_ = directory / ".bin"
        bin_.mkdir()
        tracer = bin_ / "tracer"
        tracer.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
        tracer.chmod(0o755)
        self._path = f"{bin_}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(self, line: str) -> str:
        """What the line prints; :attr:`code` is its exit code."""
        if line.strip() == "echo $?":
            return f"{self.code}\n"
        words = shlex.split(line, comments=True)
        if words[0] == "export":
            self.exported.update(word.partition("=")[::2] for word in words[1:])
            self.code = 0
            return ""
        if "&&" in words:  # each of them as quick as alone
            printed = ""
            for part in re.split(r"\s&&\s", line):
                printed += self.run(part)
                if self.code:
                    break
            return printed
        if words[0] == "tracer" and words[-2:-1] == [">"] and "$" not in line:
            return self._forked(tuple(words[1:-2]), "", self.directory / words[-1])
        simple = not any(word in {"|", ">", "2>", "<", "&", ";"} for word in words) and "$" not in line
        if simple and words[0] == "tracer":
            return self._forked(tuple(words[1:]), "")
        if simple and words[0] == "python" and words[1:] and words[1].endswith(".py"):
            return self._forked(tuple(words[2:]), words[1])
        return self._plain(line)

    def _forked(self, arguments: tuple[str, ...], script: str, file: Path | None = None) -> str:
        master, slave = os.openpty()
        tty.setraw(slave)
        chunks: list[bytes] = []
        reader = threading.Thread(target=_read, args=(master, chunks))
        reader.start()
        try:
            name = os.ttyname(slave)
            if file is not None:
                file.write_bytes(b"")
            out = name if file is None else str(file)
            self.code, _ = ask(Request(arguments, str(self.directory), out, name, self._environment(), script))
        finally:
            os.close(slave)  # the last one: the reader ends
            reader.join()
            os.close(master)
        return _CONTROL.sub("", b"".join(chunks).decode()).replace("\r\n", "\n")

    def _environment(self) -> Mapping[str, str]:
        return {**TERMINAL, **self.exported}

    def _plain(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.directory, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
            env={**ENVIRONMENT, **self._environment(), "PATH": self._path},
        )  # fmt: skip
        self.code = done.returncode
        return done.stdout


def _read(master: int, chunks: list[bytes]) -> None:
    with suppress(OSError):  # nobody has the other end any more
        while chunk := os.read(master, 1 << 16):
            chunks.append(chunk)
