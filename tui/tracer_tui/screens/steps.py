"""Two recordings of many steps while they come in: where they part, and how that grows."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.worker import get_current_worker

from tracer.errors import TracerError, said
from tracer.live import judging
from tracer.report import words
from tracer.report.steps import LayerSteps, Overview
from tracer.store import Recording
from tracer_tui import actions
from tracer_tui.columns import Field, fit
from tracer_tui.screens.base import TracerScreen
from tracer_tui.steps import overview
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.lines import KeyBar, Lines
from tracer_tui.widgets.panel import Panel

PERIOD = 0.5
"""Seconds between two looks."""
_EVENTS = 50


class StepsScreen(TracerScreen):
    """What a daemon compares as it comes, a row a layer; the errors shown are those of the chosen step."""

    AREA = "steps"
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("steps")

    class Read(Message):
        """There is something new."""

        def __init__(self, found: Overview) -> None:
            super().__init__()
            self.found = found

    def __init__(self, reference: Recording, candidate: Recording) -> None:
        super().__init__()
        self.reference, self.candidate = reference, candidate
        self.found = Overview()
        self.following = True
        self._step: int | None = None
        self._reading = False
        self._compared: dict[int, dict[str, Any]] = {}
        """The steps that were compared here, for want of a daemon."""
        self._comparing = False

    def compose(self) -> ComposeResult:
        yield Lines(id="title")
        yield Grid()
        yield Panel(id="events")
        yield KeyBar("steps")

    def on_mount(self) -> None:
        super().on_mount()
        self.redraw()
        self._look()
        self.set_interval(PERIOD, self._look)

    def _look(self) -> None:
        if not self._reading and not self.session.paused:
            self._reading = True
            self._read()

    @work(thread=True, group="steps", exit_on_error=False)
    def _read(self) -> None:
        try:
            more = list(self._compared.values())
            self.post_message(self.Read(overview(self.reference, self.candidate, more)))
        finally:
            self._reading = False

    @work(thread=True, exclusive=True, group="compare", exit_on_error=False)
    def _compare(self, steps: Sequence[int]) -> None:
        """Compare what no daemon compares, from the first step on."""
        worker, tolerance = get_current_worker(), self.session.tolerance
        names = self.reference.name, self.candidate.name
        try:
            for step in steps:
                if worker.is_cancelled or self.session.paused:
                    break
                root = str(self.session.trace.root)
                self._compared[step] = judging.compared(root, *names, step, tolerance.atol, tolerance.rtol)
        finally:
            self._comparing = False

    @on(Read)
    def _taken(self, event: Read) -> None:
        before, self.found = self.found, event.found
        known = set(self.found.steps)
        waiting = [step for step in self.found.both if step not in known and step not in self._compared]
        if waiting and not self.found.recorders and not self._comparing and not self.session.paused:
            self._comparing = True
            self._compare(waiting)
        if before != self.found:
            self.redraw()

    @property
    def at(self) -> int | None:
        """The place of the chosen step among those compared; None where there is none."""
        steps = self.found.steps
        if not steps:
            return None
        if self.following or self._step not in steps:
            return len(steps) - 1
        return steps.index(self._step)

    def on_resize(self, _: events.Resize) -> None:
        self.call_after_refresh(self.redraw)

    def redraw(self) -> None:
        look, found, at = self.look, self.found, self.at
        rows = found.layers
        width = self.grid.size.width or self.size.width
        room = max(8, min(40, width // 3))

        def error(row: LayerSteps) -> float | None:
            return None if at is None else row.errors[at]

        def parted(row: LayerSteps) -> bool:
            return at is not None and found.firsts[at] == row.name

        def figure(row: LayerSteps) -> Text:
            value = error(row)
            text = "" if value is None else "NaN" if math.isinf(value) else "0" if value == 0 else f"{value:.1e}"
            return look.text(text, "diverged" if parted(row) or value == math.inf else "" if value else "dim")

        def trend(row: LayerSteps) -> Text:
            heights = row.trend(room)
            return look.text("".join(look.block(math.ceil(8 * h)) for h in heights), "diverged" if parted(row) else "")

        fields = [
            Field("", 0, lambda i: look.text(look.plain("✗") if parted(rows[i]) else " ", "diverged"), width=1),
            Field("layer", 0, lambda i: look.text(rows[i].name, "diverged" if parted(rows[i]) else ""), least=12),
            Field("relative error", 0, lambda i: figure(rows[i]), right=True, width=14),
            Field(f"last {room} steps", 1, lambda i: trend(rows[i]), width=room),
        ]
        columns, shown = fit(fields, len(rows), width, look)
        self.grid.empty = look.text(found.error or self._waiting(), "diverged" if found.error else "dim")
        self.grid.show(columns, len(rows), lambda i: [f.cell(i) for f in shown], cursor=self.grid.cursor)
        self._show_title()
        self._show_events()

    def _waiting(self) -> str:
        """Why there are no rows."""
        both = self.found.both
        if not both:
            return "no step is in both recordings yet"
        if self.found.steps:
            return f"no step could be compared: {self.found.verdicts[-1]}"
        return f"comparing the {words.count(len(both), 'step')} that are in both …"

    def _show_title(self) -> None:
        look, found, at = self.look, self.found, self.at
        kind = "Live" if found.recorders else "Steps"
        head = look.join((kind, "key"), "  ", (self.reference.name, "bold"), " ⇄ ", (self.candidate.name, "bold"))
        if at is not None:
            head.append_text(look.join("   step ", (str(found.steps[at]), "bold"), f", {self._progress()} compared"))
        if found.parted is None:
            head.append_text(look.text("   every step agrees" if found.steps else "", "match"))
        else:
            where = f"   {look.plain('✗')} from step {found.steps[found.parted]}, at {found.firsts[found.parted]}"
            head.append_text(look.text(where, "diverged"))
        modes = ["following"] * self.following + ["paused"] * self.session.paused
        head.append_text(look.text("".join(f"   {mode}" for mode in modes), "key"))
        self.query_one("#title", Lines).show(head, self._daemon_text())

    def _progress(self) -> str:
        done, both = len(self.found.steps), len(self.found.both)
        return str(done) if done >= both else f"{done} of {both}"

    def _daemon_text(self) -> Text:
        look, out = self.look, Text(no_wrap=True)
        for side in (self.reference.name, self.candidate.name):
            one = self.found.recorders.get(side)
            if one is None:
                continue
            text = (
                f"{one['steps']} steps, {one['mb_per_s']:.1f} MB/s, {words.bytes_text(one['waiting'])} waiting, "
                f"written after {1000 * one['lag']:.0f} ms   "
            )
            out.append_text(look.join(("● ", "match"), (side, "bold"), f" {text}"))
        return out if out else look.text("no program that records them is connected", "dim")

    def _show_events(self) -> None:
        look, out = self.look, Text()
        shown = self.found.events[-_EVENTS:][::-1]
        for event in shown:
            out.append_text(look.text(time.strftime("%H:%M:%S ", time.localtime(event.time)), "dim"))
            out.append_text(look.join((f"{event.where} ", "bold"), (f"{event.rule}: ", "diverged"), event.what))
            out.append("\n")
        if not shown:
            out = look.text("none yet", "dim")
        self.query_one("#events", Panel).show(look.text(f"events ({len(self.found.events)})"), out)

    # -- keys --------------------------------------------------------------------------------------------------

    def action_follow(self) -> None:
        self.following = not self.following
        if not self.following and self.at is not None:
            self._step = self.found.steps[self.at]
        self.redraw()

    def _choose(self, at: int) -> None:
        steps = self.found.steps
        if steps:
            self.following = False
            self._step = steps[max(0, min(at, len(steps) - 1))]
            self.redraw()

    def action_step_back(self) -> None:
        self._choose((self.at or 0) - 1)

    def action_step(self) -> None:
        self._choose((self.at or 0) + 1)

    def action_next_divergence(self) -> None:
        parted = self.found.parted
        if parted is None:
            self.say("No step parts")
        else:
            self._choose(parted)
            names = [row.name for row in self.found.layers]
            if self.found.firsts[parted] in names:
                self.grid.cursor = names.index(self.found.firsts[parted])

    def action_open(self) -> None:
        """Compare the chosen step, or the last one that both have where none is compared."""
        both = self.found.both
        step = self.found.steps[self.at] if self.at is not None else both[-1] if both else None
        if step is None:
            self.say("No step is in both recordings yet", "warning")
            return
        try:
            self.own_app.compare(self.reference.at(step), self.candidate.at(step))
        except TracerError as error:
            self.say(said(error), "warning")

    def action_back(self) -> None:
        self.app.pop_screen()
