"""A comparison for other programs: each format is read back by what reads it in earnest, whatever layers are called."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import junitparser
import pytest
from markdown_it import MarkdownIt

import tracer
from tests.tui_driving import two, values
from tracer import schemas
from tracer.cli.main import run
from tracer.compare import Diff, Verdict
from tracer.names import display
from tracer.report.formats import delimited, github, junit, markdown

HOSTILE = (
    "=cmd|' /C calc'!A0", "-1+1", "'quoted", "a|b", "back`tick``s", "<script>alert(1)</script>", "@octocat",
    "#1 [x](y)", "nul\x00 esc\x1b[31m", "::error::pwned", "##[add-mask]x", "line\nbreak\r\n", "lone\ud800",
    "back\\slash\\x00", "\ufffe", 'a,b"c', "日本語 ⇄ é", "|", "`", " ",
)  # fmt: skip


def compared(trace: Path) -> Diff:
    return tracer.diff(*tracer.open(trace).recordings(), causes=False)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Diff:
    """Every other pair differs."""
    ours = {name: values(2, 3, seed=at) for at, name in enumerate(HOSTILE)}
    theirs = {name: tensor + (at % 2) for at, (name, tensor) in enumerate(ours.items())}
    return compared(two(tmp_path_factory.mktemp("hostile") / "trace.zarr", ours, theirs))


@pytest.fixture(scope="module")
def real(real_trace: Path) -> Diff:
    return tracer.diff(*tracer.open(real_trace).recordings())


def names(pairs: Sequence[tracer.PairDiff]) -> list[str]:
    return [" + ".join(pair.pair.reference) for pair in pairs]


# --- CSV and JSONL --------------------------------------------------------------------------------------------------


def test_csv_keeps_to_the_rfc_and_holds_no_formula(hostile: Diff) -> None:
    text = delimited.csv_text(hostile.to_json())
    assert re.search(r"(?<!\r)\n", text.replace("line\nbreak", "")) is None
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(hostile.pairs) + hostile.unmatched
    for row, pair in zip(rows, hostile.pairs, strict=False):
        name = row["reference"].removeprefix("'")
        assert name == names([pair])[0].encode("utf-8", "backslashreplace").decode()
        assert pair.stats is not None
        assert float(row["max_abs"]) == pair.stats.max_abs
        assert row["verdict"] == str(pair.verdict)
        assert not any(cell.startswith(("=", "@", "+")) for cell in row.values())
    assert "'=cmd|" in text
    assert "''quoted" in text


def test_the_columns_of_csv_stay_as_they_are(real: Diff) -> None:
    """Documented in docs/ci.md; new ones go to the end."""
    rows = list(csv.DictReader(io.StringIO(delimited.csv_text(real.to_json()))))
    assert list(rows[0]) == [
        "number", "verdict", "reference", "candidate", "operation", "shape", "axes", "max_abs", "mean_abs", "rel_l2",
        "cosine", "outside", "local", "floor", "confidence", "cause", "fix", "reason",
    ]  # fmt: skip
    wrong = next(row for row in rows if row["verdict"] == "diverged")
    assert (wrong["cause"], wrong["operation"], wrong["axes"]) == ("flatten-order", "Flatten", "n (s c) -> n (c s)")


def test_the_lines_of_jsonl_make_up_the_document(hostile: Diff) -> None:
    document = hostile.to_json()
    head, *rows = map(json.loads, delimited.lines(document))
    assert {**head, "pairs": rows} == json.loads(json.dumps(document))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["diff"], 1), (["explain"], 1), (["weights"], 1), (["map"], 0), (["runs"], 0)],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_listing_has_every_format(
    arguments: list[str], code: int, real_trace: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    def asked(form: str) -> str:
        assert run([*arguments, "--trace", str(real_trace), "--format", form]) == code
        return capsysbinary.readouterr().out.decode()

    document = json.loads(asked("json"))
    kind = document["schema"].partition("/")[0].removeprefix("tracer-")
    assert kind in schemas.names()
    lines = [json.loads(line) for line in asked("jsonl").splitlines()]
    assert lines[0]["schema"] == document["schema"]
    assert len(lines) > 1
    rows = list(csv.reader(io.StringIO(asked("csv"), newline="")))
    assert len(rows) >= len(lines)
    assert {len(row) for row in rows} == {len(rows[0])}
    table = [line for line in asked("markdown").splitlines() if line.startswith("|")]
    assert len(table) >= len(lines)
    assert asked("table")
    assert run([*arguments, "--trace", str(real_trace), "--format", "csv", "--json"]) == 2
    assert b"--json is short for --format json" in capsysbinary.readouterr().err


# --- Markdown -------------------------------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    """The cells of a table's line, as GitHub divides it: a bar with a backslash before it divides nothing."""
    return re.split(r"(?<!\\)\|", line.strip())[1:-1]


def test_markdown_is_a_table_whatever_layers_are_called(hostile: Diff) -> None:
    text = markdown.diff_markdown(hostile)
    *_, unfolded = text.split("<details>")
    table = [line for line in unfolded.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(hostile.pairs) + hostile.unmatched
    assert {len(cells(line)) for line in table} == {len(cells(table[0]))}
    outside = re.sub(r"```text\n.*?\n```|`[^`\n]*`|<code>.*?</code>", "", text, flags=re.DOTALL)
    assert "octocat" not in outside
    assert "script" not in outside
    assert "[x]" not in outside
    assert not any(ord(char) < 32 and char != "\n" for char in text)
    assert text.startswith("### ✗ tracer: diverged, first at `-1+1`\n")


def test_a_renderer_of_markdown_gives_the_names_back(tmp_path: Path) -> None:
    odd = ["a|b", "`", "``a``", "a`|`b", "line\nbreak", " before", "behind ", "back\\slash", "\\|", "<b>x</b>", "&amp;",
           "*e*", "[a](b)", "~~s~~", "a\rb", "\u2028"]  # fmt: skip
    ours = {name: values(1, 4, seed=at) for at, name in enumerate(odd)}
    found = compared(two(tmp_path / "trace.zarr", ours, {name: side + 1 for name, side in ours.items()}))
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown.diff_markdown(found))
    last = shown.split("<table>")[-1]
    rows = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.DOTALL) for row in last.split("</tr>")[:-1]]
    at = [html.unescape(title) for title in rows[0]].index("reference")
    plain = [html.unescape(re.sub("</?code>", "", row[at])) for row in rows[1:]]
    assert sorted(plain) == sorted(display(" + ".join(pair.pair.reference)) for pair in found.pairs)
    assert {len(row) for row in rows} == {len(rows[0])}


def test_the_text_in_markdown_cannot_close_its_block(tmp_path: Path) -> None:
    name = "````\n</details><img src=x onerror=alert(1)>"
    ours = {name: values(2, 3)}
    text = markdown.diff_markdown(compared(two(tmp_path / "trace.zarr", ours, {name: ours[name] + 1})))
    assert "\n`````text\n" in text
    assert text.count("\n`````\n") == 1


def test_markdown_fits_a_comment(hostile: Diff, real: Diff) -> None:
    """The longest that GitHub takes: what matches goes first."""
    assert all(f"`{name}`" in markdown.diff_markdown(real) for name in names(real.pairs))
    many = replace(hostile, pairs=hostile.pairs * 60)
    text = markdown.diff_markdown(many)
    assert markdown.LARGEST - 2000 < len(text) <= markdown.LARGEST
    assert re.search(r"\n\d+ of \d+ rows are left out: they do not fit\.\n", text)
    assert "\n| ✗ |" in text
    assert "\n| ✓ |" not in text


def test_markdown_says_what_diverged_and_what_to_do(real: Diff) -> None:
    head = markdown.diff_markdown(real).split("```text")[0]
    row = next(line for line in head.splitlines() if line.startswith("| `flatten`"))
    assert "flatten-order" in row
    assert "ecg_generic.py:" in row
    assert real.first is not None
    assert real.first.fix.split("(")[0] in row


# --- JUnit ----------------------------------------------------------------------------------------------------------

ELEMENTS = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "group", "time", "skipped", "timestamp", "hostname", "id", "package"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "time", "classname", "group"}, {"skipped", "error", "failure", "system-out", "system-err"}),
    **dict.fromkeys(("skipped", "error", "failure"), ({"type", "message"}, set())),
    "system-out": (set(), set()),
}
"""Attributes and children that Jenkins' junit-10.xsd allows."""
REQUIRED = {"testsuite": {"name", "tests", "failures", "errors"}, "property": {"name", "value"}, "testcase": {"name"}}


def keeps_to_the_schema(element: ElementTree.Element) -> None:
    attributes, children = ELEMENTS[element.tag]
    assert set(element.attrib) <= attributes, element.tag
    assert set(element.attrib) >= REQUIRED.get(element.tag, set())
    for child in element:
        assert child.tag in children
        keeps_to_the_schema(child)


def suite_of(diff: Diff, *, strict: bool = False) -> junitparser.TestSuite:
    """The suite, read by a parser, with the totals compared; it fails exactly where the command does."""
    text = junit.junit_text(diff, strict=strict)
    root = ElementTree.fromstring(text.encode())
    keeps_to_the_schema(root)
    (suite,) = junitparser.JUnitXml.fromstring(text.encode())
    said = suite.tests, suite.failures, suite.errors, suite.skipped
    suite.update_statistics()
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == said
    assert bool(suite.failures + suite.errors) is bool(diff.exit_code(strict=strict))
    assert all("time" not in case.attrib for case in root.iter("testcase"))
    return suite


def outcomes(suite: junitparser.TestSuite) -> dict[str, list[junitparser.Result]]:
    found = {case.name: case.result for case in suite}
    assert len(found) == suite.tests
    return found


def test_junit_has_a_case_for_each_pair(real: Diff) -> None:
    suite = suite_of(real)
    found = outcomes(suite)
    assert len(found) == len(real.pairs)
    (failure,) = found["flatten ⇄ flatten"]
    assert isinstance(failure, junitparser.Failure)
    assert "another order" in failure.message
    assert "Cause: flatten-order" in failure.text
    (inherited,) = found["dense_1 ⇄ softmax"]
    assert isinstance(inherited, junitparser.Skipped)
    assert found["conv1d ⇄ relu1"] == []
    told = {one.name: one.value for one in suite.properties()}
    assert told["atol"] == "1e-05"
    assert told["input"] == real.reference.input_id
    assert {"reference.version.keras", "candidate.version.torch"} <= told.keys()


def test_names_that_xml_cannot_hold_can_be_had_back(hostile: Diff) -> None:
    suite = suite_of(hostile)
    for case, name in zip(suite, names(hostile.pairs), strict=False):
        written = case.name.split(" ⇄ ")[0] if " ⇄ " not in name else name
        if "\\" in written:
            written = re.sub(r"\\(x..|u....|\\)", lambda found: found[0].encode().decode("unicode_escape"), written)
        assert written == name


def test_layers_without_a_twin_fail_where_that_is_asked_for(tmp_path: Path) -> None:
    ours = {"one": values(2, 3), "more": values(7, 7, seed=2), "two": values(5, seed=1)}
    diff = compared(two(tmp_path / "trace.zarr", ours, {name: ours[name] for name in ("one", "two")}))
    assert diff.unmatched == 1
    assert all(not isinstance(result, junitparser.Failure) for found in outcomes(suite_of(diff)).values()
               for result in found)  # fmt: skip
    (result,) = outcomes(suite_of(diff, strict=True))["more (a alone)"]
    assert isinstance(result, junitparser.Failure)


def test_what_could_not_be_compared_is_an_error(hostile: Diff) -> None:
    pair = replace(hostile.pairs[0], verdict=Verdict.NOT_COMPARABLE, stats=None, reason="gone", obstacle="gone")
    suite = suite_of(replace(hostile, pairs=(pair, pair)))
    kinds = [type(result).__name__ for results in outcomes(suite).values() for result in results]
    assert kinds.count("Error") == 3  # both pairs, and that nothing was compared
    assert len(outcomes(suite_of(replace(hostile, pairs=())))) > 0


# --- GitHub ---------------------------------------------------------------------------------------------------------


def understood(text: str) -> list[tuple[str, dict[str, str], str]]:
    """The commands that GitHub's runner finds in a step's output, unescaped as it does."""
    found, stopped = [], ""
    for line in text.split("\n"):
        parts = re.fullmatch(r"\s*::([\w-]+)(?: (.*?))?::(.*)", line, flags=re.DOTALL)
        if stopped:
            stopped = "" if line.strip() == f"::{stopped}::" else stopped
        elif parts and parts[1] == "stop-commands":
            stopped = parts[3]
        elif parts:
            properties = dict(part.split("=", 1) for part in (parts[2] or "").split(",") if part)
            found.append((parts[1], {key: plain(value) for key, value in properties.items()}, plain(parts[3])))
    assert not stopped
    return found


def plain(text: str) -> str:
    for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, char)
    return text


def test_the_line_that_diverges_is_annotated(real: Diff, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.chdir(root)
    (command,) = understood(github.commands(real, environment={}))
    kind, properties, message = command
    assert kind == "error"
    assert properties["title"] == "tracer: flatten diverged"
    assert properties["file"] == "tests/zoo/ecg_generic.py"
    assert "flatten" in (root / properties["file"]).read_text().splitlines()[int(properties["line"]) - 1]
    assert "Cause: flatten-order" in message
    assert real.first is not None
    assert f"Fix: {real.first.fix.splitlines()[0]}" in message
    monkeypatch.chdir(root / "tests")  # the step's working directory is not the root of the repository
    (command,) = understood(github.commands(real, environment={"GITHUB_WORKSPACE": str(root)}))
    assert command[1]["file"] == "tests/zoo/ecg_generic.py"
    (command,) = understood(github.commands(real, environment={"GITHUB_WORKSPACE": "/nowhere"}))
    assert "file" not in command[1]


def test_no_name_is_taken_for_a_command(hostile: Diff) -> None:
    found = understood(github.commands(hostile, environment={}))
    assert [kind for kind, _, _ in found] == ["error"] * 10
    assert sum("more divergences" in message for _, _, message in found) == bool(len(HOSTILE) // 2 > 10)
    assert "##[" not in "".join(line for line in github.commands(hostile, environment={}).split("\n")[:10])


def test_the_summary_of_the_job_is_written_too(
    real_trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    arguments = ["diff", "--trace", str(real_trace), "--format", "github"]
    assert run(arguments) == 1
    assert summary.read_text().startswith("before\n### ✗ tracer: diverged")
    capsys.readouterr()
    assert run([*arguments, "--atol", "100"]) == 0
    ((kind, _, message),) = understood(capsys.readouterr().out)
    assert (kind, message.split(":")[0]) == ("notice", "match")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "where"))
    assert run(arguments) == 1
    assert "GITHUB_STEP_SUMMARY cannot be written" in capsys.readouterr().err


def test_what_is_not_finite_is_null_in_json_and_empty_in_csv(hostile: Diff) -> None:
    first = hostile.pairs[1]
    assert first.stats is not None
    off = replace(first, stats=replace(first.stats, rel_l2=math.inf), inherited=math.inf)
    document = replace(hostile, pairs=(off,)).to_json()
    _, line = delimited.lines(document)
    assert [json.loads(line)[key] for key in ("rel_l2", "inherited")] == [None, None]
    row = next(csv.DictReader(io.StringIO(delimited.csv_text(document), newline="")))
    assert row["rel_l2"] == ""
