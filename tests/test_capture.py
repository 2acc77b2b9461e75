"""``tracer daemon capture``: what running programs record, switched from outside."""

from __future__ import annotations

import json
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import pytest

import tracer
from tests.live_driving import daemon, program, status, until
from tracer.cli.main import run
from tracer.store import Trace


def test_capture_is_switched_from_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    with daemon(tmp_path / "t.zarr"):
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
        with tracer.attach(model, to="daemon", name="pt") as attached:
            model(torch.ones(2, 3))
            attached.flush()
            assert run(["daemon", "capture", "off"]) == 0
            assert "told pt" in capsys.readouterr().err
            until(lambda: not attached.capture.on)
            model(torch.ones(2, 3))
            assert run(["daemon", "capture", "on", "--layers", "0", "--stats-only"]) == 0
            until(lambda: attached.capture.on)
            model(torch.ones(2, 3))
            assert run(["daemon", "capture", "keep", "--layers", "nope"]) == 2
            assert "'pt': --layers 'nope' matches no layer" in capsys.readouterr().err
            model(torch.ones(2, 3))
            assert attached.fault is None
        assert run(["daemon", "capture", "off", "--recording", "other"]) == 2
        assert "no recorder is connected" in capsys.readouterr().err
    recording = tracer.open(tmp_path / "t.zarr").recording("pt")
    assert recording.steps == (0, 2, 3)
    assert not recording.at(2).activations
    assert recording.at(2).summaries.keys() == {"input", "0"}


SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
import torch, tracer

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()).eval()
attached = tracer.attach(model, to="daemon", name="server", on=False)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with torch.no_grad():
            answer = model(torch.ones(1, 3)).tolist()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"answer": answer, "on": attached.capture.on, "step": attached.step}).encode())

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_a_server_is_traced_without_restart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    with daemon(tmp_path / "t.zarr"):
        server = program(SERVER)
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())

            def ask() -> dict[str, Any]:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
                    return dict(json.load(answer))

            first = ask()
            assert (first["on"], first["step"]) == (False, 0)
            assert run(["daemon", "status"]) == 0
            assert f"● server (process {server.pid}): no step yet" in capsys.readouterr().out
            assert not Trace.open(tmp_path / "t.zarr").recordings()
            assert run(["daemon", "capture", "on", "--layers", "0", "--recording", "serv*"]) == 0
            assert "told server" in capsys.readouterr().err
            on = until(lambda: (found := ask())["on"] and found)
            assert on["answer"] == first["answer"]
            until(lambda: status()["recorders"][0]["last_step"])
            assert run(["daemon", "capture", "off"]) == 0
            off = until(lambda: not (found := ask())["on"] and found)
            ask()
        finally:
            server.kill()
            server.communicate()
    recording = tracer.open(tmp_path / "t.zarr").recording("server")
    assert recording.steps
    assert 0 < recording.steps[0] <= on["step"]
    assert recording.steps[-1] <= off["step"]
    assert recording.at(recording.steps[0]).summaries.keys() == {"input", "0"}


def test_patterns_of_no_layer_that_came_before_the_first_step(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
    with daemon(tmp_path / "t.zarr"), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with tracer.attach(model, to="daemon", name="pt", on=False, layers=("1",)) as attached:
            assert run(["daemon", "capture", "on", "--layers", "nope"]) == 0
            until(lambda: attached.capture.on)
            model(torch.ones(2, 3))
            model(torch.ones(2, 3))
        assert attached.fault is None
    told = [text for one in said if "'nope' matches no layer" in (text := str(one.message))]
    assert [text.endswith("it is left out") for text in told] == [True]
    recording = tracer.open(tmp_path / "t.zarr").recording("pt")
    assert recording.steps == (0, 1)
    assert recording.at(1).summaries.keys() == {"input", "1"}
