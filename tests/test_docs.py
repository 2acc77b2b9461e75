"""Every block of code in the documentation runs, or somebody says why not: see ``tests.docs``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.docs.matching import differing
from tests.docs.reading import Item, pages, read
from tests.docs.rules import RULES, rules_of
from tests.docs.running import Runner, check_command, treatment

PAGES = [pytest.param(path, id=read(path).name) for path in pages()]


@pytest.fixture
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads and seeds that a page sets are its own."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.delenv("TRACER_TRACE", raising=False)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_as_it_was")
@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_true(path: Path, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    page = read(path)
    rules = rules_of(page)
    treated = [treatment(item, rules) for item in page.items]
    counts = Counter(done for done, _ in treated)
    said = ", ".join(f"{number} {done}" for done, number in sorted(counts.items()))
    print(f"{page.name}: {page.blocks} blocks, {len(page.items)} pieces: {said or 'none'}")
    for item, (_, reason) in zip(page.items, treated, strict=True):
        if reason:
            print(f"  line {item.line}: {item.first[:80]}: {reason}")
    record_property("pieces", said)
    # By another reader: nothing that a person sees as code was overlooked.
    assert page.blocks == blocks(path.read_text(encoding="utf-8"))
    runner = Runner(page, rules, tmp_path)
    runner.run()
    assert not runner.faults, "\n\n".join(runner.faults)


def blocks(text: str) -> int:
    """How many blocks of code a text has, counted by lines alone."""
    count, fence, indented, before = 0, "", False, ""
    listed = False
    for line in text.splitlines():
        stripped = line.strip()
        if fence:
            fence = "" if stripped == fence else fence
        elif marker := re.match(r"\s*(`{3,}|~{3,})", line):
            count, fence = count + 1, marker[1]
        elif line.startswith("    ") and stripped and not listed and (indented or not before):
            count, indented = count + (not indented), True
        elif stripped:
            indented = False
            listed = bool(re.match(r"\s*([-*+]|\d+[.)]) |!!! |\?\?\? |=== ", line)) or (listed and line.startswith(" "))
        before = stripped
    return count


@pytest.mark.parametrize("path", PAGES)
def test_a_list_is_one_to_every_reader(path: Path) -> None:
    """The site's Markdown knows a list or table by the blank line before it, GitHub's without one."""
    before, fenced = "", False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        begins = re.match(r"[-*+] |1\. |\|", line) and not before.startswith((line[0], " ", "#"))
        assert fenced or not begins or not before.strip(), f"line {number}: {line}"
        before = line


def test_no_exemption_outlives_what_it_excuses() -> None:
    used: dict[int, list[Item]] = {}
    for page in map(read, pages()):
        used.setdefault(id(rules_of(page)), []).extend(page.items)
    stale = [
        f"{name}: {pattern}"
        for name, rules in RULES.items()
        for pattern in ("*", *rules.exempt)
        if not any(fnmatchcase(item.label, pattern) for item in used.get(id(rules), ()))
    ]
    assert not stale


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("error 1.4e+00 → 2.7e-07", "error 1.38e+00 → 0"),
        ("recorded in 0.3 s, 612 kB", "recorded in 12.1 s, 613 kB"),
        ("…\nlast", "first\nsecond\nlast"),
        ("first\n…", "first\nsecond\nlast"),
        ("it is … there", "it is somewhere there"),
        ("99.8 % of it", "99.5 % of it"),
    ],
)
def test_what_may_vary(shown: str, printed: str) -> None:
    assert differing(shown.splitlines(), printed.splitlines()) == ""


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("error 1.4e+00 → 2.7e-07", "error 2.4e+00 → 2.7e-07"),
        ("error 1.4e+00 → 2.7e-07", "error 1.4e+00 → 2.7e-03"),
        ("15 pairs: ✓ 15 match", "15 pairs: ✓ 14 match"),
        ("first", "first\nsecond"),
        ("first\nsecond", "first"),
        ("flatten ⇄ flatten", "flatten ⇄ pool"),
        ("50 % of it", "40 % of it"),
    ],
)
def test_what_may_not(shown: str, printed: str) -> None:
    assert differing(shown.splitlines(), printed.splitlines()) != ""


@pytest.mark.parametrize("line", ["tracer dif", "tracer diff --atoll 1", "tracer diff --atol x", "tracer runs a b c d"])
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|valid|unexpected"):
        check_command(f"tracer runs && {line}")
