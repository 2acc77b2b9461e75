"""The daemon: steps of running programs, compared as they come; what breaks, and who may not."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

import tracer
from tests.live_driving import daemon, program, status, until
from tests.test_schema import check
from tracer.cli.main import run
from tracer.errors import InputError
from tracer.graph import Node, Structure
from tracer.live import place, wire
from tracer.live.destination import Opening
from tracer.live.remote import Away, Connection, Remote, connect
from tracer.live.session import Session

TRAIN = """
import sys, time
import torch
from torch import nn
import tracer
name, rate, pause, steps = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(160, 4))
draws = torch.Generator().manual_seed(1)
with tracer.attach(model, to="daemon", name=name, every=2, gradients=True) as attached:
    for step in range(steps):
        x, y = torch.randn(8, 3, 20, generator=draws), torch.randint(0, 4, (8,), generator=draws)
        nn.functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():  # importing torch's own optimizers takes as long as importing torch
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
                parameter.grad = None
        time.sleep(pause)
        if step == 1:
            print("begun", flush=True)
print(attached.step, attached.recorded, attached.left_out, attached.fault)
"""
STRUCTURE = Structure((Node("x", "input", "input", "input", (), (2, 3), "float32"),), ("x",))


def sent(remote: Remote, name: str, steps: range, value: float = 0.0, reference: str | None = None) -> None:
    remote.open(Opening(name, STRUCTURE, {"framework": "pytorch", "mode": "train"}, reference))
    for step in steps:
        remote.begin(step)
        remote.put("value", "", "x", np.full((2, 3), value, np.float32))
        remote.commit(0.0)


def test_two_programs_are_compared_while_they_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(tmp_path / "t.zarr"):
        first = program(TRAIN, "right", "1e-2", "0.05", "12")
        assert first.stdout is not None
        assert first.stdout.readline() == "begun\n"
        second = program(TRAIN, "wrong", "2e-2", "0.05", "12")
        watching = program("import sys; from tracer.cli.main import run; sys.exit(run(['watch', '--once', '--json']))")
        out, err = second.communicate(timeout=120)
        assert out.splitlines()[-1] == "11 6 0 None", err
        assert first.communicate(timeout=60)[0].splitlines()[-1] == "11 6 0 None"
        pair = until(lambda: [pair for pair in status()["pairs"] if pair["compared"] == 6])[0]
        assert (pair["reference"], pair["candidate"], pair["step"]) == ("right", "wrong", 10)
        assert pair["first"] == "0"
        assert run(["daemon", "status"]) == 0
        shown = capsys.readouterr().out
        assert "right ⇄ wrong: 6 steps compared; step 10 parts at 0" in shown
        assert "wrong@2 divergence: parts from 'right' at 0" in shown
        out, err = watching.communicate(timeout=60)
        assert watching.returncode == 1, err
        event = check("event", json.loads(out))
        assert (event["recording"], event["step"], event["what"]) == ("wrong", 2, "divergence")
    trace = tracer.open(tmp_path / "t.zarr")
    assert [recording.state for recording in trace.recordings()] == ["complete", "complete"]
    assert trace.recording("wrong").steps == (0, 2, 4, 6, 8, 10)
    lines = [json.loads(line) for line in (trace.recording("wrong").folder / "compared.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 6, 8, 10]
    assert lines[0]["verdict"] == "match"
    assert all(line["verdict"] == "diverged" and line["pairs"]["0"] > 0 for line in lines[1:])


def test_a_side_that_is_late_or_was_there_before_is_compared(tmp_path: Path) -> None:
    trace = tmp_path / "t.zarr"
    with daemon(trace):
        before = Remote()
        sent(before, "before", range(2))
        before.close()
        until(lambda: not status()["recorders"])  # whoever ends is gone at once, not after a silence
    with daemon(trace):
        late, early = Remote(), Remote()
        sent(late, "late", range(1))
        sent(early, "early", range(4), 1.0, reference="late")
        early.close()
        until(lambda: [r["recording"] for r in status()["recorders"]] == ["late"])
        for step in range(1, 3):
            late.begin(step)
            late.put("value", "", "x", np.zeros((2, 3), np.float32))
            late.commit(0.0)
        expected = {("before", "late"): 2, ("late", "early"): 3}
        until(lambda: {(p["reference"], p["candidate"]): p["compared"] for p in status()["pairs"]} == expected)
    # One whose candidate ended before the daemon's start goes on with the next daemon.
    with daemon(trace), warnings.catch_warnings(action="ignore"):
        until(lambda: late.idle() or late.ready)
        late.begin(3)
        late.put("value", "", "x", np.zeros((2, 3), np.float32))
        late.commit(0.0)
        until(lambda: [(p["candidate"], p["step"]) for p in status()["pairs"] if p["reference"] == "late"])
        late.close()


def test_a_recorder_that_knows_only_what_is_documented(tmp_path: Path) -> None:
    """docs/live.md, "What is said on the wire", in another language."""
    with daemon(tmp_path / "t.zarr") as folder, zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"ipc://{folder}/daemon.sock")

        written: Counter[str] = Counter()

        def say(kind: str, payload: bytes | None = None, **fields: Any) -> None:
            socket.send_multipart(
                [json.dumps({"kind": kind, **fields}).encode(), *([] if payload is None else [payload])]
            )

        def hear(kind: str) -> dict[str, Any]:
            while socket.poll(20_000):
                found = json.loads(socket.recv())
                if found["kind"] == "ack":
                    written.update({key: found[key] for key in ("messages", "nbytes")})
                if found["kind"] == kind:
                    return dict(found)
            raise AssertionError(f"no {kind}")

        say("hello", protocol=2, role="recorder", name="other")
        assert hear("welcome").keys() == {"kind", "version", "pid", "trace"}
        node = {"kind": "linear", "label": "Linear", "dtype": "float32"}
        nodes = [
            {"name": "x", "kind": "input", "label": "Input", "role": "input", "shape": [2, 3], "dtype": "float32"},
            {"name": "big", "shape": [1 << 10, 1 << 12], "parents": ["x"], **node},
            {"name": "y", "shape": [2], "parents": ["big"], **node},
        ]
        structure = {"nodes": nodes, "outputs": ["y"]}
        attributes = {"framework": "other", "versions": {}, "mode": "train"}
        say("open", name="other", structure=structure, attributes=attributes)
        assert hear("opened")["name"] == "other"
        big = np.arange(1 << 22, dtype=np.float32).reshape(1 << 10, 1 << 12)
        say("begin", step=5)
        say("put", big.tobytes()[: 8 << 20], part="value", name="big", dtype="float32", shape=list(big.shape))
        say("more", big.tobytes()[8 << 20 :])
        small = [
            {"part": "value", "name": name, "dtype": "float32", "shape": shape}
            for name, shape in (("x", [2, 3]), ("y", [2]))
        ]
        say("puts", np.arange(8, dtype=np.float32).tobytes(), puts=small)
        say("commit", step=5, ended=0.0)
        say("ping", left_out=1)
        assert hear("ping")["left_out"] == 1
        while written["messages"] < 6:
            hear("ack")
        assert written["nbytes"] == big.nbytes + 8 * 4
        say("close")
        hear("close")
    step = tracer.open(tmp_path / "t.zarr").recording("other").at(5)
    assert np.array_equal(step.read("big"), big)
    assert [step.read("x").tolist(), step.read("y").tolist()] == [[[0, 1, 2], [3, 4, 5]], [6, 7]]


def test_a_killed_daemon_does_not_stop_the_program_and_goes_on(tmp_path: Path) -> None:
    with daemon(tmp_path / "t.zarr"):
        remote = Remote()
        sent(remote, "pt", range(3))
        until(lambda: tracer.open(tmp_path / "t.zarr").recording("pt").steps == (0, 1, 2))
        os.kill(int(place.running() or 0), signal.SIGKILL)
        until(lambda: place.running() is None)

        def more() -> None:
            remote.begin(3)
            remote.put("value", "", "x", np.zeros((2, 3), np.float32))
            remote.commit(0.0)
            remote.idle()

        with pytest.warns(RuntimeWarning, match="the program goes on"):
            more()
        assert not remote.ready
        assert tracer.open(tmp_path / "t.zarr").recording("pt").state == "interrupted"
        assert run(["daemon", "start", "--trace", str(tmp_path / "t.zarr")]) == 0
        until(lambda: remote.idle() or remote.ready)
        remote.begin(7)
        remote.put("value", "", "x", np.ones((2, 3), np.float32))
        remote.commit(0.0)
        remote.close()
        assert remote.left_out >= 1
    recording = tracer.open(tmp_path / "t.zarr").recording("pt")
    assert (recording.state, recording.steps) == ("complete", (0, 1, 2, 7))
    assert recording.at(7).read("x").sum() == 6


def test_a_killed_program_leaves_its_steps(tmp_path: Path) -> None:
    with daemon(tmp_path / "t.zarr"):
        running = program(TRAIN, "pt", "1e-2", "0.2", "1000")
        until(lambda: [r for r in status()["recorders"] if r["steps"] >= 2])
        running.kill()
        running.communicate()
    recording = tracer.open(tmp_path / "t.zarr").recording("pt")
    assert len(recording.steps) >= 2
    assert recording.at(recording.steps[-1]).read("0").shape == (8, 8, 20)
    assert recording.state == "interrupted"


def test_only_what_retention_says_stays(tmp_path: Path) -> None:
    with daemon(tmp_path / "t.zarr", "--keep-last", "2", "--keep-every", "5"):
        remote = Remote()
        sent(remote, "pt", range(9), 1.0)
        remote.begin(9)
        remote.put("value", "", "x", np.full((2, 3), np.nan, np.float32))
        remote.commit(0.0)
        until(lambda: status()["events"].get("nonfinite"))
        for step in range(10, 14):
            remote.begin(step)
            remote.put("value", "", "x", np.ones((2, 3), np.float32))
            remote.commit(0.0)
        until(lambda: tracer.open(tmp_path / "t.zarr").recording("pt").steps == (0, 5, 9, 10, 12, 13))
        remote.close()


def test_who_closes_after_a_fault_is_not_kept_waiting(tmp_path: Path) -> None:
    said: list[wire.Message] = []
    session = Session(wire.Hello(protocol=wire.PROTOCOL, role="recorder"), tmp_path / "t", said.append, lambda *_: None)
    session.take(wire.Begin(step=1), memoryview(b""))
    session.take(wire.Close(), memoryview(b""))
    until(lambda: len(said) >= 2)
    session.end(None)
    assert [message.kind for message in said[:2]] == ["fault", "close"]
    assert session.fault is not None
    assert "before a recording was opened" in session.fault


class _Rude:
    """A client that says what it likes."""

    def __init__(self, folder: Path) -> None:
        self.context: Any = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(f"ipc://{folder}/daemon.sock")

    def says(self, *frames: bytes) -> wire.Message | None:
        self.socket.send_multipart(frames)
        return wire.decoded(self.socket.recv()) if self.socket.poll(5000) else None

    def close(self) -> None:
        self.context.destroy(0)


HELLO = wire.encoded(wire.Hello(protocol=wire.PROTOCOL, role="recorder"))
OPEN = wire.encoded(wire.Open(name="rude", numbered=True, structure=STRUCTURE.to_json(), attributes={}))


SEVERAL = wire.encoded(
    wire.Puts(puts=[wire.Put(part="value", name=name, dtype="float32", shape=[1]) for name in ("x", "y")])
)


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ([], [b"\x80\x04K\x01."], "not a message"),
        ([], [b"{" * 100_000], "not a message"),
        ([], [wire.encoded(wire.Begin(step=1))], "no greeting"),
        ([], [wire.encoded(wire.Hello(protocol=9, role="recorder"))], "protocol 9"),
        ([], [HELLO, b"", b"", b""], "frames"),
        ([], [wire.encoded(wire.Hello(protocol=wire.PROTOCOL, role="recorder", trace="/etc"))], "not a trace"),
        ([wire.encoded(wire.Hello(protocol=wire.PROTOCOL, role="recorder", trace="a\0b"))], [OPEN], "null byte"),
        ([HELLO], [wire.encoded(wire.Begin(step=1))], "before a recording was opened"),
        ([HELLO], [wire.encoded(wire.Stop())], "before a recording was opened|not for a recorder"),
        ([HELLO], [OPEN.replace(b'"kind":"open"', b'"kind":"open","x":1')], "not a message"),
        ([HELLO, OPEN], [wire.encoded(wire.Skip(part="value", name="x", why=""))], "before a step"),
        ([HELLO, OPEN], [wire.encoded(wire.Commit(step=1, ended=0.0))], "before a step"),
        (
            [HELLO, OPEN, wire.encoded(wire.Begin(step=1))],
            [wire.encoded(wire.Put(part="value", name="x", dtype="float32", shape=[1 << 40])), b"1234"],
            "a tensor of",
        ),
        (
            [HELLO, OPEN, wire.encoded(wire.Begin(step=1))],
            [wire.encoded(wire.Put(part="value", name="x", dtype="float32", shape=[1])), b"12345678"],
            "8 bytes where 4 belong",
        ),
        (
            [HELLO, OPEN, wire.encoded(wire.Begin(step=1))],
            [wire.encoded(wire.Put(part="value", name="x", dtype="object", shape=[1])), b"12345678"],
            "element type",
        ),
        ([HELLO, OPEN], [SEVERAL, b"12345678"], "a tensor before a step"),
        ([HELLO, OPEN, wire.encoded(wire.Begin(step=1))], [SEVERAL, b"1234567"], "7 bytes|without all of its bytes"),
        ([HELLO, OPEN, wire.encoded(wire.Begin(step=1))], [SEVERAL, b"123456789"], "9 bytes came where 8 belong"),
        (
            [HELLO, OPEN, wire.encoded(wire.Begin(step=1))],
            [SEVERAL.replace(b"[1]", b"[1152921504606846976]"), b"12345678"],
            "a tensor of",
        ),
    ],
)
def test_a_hostile_client_gets_an_error_and_harms_nobody(
    daemon_of_module: Path, first: list[bytes], then: list[bytes], said: str
) -> None:
    rude = _Rude(daemon_of_module)
    try:
        for message in first:
            rude.socket.send_multipart([message])
        answer = rude.says(*then)
        while not isinstance(answer, wire.Fault):
            assert rude.socket.poll(5000), "nothing was said"
            answer = wire.decoded(rude.socket.recv())
        assert answer.last
        assert re.search(said, answer.why), answer.why
    finally:
        rude.close()
    assert status()["pid"] == place.running()


@pytest.fixture(scope="module")
def daemon_of_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with daemon(tmp_path_factory.mktemp("module") / "t.zarr", "--port", "23457") as folder:
        yield folder


def test_half_a_message_a_flood_and_a_wrong_token(daemon_of_module: Path) -> None:
    half = socket.socket(socket.AF_UNIX)
    half.connect(str(daemon_of_module / "daemon.sock"))
    half.sendall(b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f")  # and no more
    web = socket.create_connection(("127.0.0.1", 23457))
    web.sendall(b"POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\n" + HELLO + b"\n")
    flood = _Rude(daemon_of_module)
    flood.socket.send_multipart([HELLO])
    flood.socket.send_multipart([OPEN])
    flood.socket.send_multipart([wire.encoded(wire.Begin(step=1))])
    put = wire.encoded(wire.Put(part="value", name="x", dtype="uint8", shape=[wire.PIECE]))
    try:
        for _ in range(64):
            flood.socket.send_multipart([put, bytes(wire.PIECE)], copy=False)
        remote = Remote()
        sent(remote, "good", range(3))
        remote.close()
        address = "tcp://127.0.0.1:23457"
        with pytest.raises(Away, match=r"wrong token|does not answer"):
            connect("control", address=address, token="guess", seconds=3)
        with pytest.raises((Away, wire.WireError)):
            connect("control", address=address, seconds=3)
        token = (daemon_of_module / "token").read_text()
        assert (daemon_of_module / "token").stat().st_mode & 0o077 == 0
        allowed = connect("recorder", address=address, token=token)
        allowed.close()
        with pytest.raises(wire.WireError, match="own trace"):
            Connection("recorder", address, token, "/tmp/elsewhere.zarr", 5)
    finally:
        flood.close()
        half.close()
        web.close()
    assert tracer.open(status()["trace"]).recording("good").steps == (0, 1, 2)


def test_one_daemon_in_a_folder_of_its_owner(
    daemon_of_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon_of_module.stat().st_mode & 0o777 == 0o700
    assert (daemon_of_module / "daemon.sock").stat().st_mode & 0o077 == 0
    assert run(["daemon", "start"]) == 2
    assert "running already" in capsys.readouterr().err
    (tmp_path / "open").mkdir(mode=0o755)
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "open"))
    with pytest.raises(InputError, match="open to others"):
        place.folder()
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "none"))
    no_trace = ["daemon", "start", "--trace", __file__]
    for command in (["daemon", "stop"], ["daemon", "status"], ["daemon", "logs"], ["watch"], no_trace):
        assert run(command) == 2
        assert capsys.readouterr().err.count("\n") == 1


RANK = """
import os, sys
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
import tracer
rank, meeting = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(self.first(x).relu())

class Sharded(nn.Module):
    def forward(self, x):
        return x + 1

for name, shift in (("right", 0.0), ("wrong", 0.5)):
    torch.manual_seed(0)
    net = nn.parallel.DistributedDataParallel(Net())
    optimizer = torch.optim.SGD(net.parameters(), 0.1 + shift * rank)
    with tracer.attach(net, to="daemon", name=name, gradients=True) as attached:
        for step in range(3):
            optimizer.zero_grad()
            net(torch.full((2, 4), float(rank + step))).square().mean().backward()
            optimizer.step()
    dist.barrier()  # no rank of the second begins while one of the first may be its reference still
mesh = init_device_mesh("cpu", (2,))
with tracer.attach(Sharded(), to="daemon", name="sharded") as attached:
    attached.model(distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)]))
    attached.model(distribute_tensor(torch.ones(4, 2), mesh, [Replicate()]))
dist.destroy_process_group()
"""


def test_ranks_are_recorded_apart_and_compared_with_their_own(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with daemon(tmp_path / "t.zarr"):
        both = [program(RANK, str(rank), str(tmp_path / "meeting")) for rank in (0, 1)]
        for one in both:
            _, err = one.communicate(timeout=120)
            assert one.returncode == 0, err
        trace = tracer.open(tmp_path / "t.zarr")
        aligned = {r.name: r.attributes["reference"] for r in trace.recordings() if "sharded" not in r.name}
    assert aligned == {"right.rank0": None, "right.rank1": None, "wrong.rank0": "right.rank0",
                       "wrong.rank1": "right.rank1"}  # fmt: skip
    assert trace.recording("right.rank1@2").read("x")[0, 0] == 3
    assert run(["steps", "right.rank1", "wrong.rank1", "--trace", str(tmp_path / "t.zarr")]) == 1
    sharded = trace.recording("sharded.rank0")
    assert "a shard of a tensor of shape (4, 2)" in sharded.at(0).skipped["x"]
    assert sharded.at(1).read("x").shape == (4, 2)


def test_events_are_told_to_a_command_and_an_address_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[dict[str, Any]] = []

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / "tracer.toml"
    settings.write_text(
        f"[events]\ncommand = ['tee', '{tmp_path}/said.json']\nwebhook = 'http://127.0.0.1:{server.server_port}/'\n"
        "[rules]\nexploding = 0\n"
    )
    with daemon(tmp_path / "t.zarr"):
        remote = Remote()
        sent(remote, "pt", range(2), float("inf"))
        until(lambda: told)
        remote.close()
    server.shutdown()
    server.server_close()
    assert (told[0]["what"], told[0]["step"], told[0]["said"]["node"]) == ("nonfinite", 0, "x")
    assert json.loads((tmp_path / "said.json").read_text()) == told[0]
    assert len(told) == 1  # it lasts, and is told once
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "run"))
    for line, said in (
        ("[events]\nwebhook = 'http://example.org/'", "loopback"),
        ("[rules]\ndaed = 1", "daed"),
        ("[retention]\nlast = -1", "last"),
    ):
        settings.write_text(line)
        assert run(["daemon", "start"]) == 2
        assert said in capsys.readouterr().err
