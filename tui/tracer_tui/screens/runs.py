"""The recordings of the trace: mark two, compare them."""

from __future__ import annotations

import shlex
from typing import ClassVar

from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static

from tracer.report import words
from tracer.store import Recording, Trace
from tracer_tui import actions
from tracer_tui.columns import Field, fit
from tracer_tui.screens.base import TracerScreen
from tracer_tui.session import explain
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.lines import KeyBar, Lines


class RunsScreen(TracerScreen):
    """Opens when there is nothing to compare yet, or from Layers by going back."""

    AREA = "runs"
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("runs")

    class Loaded(Message):
        """The trace was read; ``error`` says what was wrong."""

        def __init__(self, recordings: list[Recording], error: str) -> None:
            super().__init__()
            self.recordings = recordings
            self.error = error

    def __init__(self) -> None:
        super().__init__()
        self.recordings: list[Recording] = []
        self.marked: list[str] = []
        self._error = ""

    def compose(self) -> ComposeResult:
        yield Lines(id="title")
        yield Grid()
        with Vertical(id="next", classes="panel"):
            yield Static("", markup=False)
        yield KeyBar("runs")

    def on_mount(self) -> None:
        super().on_mount()
        self.redraw()
        self._read()

    def on_screen_resume(self) -> None:
        if self.recordings:
            self._read()

    def action_refresh_runs(self) -> None:
        self._read()

    @work(thread=True, exclusive=True, group="runs", exit_on_error=False)
    def _read(self) -> None:
        try:
            found = Trace.open(self.session.trace.root).recordings()
            for recording in found:
                assert recording.structure is not None  # read here, off the screen's thread
        except Exception as error:
            self.post_message(self.Loaded([], explain(error)))
        else:
            self.post_message(self.Loaded(found, ""))

    @on(Loaded)
    def _loaded(self, event: Loaded) -> None:
        self.recordings, self._error = event.recordings, event.error
        names = {recording.name for recording in self.recordings}
        self.marked = [name for name in self.marked if name in names]
        if event.error:
            self.say(event.error, "error")
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
            self.say("Mark the reference with space, then the candidate")
            return
        by_name = {recording.name: recording for recording in self.recordings}
        chosen = by_name[names[0]], by_name[names[1]]
        for recording in chosen:
            if not recording.summaries:
                self.say(f"'{recording.name}' holds no activations ({recording.state}): record it again", "warning")
                return
        self.own_app.compare(*chosen)

    def action_back(self) -> None:
        self.app.exit(0)

    def redraw(self) -> None:
        look, root = self.look, str(self.session.trace.root)
        total = sum(_size(recording) for recording in self.recordings)
        count = len(self.recordings)
        what = f"{count} recording{'s' * (count != 1)}, {words.bytes_text(total)}" if count else "no recordings"
        self.query_one("#title", Lines).show(
            look.join(("tracer", "key"), "  recordings in ", (root, "bold"), "   ", (what, "dim"))
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
        self.grid.show(columns, count, lambda row: [field.cell(row) for field in shown], cursor=self.grid.cursor)
        self._advise()

    def _mark_of(self, row: int) -> Text:
        name = self.recordings[row].name
        if name not in self.marked:
            return Text(" ")
        first = self.marked[0] == name
        return self.look.text("R" if first else "C", "reference" if first else "candidate")

    def _saved(self, row: int) -> Text:
        recording = self.recordings[row]
        saved, planned = _activations(recording), recording.planned
        return self.look.text(f"{saved}/{planned}", "" if saved == planned else "noise")

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
        panel = self.query_one("#next", Vertical)
        panel.border_title = look.text("next")
        if self._error:
            out = look.text(self._error, "diverged")
        elif len(self.recordings) < 2:
            have = self.recordings[0].framework if self.recordings else ""
            kinds = {"tensorflow": ["pt"], "pytorch": ["tf"]}.get(have, ["tf", "pt"][: 2 - len(self.recordings)])
            out.append_text(Text("Comparing needs two recordings of one input. In a shell:\n"))
            option = _option(str(self.session.trace.root))
            for kind in kinds:
                out.append_text(look.text(f"  tracer record {kind} MODEL{option}", "bold")).append("\n")
            out.append_text(look.join("then ", ("r", "key"), " here."))
        elif len(self.marked) == 2:
            out = look.join((self.marked[0], "reference"), " is the reference, ", (self.marked[1], "candidate"))
            out.append_text(look.join(" the candidate. ", ("enter", "key"), " compares them."))
        elif self.marked:
            out = look.join((self.marked[0], "reference"), " is the reference. Move to the candidate; ")
            out.append_text(look.join(("enter", "key"), " compares."))
        else:
            out = look.join(("space", "key"), " marks the reference, ", ("space", "key"), " again the candidate; ")
            out.append_text(look.join(("enter", "key"), " compares."))
        out.no_wrap = False
        self.query_one("#next Static", Static).update(out)


def _option(root: str) -> str:
    return "" if root == "trace.zarr" else f" --trace {shlex.quote(root)}"


def _framework(recording: Recording) -> str:
    versions = recording.attributes.get("versions")
    package = {"pytorch": "torch"}.get(recording.framework, recording.framework)
    version = versions.get(package) if isinstance(versions, dict) else None
    return f"{recording.framework} {version}" if version else recording.framework


def _activations(recording: Recording) -> int:
    try:
        return len(recording.summaries)
    except OSError:
        return 0


def _size(recording: Recording) -> int:
    try:
        return recording.nbytes
    except (OSError, ValueError):
        return 0


def ago(seconds: float) -> str:
    """``12 s ago``; days from two on."""
    if seconds < 1:
        return "now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= (2 if unit == "d" else 1) * length:
            return f"{int(seconds // length)} {unit} ago"
    return "now"
