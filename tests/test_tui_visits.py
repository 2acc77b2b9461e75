"""A visit as a whole: what is remembered, the interface as a picture and in a browser, and a session in tmux."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

import tracer_tui
from tests.cli import COMMAND, ENVIRONMENT, refused, run
from tests.tui_driving import driven, layers, press, record, settled, values
from tracer.compare import Tolerance
from tracer.store import Trace
from tracer_tui import remembering
from tracer_tui.app import TracerApp


@contextmanager
def visited(trace: Path, kept: Path) -> Iterator[TracerApp]:
    """A visit that remembers."""
    session = tracer_tui.visit(Trace.open(trace), None, None, None, kept=kept)
    yield TracerApp(session)
    session.place.tolerance = session.tolerance
    remembering.save(trace, session.place, kept)


async def test_the_place_is_remembered_outside_the_trace(made: Path, tmp_path: Path) -> None:
    kept = tmp_path / "state"
    before = sorted(made.rglob("*"))
    with visited(made, kept) as app:
        async with driven(app) as pilot:
            await settled(pilot)
            before = sorted(made.rglob("*"))
            app.theme = "textual-light"
            await press(pilot, "s", "slash", *"e", "enter", "plus", "g", "j")
            here = layers(app).current
            assert here is not None
    assert sorted(made.rglob("*")) == before
    (file,) = kept.glob("*.json")
    assert json.loads(file.read_text())["trace"] == str(made)
    with visited(made, kept) as app:
        async with driven(app) as pilot:
            await settled(pilot)
            screen = layers(app)
            assert app.theme == "textual-light"
            assert screen.sort == "error"
            assert screen.filter == "e"
            assert screen.session.tolerance == Tolerance(1e-4, 1e-4)
            assert screen.current is not None
            assert screen.current.key == here.key
            await press(pilot, "escape", "s", "s")
    Trace.open(made).delete("b")
    record(made, "b", {"x": values(1, 4), "one": values(1, 8, 8, 3, seed=1), "two": values(1, 6, 5, seed=3)})
    with visited(made, kept) as app:
        async with driven(app) as pilot:
            await settled(pilot)
            screen = layers(app)
            assert screen.filter == ""  # another recording: the first divergence comes first again
            assert screen.current is not None
            assert screen.current.reference == "two"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"theme": 3, "atol": "x", "recordings": 4, "layer": [1]}', '{"atol": NaN, "rtol": -1}', "\0"],
)
def test_a_damaged_memory_is_none(tmp_path: Path, text: str) -> None:
    remembering.save(tmp_path, remembering.Place(theme="nord"), tmp_path / "kept")
    (file,) = (tmp_path / "kept").glob("*.json")
    file.write_text(text)
    found = remembering.load(tmp_path, tmp_path / "kept")
    assert found == remembering.Place()


def test_the_memory_is_bounded_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "_KEPT", 3)
    for number in range(6):
        remembering.save(tmp_path / str(number), remembering.Place(theme="nord"), tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 3
    (tmp_path / "file").write_text("")
    remembering.save(tmp_path, remembering.Place(), tmp_path / "file" / "kept")


def test_the_first_screen_is_drawn_into_a_file(made: Path) -> None:
    folder = made.parent
    run("ui", "--trace", made, "--screenshot", "a.svg", "--size", "100x30", "--press", "enter c", cwd=folder)
    text = "".join(ET.parse(folder / "a.svg").getroot().itertext()).replace("\xa0", " ")
    for part in ("Layer 2", "two ⇄ two", "statistics"):
        assert part in text
    refused("ui", "--trace", made, "--screenshot", "a.svg", cwd=folder, says="exists already")
    refused("ui", "--trace", made, "--screenshot", "b.svg", "--size", "10x9", cwd=folder, says="--size takes")
    refused("ui", "--trace", made, cwd=folder, says="needs a terminal")
    run("ui", "--trace", made, "--screenshot", "a.svg", "--force", "--ascii", cwd=folder)
    text = "".join(ET.parse(folder / "a.svg").getroot().itertext()).replace("\xa0", " ")
    assert "First divergence: two" in text
    assert text.isascii()


@contextmanager
def served(trace: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The interface on a port of this machine, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*COMMAND, "ui", "--trace", str(trace), "--web", "--port", str(port)]
    environment = {**ENVIRONMENT, "XDG_STATE_HOME": str(trace.parent / "state")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=trace.parent) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        try:
            yield server, re.findall(r"http://\S+", line)[0]
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


def _descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


async def test_a_browser_on_this_machine_is_served_and_no_one_else(made: Path) -> None:
    pytest.importorskip("textual_serve")
    import aiohttp

    with served(made) as (server, address):
        base = address.partition("/?")[0]
        children: list[psutil.Process] = []
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            for path in ("/", "/?key=wrong", "/ws", "/static/js/textual.js"):
                async with session.get(base + path) as answer:
                    assert answer.status == 403, path
            for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
                async with session.get(address, headers=headers) as answer:
                    assert answer.status == 403, headers
            async with session.get(address) as answer:
                assert answer.status == 200
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            async with session.get(base + "/static/js/textual.js") as answer:
                assert answer.status == 200
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"{base}/ws", headers={"Origin": "http://evil.example"})
            async with session.ws_connect(f"{base}/ws?width=100&height=30") as socket_:
                assert "First divergence" in await _until(socket_, "First divergence")
                children = _descendants(server.pid)
                assert len(children) == 1
                await socket_.send_json(["stdin", "q"])
                assert "makes that the reference" in await _until(socket_, "makes that the reference")
            for _ in range(200):
                if not any(child.is_running() for child in children):
                    break
                await asyncio.sleep(0.05)
            assert not any(child.is_running() for child in children)  # it ended with its page
            await session.ws_connect(f"{base}/ws?width=100&height=30")
            while not (children := _descendants(server.pid)):
                await asyncio.sleep(0.05)
    assert server.returncode is not None
    assert not any(child.is_running() for child in children)


async def _until(socket_: Any, text: str) -> str:
    """What the page was sent, until a text was in it."""
    seen = ""
    async with asyncio.timeout(60):
        while text not in seen:
            message = await socket_.receive()
            data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
            seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode("utf-8", "replace"))
    return seen


class Tmux:
    """A server of tmux of its own with one pane, driven from outside."""

    def __init__(self, folder: Path, command: str, size: tuple[int, int], **environment: str) -> None:
        self._socket = str(folder / "tmux")
        environment = {"XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": ENVIRONMENT["PYTHONPATH"], **environment}
        variables = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        columns, lines = map(str, size)
        self("-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", lines, *variables, command, cwd=folder)

    def __call__(self, *arguments: str, cwd: Path | None = None) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("TMUX", "NO_COLOR")}
        done = subprocess.run(
            ["tmux", "-u", "-S", self._socket, *arguments], cwd=cwd, env={**environment, "LANG": "C.UTF-8"},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return done.stdout

    def keys(self, *keys: str) -> None:
        for key in keys:
            self("send-keys", key)
            time.sleep(0.1)

    def until(self, text: str, seconds: float = 90) -> str:
        """The pane, once a text is in it."""
        end = time.monotonic() + seconds
        while text not in (pane := self("capture-pane", "-p", "-J")):
            assert time.monotonic() < end, f"'{text}' was not seen in\n{pane}"
            time.sleep(0.1)
        return pane


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    """A port whose second call of a function is wrong, recorded with the lines of its source."""
    if find_spec("torch") is None:
        pytest.skip("needs torch")
    code = """
import sys
import numpy as np
import torch
import tracer
class Net(torch.nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope
    def forward(self, x):
        y = torch.tanh(x)
        return torch.nn.functional.leaky_relu(y, self.slope)
if __name__ == "__main__":
    for name, slope in (("a", 0.1), ("b", 0.3)):
        tracer.record(Net(slope), np.linspace(-2, 2, 40, dtype="f4").reshape(2, 20), name=name, trace="trace.zarr")
"""
    (tmp_path / "net.py").write_text(code)
    subprocess.run([sys.executable, "net.py"], cwd=tmp_path, check=True, timeout=120, env=ENVIRONMENT)
    return tmp_path


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_a_session_in_tmux(stories: Path) -> None:
    editor = stories / "editor"
    editor.write_text('#!/bin/sh\necho "EDITING $@"\nread line\n')
    editor.chmod(0o755)
    command = shlex.join([*COMMAND, "ui"])
    tmux = Tmux(stories, command, (80, 24), EDITOR=str(editor))
    try:
        tmux.until("First divergence")
        tmux.keys("Enter")
        assert "statistics" in tmux.until("worst elements")
        tmux.keys("c")
        tmux.until("along")
        tmux.keys("q", "o")
        tmux.until(f"EDITING +12 {stories}/net.py")  # the editor has the terminal
        tmux.keys("Enter")
        tmux.until("First divergence")
        tmux.keys("y")
        tmux.until("Copied")
        end = time.monotonic() + 20
        while "First divergence" not in tmux("show-buffer") and time.monotonic() < end:
            time.sleep(0.1)
        assert "leaky_relu" in tmux("show-buffer")
        for columns, lines in (("40", "10"), ("200", "60"), ("80", "24")):
            tmux("resize-window", "-x", columns, "-y", lines)
            tmux.keys("k", "j")
        tmux.until("First divergence")
        tmux.keys("q")
        tmux.until("2 recordings")
        more = [*COMMAND, "record", "pt", "--arch", "net.py:Net", "--arch-args", "[0.2]", "--name", "late"]
        done = subprocess.run(
            more, cwd=stories, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        tmux.until("3 recordings")  # without a key: another process has written it
        tmux.keys("q")
        end = time.monotonic() + 20
        while tmux("list-sessions") and time.monotonic() < end:
            time.sleep(0.1)
        assert not tmux("list-sessions")
    finally:
        tmux("kill-server")


class Terminal:
    """The interface in a terminal of its own, which no multiplexer stands before."""

    def __init__(self, trace: Path) -> None:
        self._end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("TMUX", "NO_COLOR")}
        environment |= {"TERM": "xterm-256color", "XDG_STATE_HOME": str(trace.parent / "state")}
        self.process = subprocess.Popen(
            [*COMMAND, "ui", "--trace", str(trace)], stdin=other, stdout=other, stderr=other, env=environment,
            cwd=trace.parent, start_new_session=True,
        )  # fmt: skip
        os.close(other)

    def press(self, key: bytes) -> None:
        os.write(self._end, key)

    def until(self, wanted: bytes, seconds: float = 60) -> bytes:
        """What is written until something is in it; all that is left where the process has ended."""
        seen, end = b"", time.monotonic() + seconds
        while wanted not in seen:
            assert time.monotonic() < end, f"{wanted!r} was not seen in\n{seen[-2000:]!r}"
            if select.select([self._end], [], [], 0.2)[0]:
                try:
                    seen += os.read(self._end, 1 << 16)
                except OSError:  # nobody holds the other end any more
                    break
        return seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)


def test_a_terminal_is_copied_to_stopped_in_and_left_in_order(made: Path) -> None:
    terminal = Terminal(made)
    try:
        terminal.until(b"First divergence")
        terminal.press(b"y")
        seen = terminal.until(b"\x1b]52;c;")
        seen = seen.partition(b"\x1b]52;c;")[2]
        while b"\a" not in seen:
            seen += terminal.until(b"\a")
        text = base64.b64decode(seen.partition(b"\a")[0]).decode()
        assert text.startswith("First divergence: two")
        terminal.press(b"\x1a")
        terminal.until(b"\x1b[?1049l")  # the shell's own screen
        _, status = os.waitpid(terminal.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until(b"First divergence")
        terminal.process.terminate()
        assert b"\x1b[?1049l" in terminal.until(b"nothing of the sort")
        assert terminal.process.wait(30) == 128 + signal.SIGTERM
        (file,) = (made.parent / "state").rglob("*.json")
        assert json.loads(file.read_text())["layer"] == ["two", "two"]
    finally:
        terminal.close()


def test_it_ends_where_its_terminal_takes_nothing_any_more(made: Path) -> None:
    """As at the end of a line that has stalled: what draws waits, and nothing else runs."""
    terminal = Terminal(made)
    try:
        terminal.until(b"First divergence")
        for _ in range(300):
            terminal.press(b"jjjkkk")
            time.sleep(0.01)
        terminal.process.terminate()
        assert terminal.process.wait(30) == 128 + signal.SIGTERM
    finally:
        terminal.close()
