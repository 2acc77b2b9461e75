"""What is done with each piece of a page, and doing it."""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from tests.docs.matching import differing
from tests.docs.reading import DATA, Item, Page
from tests.docs.terminal import Shell

Setup = Callable[[Path, dict[str, Any]], None]
_AGREED, _DIVERGED = 0, 1


@dataclass(frozen=True)
class Rules:
    """How a page is run.

    Attributes:
        setup: puts what the page takes for granted into its directory, and names into its Python namespace.
        exempt: what is not run, and why: pattern of the item's label to reason.
    """

    setup: Setup | None = None
    exempt: Mapping[str, str] = field(default_factory=dict)


def treatment(item: Item, rules: Rules) -> tuple[str, str]:
    """What becomes of a piece (``run``, ``written``, ``parsed``, ``exempt``), and the reason if it is not run.

    Raises AssertionError for output that nobody compares and no rule excuses.
    """
    reason = next((why for pattern, why in rules.exempt.items() if fnmatchcase(item.label, pattern)), "")
    if item.kind == "file":
        return "written", ""
    if item.kind in DATA:
        return "parsed", ""
    if item.kind == "output":
        assert reason, f"line {item.line}: nobody compares this and no rule says why: {item.first}"
        return "exempt", reason
    return ("exempt", reason) if reason else ("run", "")


class Runner:
    """Runs a page from top to bottom.

    Attributes:
        faults: what went wrong, in words, each with its line.
        printed: what commands and Python blocks printed, with the item: of those whose output the page shows.
    """

    def __init__(self, page: Page, rules: Rules, directory: Path) -> None:
        self.page, self.rules, self.directory = page, rules, directory
        self.faults: list[str] = []
        self.printed: list[tuple[Item, list[str]]] = []
        self.shell = Shell(directory)
        self.space: dict[str, Any] = {"__name__": "__docs__"}

    def run(self) -> None:
        """Leave the process as it was: what the page imports from its directory is forgotten."""
        known = set(sys.modules)
        sys.path.insert(0, str(self.directory))
        try:
            with contextlib.chdir(self.directory):
                self._all()
        finally:
            sys.path.remove(str(self.directory))
            for name in set(sys.modules) - known:
                if str(self.directory) in str(getattr(sys.modules[name], "__file__", "")):
                    del sys.modules[name]

    def _all(self) -> None:
        if self.rules.setup:
            self.rules.setup(self.directory, self.space)
        for item in self.page.items:
            done, _ = treatment(item, self.rules)
            try:
                self._treat(item, done)
            except Exception as error:
                self.faults.append(f"line {item.line}: {item.first}\n  {type(error).__name__}: {error}")

    def _treat(self, item: Item, done: str) -> None:
        if done == "written":
            path = self.directory / item.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(item.text, encoding="utf-8")
            check_data(path.suffix.removeprefix(".").replace("yml", "yaml"), item.text)
        elif done == "parsed":
            check_data(item.kind, item.text)
        elif item.kind == "python":
            self._python(item, run=done == "run")
        elif item.kind == "command" and done == "run":
            self._command(item)
        elif item.kind == "command":
            check_command(re.sub(r"(?<=\s)\[|\](?=\s|$)", "", item.text))  # what may be left out stands in brackets

    def _python(self, item: Item, *, run: bool) -> None:
        code = compile("\n" * (item.line) + item.text, str(self.page.path), "exec")
        if run:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(code, self.space)
            self._compare(item, out.getvalue())

    def _command(self, item: Item) -> None:
        check_command(item.text)
        printed = self.shell.run(item.text)
        refused = any(line.startswith("tracer: ") for line in item.shown or ())
        asked = item.text.strip() == "echo $?"
        if self.shell.code not in {_AGREED, _DIVERGED} and not refused and not asked:
            self.faults.append(f"line {item.line}: {item.text}\n  exit code {self.shell.code}\n{printed}")
        elif "Traceback" in printed:
            self.faults.append(f"line {item.line}: {item.text}\n{printed}")
        self._compare(item, printed)

    def _compare(self, item: Item, printed: str) -> None:
        if item.shown is None:
            return
        lines = printed.splitlines()
        self.printed.append((item, lines))
        if difference := differing(item.shown, lines):
            self.faults.append(f"line {item.line}: {item.first}\n  {difference}")


def check_data(language: str, text: str) -> None:
    """Raises what the language's own parser raises; a language that has none here passes."""
    match language:
        case "yaml":
            list(yaml.safe_load_all(text))
        case "toml":
            tomllib.loads(text)
        case "json":
            json.loads(text)
        case "ini":
            configparser.ConfigParser().read_string(text)
        case "py":
            compile(text, "<file>", "exec")
        case "sh":
            subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def check_command(line: str) -> None:
    """Raises where a ``tracer`` command has an option, command or value that does not exist.

    The command line itself takes the words apart; nothing is run.
    """
    for part in re.split(r"\s(?:&&|\||;|&)(?:\s|$)", line):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words = words[1:]
        words = words[: next((at for at, word in enumerate(words) if re.match(r"\d?[<>]", word)), None)]
        if words and words[0] == "tracer":
            parse(words[1:])


def parse(arguments: list[str]) -> None:
    """Have typer take the arguments of ``tracer`` apart as it does before a command runs."""
    import typer

    from tracer.cli.exportapp import app
    from tracer.cli.main import _with_loss

    command: Any = typer.main.get_command(app)
    name, rest, context = "tracer", _with_loss(arguments), None
    while True:
        with contextlib.suppress(typer.Exit):  # --help, --version
            context = command.make_context(name, list(rest), parent=context)
            rest = [*context._protected_args, *context.args]
            if hasattr(command, "resolve_command") and rest:
                name, command, rest = command.resolve_command(context, rest)
                continue
        return
