"""The worker process, its sandbox and its supervisor: real processes, harmless payloads."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tracer.errors import ExitCode, InputError
from tracer.worker import landlock, protocol, sandbox
from tracer.worker.failure import WorkerError
from tracer.worker.protocol import Event, Job
from tracer.worker.supervise import ENTRY, run

needs_landlock = pytest.mark.skipif(not landlock.supported(), reason="no Landlock here")

_ADAPTERS = """
from tracer.adapter import Adapter

def _adapter(*modules):
    made = type("Made", (Adapter,), {"extra": "fake", "requires": modules})
    made.__abstractmethods__ = frozenset()
    return made

Fake = _adapter("json")
Torch = _adapter("torch")
TensorFlow = _adapter("tensorflow", "keras")
Broken = _adapter("worker_broken_framework")
"""

_ENTRY_POINTS = """[tracer.adapters]
fake = worker_adapters:Fake
fake-torch = worker_adapters:Torch
fake-tensorflow = worker_adapters:TensorFlow
fake-broken = worker_adapters:Broken
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with the commands, and adapters registered as an installed distribution's are."""
    folder = tmp_path_factory.mktemp("modules")
    shutil.copy(Path(__file__).with_name("test_worker_commands.py"), folder / "worker_commands.py")
    (folder / "worker_adapters.py").write_text(_ADAPTERS)
    (folder / "worker_broken_framework.py").write_text("raise OSError('libbroken.so: no such\\nfile')")
    info = folder / "worker_fake-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: worker-fake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    return folder


@pytest.fixture
def work(modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    private = tmp_path / "tmp"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    (tmp_path / "model.h5").write_text("a model")
    return tmp_path


def entry(command: str) -> tuple[str, ...]:
    commands = {"record": f"worker_commands:{command}"}
    return ("-P", "-c", f"from tracer.worker import main; main.main({commands!r})")


def job(work: Path, **changes: Any) -> Job:
    values: dict[str, Any] = {
        "command": "record",
        "adapter": "fake",
        "request": {"path": str(work / "model.h5")},
        "trace": str(work / "trace.zarr"),
    }
    return Job(**(values | changes))


def ignore(event: Event) -> None:
    pass


def failure(work: Path, command: str, on_event: Callable[[Event], None] = ignore, **options: Any) -> WorkerError:
    limits = {key: options.pop(key) for key in ("load_timeout", "memory_limit") if key in options}
    with pytest.raises(WorkerError) as caught:
        run(job(work, **options), on_event=on_event, entry=entry(command), **limits)
    assert "\n" not in str(caught.value)
    assert os.listdir(work / "tmp") == []
    return caught.value


def gone(process: int) -> bool:
    """Whether it ends within seconds: SIGKILL takes its time to be carried out."""
    deadline = time.monotonic() + 5
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(process)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# What comes back


def test_result_and_events(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = []
    value = run(job(work, options={"deep": [1, {"é": None}]}), on_event=events.append, entry=entry("echo"))
    assert value["options"] == {"deep": [1, {"é": None}]}
    assert not Path(value["tmp"]).exists()
    assert [event["event"] for event in events] == ["phase", "phase", "phase", "notice", "progress"]
    assert events[3] == {"event": "notice", "text": "a\\x1b]52;c;evil\\x07b"}
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not (work / "trace.zarr").exists(), "an empty trace was left behind"


def test_large_job_passes(work: Path) -> None:
    value = run(job(work, options={"text": "x" * 3_000_000}), on_event=ignore, entry=entry("echo"))
    assert len(value["options"]["text"]) == 3_000_000


def test_refusal_of_the_adapter(work: Path) -> None:
    error = failure(work, "refuse")
    assert (str(error), error.exit_code, error.reason) == (
        "model.h5 is damaged:\\nno layers",
        ExitCode.USAGE,
        "reported",
    )
    assert error.remote_traceback is None
    assert failure(work, "refuse", debug=True).remote_traceback


def test_error_while_recording(work: Path) -> None:
    error = failure(work, "fail_recording")
    assert (str(error), error.exit_code) == ("the disk is full", ExitCode.PARTIAL)


def test_own_bug(work: Path) -> None:
    error = failure(work, "bug")
    assert str(error) == "internal error: KeyError: 'here' (run again with --debug for the traceback)"
    assert error.exit_code == ExitCode.PARTIAL
    error = failure(work, "bug", debug=True)
    assert str(error) == "internal error: KeyError: 'here'"
    assert "raise KeyError" in (error.remote_traceback or "")


def test_model_calls_exit(work: Path) -> None:
    assert str(failure(work, "leave")) == "the model's code called sys.exit while loading model.h5"


def test_memory_error(work: Path) -> None:
    assert str(failure(work, "out_of_memory")) == "ran out of memory while loading model.h5"


def test_broken_framework(work: Path) -> None:
    error = failure(work, "echo", adapter="fake-broken")
    assert str(error) == "importing worker_broken_framework failed: OSError: libbroken.so: no such"


def test_unknown_adapter(work: Path) -> None:
    error = failure(work, "echo", adapter="nope")
    assert error.exit_code == ExitCode.USAGE
    assert "no adapter named 'nope'" in str(error)


# Deaths


def test_segfault_while_loading(work: Path) -> None:
    error = failure(work, "crash")
    assert str(error) == "the worker was killed by SIGSEGV while loading model.h5"
    assert (error.exit_code, error.reason) == (ExitCode.USAGE, "signal")
    assert "the last words" in error.last_words
    assert any("in crash" in line for line in error.last_words), "no stack of the crash"


def test_segfault_while_recording(work: Path) -> None:
    error = failure(work, "crash", options={"recording": True})
    assert str(error) == "the worker was killed by SIGSEGV while recording model.h5"
    assert error.exit_code == ExitCode.PARTIAL


def test_end_without_result(work: Path) -> None:
    error = failure(work, "vanish")
    assert str(error) == "the worker ended without a result (status 7) while loading model.h5"


def test_hang_is_stopped_with_its_children(work: Path) -> None:
    events: list[Event] = []
    started = time.monotonic()
    error = failure(work, "hang", events.append, load_timeout=3.0)
    assert time.monotonic() - started < 8
    assert str(error) == (
        "the worker was stopped: it was still loading model.h5 after 3 s (a damaged file can do this)"
    )
    assert (error.exit_code, error.reason) == (ExitCode.USAGE, "timeout")
    processes = [int(word) for event in events if event["event"] == "notice" for word in event["text"].split()]
    assert len(processes) == 2
    assert all(gone(process) for process in processes)


def test_memory_is_limited(work: Path) -> None:
    error = failure(work, "eat", memory_limit=300 << 20)
    assert error.reason == "memory"
    assert str(error).startswith("the worker was stopped: it took 0.")
    assert str(error).endswith("while loading model.h5 (the limit is 0.3 GiB)")


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[" * 100_000,
        "[]",
        '{"event": "result", "value": 3}',
        '{"event": "result", "value": {}, "more": 1}',
        '{"event": "error", "exit": true, "message": "x", "traceback": null}',
        '{"event": ["phase"], "text": "x"}',
        '{"event": "phase", "text": null}',
    ],
)
def test_nonsense_from_the_worker(work: Path, line: str) -> None:
    error = failure(work, "forge", options={"bytes": line})
    assert error.reason == "protocol"


def test_endless_line_from_the_worker(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.worker.pipes.LONGEST", 1 << 20)
    error = failure(work, "forge", options={"bytes": "x" * (2 << 20)})
    assert "too long a line" in str(error)


@pytest.mark.parametrize(("claimed", "given"), [(0, 2), (1, 2), (3, 3), (4, 2), (99, 2)])
def test_a_forged_error_is_never_success(work: Path, monkeypatch: pytest.MonkeyPatch, claimed: int, given: int) -> None:
    monkeypatch.setattr("tracer.worker.supervise._GRACE_FINISHED", 0.2)
    line = json.dumps({"event": "error", "exit": claimed, "message": "x\x1b[2J", "traceback": None})
    error = failure(work, "forge", options={"bytes": line})
    assert (str(error), error.exit_code) == ("x\\x1b[2J", given)


def test_worker_that_cannot_start(work: Path) -> None:
    with pytest.raises(WorkerError, match=r"status 1\) while starting: .*No module named 'nowhere'") as caught:
        run(job(work), on_event=ignore, entry=("-P", "-c", "import nowhere"))
    assert caught.value.exit_code == ExitCode.PARTIAL
    with pytest.raises(InputError, match="cannot run /no/python: No such file"):
        run(job(work), on_event=ignore, python="/no/python")


def test_trace_directory(work: Path) -> None:
    with pytest.raises(InputError, match="cannot make the trace"):
        run(job(work, trace=str(work / "no" / "trace.zarr")), on_event=ignore)
    (work / "file.zarr").touch()
    with pytest.raises(InputError, match="is not a directory"):
        run(job(work, trace=str(work / "file.zarr")), on_event=ignore)


def test_the_worker_does_not_import_from_its_directory(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "tracer.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(work)
    with pytest.raises(WorkerError) as caught:
        run(job(work, adapter="nope"), on_event=ignore, entry=ENTRY)
    assert "no adapter named 'nope'" in str(caught.value)


# The sandbox


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def outside(work: Path) -> Path:
    folder = work / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


@needs_landlock
def test_sandbox(work: Path, outside: Path, listener: int) -> None:
    options = {"outside": str(outside), "port": listener}
    value = run(job(work, options=options), on_event=ignore, entry=entry("probe"))
    denied = {key for key, said in value.items() if said != "done"}
    assert denied == set(value) - {"run", "pair", "model"}
    assert {value[key] for key in denied - {"child", "move"}} == {"PermissionError"}
    assert (work / "trace.zarr" / "folder" / "moved").exists()
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_without_sandbox(work: Path, outside: Path, listener: int) -> None:
    options = {"outside": str(outside), "port": listener}
    value = run(job(work, options=options, sandbox=False), on_event=ignore, entry=entry("probe"))
    assert value["read"] == value["tcp"] == value["udp"] == "done"
    value = run(job(work, sandbox=False), on_event=ignore, entry=entry("echo"))
    assert value["confinement"] == "none"


@needs_landlock
def test_named_paths_open_the_sandbox(work: Path, outside: Path, listener: int) -> None:
    options = {"outside": str(outside), "port": listener}
    opened = job(work, options=options, read=(str(outside),))
    value = run(opened, on_event=ignore, entry=entry("probe"))
    assert value["read"] == value["list"] == "done"
    assert value["write"] == value["remove"] == "PermissionError"


def test_said_when_there_is_no_landlock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(landlock, "supported", lambda: 0)
    quiet = Job("record", "fake", {})
    assert sandbox.close(quiet, tmp_path) == ("none", [sandbox.NO_LANDLOCK])
    with pytest.raises(OSError, match="no Landlock"):
        landlock.restrict([], [])


@needs_landlock
@pytest.mark.parametrize("network", [False, True])
def test_restrict_alone(tmp_path: Path, listener: int, network: bool) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    (tmp_path / "single").write_text("x")
    script = f"""
        import socket, sys
        from pathlib import Path
        from tracer.worker import landlock
        here = Path({str(tmp_path)!r})
        abi = landlock.restrict([here / "in", here / "nowhere"], [here / "single"], network={network})
        assert abi == landlock.supported()
        (here / "in" / "file").read_text()
        (here / "single").write_text("y")
        for path, mode in ((here / "in" / "file", "w"), (here / "new", "w"), (here / "single2", "r")):
            try:
                open(path, mode)
            except (PermissionError, FileNotFoundError):
                continue
            sys.exit(f"{{path}} was opened")
        try:
            socket.socket().connect(("127.0.0.1", {listener}))
        except PermissionError:
            sys.exit(0 if abi >= 4 and not {network} else "denied")
        sys.exit(0 if abi < 4 or {network} else "connected")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "single").read_text() == "y"


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this machine"
)
def test_no_sockets() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/s")
        server.listen()
        script = f"""
            import asyncio, errno, socket, sys, threading
            from tracer.worker import seccomp
            def connect():
                socket.socket(socket.AF_UNIX).connect({f"{folder}/s"!r})
            connect()
            waiting, errors = threading.Event(), []
            def elsewhere():
                waiting.wait()
                try:
                    connect()
                except OSError as error:
                    errors.append(error.errno)
            thread = threading.Thread(target=elsewhere)
            thread.start()
            assert seccomp.deny_sockets()
            waiting.set()
            thread.join()
            assert errors == [errno.EACCES], errors
            for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
                try:
                    socket.socket(family)
                except PermissionError:
                    continue
                sys.exit(f"{{family}} was opened")
            asyncio.run(asyncio.sleep(0))
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr


def test_own_code_opens_the_directory(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    (work / "lib").mkdir()
    request: dict[str, Any] = {"path": str(work / "model.h5"), "arch": None, "imports": []}
    assert work not in sandbox.readable(job(work, request=request))
    opened = sandbox.readable(job(work, request=request | {"arch": "lib/net.py:make"}))
    assert work in opened
    assert work / "lib" in opened


def test_checkpoint_prefix(work: Path) -> None:
    for name in ("w.ckpt.index", "w.ckpt.data-00000-of-00001", "w.ckptx"):
        (work / name).touch()
    opened = sandbox.readable(job(work, request={"weights": str(work / "w.ckpt")}))
    assert {path.name for path in opened if path.parent == work} == {
        "w.ckpt",
        "w.ckpt.index",
        "w.ckpt.data-00000-of-00001",
    }


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_framework_runs_confined(work: Path, framework: str) -> None:
    if find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    events: list[Event] = []
    value = run(job(work, adapter=f"fake-{framework}"), on_event=events.append, entry=entry(f"{framework}_forward"))
    assert value["shape"] == [2, 5]
    assert [event for event in events if event["event"] == "notice" and "threads" in event["text"]] == []
    assert value["confinement"].startswith("landlock" if landlock.supported() else "none")


# Ctrl-C, and the parent's death


_PARENT = """
import sys
from tracer.worker.protocol import Job
from tracer.worker.supervise import run
try:
    run(Job.from_json(sys.argv[1]), on_event=lambda event: print(event, flush=True), entry=eval(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(130)
"""


def start_parent(work: Path, command: str) -> tuple[subprocess.Popen[str], list[int]]:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, job(work).to_json(), repr(entry(command))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(work / "tmp")},
    )
    assert parent.stdout is not None
    for line in parent.stdout:
        if "notice" in line:
            return parent, [int(word) for word in line.replace("'", " ").split() if word.isdigit()]
    raise AssertionError("the worker did not start")


def finish(parent: subprocess.Popen[str], timeout: float) -> int:
    try:
        parent.communicate(timeout=timeout)
    finally:
        parent.kill()
    return parent.returncode


def test_interrupt_lets_the_worker_finish(work: Path) -> None:
    parent, (worker,) = start_parent(work, "slow")
    parent.send_signal(signal.SIGINT)
    assert finish(parent, 8) == 130
    assert (work / "trace.zarr" / "finished").read_text() == "yes"
    assert gone(worker)
    assert os.listdir(work / "tmp") == []


def test_second_interrupt_ends_the_worker(work: Path) -> None:
    parent, processes = start_parent(work, "hang")
    parent.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert parent.poll() is None
    assert alive(processes[0])
    parent.send_signal(signal.SIGINT)
    assert finish(parent, 5) == 130
    assert all(gone(process) for process in processes)
    assert os.listdir(work / "tmp") == []


def test_interpreter_behind_a_wrapper(work: Path) -> None:
    wrapper = work / "python"
    wrapper.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    assert run(job(work), on_event=ignore, python=wrapper, entry=entry("echo"))


@pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is Linux's")
def test_worker_dies_with_its_parent(work: Path) -> None:
    parent, (worker,) = start_parent(work, "slow")
    parent.kill()
    finish(parent, 5)
    assert gone(worker)


def test_caller_that_raises(work: Path) -> None:
    seen: list[int] = []

    def on_event(event: Event) -> None:
        if event["event"] == "notice":
            seen.append(int(event["text"]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(job(work), on_event=on_event, entry=entry("slow"))
    assert gone(seen[0])
    assert os.listdir(work / "tmp") == []


def test_runs_from_a_thread(work: Path) -> None:
    values: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: values.append(run(job(work), on_event=ignore, entry=entry("echo"))))
    thread.start()
    thread.join(30)
    assert values


# The protocol


def test_job_round_trip() -> None:
    whole = Job("inspect", "pt", {"path": "a"}, {"x": [1.5, None]}, "t", ("r",), ("w",), False, True)
    assert Job.from_json(whole.to_json()) == whole


def test_request_round_trip(tmp_path: Path) -> None:
    from tracer.adapter import LoadRequest

    for arguments in ([1, "a"], {"width": 3}):
        request = LoadRequest(tmp_path / "m", tmp_path / "w", "m:f", arguments, ("a.py",), ("b.C",), True)
        assert protocol.request_from_json(json.loads(json.dumps(protocol.request_to_json(request)))) == request


@pytest.mark.parametrize(
    "event", [protocol.phase("é\n"), protocol.notice(""), protocol.progress(1, 2), {"event": "result", "value": {}}]
)
def test_event_round_trip(event: Event) -> None:
    line = protocol.line(event)
    assert line.count(b"\n") == 1
    assert protocol.parse(line) == event
