"""The report: one file that needs nothing, tells what the comparison knows, and lets nothing in a trace act."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tracer
from tests.cli import refused, run
from tests.tui_driving import HOSTILE, record, two, values
from tracer.compare import Diff, diff
from tracer.compare.verdict import GLYPHS, Verdict
from tracer.errors import InputError
from tracer.report import html
from tracer.report.html import charts, gathering, pictures
from tracer.report.rows import rows_of
from tracer.report.words import number
from tracer.store import Trace

ATTACKS = [
    "<script>document.documentElement.dataset.pwned=1</script>",
    "</script><script>document.documentElement.dataset.pwned=2</script>",
    "</style><img src=x onerror=document.documentElement.dataset.pwned=3>",
    "\"'><svg/onload=document.documentElement.dataset.pwned=4>",
    "]]>--><b>",
    "{{ 7*7 }}{% raw %}",
    "javascript:document.documentElement.dataset.pwned=5",
    "&lt;i&gt;&amp;",
    *HOSTILE,
]
VOID = {"meta", "link", "input", "br", "wbr", "img", "hr"}


class Page(HTMLParser):
    """A page as its parts: elements are closed as they were opened, ids are unique, links lead somewhere."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")
            if name == "href" and tag == "a":
                self.links.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text.append(data)
            if {"td", "th"} & set(self._open) and self.rows:
                self.rows[-1][-1] += data

    @property
    def said(self) -> str:
        return " ".join("".join(self.text).split())


def parsed(content: str) -> Page:
    """A page that is well formed and asks for nothing from elsewhere."""
    found = Page(content)
    assert len(set(found.ids)) == len(found.ids)
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    for tag, name, value in found.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "srcset", "style", "action", "data"), (tag, name)
        if name == "href":
            assert value.startswith(("#", "data:image/png;base64,")), value[:60]
    assert not {"iframe", "object", "embed", "link", "base"} & set(found.tags)
    assert "@import" not in content
    assert not re.search(r"url\(|https?://", content)
    return found


def compared(path: Path) -> Diff:
    trace = Trace.open(path)
    return diff(trace.recording("a"), trace.recording("b"))


@pytest.fixture(scope="module")
def ecg(real_trace: Path) -> tuple[Diff, str]:
    trace = Trace.open(real_trace)
    found = tracer.diff(trace.recording("tf"), trace.recording("pt"))
    return found, html.page(html.gather(found, trace="trace.zarr"))


def test_the_page_tells_what_the_comparison_knows(ecg: tuple[Diff, str]) -> None:
    found, content = ecg
    page = parsed(content)
    assert found.first is not None
    for line in str(found).splitlines():  # the text of the command is in it, word for word
        assert " ".join(line.split()) in page.said
    assert "First divergence" in page.said
    assert found.first.finding is not None
    assert all(fix in page.said for fix in found.first.finding.fixes)
    assert "tracer ui tf pt" in page.said
    bodies = [row for row in page.rows if row and row[0].endswith(tuple(Verdict)) and len(row) > 8]
    assert len(bodies) == len(rows_of(found))
    pair = found.first
    mine = next(row for row in bodies if row[0].startswith(GLYPHS[Verdict.DIVERGED]))
    assert pair.stats is not None
    assert mine[2:4] == [" + ".join(pair.pair.reference), " + ".join(pair.pair.candidate)]
    assert mine[7:9] == [number(pair.stats.max_abs), number(pair.stats.rel_l2)]
    assert content.count('<g class="bar') == len(found.pairs)
    assert page.tags["image"] or "polyline" in page.tags
    for side in (found.reference, found.candidate):
        for version in side.attributes["versions"].values():
            assert version in page.said
    assert len(content.encode()) < 1_000_000


def test_the_policy_lets_only_our_own_blocks_act(ecg: tuple[Diff, str]) -> None:
    _, content = ecg
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', content)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    for tag in ("script", "style"):
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", content, re.DOTALL)
        assert len(blocks) == 1
        digest = base64.b64encode(hashlib.sha256(blocks[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]


def attacked(path: Path) -> Path:
    ours = {"x": values(1, 4)} | {name: values(1, 4, seed=at) for at, name in enumerate(ATTACKS)}
    trace = record(path, "a", ours, framework=ATTACKS[0])
    record(path, "b", {name: side + (0.5 if name != "x" else 0) for name, side in ours.items()}, fails=True)
    del trace
    return path


def test_what_a_trace_says_is_text(tmp_path: Path) -> None:
    path = attacked(tmp_path / "<img src=x>'.zarr")
    found = compared(path)
    content = html.page(html.gather(found, within=2.0, details=30))
    page = parsed(content)
    assert page.tags["script"] == page.tags["style"] == 1
    assert not page.tags["img"]
    assert not page.tags["b"] - content.count("<b>") - content.count("<b class=")
    assert "7*7" in page.said
    for name in ATTACKS[:7]:
        assert name in page.said
    assert not re.search("[\x00-\x08\x0b-\x1f\u200b\u202e\udcff]", content)
    content.encode()  # nothing in it that UTF-8 has no bytes for
    fragment = html.fragment(found)
    assert "<script" not in fragment
    assert Page(fragment).tags["style"] == 1


def test_a_recording_that_broke_off_is_said_to_be_partial(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    both = {"x": values(2, 4), "one": values(2, 4, seed=1), "two": values(2, 3, seed=2)}
    record(path, "a", both)
    record(path, "b", both, fails=True)
    found = compared(path)
    page = parsed(html.page(html.gather(found)))
    assert "recording 'b' is failed, 2 of 3 activations saved: " in page.said
    assert "the model raised" in page.said
    assert "was not saved" in page.said or "was not recorded" in page.said
    assert "holds no weights" in page.said
    done = run("report", "a", "b", "--output", "-", cwd=tmp_path, code=3)
    assert "is failed" in done.stdout


def test_nothing_in_common(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    record(path, "a", {})
    record(path, "b", {})
    assert "There is no pair" in parsed(html.page(html.gather(compared(path)))).said
    refused("report", "a", "b", cwd=tmp_path, code=3, says="holds no activations")
    assert not (tmp_path / "tracer-report.html").exists()


def test_the_command_writes_one_file_and_replaces_none_unasked(made: Path) -> None:
    folder = made.parent
    done = run("report", cwd=folder, code=1)
    page = folder / "tracer-report.html"
    assert done.stdout == ""
    assert f"wrote {page.name} (" in done.stderr
    parsed(page.read_text())
    before = page.read_bytes()
    assert "--force" in refused("report", cwd=folder, says="exists already")
    assert page.read_bytes() == before
    run("report", "--force", "--atol", "10", cwd=folder)
    assert page.read_bytes() != before
    run("report", "a", "b", "--output", "-", "--details", "0", "--no-weights", cwd=folder, code=1)
    refused("report", "--gradients", "--local", cwd=folder, says="leave --gradients out")
    refused("report", "-o", "no/such/folder.html", cwd=folder, code=2, says="no/such")
    refused("report", "-o", "port.pdf", cwd=folder, code=2, says="name a file that ends in .html")


def test_layers_in_full_are_few_and_the_first_is_among_them(tmp_path: Path) -> None:
    ours = {"x": values(1, 4)} | {f"n{at}": values(1, 6, 5, seed=at) for at in range(9)}
    theirs = {
        name: side * 1 if name in ("x", "n0") else side + np.float32(at) for at, (name, side) in enumerate(ours.items())
    }
    found = compared(two(tmp_path / "trace.zarr", ours, theirs))
    wrong = [pair for pair in found.pairs if pair.verdict is Verdict.DIVERGED]
    whole = html.gather(found, within=0.0)
    content = html.page(whole)
    assert len(re.findall('class="layer"', content)) == min(10, len(wrong)) + 1
    few = html.page(gathering.gather(found, within=0.0, details=1))
    assert len(re.findall('class="layer"', few)) == 2
    assert len(re.findall('class="layer" open', few)) == 1
    if len(wrong) > 1:
        assert f"{len(wrong) - 1} more layers" in few


def test_pictures_show_the_one_wrong_element() -> None:
    plane = np.zeros((400, 900))
    plane[123, 456] = -3.0
    plane[0, 0] = np.nan
    uri = pictures.heatmap(plane, (-3.0, 3.0), "difference")
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.size == (pictures.COLUMNS, pictures.ROWS)
    points = np.asarray(picture.convert("RGBA"))
    drawn = points[..., 3] > 0
    assert drawn.sum() == 2
    place = int(456 * pictures.COLUMNS / 900), int(123 * pictures.ROWS / 400)
    assert tuple(points[place[1], place[0]]) == (0, 114, 178, 255)
    assert len(uri) < 2000
    shades = np.asarray(Image.open(io.BytesIO(base64.b64decode(
        pictures.heatmap(np.linspace(0, 1, 120).reshape(1, -1), (0.0, 1.0), "values").partition(",")[2]
    ))).convert("L"))  # fmt: skip
    assert (np.diff(shades[0].astype(int)) >= -1).all()
    assert shades[0, -1] > shades[0, 0] + 100


def test_the_profile_has_a_bar_for_each_pair_up_to_a_width(tmp_path: Path) -> None:
    ours = {f"n{at:03}": values(1, 3, seed=at) for at in range(450)}
    theirs = dict(ours)
    theirs["n200"] = ours["n200"] + 1
    found = compared(two(tmp_path / "trace.zarr", ours, theirs))
    profile = charts.profile(rows_of(found), found.tolerance.atol)
    assert profile is not None
    assert profile.grouped
    assert len(profile.columns) == 400
    wrong = [bar for bar in profile.columns if bar.verdict is Verdict.DIVERGED]
    assert [bar.anchor for bar in wrong] == ["p200"]
    assert wrong[0].height == max(bar.height for bar in profile.columns)
    assert profile.tolerance is not None
    assert 0 < profile.tolerance < charts.HEIGHT


def test_notebooks_show_results(ecg: tuple[Diff, str], real_trace: Path, tmp_path: Path) -> None:
    found, _ = ecg
    assert found.first is not None
    said = Page(found._repr_html_()).said
    assert "First divergence" in said
    assert found.first.aligned in said
    trace = Trace.open(real_trace)
    sides = trace.recording("tf"), trace.recording("pt")
    assert "1 cause: 1 pair of 15" in Page(tracer.explain(*sides)._repr_html_()).said
    assert "equal" in Page(tracer.weights(*sides)._repr_html_()).said
    for listing in (trace._repr_html_(), sides[0]._repr_html_()):
        assert "tf" in Page(listing).said
        assert "<script" not in listing
    written = found.report(tmp_path / "one.html")
    parsed(written.read_text())
    with pytest.raises(InputError, match="exists"):
        found.report(written)
    found.report(written, force=True)


def test_show_prints_where_there_is_no_screen(ecg: tuple[Diff, str], capsys: pytest.CaptureFixture[str]) -> None:
    ecg[0].show()
    assert capsys.readouterr().out.rstrip("\n") == str(ecg[0])


def test_steps_are_drawn(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "trace.zarr"
    for name, scale in (("a", 1.0), ("b", 1.5)):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        with tracer.attach(net, to=path, name=name, mode="eval"):
            net.eval()
            for step in range(3):
                with torch.no_grad():
                    net[0].weight.mul_(scale if step else 1.0)
                net(torch.ones(2, 4))
    done = run("report", "a", "b", "-o", "steps.html", cwd=tmp_path, code=1)
    assert "wrote steps.html" in done.stderr
    page = parsed((tmp_path / "steps.html").read_text())
    assert "3 of 3 common steps compared: they part at step 1" in page.said
    means = [row for row in page.rows if row[:1] == ["mean"]]
    assert means
    assert not any("—" in row for row in means)  # of steps nothing is noted when they are recorded
    assert "polyline" in page.tags


def test_other_commands_do_without_the_report(made: Path) -> None:
    code = "from tracer.cli.main import run; import sys; run(['diff']); run(['--help'])\n"
    code += "assert not {'jinja2', 'PIL', 'tracer.report.html'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=made.parent, check=True, capture_output=True)


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
_DRIVE = """<script>
const out = {};
const seen = () => [...document.querySelectorAll("#table tbody tr")].filter((row) => !row.hidden).map((row) => row.id);
const query = document.getElementById("query");
const ask = (text) => { query.value = text; query.dispatchEvent(new Event("input")); return seen(); };
out.diverged = ask("is:diverged"); out.large = ask("err > 1e-1 op:two"); out.none = ask("nowhere");
out.bad = [ask("is:sideways").length, query.getAttribute("aria-invalid")]; ask("");
document.querySelector("#table th[data-key=err] button").click(); out.sorted = seen();
location.hash = "#d2";
setTimeout(() => { out.open = document.getElementById("d2").open;
  document.documentElement.dataset.out = JSON.stringify(out); }, 50);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser(made: Path, tmp_path: Path) -> None:
    """The filter, the order and the links work; nothing of a hostile trace runs, nothing is reported on the console."""
    assert CHROMIUM is not None

    def dumped(name: str, content: str) -> tuple[str, str]:
        file = tmp_path / name
        file.write_text(content)
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=1000", "--dump-dom", file.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout, done.stderr

    hostile = attacked(tmp_path / "hostile.zarr")
    dom, console = dumped("hostile.html", html.page(html.gather(compared(hostile), within=0.0, details=30)))
    assert "CONSOLE" not in console
    assert "data-pwned" not in dom
    assert "rows</output>" in dom  # our own script ran
    plain = html.page(html.gather(compared(made), within=0.0))
    plain = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", plain).replace(
        "</body>", _DRIVE + "</body>"
    )
    dom, console = dumped("driven.html", plain)
    assert "CONSOLE" not in console
    found = re.search(r'data-out="([^"]*)"', dom)
    assert found is not None
    out = found[1].replace("&quot;", '"')
    for part in ('"diverged":["p2"]', '"large":["p2"]', '"none":[]', '"bad":[0,"true"]', '"open":true'):
        assert part in out, out
    assert '"sorted":["p2",' in out
