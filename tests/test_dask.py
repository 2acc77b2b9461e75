"""``tracer diff --dask``: the workers of a cluster compare, and find what one process does, to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cli

pytest.importorskip("distributed")
from distributed import LocalCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two processes."""
    folder = str(tmp_path_factory.mktemp("workers"))
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=folder
    ) as running:
        yield running


def test_two_workers_find_what_one_process_does(made: Path, cluster: LocalCluster) -> None:
    trace = ("--trace", made, "--json", "--all")
    here = cli.run("diff", *trace, cwd=made.parent, code=1, fresh=True)
    for left in made.glob("comparisons/**/zarr.json"):
        left.unlink()
    there = cli.run("diff", *trace, "--dask", cluster.scheduler_address, cwd=made.parent, code=1, fresh=True)
    assert there.stdout == here.stdout
    assert not there.stderr
    assert json.loads(here.stdout)["pairs"][2]["max_abs"] > 0
    again = cli.run("diff", *trace, cwd=made.parent, code=1, fresh=True)  # from what the workers found
    assert again.stdout == here.stdout


def test_what_is_damaged_is_said_as_without_workers(made: Path, cluster: LocalCluster) -> None:
    path = next(made.glob("recordings/*/values.zarr.zip"))
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"layers/one/c.") + 400] ^= 1
    path.write_bytes(raw)
    here = cli.run("diff", "--trace", made, "--json", cwd=made.parent, code=None, fresh=True)
    for left in made.glob("comparisons/**/zarr.json"):
        left.unlink()
    there = cli.run(
        "diff", "--trace", made, "--json", "--dask", cluster.scheduler_address, cwd=made.parent, code=None, fresh=True
    )
    assert (there.returncode, there.stdout) == (here.returncode, here.stdout)
    assert "checksum" in here.stdout


def refused(made: Path, address: str) -> str:
    """The one line that is said."""
    done = cli.run("diff", "--trace", made, "--dask", address, cwd=made.parent, code=2, fresh=True)
    assert done.stderr.count("\n") == 1, done.stderr
    assert not done.stdout
    return done.stderr


def test_what_is_no_scheduler_is_one_line(made: Path) -> None:
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in refused(made, "tcp://127.0.0.1:9")
    assert "nonsense://x is no address of a Dask scheduler" in refused(made, "nonsense://x")


_LONELY = """
import sys
from distributed import LocalCluster
import tracer.compare.spreading  # the scheduler has it
sys.path.insert(0, sys.argv[1])  # which its workers get
kind = dict(threads_per_worker=1, processes=True, dashboard_address=None, local_directory=sys.argv[1])
with LocalCluster(n_workers=0, **kind) as running:
    print(running.scheduler_address, flush=True)
    sys.stdin.readline()
    running.scale(1)
    running.wait_for_workers(1)
    print("one", flush=True)
    sys.stdin.readline()
"""


def test_a_cluster_that_cannot_serve_is_one_line(made: Path, tmp_path: Path) -> None:
    """No worker at first, then one in whose environment there is no tracer."""
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "tracer.py").write_text("raise ModuleNotFoundError(\"No module named 'tracer'\", name='tracer')")
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _LONELY, bare], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, bufsize=1, cwd="/",
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        address = process.stdout.readline().strip()
        assert "has no workers" in refused(made, address)
        print("go on", file=process.stdin)
        assert process.stdout.readline() == "one\n"
        assert "has no tracer" in refused(made, address)
    finally:
        process.communicate("\n")


def test_a_path_that_workers_do_not_see_is_one_line(made: Path, cluster: LocalCluster) -> None:
    from distributed import Client

    def hide(path: str) -> None:
        """A worker whose disk is another: what it opens there is not to be found."""
        from tracer.store import Trace

        real = Trace.open.__func__  # type: ignore[attr-defined]
        Trace.open = classmethod(lambda cls, at: real(cls, "/nowhere" if str(at) == path else at))  # type: ignore[method-assign]

    with Client(cluster, set_as_default=False) as client:
        client.run(hide, str(made))
    assert "cannot read the trace" in refused(made, cluster.scheduler_address)
