"""Commands that write, stopped: killed at any instant, with a storage call that fails, or by a power cut.

Whatever happens, what was there before and what was promised since reads back equal, the rest is absent or said to be
damaged, every command works or says one line, and the next one of the same kind succeeds.
"""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tracer
from tests.battery import Tally
from tests.battery._disk import KINDS, Disk, Fault, PowerCut
from tests.battery._forked import MEMORY, RAISED, REFUSED, Ended, forked, said
from tests.battery._scenes import DONE, SCENES, Found, Scene, X, beginnings, contents, copied, net
from tracer.errors import TracerError
from tracer.store import Trace

CASES = 500
"""Of each scene."""
_TOUCHED = {"deleting": "pt", "packing": "ref"}


class Broken(Exception):
    """A promise that was not kept."""


@dataclass(frozen=True)
class Stage:
    """A scene that was set: the folder that it begins with, what that and a successful end hold, and how it went.

    Attributes:
        parts: the first samples of its tensors, where these are put together from batches.
        count: storage calls; ``log`` what they did.
    """

    scene: Scene
    folder: Path
    before: Found
    after: Found
    parts: frozenset[str]
    count: int
    log: tuple[Any, ...]

    @property
    def room(self) -> Path:
        return self.folder.parent / "try"


def staged(scene: Scene, folder: Path) -> Stage:
    """Set a scene, and run it once without a fault."""
    start = folder / "start"
    start.mkdir(parents=True)
    if (ended := forked(lambda mark: scene.prepare(start))[0]).code:
        raise Broken(f"{scene.name} cannot be prepared: {ended.said}")
    before, room = contents(start), folder / "try"
    with copied(start, room):
        disk = Disk(room, logged=True)
        [ended] = forked(lambda mark: scene.act(room, mark), disk=disk)
        if ended.code or DONE not in ended.marks:
            raise Broken(f"{scene.name} fails without a fault: {ended.said}")
        parts = beginnings(room) if scene.name == "batches" else frozenset()
        return Stage(scene, start, before, contents(room), parts, ended.count, ended.log)


def warm(folder: Path) -> None:
    """Import what the scenes do, so that forks need not."""
    tracer.record(net(0), X, name="ref", trace=folder / "warm")
    tracer.record(net(1), name="pt", trace=folder / "warm")
    said("diff", "ref", "pt", "--trace", str(folder / "warm"))


def check(stage: Stage, room: Path, marks: list[str], *, cut: bool = False) -> str:
    """What is left is as it was before, as wanted, or absent; the outcome in words. Raises Broken.

    After a power ``cut`` what was under way may be damaged, if that is said.
    """
    found = _found(room)
    same = {place for place, value in stage.before.items() if stage.after.get(place) == value}
    replacing = stage.before.get("t/pt") == stage.after.get("t/pt") == "complete" != found.get("t/pt")
    for place in same:
        if place.startswith("store/") and not (room / "store/zarr.json").exists():  # half of it is there, and not read
            continue
        there = place.replace("t/pt", "t/pt.new", 1) if replacing else place
        if found.get(there) != stage.before[place] and not _early(stage, place):
            raise Broken(f"{place} was {stage.before[place]}, is {found.get(place, 'gone')}")
    if DONE in marks:
        if found != stage.after:
            apart = sorted(place for place in {*found, *stage.after} if found.get(place) != stage.after.get(place))
            raise Broken(f"it had succeeded, and {apart[0]} is {found.get(apart[0], 'gone')} ({len(apart)} differ)")
        return "as wanted"
    for mark in marks:
        for place, value in stage.after.items():
            if place.startswith(f"t/{mark} ") and found.get(place) != value:
                raise Broken(f"{mark} was promised, and {place} is {found.get(place, 'gone')}")
    for place, value in found.items():
        known = stage.before.get(place), stage.after.get(place), stage.after.get(place.replace("pt.new", "pt"))
        if value in known or value in ("interrupted", "failed") or value in stage.parts or _early(stage, place):
            continue
        if not (cut and value.startswith("damaged")):
            raise Broken(f"{place} is {value}, which it never was")
    for name in {place for place, value in found.items() if value == "complete"}:
        _whole(stage, name, found)
    return "as it was" if found == stage.before else "as wanted" if found == stage.after else "recognised"


def _early(stage: Stage, place: str) -> bool:
    """Between its end and its alignment with the values a recording has the alignment without them."""
    return place.endswith(" aligned") and place != "t/ref aligned" and stage.scene.name != "realigning"


def _found(room: Path) -> Found:
    try:
        return contents(room)
    except TracerError as error:
        if (room / "t/zarr.json").exists():
            raise Broken(f"the trace cannot be opened: {error}") from None
        return {}  # none was made yet


def _whole(stage: Stage, name: str, found: Found) -> None:
    """A recording that is complete has all that it had, or should have."""
    mine = {place: value for place, value in found.items() if place.startswith((f"{name} ", f"{name}@"))}
    for known in (stage.before, stage.after):
        wanted = {
            place.replace(name.replace("pt.new", "pt"), name, 1): value
            for place, value in known.items()
            if place.startswith((f"{name.replace('pt.new', 'pt')} ", f"{name}@"))
        }
        if wanted and all(mine.get(p) == v for p, v in wanted.items() if not _early(stage, p)):
            return
    raise Broken(f"{name} is complete, and is neither the former nor the new one")


def used(stage: Stage, room: Path) -> None:
    """Commands that read work, or say one line; and the same command succeeds then. Raises Broken."""
    if (room / "t").is_dir():
        for command in (("runs",), ("diff", "ref", "pt", "--no-explain")):
            code, told = said(*command, "--trace", str(room / "t"))
            if code not in range(5) or told.count("\n") > 1 or "a bug of tracer" in told:
                raise Broken(f"tracer {command[0]} ends with {code}: {told}")
    gone = _TOUCHED.get(stage.scene.name)
    now = _found(room)
    if gone is not None and f"t/{gone}" not in now:  # what it was about
        return
    for recording in Trace.open(room / "t").recordings() if (room / "t/zarr.json").exists() else ():
        if f"t/{recording.name}" not in stage.before:
            Trace.open(room / "t").delete(recording.name)
    for extra in ("copy", "pt.safetensors"):
        path = room / extra
        if extra not in stage.before and path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    [ended] = forked(lambda mark: stage.scene.act(room, mark))
    if ended.code or DONE not in ended.marks:
        raise Broken(f"the next one fails: {ended.said}")
    found = contents(room)
    if any(path.is_dir() for path in room.glob(".tracer-tmp-*")):
        raise Broken("half a copy is left")
    apart = sorted(place for place, value in stage.after.items() if found.get(place) != value)
    if apart:
        raise Broken(f"after the next one {apart[0]} is {found.get(apart[0], 'gone')} ({len(apart)} differ)")


def faulted(stage: Stage, fault: Fault, deeply: bool) -> str:
    """One storage call fails. The outcome; raises Broken."""
    with copied(stage.folder, stage.room) as room:
        [ended] = forked(lambda mark: stage.scene.act(room, mark), disk=Disk(room, fault))
        _ended_well(ended, killed=fault.kind in ("kill before", "kill after", "torn write"))
        outcome = check(stage, room, ended.marks)
        if deeply:
            used(stage, room)
        return outcome if ended.code != REFUSED else f"said, {outcome}"


def killed(stage: Stage, seconds: float, deeply: bool) -> str:
    """Killed at some instant. As :func:`faulted`."""
    with copied(stage.folder, stage.room) as room:
        [ended] = forked(lambda mark: stage.scene.act(room, mark), killed_after=seconds)
        _ended_well(ended, killed=True)
        outcome = check(stage, room, ended.marks)
        if deeply:
            used(stage, room)
        return outcome


def limited(stage: Stage, largest: int, deeply: bool) -> str:
    """No file may be larger than so many bytes. As :func:`faulted`."""
    with copied(stage.folder, stage.room) as room:
        [ended] = forked(lambda mark: stage.scene.act(room, mark), largest=largest)
        _ended_well(ended, killed=False)
        outcome = check(stage, room, ended.marks)
        if deeply:
            used(stage, room)
        return outcome if ended.code != REFUSED else f"said, {outcome}"


def cut(stage: Stage, entries: int, seed: float, deeply: bool) -> str:
    """The power goes. As :func:`faulted`."""
    try:
        marks = PowerCut(stage.folder, stage.room, list(stage.log)).after(entries, stage.room, random.Random(seed))
        outcome = check(stage, stage.room, marks, cut=True)
        if deeply:
            used(stage, stage.room)
        return outcome
    finally:
        shutil.rmtree(stage.room, ignore_errors=True)


def _ended_well(ended: Ended, *, killed: bool) -> None:
    if ended.code == RAISED:
        raise Broken(f"it raises {ended.said.strip().splitlines()[-1]}\n{ended.said}")
    if ended.code == REFUSED and (not ended.said.strip() or "\n" in ended.said):
        raise Broken(f"it says {ended.said!r}")
    if ended.code < 0 and not (killed and ended.code == -signal.SIGKILL):
        raise Broken(f"it ends by signal {-ended.code}")


Trial = tuple[str, str, Callable[[bool], str]]
"""Kind, what repeats it, and the trial."""


def _trials(stage: Stage, rng: random.Random, cases: int) -> Iterator[Trial]:
    """So many trials of a scene: of each storage call with each kind of fault, and as many others, by turns."""
    calls = [(at, kind) for at in range(stage.count) for kind in KINDS]
    rng.shuffle(calls)
    others = ["kill -9", "file size", *["power cut"] * (6 if stage.scene.durable else 0)]
    for index in range(cases):
        if index % 2 and index // 2 < len(calls):
            at, kind = calls[index // 2]
            yield kind, f"call {at}", partial(faulted, stage, Fault(at, kind))
            continue
        kind = others[index // 2 % len(others)]
        if kind == "kill -9":
            seconds = rng.uniform(0, 0.4)
            yield kind, f"after {seconds:.3f} s", partial(killed, stage, seconds)
        elif kind == "file size":
            largest = int(10 ** rng.uniform(1.5, 5.7))
            yield kind, f"{largest} bytes", partial(limited, stage, largest)
        else:
            entries, seed = rng.choice([rng.randint(0, len(stage.log)), len(stage.log)]), rng.random()
            yield kind, f"after {entries} changes, seed {seed}", partial(cut, stage, entries, seed)


def run(seed: int, cases: int | None = None, *, names: frozenset[str] = frozenset()) -> Tally:
    """``cases`` trials of each scene; every fourth is followed by further commands."""
    tally, rng = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tracer-battery-", dir=MEMORY) as folder:
        warm(Path(folder))
        for number, scene in enumerate(one for one in SCENES if not names or one.name in names):
            stage = staged(scene, Path(folder, str(number)))
            for index, (kind, what, trial) in enumerate(_trials(stage, rng, CASES if cases is None else cases)):
                try:
                    tally.add(f"{scene.name}: {kind}", trial(index % 4 == number % 4))
                except Broken as error:
                    tally.breaks(f"{scene.name}: {kind}", what, str(error))
    return tally
