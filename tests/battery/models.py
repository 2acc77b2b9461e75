"""Odd models: what they compute is bit for bit what they compute unwatched, and they are left as they were.

Each scene is a model that is hard to watch, or a program around it. It is run alone, recorded and then run, and run
while attached to, with gradients and weights as well. Outputs, exceptions, gradients, buffers, random numbers, hooks
and flags are compared. Programs that fork, and models that ask for more memory than there is, run on their own.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tracer
from tests.battery import Tally, _models_keras
from tests.battery._scenes_torch import SCENES, Scene
from tests.cli import ENVIRONMENT
from tests.cli import run as command
from tests.test_torch_left_alone import flat
from tracer.errors import TracerError

_CALLS = 3


def run(seed: int, cases: int | None) -> Tally:
    tally = Tally()
    names = sorted(SCENES) if cases is None else random.Random(seed).sample(sorted(SCENES), min(cases, len(SCENES)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number, name in enumerate(names):
                _scene(name, SCENES[name], seed, Path(folder) / str(number), tally)
            _models_keras.run(seed, cases, tally)
            _forks(Path(folder), tally)
            _memory(Path(folder), cases, tally)
    finally:
        torch.set_num_threads(threads)
    return tally


_FORKING = """
import multiprocessing, os, sys, time
import torch
from torch import nn
import tracer
torch.set_num_threads(1)
class Forks(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.forks = nn.Linear(200, 200), nn.Linear(200, 200), False
    def forward(self, x):
        y = self.a(x)
        if self.forks:
            if (child := os.fork()) == 0:
                for _ in range(3):
                    y = self.b(y)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        return self.b(y)
def ends(child):
    until = time.monotonic() + 60
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < until, "a child hangs"
        time.sleep(0.05)
    assert found[1] == 0, found
model, x = Forks().eval(), torch.ones(4, 200)
with torch.no_grad():
    wanted = model(x)
    model.forks = True
    assert tracer.record(model, x, name="recorded", trace=sys.argv[1]).state == "complete"
    with tracer.attach(model, to=sys.argv[1], name="pt", memory=1 << 20) as attached:
        assert torch.equal(model(x), wanted)
        model.forks = False
        assert torch.equal(model(x), wanted)
        if (child := os.fork()) == 0:  # gives more than may wait, and ends as programs do
            for _ in range(1000):
                assert torch.equal(model(x), wanted)
            sys.exit(0)
        ends(child)
        process = multiprocessing.get_context("fork").Process(target=model, args=(x,))
        process.start()
        ends(process.pid)
        assert torch.equal(model(x), wanted)
trace = tracer.open(sys.argv[1])
steps = trace.recording("pt")
assert steps.steps == (0, 1, 2)
for one in (trace.recording("recorded"), *map(steps.at, range(3))):
    assert (one.read("b") == wanted.numpy()).all(), one.name
"""


def _forks(folder: Path, tally: Tally) -> None:
    """A model that forks half way, a program that forks while it is watched: children end, the parent's steps stay."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKING, str(folder / "forks")],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode:
        tally.breaks("fork", "os.fork, multiprocessing", done.stderr[-300:])
    else:
        tally.add("fork", "children end, the parent's steps are whole")


_HUNGRY = """
import torch
class AtOnce(torch.nn.Module):
    def forward(self, x):
        return x + torch.ones(1 << 44)[:1]
class Slowly(torch.nn.Module):
    def forward(self, x):
        self.kept = []
        while True:
            self.kept.append(torch.ones(1 << 24) + x.sum())
class Python(torch.nn.Module):
    def forward(self, x):
        return x + len(bytearray(1 << 40))
"""


def _memory(folder: Path, cases: int | None, tally: Tally) -> None:
    """A model that takes more than the worker may have is one line."""
    (folder / "hungry.py").write_text(_HUNGRY)
    np.save(folder / "x.npy", np.ones((2, 3), np.float32))
    for name in ("AtOnce", "Python", "Slowly")[: None if cases is None else cases // 2]:
        done = command(
            "record", "pt", "--arch", f"hungry.py:{name}", "--input", "x.npy", "--name", name, "--memory-limit", "3",
            cwd=folder, code=None,
        )  # fmt: skip
        lines = [line for line in done.stderr.splitlines() if line.startswith("tracer: ")]
        if done.returncode == 3 and len(lines) == 1 and "Traceback" not in done.stderr:
            tally.add("out of memory", "one line, exit code 3")
        else:
            tally.breaks("out of memory", name, f"{done.returncode}: {done.stderr[-300:]}")


def _scene(name: str, scene: Scene, seed: int, trace: Path, tally: Tally) -> None:
    wanted = _outcome(scene, _built(scene, seed), seed)
    for how in ("recorded", "attached", "attached with gradients", "copied while attached"):
        try:
            wrong = list(_HOW[how](scene, seed, trace, wanted))
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            tally.breaks(f"torch {how}", name, "; ".join(wrong))
        else:
            tally.add(f"torch {how}", "same bits, left as it was")


def _built(scene: Scene, seed: int) -> nn.Module:
    _seed(seed)
    torch._dynamo.reset()
    return scene.build()


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _outcome(scene: Scene, model: nn.Module, seed: int) -> list[Any]:
    """Everything that the scene's program can see of its calls, by its bits."""
    _seed(seed + 1)
    given = torch.randn(_CALLS, 5, 4)
    found: list[Any] = []
    with scene.around():
        if scene.threads > 1:
            found.append(_at_once(scene.threads, model, given))
        found += [_called(scene, model, x.clone()) for x in given]
    found += [("drawn", torch.rand(2).tolist(), random.random(), float(np.random.rand()))]
    found += [(key, _bits(value)) for key, value in model.state_dict().items()]
    found += [(key, _bits(value.grad)) for key, value in model.named_parameters()]
    return found


def _called(scene: Scene, model: nn.Module, x: torch.Tensor) -> Any:
    x.requires_grad_(scene.trained)
    try:
        result = model(x * 1)
        seen = [(_bits(part), part.requires_grad, str(part.grad_fn)[:20]) for part in _parts(result)]
        if scene.trained:
            torch.stack([part.sum() for part in _parts(result)]).sum().backward()  # type: ignore[no-untyped-call]
            seen.append(_bits(x.grad))
        return type(result).__name__, seen
    except Exception as error:
        return type(error).__name__, error.args


def _parts(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _at_once(threads: int, model: nn.Module, given: torch.Tensor) -> dict[int, Any]:
    found: dict[int, Any] = {}
    begun = threading.Barrier(threads)

    def serve(number: int) -> None:
        begun.wait()
        with torch.no_grad():
            found[number] = [_bits(model(given[0] * number + call)) for call in range(5)]

    workers = [threading.Thread(target=serve, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return dict(sorted(found.items()))


def _bits(value: torch.Tensor | None) -> Any:
    if value is None:
        return None
    plain = value.detach().contiguous()
    return tuple(plain.shape), str(plain.dtype), plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def _state(model: nn.Module) -> list[Any]:
    """Every attribute of every module, with its hooks, by identity and content, and what is global."""
    around = [
        torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state().numpy().tobytes(), random.getstate(),
        pickle.dumps(np.random.get_state(legacy=False)), sys.gettrace(),
        {key: repr(value) for key, value in vars(nn.modules.module).items() if key.startswith("_global")},
    ]  # fmt: skip
    return [*around, *[(name, id(part), type(part), flat(vars(part))) for name, part in model.named_modules()]]


def _differences(before: list[Any], after: list[Any], what: str) -> list[str]:
    if len(before) != len(after):
        return [f"{what}: {len(before)} against {len(after)}"]
    return [f"{what} {number}: {str(one)[:80]} against {str(two)[:80]}" for number, (one, two) in
            enumerate(zip(before, after, strict=True)) if one != two][:2]  # fmt: skip


def _recorded(scene: Scene, seed: int, trace: Path, wanted: list[Any]) -> Any:
    model = _built(scene, seed)
    _seed(seed + 2)
    x = np.random.default_rng(seed).standard_normal((5, 4)).astype(np.float32)
    before = _state(model)
    with scene.around(), contextlib.suppress(TracerError):
        tracer.record(model, x, name="recorded", trace=trace)
    yield from _differences(before, _state(model), "state")
    yield from _differences(wanted, _outcome(scene, model, seed), "outcome")


def _attached(scene: Scene, seed: int, trace: Path, wanted: list[Any], **more: Any) -> Any:
    model, alone = _built(scene, seed), _built(scene, seed)
    with tracer.attach(model, to=trace, name=f"attached{len(more)}", **more) as attached:
        yield from _differences(wanted, _outcome(scene, model, seed), "outcome")
    if attached.fault is not None:
        yield attached.fault
    if not attached.recorded and not attached.lost_steps:
        yield "nothing was recorded, and nothing said"
    _outcome(scene, alone, seed)
    yield from _differences(_hooks(alone), _hooks(model), "hooks")


def _with_gradients(scene: Scene, seed: int, trace: Path, wanted: list[Any]) -> Any:
    yield from _attached(scene, seed, trace, wanted, gradients=True, weights=True)


def _hooks(model: nn.Module) -> list[Any]:
    """What there is of hooks, and which names each module has; not which objects they are."""
    return [
        (name, sorted((key, len(value) if isinstance(value, dict) else 0) for key, value in vars(part).items()))
        for name, part in model.named_modules()
    ]


def _copied(scene: Scene, seed: int, trace: Path, _: list[Any]) -> Any:
    """A copy that is made while the model is watched is as one made before; so is what comes out of a pickle."""
    ways: dict[str, Callable[[nn.Module], nn.Module]] = {
        "copy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    }  # fmt: skip
    for word, copied in ways.items():
        try:
            wanted = _outcome(scene, copied(_built(scene, seed)), seed)
        except Exception:  # as it is, it cannot be copied so
            continue
        model = _built(scene, seed)
        with tracer.attach(model, to=trace, name=word) as attached:
            yield from _differences(wanted, _outcome(scene, copied(model), seed), f"outcome of a {word}")
        if attached.step >= 0:
            yield f"a call of the {word} was recorded"


_HOW = {
    "recorded": _recorded,
    "attached": _attached,
    "attached with gradients": _with_gradients,
    "copied while attached": _copied,
}
