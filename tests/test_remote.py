"""A trace on an object store: sent, read by ranges, fetched; what can go wrong there is one line."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from tests import cli
from tests.test_store import VALUES, write
from tracer.compare import diff
from tracer.errors import InputError, RemoteError
from tracer.store import Trace, remote
from tracer.store.packing import rewrite

pytest.importorskip("obstore")
pytest.importorskip("moto")

_SERVER = """
import os, sys, urllib.request
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
url = "http://127.0.0.1:%d" % server.get_host_and_port()[1]
urllib.request.urlopen(urllib.request.Request(url + "/bucket", method="PUT"))
print(url, flush=True)
sys.stdin.read()
"""


KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Server:
    """moto's S3 server with a bucket of the name ``bucket``."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.environment = {
            "AWS_ENDPOINT_URL": self._process.stdout.readline().strip(), "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        }  # fmt: skip

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running


def test_the_same_is_found_there_as_here(made: Path, server: Server) -> None:
    for at, packed in (("s3://bucket/raw", False), ("s3://bucket/deep/er/packed", True)):
        if packed:
            for recording in Trace.open(made).recordings():
                rewrite(recording, True)
        cli.run("push", made, at, cwd=made.parent, fresh=True, **server.environment)
        here = cli.run("diff", "--trace", made, "--json", cwd=made.parent, code=1, fresh=True)
        there = cli.run(
            "diff", "--trace", at, "--json", cwd=made.parent, code=1, fresh=True, **server.environment
        )  # fmt: skip
        assert there.stdout == here.stdout
        assert not there.stderr
    fetched = made.parent / "fetched.zarr"
    cli.run("pull", "s3://bucket/deep/er/packed", fetched, cwd=made.parent, fresh=True, **server.environment)
    for part in ("zarr.json", f"recordings/a/{VALUES}", "recordings/b/zarr.json", "inputs/zarr.json"):
        assert (fetched / part).read_bytes() == (made / part).read_bytes()
    assert [found.name for found in Trace.open(fetched).recordings()] == ["a", "b"]


def test_only_the_bytes_of_what_is_looked_at_are_fetched(
    trace_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace.create(trace_path)
    rng = np.random.default_rng(0)
    values = {f"n{i}": rng.normal(size=(1000, 1000)).astype("f4") for i in range(8)}
    values["large"] = rng.normal(size=(1500, 1500)).astype("f4")  # more than is asked for at once
    write(trace, "tf", values)
    remote.push(trace, "s3://bucket/ranges")
    taken = 0
    read = remote.Bucket.read

    def counted(self: remote.Bucket, key: str, start: int, stop: int) -> memoryview:
        nonlocal taken
        taken += stop - start
        return read(self, key, start, stop)

    monkeypatch.setattr(remote.Bucket, "read", counted)
    recording = Trace.open("s3://bucket/ranges").recording("tf")
    assert taken == 0
    assert recording.nbytes == sum(array.nbytes for array in values.values())
    np.testing.assert_array_equal(recording.read("n3"), values["n3"])
    assert taken < 4_200_000
    np.testing.assert_array_equal(recording.read("large"), values["large"])
    assert taken < 4_200_000 + 9_200_000
    assert (trace_path / "recordings/tf" / VALUES).stat().st_size > 40_000_000


def test_the_terminal_ui_opens_it(made: Path, server: Server) -> None:
    cli.run("push", made, "s3://bucket/ui", cwd=made.parent, fresh=True, **server.environment)
    cli.run(
        "ui", "--trace", "s3://bucket/ui", "--screenshot", "ui.svg", cwd=made.parent, fresh=True, **server.environment
    )
    assert "two" in (made.parent / "ui.svg").read_text()
    found = cli.run(
        "explain", "--trace", "s3://bucket/ui", "--json", cwd=made.parent, code=None, fresh=True, **server.environment
    )
    assert json.loads(found.stdout)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("diff", "--trace", "s3://missing/x"), {}, "no such bucket"),
        (("diff", "--trace", "s3://bucket/none"), {}, "no trace at s3://bucket/none"),
        (
            ("diff", "--trace", "s3://bucket/x"),
            dict.fromkeys(KEYS, ""),
            "no credentials",
        ),
        (("diff", "--trace", "s3://bucket/x"), {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "does not answer"),
        (("record", "pt", "x.pt", "--trace", "s3://bucket/x"), {}, "cannot be recorded into"),
        (("push", "made.zarr", "ftp://bucket/x"), {}, "is no URL of an object store"),
        (("pull", "s3://bucket/none", "t.zarr"), {}, "no trace at"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, server: Server, arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    given = {name: value for name, value in {**server.environment, **environment}.items() if value}
    done = cli.run(*arguments, cwd=tmp_path, code=2, fresh=True, **given)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "keys",
    [
        ["x" * 300 + "/zarr.json"], ["recordings", "recordings/a/zarr.json"], ["recordings/../../evil/zarr.json"],
        ["recordings/a/zarr.json/values.zarr.zip", "recordings/a/zarr.json"], ["a\\..\\b/zarr.json"],
        ["recordings/b/\x1b[31mred/zarr.json"], ["recordings/a/values.zarr.zip"],
    ],
)  # fmt: skip
def test_a_store_that_means_harm(keys: list[str], tmp_path: Path, server: Server) -> None:
    """Names that lie outside, are file and folder at once, or are too long: one line, and nothing is left."""
    place = f"bucket/{uuid.uuid4().hex}"
    url = f"s3://{place}"
    described = b'{"zarr_format": 3, "node_type": "group", "attributes": {"tracer": 2}}'
    for key in ("zarr.json", *keys):  # obstore refuses to write some of them
        at = f"{server.environment['AWS_ENDPOINT_URL']}/{place}/{quote(key)}"
        urllib.request.urlopen(urllib.request.Request(at, data=described, method="PUT"))
    for command in (("diff", "--trace", url), ("pull", url, "t.zarr")):
        done = cli.run(*command, cwd=tmp_path, code=None, fresh=True, **server.environment)
        assert done.returncode in (2, 3)
        assert done.stderr.startswith("tracer: ")
        assert done.stderr.count("\n") == 1
        assert "\x1b" not in done.stderr
        assert "internal" not in done.stderr
        assert not list(tmp_path.iterdir())


def test_what_lies_there_is_replaced_only_when_wanted(made: Path, server: Server) -> None:
    trace = Trace.open(made)
    remote.push(trace, "s3://bucket/twice")
    with pytest.raises(InputError, match="--force replaces it"):
        remote.push(trace, "s3://bucket/twice")
    name = trace.recordings()[1].name
    trace.delete(name)
    remote.push(trace, "s3://bucket/twice", force=True)
    assert [found.name for found in Trace.open("s3://bucket/twice").recordings()] == [trace.recordings()[0].name]
    with pytest.raises(InputError, match="exists already"):
        remote.pull("s3://bucket/twice", made)


def test_a_network_that_goes_away_ends_the_comparison(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    try:
        remote.push(Trace.open(made), "s3://bucket/gone")
        sides = Trace.open("s3://bucket/gone").recordings()
    finally:
        server.stop()
    with pytest.raises(RemoteError, match=r"^s3://bucket/gone: the server does not answer$") as raised:
        diff(sides[0], sides[1])
    assert raised.value.exit_code == 2
