"""The documentation as a site: built strictly, complete where it is made from the code; nothing of it is fetched."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

import tracer

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")

ROOT = Path(__file__).parent.parent
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""What a browser fetches by itself."""


@pytest.fixture(scope="module")
def docsite() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docsite", ROOT / "scripts" / "docsite.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """The pages of the site, by their paths in it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder], cwd=ROOT, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}:{ROOT / 'tui'}"},
    )  # fmt: skip
    faults = [line for line in done.stderr.splitlines() if line.startswith(("WARNING", "ERROR"))]
    assert done.returncode == 0, "\n".join(faults or [done.stderr])
    return {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")}


class Page(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.text = path.read_text("utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value for key, value in attrs if value is not None}
        self.anchors |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if (key := FETCHED.get(tag)) and key in found:
            self.fetched.append(found[key])


def test_every_link_leads_somewhere(site: dict[str, Page]) -> None:
    dead = []
    for name, page in site.items():
        for link in page.links if name != "404.html" else []:
            target, _, anchor = unquote(link).partition("#")
            if re.match(r"\w+:", target):
                continue
            path = (page.path.parent / target).resolve() if target else page.path
            if path.is_dir():
                path /= "index.html"
            other = next((one for one in site.values() if one.path == path), None)
            if not path.exists() or (anchor and other is not None and anchor not in other.anchors):
                dead.append(f"{name}: {link}")
    assert not dead, "\n".join(dead)
    assert len(site) > 30


def test_nothing_is_fetched_from_elsewhere(site: dict[str, Page]) -> None:
    folder = site["index.html"].path.parent
    assert not [f"{name}: {url}" for name, page in site.items() for url in page.fetched if re.match(r"(\w+:)?//", url)]
    for style in folder.rglob("*.css"):
        assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//", style.read_text("utf-8")), style.name
    assert not [path for path in folder.rglob("*.svg") if "font-face" in path.read_text("utf-8")]


def test_the_reference_names_everything_that_is_exported(site: dict[str, Page]) -> None:
    anchors = {anchor.rpartition(".")[2] for anchor in site["reference/api.html"].anchors}
    assert {*tracer.__all__, "KerasCallback", "LightningCallback"} <= anchors
    assert "LoadedModel" in {anchor.rpartition(".")[2] for anchor in site["reference/adapter.html"].anchors}
    assert not re.search(r":(?:class|func|meth):", site["reference/api.html"].text)


def test_the_command_line_is_there_as_it_is(docsite: ModuleType) -> None:
    text = docsite.cli()
    parts = {
        part.split("`")[1]: part for part in re.split(r"^#+ ", text, flags=re.MULTILINE) if part.startswith("`tracer")
    }
    found = dict(docsite.commands(docsite.application()))
    assert {"tracer record", "tracer daemon start"} <= {" ".join(words) for words in found}
    for words, command in found.items():
        if len(words) == 1 or command.hidden:
            continue
        part = parts[" ".join(words)]
        for option in command.params:
            named = option.param_type_name == "option"
            names = [*option.opts, *option.secondary_opts] if named else [option.metavar or option.name]
            assert getattr(option, "hidden", False) or all(name in part for name in names), (words, names)


def test_what_is_set_outside_of_options_is_listed(docsite: ModuleType) -> None:
    page = docsite.settings()
    sources = [path.read_text("utf-8") for folder in ("tracer", "tui") for path in (ROOT / folder).rglob("*.py")]
    internal = {"TRACER_CRC32C", "TRACER_RUNTIME_"}  # said to a worker by us
    named = {name for text in sources for name in re.findall(r"[\"'](TRACER_[A-Z0-9]+)[\"']", text)} - internal
    assert {"TRACER_TRACE", "TRACER_ASCII"} <= named
    assert not [name for name in named if f"`{name}`" not in page]
    tables = {found for text in sources for found in re.findall(r"configured\.table\(\"(\w+)\", \"(\w+)\"", text)}
    assert tables
    assert not [found for found in tables if f"[{'.'.join(found)}]" not in page]


def test_the_catalogue_has_every_cause(docsite: ModuleType) -> None:
    from tracer.causes import advice

    catalogue = (ROOT / "docs" / "causes.md").read_text("utf-8").partition("## The ids")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in catalogue.splitlines() if line.startswith("| `")]
    ids = {found for row in rows for found in re.findall(r"`([a-z0-9-]+)`", row)}
    assert ids == set(advice.WORDS)
    page = docsite.causes()
    assert not [one for one in ids if f"`{one}`" not in page]


def test_exit_codes_and_verdicts_are_those_there_are(docsite: ModuleType) -> None:
    from tracer.compare import Verdict
    from tracer.errors import ExitCode

    page = docsite.exit_codes()
    assert all(f"| {code.value} | `{code.name}` | " in page for code in ExitCode)
    assert all(f"| `{verdict.value}` | " in page for verdict in Verdict)
    assert "| `ModelError` | 3 | The user's model raised" in page


def test_every_schema_is_described(docsite: ModuleType) -> None:
    page = docsite.schemas()
    assert all(f"## {file.stem}\n" in page for file in (ROOT / "tracer" / "schemas").glob("*.json"))


def test_pictures_are_small() -> None:
    pictures = [*(ROOT / "docs" / "images").iterdir()]
    assert {"ui-layers.svg", "cli-diff.svg"} <= {path.name for path in pictures}
    assert not [path.name for path in pictures if path.stat().st_size > 200_000]
