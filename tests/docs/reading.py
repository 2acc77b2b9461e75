"""The blocks of a Markdown page, and what is to be done with each."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent
DATA = ("yaml", "toml", "json", "ini")
_SHELLS = ("console", "bash", "sh", "shell")
_PROGRAMS = ("tracer", "python", "scripts/", "pip", "dask", "export", "cd", "cat", "pytest", "git", "mkdocs")
_COMMAND = re.compile(rf"(?:\w+=\S* )*(?:{'|'.join(_PROGRAMS)})(?![\w.-])|(?:\w+=\S* )*scripts/")
_TITLE = re.compile(r"""title=["']([^"']+)["']|^\s*(\S+\.\w+)\s*$""")


@dataclass
class Item:
    """A piece of a page that is treated as one.

    Attributes:
        line: its first line in the page, from 1.
        kind: ``file``, ``python``, ``command``, ``output`` or one of :data:`DATA`.
        text: the code, the command or what is shown.
        name: of a file.
        shown: the lines that the page shows as a command's output or that of a Python block; None where it shows none.
        shown_at: the first line of those.
    """

    line: int
    kind: str
    text: str
    name: str = ""
    shown: list[str] | None = None
    shown_at: int = 0

    @property
    def first(self) -> str:
        """The first line."""
        return self.text.strip().split("\n", 1)[0].strip()

    @property
    def label(self) -> str:
        """What the rules know it by: the first line, and what it shows first."""
        return f"{self.first} → {self.shown[0]}" if self.shown and self.kind == "command" else self.first


@dataclass
class Page:
    """A page and its pieces in order; ``blocks`` is the number of blocks of code that they come from."""

    path: Path
    blocks: int = 0
    items: list[Item] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()


def pages() -> list[Path]:
    """Every page that is looked at."""
    top = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")]
    return [path for path in top if path.exists()] + sorted((ROOT / "docs").rglob("*.md"))


def read(path: Path) -> Page:
    """Take a page apart."""
    page = Page(path)
    _take(page, path.read_text(encoding="utf-8"), 0)
    return page


def _take(page: Page, text: str, above: int) -> None:
    """The blocks of a text that ``above`` lines of its page precede."""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type not in {"fence", "code_block"} or token.map is None:
            continue
        start = above + token.map[0] + 1
        if token.type == "code_block" and "```" in token.content:  # what stands in an admonition or a tab
            _take(page, token.content, start - 1)
            continue
        page.blocks += 1
        fenced = token.type == "fence"
        language, _, rest = token.info.strip().partition(" ") if fenced else ("", "", "")
        _block(page, language, rest, token.content, start + fenced)


def _block(page: Page, language: str, rest: str, content: str, line: int) -> None:
    named = _TITLE.search(rest)
    items = page.items
    if named:
        items.append(Item(line, "file", content, named[1] or named[2]))
    elif language == "python":
        items.append(Item(line, "python", textwrap.dedent(content)))
    elif language == "text" and items and items[-1].kind == "python" and _behind(items[-1], line):
        items[-1].shown, items[-1].shown_at = content.splitlines(), line
    elif language in DATA:
        items.append(Item(line, language, content))
    elif language in _SHELLS or (not language and _COMMAND.match(content.removeprefix("$ "))):
        items.extend(_commands(content, line, every=language in _SHELLS[1:]))
    else:
        items.append(Item(line, "output", content))


def _behind(item: Item, line: int) -> bool:
    """Whether a block at ``line`` stands right behind a Python block: a blank line and two fences between."""
    return line - (item.line + len(item.text.splitlines())) <= 4


def _commands(content: str, line: int, *, every: bool) -> list[Item]:
    """The commands of a block, each with the output below it; ``every`` line of a script is a command."""
    items: list[Item] = []
    prompts = content.startswith("$ ")
    text = ""
    for at, row in enumerate(content.splitlines(), line):
        if text.endswith("\\"):
            text = f"{text[:-1]}{row.strip()}"
        elif row.startswith("$ ") or (not prompts and (_COMMAND.match(row) or (every and row.strip(" #")))):
            text = row.removeprefix("$ ")
            items.append(Item(at, "command", text))
        elif not items:
            items.append(Item(at, "output", row))
        else:
            items[-1].shown = [*(items[-1].shown or ()), row]
            items[-1].shown_at = items[-1].shown_at or at
        if text and items[-1].kind == "command" and items[-1].shown is None:
            items[-1].text = text
    for item in items:
        if item.shown is not None and not "".join(item.shown).strip():
            item.shown = None
        if not prompts and item.shown is not None:  # who shows output without prompts shows that of other models
            items.append(Item(item.shown_at, "output", "\n".join(item.shown)))
            item.shown = None
    return items
