"""Pages of the documentation's site that are made from the code while it is built: a hook of MkDocs (see mkdocs.yml).

The README and its sisters become pages too: they are written for who looks at the repository, and their links to docs/
lead within the site.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import tracer

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that lie outside docs/, and what they are called in the site."""
_LINK = re.compile(r"(\]\()([^)#\s]+)")
_NAMED = re.compile(r"^(```\w+) ([\w./-]+\.\w+)$", re.MULTILINE)
"""A block of code with the name of its file, as GitHub shows it."""
_CHART = re.compile(r"^```mermaid\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_EDGE = re.compile(r'\s*(\w+)(?:[\[{](.*?)[\]}])?\s*-->(?:\|"?(.*?)"?\|)?\s*(\w+)(?:[\[{](.*?)[\]}])?$')
_ROLE = re.compile(r":(?:class|meth|func|attr|mod|exc|data):(?:`~?([^`]+)`|(<code>)~?)")


# -- what MkDocs calls ---------------------------------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made here, and put the pages of whole folders into the navigation."""
    pages = {name: (ROOT / source).read_text("utf-8") for source, name in OUTSIDE.items()}
    pages |= {f"reference/{name}": text for name, text in generated().items()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    config.nav = _expanded(config.nav, sorted(file.src_uri for file in files.documentation_pages()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links from and to the pages outside docs/ lead within the site, and show the names of files."""
    home = PurePosixPath(page.file.src_uri).parent
    outside = page.file.src_uri in OUTSIDE.values()

    def link(found: re.Match[str]) -> str:
        target = found[2]
        if outside:
            target = OUTSIDE.get(target, target.removeprefix("docs/"))
        elif (name := target.removeprefix("../" * (len(home.parts) + 1))) != target and name in OUTSIDE:
            target = "../" * len(home.parts) + OUTSIDE[name]
        return found[1] + target

    return _CHART.sub(_listed, _NAMED.sub(r'\1 title="\2"', _LINK.sub(link, markdown)))


def _listed(chart: re.Match[str]) -> str:
    """A tree drawn for Mermaid as a nested list: what draws it would be fetched from elsewhere."""
    labels: dict[str, str] = {}
    below: dict[str, list[tuple[str, str]]] = {}
    for line in chart[1].splitlines():
        if edge := _EDGE.match(line):
            labels |= {name: label for name, label in ((edge[1], edge[2]), (edge[4], edge[5])) if label}
            below.setdefault(edge[1], []).append((edge[3] or "", edge[4]))

    def lines(name: str, depth: int) -> Iterator[str]:
        for when, other in below.get(name, ()):
            yield f"{'    ' * depth}- {f'{when}: ' if when else ''}{labels[other]}"
            yield from lines(other, depth + 1)

    root = next(iter(below))
    return "\n".join([f"- {labels[root]}", *lines(root, 1)]) + "\n"


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings name classes in Sphinx's way (``:class:``), which is left out here."""
    return _ROLE.sub(lambda found: found[2] or f"<code>{found[1]}</code>", html)


def _expanded(items: Any, pages: list[str]) -> Any:
    if isinstance(items, list):
        return [one for item in items for one in (_folder(item, pages) or [_expanded(item, pages)])]
    if isinstance(items, dict):
        return {title: _expanded(content, pages) for title, content in items.items()}
    return items


def _folder(item: Any, pages: list[str]) -> list[str]:
    if not (isinstance(item, str) and item.endswith("/")):
        return []
    found = [name for name in pages if name.startswith(item)]
    return sorted(found, key=lambda name: (not name.endswith("/index.md"), name))


# -- the pages -----------------------------------------------------------------------------------------------------


def generated() -> dict[str, str]:
    """The pages of the reference, by name."""
    return {
        "cli.md": cli(),
        "api.md": api(),
        "adapter.md": adapter(),
        "causes.md": causes(),
        "exit-codes.md": exit_codes(),
        "settings.md": settings(),
        "schemas.md": schemas(),
    }


def application() -> Any:
    """The ``tracer`` command with everything that its modules register."""
    import typer

    import tracer.cli

    for module in pkgutil.iter_modules(tracer.cli.__path__):
        if module.name.endswith("app"):
            importlib.import_module(f"tracer.cli.{module.name}")
    return typer.main.get_command(importlib.import_module("tracer.cli.app").app)


def cli() -> str:
    """Every command and option, by typer's own generator."""
    import typer
    from typer.cli import get_docs_for_click

    command = application()
    text: str = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="tracer"), name="tracer")
    return text.replace("# `tracer`", "# The command line", 1)


def api() -> str:
    """Everything that ``tracer`` exports: functions, then classes, then errors."""
    names = [*tracer.__all__, "KerasCallback", "LightningCallback"]
    functions = [name for name in tracer.__all__ if inspect.isfunction(getattr(tracer, name))]
    errors = [name for name in tracer.__all__ if name.endswith("Error")]
    classes = [name for name in names if name not in (*functions, *errors)]
    parts = ["# Python API", "How they are used together: [Python](../python.md)."]
    for title, some in (("Functions", functions), ("Classes", classes), ("Errors", errors)):
        parts += [f"## {title}", *(_documented(name) for name in some)]
    return "\n\n".join(parts)


def _documented(name: str) -> str:
    """A public name, from where it is defined; of a callback, which needs its framework, that is known."""
    home = getattr(tracer, name).__module__ if name in tracer.__all__ else tracer._WHERE[name]
    return f"::: {home}.{name}\n    options:\n      heading: tracer.{name}\n      toc_label: {name}"


def adapter() -> str:
    """The contract of adapters, and the kit that checks it."""
    parts = ["# What an adapter implements", "How to write one: [adapters](../adapters.md)."]
    for title, module in (("Adapters and models", "tracer.adapter"), ("The graph", "tracer.graph"),
                          ("Cases of the test kit", "tracer.testing.case")):  # fmt: skip
        parts += [f"## {title}", f"::: {module}\n    options:\n      show_root_heading: false\n      heading_level: 2"]
    return "\n\n".join(parts)


def causes() -> str:
    """What is tried where, family by family, and what the ids ask to be done."""
    from tracer.causes import advice, registry

    registry.load()
    lines = ["# Causes by family", "",
             "What each id means, and how causes are found: [causes](../causes.md). The families below suggest what "
             "`tracer explain` tries beside what the recordings state."]  # fmt: skip
    families: dict[str, list[str]] = {}
    for kinds, function in registry._suggestions:
        said = inspect.getdoc(function) or ""
        of = ", ".join(f"`{kind}`" for kind in sorted(kinds)) if 0 < len(kinds) <= 12 else ""
        some = of or (f"{len(kinds)} kinds of operations" if kinds else "every operation")
        families.setdefault(function.__module__, []).append(f"| `{function.__name__}` | {_first(said)} | {some} |")
    for module, rows in families.items():
        text = inspect.getdoc(importlib.import_module(module)) or ""
        lines += ["", f"## {module.rpartition('.')[2].capitalize()}", "", _first(text), "",
                  "| suggestion | what it tries | of |", "|---|---|---|", *rows]  # fmt: skip
    lines += ["", "## What to change", "",
              "Where there is no line of code for a fix, it is said in these words.", "",
              "| id | fix |", "|---|---|"]  # fmt: skip
    lines += [f"| `{cause}` | {_cell(words)} |" for cause, words in advice.WORDS.items()]
    return "\n".join(lines)


def exit_codes() -> str:
    """Exit codes and errors with what their definitions say."""
    from tracer import errors
    from tracer.compare.verdict import ASCII_GLYPHS, GLYPHS

    source = Path(errors.__file__)
    module = griffe.visit("tracer.errors", filepath=source, code=source.read_text("utf-8"))
    lines = ["# Exit codes and errors", "", "| code | name | |", "|---|---|---|"]
    codes = module["ExitCode"]
    lines += [f"| {code.value} | `{code.name}` | {_text(codes[code.name])} |" for code in errors.ExitCode]
    lines += ["", "## Verdicts", "", "What they mean: [tolerance and verdicts](../verdicts.md).", "",
              "| verdict | sign | with `--ascii` |", "|---|---|---|"]  # fmt: skip
    lines += [f"| `{verdict.value}` | `{sign}` | `{ASCII_GLYPHS[verdict]}` |" for verdict, sign in GLYPHS.items()]
    lines += ["", "## Errors", "", "What functions raise, and the exit code of a command that meets it.", "",
              "| class of `tracer.errors` | code | |", "|---|---|---|"]  # fmt: skip
    for name, found in vars(errors).items():
        if inspect.isclass(found) and issubclass(found, errors.TracerError):
            lines.append(f"| `{name}` | {int(found.exit_code)} | {_text(module[name])} |")
    return "\n".join(lines)


ENVIRONMENT = {
    "TRACER_ASCII": "anything: keep to ASCII characters, as `--ascii`",
    "TRACER_RUNTIME": "the folder of the daemon's socket, instead of the one in `XDG_RUNTIME_DIR`",
    "NO_COLOR": "anything: no colours",
    "KERAS_BACKEND": "`torch` or `jax`: records Keras 3 models on that backend",
}
"""Variables that no option names."""


def settings() -> str:
    """Files of settings and environment variables."""
    lines = ["# Settings", "", "## Files", "",
             "A `tracer.toml`, or `[tool.tracer]` of a `pyproject.toml`, in the working directory or the nearest "
             "folder above it, up to the root of the repository.", "",
             "| table | holds |", "|---|---|",
             "| `[ui.keys]` (`[tool.tracer.ui.keys]`) | keys of the terminal interface: "
             "[keys of your own](../ui.md#keys-of-your-own) |",
             "", "## Environment variables", "", "| variable | |", "|---|---|"]  # fmt: skip
    named: dict[str, tuple[str, list[str]]] = {}
    for words, command in commands(application()):
        for option in command.params:
            if isinstance(variable := getattr(option, "envvar", None), str):
                named.setdefault(variable, (option.opts[0], []))[1].append(" ".join(words[1:]))
    lines += [f"| `{name}` | `{option}` of {', '.join(some)} |" for name, (option, some) in sorted(named.items())]
    lines += [f"| `{name}` | {said} |" for name, said in ENVIRONMENT.items()]
    return "\n".join(lines)


def commands(command: Any, words: tuple[str, ...] = ("tracer",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and those below it, with the words that call them."""
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*words, name))


def schemas() -> str:
    """The JSON that commands print, key by key."""
    lines = ["# JSON", "", "What `--json` prints, and the files that commands write: one schema each (JSON Schema, "
             "draft 2020-12), in the package as `tracer/schemas/NAME.json`."]  # fmt: skip
    for file in sorted((ROOT / "tracer" / "schemas").glob("*.json")):
        schema = json.loads(file.read_text("utf-8"))
        lines += ["", f"## {file.stem}", "", _cell(schema.get("description") or schema.get("title") or "")]
        required = schema.get("required", ())
        rows = []
        for key, what in schema.get("properties", {}).items():
            often = "" if key in required else "optional. "
            rows.append(f"| `{key}` | {_kind(what)} | {often}{_cell(what.get('description', ''))} |")
        lines += ["", "| key | is | |", "|---|---|---|", *rows] if rows else []
    return "\n".join(lines)


def _kind(what: dict[str, Any]) -> str:
    found = what.get("type") or what.get("$ref", "").rpartition("/")[2] or ("one of several" if "anyOf" in what else "")
    return f"`{what['const']}`" if "const" in what else " or ".join(found) if isinstance(found, list) else found


def _text(found: griffe.Object | griffe.Alias) -> str:
    return _cell(found.docstring.value) if found.docstring else ""


def _first(text: str) -> str:
    return _cell(text.split("\n\n")[0])


def _cell(text: str) -> str:
    """Text in one line, fit for a table."""
    return _ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`").replace("|", "\\|")
