"""The worker process, its sandbox and its supervisor: real processes, harmless payloads."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
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
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tracer import inspection, recording
from tracer.adapter import InputSpec, LoadRequest
from tracer.errors import ExitCode, InputError, TraceError
from tracer.graph import Node, Param, Structure
from tracer.recording import Summary
from tracer.store import Trace
from tracer.worker import janitor, landlock, protocol, results, sandbox, seccomp
from tracer.worker.failure import WorkerError
from tracer.worker.protocol import Event, Job
from tracer.worker.supervise import ENTRY, run

needs_landlock = pytest.mark.skipif(not landlock.supported(), reason="no Landlock here")

_ADAPTERS = """
from tracer.adapter import Adapter

def _adapter(*modules):
    made = type("Made", (Adapter,), {
        "framework": "fake", "formats": "none", "extra": "fake", "requires": modules,
        "environment": lambda self, request: {}, "files": lambda self, request: (),
    })
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
        "request": protocol.request_to_json(LoadRequest(work / "model.h5")),
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
    assert str(error) == "model.h5 cannot be loaded: KeyError: 'here' (run again with --debug for the traceback)"
    assert error.exit_code == ExitCode.USAGE
    error = failure(work, "bug", options={"later": True})
    assert str(error) == "internal error: KeyError: 'here' (run again with --debug for the traceback)"
    assert error.exit_code == ExitCode.PARTIAL
    error = failure(work, "bug", options={"later": True}, debug=True)
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
        '{"event": "error", "kind": "", "exit": true, "message": "x", "traceback": null}',
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
    line = json.dumps({"event": "error", "kind": "NoSuch", "exit": claimed, "message": "x\x1b[2J", "traceback": None})
    error = failure(work, "forge", options={"bytes": line})
    assert (str(error), error.exit_code) == ("x\\x1b[2J", given)


def test_worker_that_cannot_start(work: Path) -> None:
    with pytest.raises(WorkerError, match=r"status 1\) while starting: .*No module named 'nowhere'") as caught:
        run(job(work), on_event=ignore, entry=("-P", "-c", "import nowhere"))
    assert caught.value.exit_code == ExitCode.PARTIAL
    with pytest.raises(InputError, match="cannot run /no/python: No such file"):
        run(job(work), on_event=ignore, python="/no/python", entry=("-c", "pass"))


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
            assert seccomp.restrict()
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


needs_filter = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this machine"
)


@needs_landlock
@needs_filter
def test_metadata_and_other_processes_stay(work: Path, outside: Path) -> None:
    before = (outside / "secret").stat()
    value = run(job(work, options={"outside": str(outside)}), on_event=ignore, entry=entry("tamper"))
    allowed_words = {"PermissionError", os.strerror(errno.EPERM), os.strerror(errno.EACCES)}
    assert {name: said for name, said in value["denied"].items() if said not in allowed_words} == {}
    assert set(value["allowed"].values()) == {"done"}
    assert value["unknown"] == [-1, errno.ENOSYS]
    after = (outside / "secret").stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_uid) == (before.st_mode, before.st_mtime_ns, before.st_uid)


@needs_filter
def test_system_call_numbers() -> None:
    """Against the kernel's headers, where they are installed; calls that are newer than these are passed over."""
    tables = []
    for header in ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h"):
        if not Path(header).exists():
            pytest.skip("no kernel headers")
        found = re.findall(r"^#define (?:__NR|__NR3264)_(\w+)\s+(\d+)$", Path(header).read_text(), re.MULTILINE)
        tables.append({name: int(number) for name, number in found})
    for name, row in {
        **seccomp.DENIED,
        **seccomp.OF_OTHERS,
        **seccomp.SOCKETS,
        **seccomp.LEAVING,
        "clone": seccomp.CLONE,
    }.items():
        for table, number in zip(tables, row, strict=True):
            assert name == "fchmodat2" or table.get(name) == number, name


def test_secrets_stay_here(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "TORCH_HUB_TOKEN",
        "TF_API_KEY",
        "SSH_AUTH_SOCK",
        "DATABASE_URL",
    )
    for name in secrets:
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    value = run(job(work), on_event=ignore, entry=entry("environment"))
    assert "hush-hush" not in json.dumps(value)
    assert value["environ"]["TF_CPP_MIN_LOG_LEVEL"] == "3"
    assert value["environ"]["LC_TIME"] == "C"
    assert value["environ"]["PATH"] == os.environ["PATH"]
    assert "OMP_PROC_BIND" not in value["environ"]


@needs_landlock
def test_only_its_own_folder_is_written(work: Path) -> None:
    folder = work / "arrays" / "inner"
    folder.mkdir(parents=True)
    value = run(job(work, command="record", write=(str(folder),)), on_event=ignore, entry=entry("leave_arrays"))
    assert value == {"beside": "PermissionError"}


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


# Results


SUMMARY: dict[str, Any] = asdict(
    Summary("a", "pt", "torch.load", 3, 2, 3, {"x": "why"}, 0, 0, 1, 10, 0.5, "seed:0", {"x": [1, 2]}, notes=("a",))
)


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_record_result() -> None:
    assert results.parse_record(as_json(SUMMARY)).model_dump() == as_json(SUMMARY)


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1}, {"input_shapes": {"a": "zz"}}, {"input_shapes": {"a": [-1]}}, {"saved": []}, {"planned": "3"},
        {"nbytes": float("inf")}, {"nbytes": -1}, {"nbytes": 1 << 70}, {"nodes": True}, {"seconds": "x"},
        {"seconds": float("inf")}, {"seconds": float("nan")}, {"loader": 5}, {"skipped": {"a": 1}}, {"notes": "abc"},
        {"model_notes": 2}, {"more": 1}, {"pairs": 3}, {"input_shapes": {"a": [1] * 65}},
    ],
)  # fmt: skip
def test_forged_record_result(change: dict[str, Any]) -> None:
    with pytest.raises(WorkerError, match=r"^the worker's answer makes no sense$") as caught:
        results.parse_record({**as_json(SUMMARY), **change})
    assert (caught.value.exit_code, caught.value.reason) == (ExitCode.PARTIAL, "protocol")
    with pytest.raises(WorkerError):
        results.parse_record({})


class Small:
    """A model with two parameters in ``dense``, as an adapter would load it, that takes no input."""

    framework, loader, notes = "fake", "fake", ()

    def versions(self) -> dict[str, str]:
        return {"fake": "1"}

    def signature(self) -> tuple[InputSpec, ...]:
        return (InputSpec("x", (None, 3)),)

    def structure(self, *arguments: object) -> None:
        raise InputError("takes nothing")

    trial = dry_run = trace = structure

    def parameters(self) -> Iterator[tuple[str, Param, Any]]:
        yield "dense", Param("kernel", (2, 3), "float32"), np.ones((2, 3), "float32")
        yield "dense", Param("../../bias", (3,), "float32"), np.zeros(3, "float32")
        yield "other", Param("only", (1,), "float32"), np.zeros(1, "float32")


INSPECTED: dict[str, Any] = {
    "adapter": "x", "tensors": [], "runs_code": [], "refused": None,
    "framework": "fake", "loader": "fake", "versions": {"fake": "1"}, "notes": [],
    "signature": [{"name": "x", "shape": [None, 3], "dtype": "float32", "maximum": None, "layout": None}],
    "parameters": [{"owner": "d", "name": "k", "shape": [2, 3], "dtype": "float32", "trainable": True}],
    "totals": {"parameters": 6, "trainable": 6, "parameter_bytes": 24, "activation_bytes": 0, "nodes": {}},
    "structure": None, "why_no_structure": "why",
    "file": {"name": "m", "arch": None, "file": {"path": "/m", "bytes": 1, "sha256": "0" * 64}}, "saved": [],
}  # fmt: skip


def test_inspect_result() -> None:
    assert results.parse_inspect(INSPECTED).model_dump(exclude_unset=True) == INSPECTED
    structure = Structure((Node("x", "input", "input", "input"),)).to_json()
    results.parse_inspect({**INSPECTED, "structure": as_json(structure), "why_no_structure": None})


@pytest.mark.parametrize(
    "change",
    [
        {"structure": {"nodes": 3}, "why_no_structure": None}, {"structure": {}, "why_no_structure": None},
        {"structure": {"nodes": [[]]}, "why_no_structure": None}, {"why_no_structure": None}, {"file": {}},
        {"totals": {"parameters": "1", "trainable": 1}}, {"saved": [1]}, {"signature": [{}]}, {"parameters": None},
        {"signature": [{**INSPECTED["signature"][0], "shape": ["?"]}]}, {"more": 1},
        {"tensors": [{}]}, {"refused": "why"}, {"runs_code": None},
    ],
)  # fmt: skip
def test_forged_inspect_result(change: dict[str, Any]) -> None:
    with pytest.raises(WorkerError, match=r"^the worker's answer makes no sense$"):
        results.parse_inspect({**INSPECTED, **change})


@pytest.mark.parametrize("number", ["-5", "9" * 400])
def test_forged_progress(number: str) -> None:
    with pytest.raises(ValueError, match="out of range"):
        protocol.parse(b'{"event": "progress", "done": 1, "total": %s}' % number.encode())


def test_weights_are_kept_under_names_of_ours(tmp_path: Path) -> None:
    folder, target = tmp_path / "worker", tmp_path / "a" / "b" / "out.npy"
    folder.mkdir()
    target.parent.mkdir(parents=True)
    saved = inspection.save_weights(cast(Any, Small()), "dense", folder)
    assert saved == ["kernel", "../../bias"]
    kept = inspection.keep_weights(folder, saved, target)
    assert [Path(path).name for path in kept] == ["out.kernel.npy", "out.~2e.~2f..~2fbias.npy"]
    assert {Path(path).parent for path in kept} == {target.parent}
    assert np.load(kept[0]).tolist() == [[1.0] * 3] * 2
    with pytest.raises(InputError, match="exists already"):
        inspection.keep_weights(folder, saved, target)
    assert np.load(kept[0]).tolist() == [[1.0] * 3] * 2
    one = inspection.keep_weights(folder, inspection.save_weights(cast(Any, Small()), "other", folder), target)
    assert one == [str(target)]
    with pytest.raises(InputError, match="there is dense, other"):
        inspection.save_weights(cast(Any, Small()), "nope", folder)


def test_only_arrays_are_kept(tmp_path: Path) -> None:
    folder, secret, target = tmp_path / "worker", tmp_path / "secret.npy", tmp_path / "out.npy"
    folder.mkdir()
    np.save(secret, np.ones(3))
    source = folder / "1.npy"

    def objects() -> None:
        np.save(source, np.array([{}], dtype=object), allow_pickle=True)

    makers: list[Callable[[], object]] = [
        lambda: None, lambda: source.symlink_to(secret), lambda: os.mkfifo(source), source.mkdir, objects,
        lambda: source.write_bytes(b""), lambda: source.write_bytes(secret.read_bytes() + b"more"),
    ]  # fmt: skip
    for make in makers:
        np.save(folder / "0.npy", np.ones(2))
        make()
        with pytest.raises(TraceError, match="left no array"):
            inspection.keep_weights(folder, ["a", "b"], target)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.npy", "worker"]
        shutil.rmtree(folder)
        folder.mkdir()


# Phases


@pytest.mark.parametrize("phase", [protocol.PREPARING, protocol.INSPECTING])
def test_death_in_the_dry_run(work: Path, phase: str) -> None:
    error = failure(work, "crash_in", options={"phase": phase})
    assert str(error).startswith("the worker was killed by SIGKILL while it ran model.h5")
    assert (error.exit_code, error.reason) == (ExitCode.PARTIAL, "signal")


@pytest.mark.parametrize("phase", [protocol.PREPARING, protocol.INSPECTING])
def test_the_limit_is_for_loading(work: Path, phase: str) -> None:
    options = {"phase": phase, "sleep": 4}
    assert run(job(work, options=options), on_event=ignore, entry=entry("crash_in"), load_timeout=3) == {}


def test_recording_says_the_phase_that_ends_loading(tmp_path: Path) -> None:
    phases: list[str] = []
    with pytest.raises(Exception):  # noqa: B017, PT011
        recording.record(cast(Any, object()), Trace.at(tmp_path / "t"), recording.Options("a"), phase=phases.append)
    assert phases == [protocol.PREPARING]


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
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_parent(work: Path, how: signal.Signals) -> None:
    parent, (worker,) = start_parent(work, "stubborn")
    assert any(name.startswith(f"tracer-{parent.pid}-") for name in os.listdir(work / "tmp"))
    parent.send_signal(how)
    finish(parent, 5)
    assert gone(worker)
    deadline = time.monotonic() + 5
    while os.listdir(work / "tmp") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.listdir(work / "tmp") == []


def test_folders_of_the_dead_are_swept(work: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = Path(janitor.make_folder()).name
    stale = mine.replace(f"tracer-{os.getpid()}-", f"tracer-{ended.pid}-")
    elsewhere = f"tracer-{ended.pid}-1-tx"  # of another container
    temporary = work / "tmp"
    (temporary / stale / "deep").mkdir(parents=True)
    (temporary / elsewhere).mkdir()
    (temporary / "tracer-notes").mkdir()
    (temporary / f"{stale}-link").symlink_to(work)
    run(job(work), on_event=ignore, entry=entry("echo"))
    assert set(os.listdir(temporary)) == {mine, elsewhere, "tracer-notes", f"{stale}-link"}
    assert work.exists()


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

    for arguments in ([1, "a"], {"width": 3}):
        request = LoadRequest(
            tmp_path / "m", tmp_path / "w", "m:f", arguments, ("a.py",), ("b.C",), True, ("x",), ("y",)
        )
        assert protocol.request_from_json(json.loads(json.dumps(protocol.request_to_json(request)))) == request


@pytest.mark.parametrize(
    "event", [protocol.phase("é\n"), protocol.notice(""), protocol.progress(1, 2), {"event": "result", "value": {}}]
)
def test_event_round_trip(event: Event) -> None:
    line = protocol.line(event)
    assert line.count(b"\n") == 1
    assert protocol.parse(line) == event
