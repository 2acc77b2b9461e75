"""What the tests of the terminal interface share: traces of made-up values, and keys pressed one after the other."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from textual import events
from textual.message import Message
from textual.messages import Prompt
from textual.pilot import Pilot
from textual.worker import WorkerError

from tracer.compare import Tolerance
from tracer.graph import Node, Structure
from tracer.store import RecordingWriter, Trace
from tracer_tui.app import TracerApp
from tracer_tui.screens import base
from tracer_tui.screens.layers import LayersScreen
from tracer_tui.session import Session

SIZES = [(80, 24), (120, 40), (200, 60)]
HOSTILE = [
    "x[/]y",
    "[@click=app.bell]z[/]",
    "\x1b]52;c;aGk=\x1b\\\x1b[31mred",
    "n" * 300,
    "blocks[a].x",
    "\u202eevil\u200b",
    "宽" * 60,
    "$text-error",
    "line\nbreak\ttab",
    "\udcff",
]
CLOCK = 2_000_000_000.0
base.SECONDS = dict.fromkeys(base.SECONDS, 600.0)  # a slow machine would not see notices in time


def record(
    path: Path,
    name: str,
    tensors: Mapping[str, np.ndarray],
    *,
    framework: str = "pytorch",
    input_id: str = "one",
    fails: bool = False,
) -> Trace:
    """A recording of a chain of layers with these values."""
    trace = Trace.create(path)
    nodes: list[Node] = []
    for place, (node, values) in enumerate(tensors.items()):
        parents = (nodes[-1].name,) if nodes else ()
        kind, role = ("input", "input") if not place else ("other:" + node.rstrip("'"), "layer")
        nodes.append(
            Node(node, kind, kind, role=role, parents=parents, shape=values.shape, dtype=values.dtype.name)  # type: ignore[arg-type]
        )
    attributes = {"framework": framework, "input": input_id, "model": {"name": "net"}, "versions": {"torch": "2.9"}}
    structure = Structure(tuple(nodes), (nodes[-1].name,) if nodes else ())
    try:
        with RecordingWriter(trace, name, structure, attributes, {n: n for n in tensors}) as sink:
            for node, values in tensors.items():
                if fails and node == list(tensors)[-1]:
                    raise RuntimeError("the model raised")
                sink(node, values)
    except RuntimeError:
        assert fails
    return trace


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def two(path: Path, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> Path:
    record(path, "a", ours, framework="tensorflow")
    record(path, "b", theirs)
    return path


@asynccontextmanager
async def opened(
    path: Path, size: tuple[int, int] = (120, 40), *, ascii_only: bool = False, theme: str = "textual-dark"
) -> AsyncIterator[tuple[TracerApp, Pilot[Any]]]:
    session = Session(Trace.open(path), None, Tolerance(), ascii_only=ascii_only, now=lambda: CLOCK)
    app = TracerApp(session)
    app.theme = theme
    async with driven(app, size) as pilot:
        await settled(pilot)
        yield app, pilot


@asynccontextmanager
async def driven(app: TracerApp, size: tuple[int, int] = (120, 40)) -> AsyncIterator[Pilot[Any]]:
    """The application without a terminal; what passes between its widgets is counted for :func:`settled`."""
    async with app.run_test(size=size, notifications=True, message_hook=_TRAFFIC.note) as pilot:
        yield pilot


class _Traffic:
    """How many messages were handled."""

    count = 0

    def note(self, message: Message) -> None:
        # The first two are how the driver waits; a timer that changes something sends a message.
        self.count += not isinstance(message, events.Callback | events.Timer | Prompt)


_TRAFFIC = _Traffic()


async def settled(pilot: Pilot[Any]) -> None:
    """Until no thread works, and nothing passes between the widgets any more. Timers are not waited for."""
    quiet = 0
    while quiet < 2:
        before = _TRAFFIC.count
        for worker in list(pilot.app.workers):
            with suppress(WorkerError):  # it was cancelled
                await worker.wait()
        await pilot.pause(0)
        quiet = quiet + 1 if _TRAFFIC.count == before and not len(pilot.app.workers) else 0


async def press(pilot: Pilot[Any], *keys: str) -> None:
    """Press keys one after the other, each when the one before has had all its effect.

    The pilot's own way waits for the processor to be idle, which takes longer than all else.
    """
    for key in keys:
        send(pilot, key)
        await settled(pilot)


def send(pilot: Pilot[Any], key: str) -> None:
    """Press a key while something may be under way."""
    pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))


def shown(app: TracerApp) -> str:
    """The text on the screen."""
    svg = app.export_screenshot()
    texts = re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL)
    return html.unescape("".join(texts)).replace("\xa0", " ")


def layers(app: TracerApp) -> LayersScreen:
    found = next(screen for screen in app.screen_stack if isinstance(screen, LayersScreen))
    assert found.diff is not None
    return found
