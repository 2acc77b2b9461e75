"""The recordings of the trace: mark two, compare them."""

from __future__ import annotations

import contextlib
import shlex
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType

from tracer.errors import TracerError
from tracer.report import words
from tracer.store import Recording
from tracer_tui import actions
from tracer_tui.columns import Field, fit
from tracer_tui.screens.base import TracerScreen
from tracer_tui.watching import Snapshot
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.lines import KeyBar, Lines
from tracer_tui.widgets.panel import Panel


class RunsScreen(TracerScreen):
    """Opens when there is nothing to compare yet, or from Layers by going back."""

    AREA = "runs"
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("runs")

    def __init__(self) -> None:
        super().__init__()
        self.recordings: list[Recording] = []
        self.marked: list[str] = []
        self._warned = False
        self.following = False
        self._error = ""

    def compose(self) -> ComposeResult:
        yield Lines(id="title")
        yield Grid()
        yield Panel(id="next")
        yield KeyBar("runs")

    def on_mount(self) -> None:
        super().on_mount()
        self.redraw()
        if self.own_app.snapshot is not None:
            self.trace_changed(self.own_app.snapshot)

    def on_screen_resume(self) -> None:
        if self.recordings:
            self.own_app.look_again()

    def action_refresh_runs(self) -> None:
        self.own_app.look_again()

    def trace_changed(self, snapshot: Snapshot) -> None:
        here = self._here
        before = {recording.name: recording for recording in self.recordings}
        self.recordings = list(snapshot.recordings)
        names = [recording.name for recording in self.recordings]
        self.marked = [name for name in self.marked if name in names]
        if snapshot.error and snapshot.error != self._error:
            self.say(snapshot.error, "error")
        self._error = snapshot.error
        newest = names[-1] if names else None
        wanted = newest if self.following else here
        self.redraw(names.index(wanted) if wanted in names else None)
        if self.is_current and before:
            for recording in self.recordings:
                self._announce(before.get(recording.name), recording)

    def _announce(self, before: Recording | None, now: Recording) -> None:
        """Say what has become of a recording that was under way."""
        if before is None or before.created != now.created:
            self.say(f"'{now.name}' is being recorded" if now.state == "recording" else f"'{now.name}' was recorded")
        elif before.state == "recording" and now.state != before.state:
            bad = now.state != "complete"
            self.say(f"'{now.name}' is {now.state}: {saved_text(now)} saved", "warning" if bad else "information")

    @property
    def _here(self) -> str | None:
        """The recording under the cursor."""
        place = self.grid.cursor
        return self.recordings[place].name if 0 <= place < len(self.recordings) else None

    def action_follow(self) -> None:
        self.following = not self.following
        if self.following:
            self.grid.cursor = len(self.recordings) - 1
        self.redraw()

    def on_resize(self, _: events.Resize) -> None:
        self.redraw()

    def on_grid_highlighted(self, _: Grid.Highlighted) -> None:
        self._advise()

    def action_mark(self) -> None:
        if not self.recordings:
            return
        name = self.recordings[self.grid.cursor].name
        if name in self.marked:
            self.marked.remove(name)
        else:
            self.marked = [*self.marked[:1], name]
        self.redraw()

    def action_open(self) -> None:
        """Compare: the two that are marked, or the one under the cursor with the marked one, or the only two."""
        names = list(self.marked)
        if not self.recordings:
            self.say("Record a model first: the command is shown below")
            return
        here = self.recordings[self.grid.cursor].name
        if len(names) == 1 and here != names[0]:
            names.append(here)
        elif not names and len(self.recordings) == 2:
            names = [recording.name for recording in self.recordings]
        if len(names) < 2:
            self.say(f"Mark the reference with {self.key('mark')}, then the candidate")
            return
        by_name = {recording.name: recording for recording in self.recordings}
        chosen = by_name[names[0]], by_name[names[1]]
        for recording in chosen:
            if fault := _fault(recording):
                self.say(fault, "warning")
                return
            if not recording.summaries and not recording.steps and recording.state != "recording":
                self.say(f"'{recording.name}' holds no activations ({recording.state}): record it again", "warning")
                return
        self.own_app.compare(*chosen)

    def action_back(self) -> None:
        unsaved = [] if self._warned else self.session.unsaved
        if unsaved:
            self._warned = True
            names = ", ".join(" ⇄ ".join(one) for one in unsaved)
            self.say(f"The pairs of {names} were edited and not saved: compare them, m, ^s; q again leaves", "warning")
            return
        self.app.exit(0)

    def redraw(self, cursor: int | None = None) -> None:
        look, root = self.look, str(self.session.trace.root)
        total = sum(_size(recording) for recording in self.recordings)
        count = len(self.recordings)
        what = f"{count} recording{'s' * (count != 1)}, {words.bytes_text(total)}" if count else "no recordings"
        self.query_one("#title", Lines).show(
            look.join(
                ("tracer", "key"), "  recordings in ", (root, "bold"), "   ", (what, "dim"), (self._mode(), "key")
            )
        )
        fields = [
            Field("", 0, lambda row: self._mark_of(row)),
            Field("name", 0, lambda row: look.text(self.recordings[row].name), least=10),
            Field("framework", 3, lambda row: look.text(_framework(self.recordings[row]))),
            Field("model", 2, lambda row: look.text(self.recordings[row].model), least=10),
            Field("saved", 1, lambda row: self._saved(row), right=True),
            Field("input", 4, lambda row: self._input(row), least=8),
            Field("size", 5, lambda row: look.text(words.bytes_text(_size(self.recordings[row]))), right=True),
            Field("recorded", 6, lambda row: look.text(ago(self.session.now() - self.recordings[row].created))),
            Field("state", 1, lambda row: self._state(row), least=12),
        ]
        columns, shown = fit(fields, count, self.grid.size.width or self.size.width, look)
        self.grid.empty = look.text(self._error or "nothing recorded yet", "dim")
        self.grid.show(
            columns,
            count,
            lambda row: [field.cell(row) for field in shown],
            cursor=self.grid.cursor if cursor is None else cursor,
        )
        self._advise()

    def _mode(self) -> str:
        return ("   following" if self.following else "") + ("   paused" if self.session.paused else "")

    def _mark_of(self, row: int) -> Text:
        name = self.recordings[row].name
        if name not in self.marked:
            return Text(" ")
        first = self.marked[0] == name
        return self.look.text("R" if first else "C", "reference" if first else "candidate")

    def _saved(self, row: int) -> Text:
        recording = self.recordings[row]
        text = saved_text(recording)
        saved, _, planned = text.partition("/")
        return self.look.text(text, "" if saved == planned else "noise")

    def _input(self, row: int) -> Text:
        """The input's identity; the ones that equal the reference's (or the first recording's) read "same"."""
        recording = self.recordings[row]
        anchor = next((r for r in self.recordings if r.name in self.marked[:1]), self.recordings[0])
        if recording is not anchor and recording.input_id == anchor.input_id:
            return self.look.text("same", "dim")
        other = recording.input_id != anchor.input_id
        return self.look.text(recording.input_id or "?", "noise" if other else "")

    def _state(self, row: int) -> Text:
        recording = self.recordings[row]
        if recording.state == "complete":
            return self.look.text("complete", "dim")
        why = recording.attributes.get("error")
        text = recording.state + (f": {why}" if why else "")
        return self.look.text(text, "noise" if recording.state == "recording" else "diverged")

    def _advise(self) -> None:
        """What to do next."""
        look, out = self.look, Text()
        if self._error:
            out = look.text(self._error, "diverged")
        elif len(self.recordings) < 2:
            have = self.recordings[0].framework if self.recordings else ""
            kinds = {"tensorflow": ["pt"], "pytorch": ["tf"]}.get(have, ["tf", "pt"][: 2 - len(self.recordings)])
            out.append_text(Text("Comparing needs two recordings of one input. In a shell:\n"))
            option = _option(str(self.session.trace.root))
            for kind in kinds:
                out.append_text(look.text(f"  tracer record {kind} MODEL{option}", "bold")).append("\n")
            out.append_text(look.text("What is recorded appears here by itself.", "dim"))
        elif len(self.marked) == 2:
            out = look.join((self.marked[0], "reference"), " is the reference, ", (self.marked[1], "candidate"))
            out.append_text(look.join(" the candidate. ", (self.key("open"), "key"), " compares them."))
        elif self.marked:
            out = look.join((self.marked[0], "reference"), " is the reference. Move to the candidate; ")
            out.append_text(look.join((self.key("open"), "key"), " compares."))
        elif len(self.recordings) == 2:
            names = [recording.name for recording in self.recordings]
            out = look.join((self.key("open"), "key"), " compares ", (names[1], "candidate"), " with ")
            out.append_text(look.join((names[0], "reference"), ", the reference; ", (self.key("mark"), "key")))
            out.append_text(look.join(" on ", (names[1], "candidate"), " makes that the reference."))
        else:
            mark = self.key("mark")
            out = look.join((mark, "key"), " marks the reference, ", (mark, "key"), " again the candidate; ")
            out.append_text(look.join((self.key("open"), "key"), " compares."))
        self.query_one(Panel).show(look.text("next"), out)


def _option(root: str) -> str:
    return "" if root == "trace.zarr" else f" --trace {shlex.quote(root)}"


def _framework(recording: Recording) -> str:
    versions = recording.attributes.get("versions")
    package = {"pytorch": "torch"}.get(recording.framework, recording.framework)
    version = versions.get(package) if isinstance(versions, dict) else None
    return f"{recording.framework} {version}" if version else recording.framework


def _fault(recording: Recording) -> str:
    """What of a recording cannot be read; empty where all can."""
    try:
        _ = recording.structure, recording.summaries
    except (TracerError, OSError) as error:
        return f"'{recording.name}': {error}"
    return ""


def _activations(recording: Recording) -> int:
    try:
        return len(recording.summaries)
    except (TracerError, OSError):
        return 0


def saved_text(recording: Recording) -> str:
    """How many of the activations were saved: ``12/34``."""
    with contextlib.suppress(TracerError):
        return f"{_activations(recording)}/{recording.planned}"
    return "?"


def _size(recording: Recording) -> int:
    try:
        return recording.nbytes
    except (TracerError, OSError, ValueError):
        return 0


def ago(seconds: float) -> str:
    """``12 s ago``; days from two on."""
    if seconds < 1:
        return "now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= (2 if unit == "d" else 1) * length:
            return f"{int(seconds // length)} {unit} ago"
    return "now"
