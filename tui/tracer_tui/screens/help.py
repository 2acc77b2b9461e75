"""All keys of the screen below, and what the glyphs mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from tracer.compare import Verdict
from tracer_tui import actions
from tracer_tui.widgets.framed import Framed

if TYPE_CHECKING:
    from tracer_tui.app import TracerApp
    from tracer_tui.look import Look

_MEANING = {
    Verdict.MATCH: "within the tolerance",
    Verdict.NOISE: "outside the tolerance, but no more than rounding at this depth",
    Verdict.DIVERGED: "differs although its inputs agree: look here first",
    Verdict.INHERITED: "differs, and its input differed already",
    Verdict.UNMATCHED: "has no twin in the other model",
    Verdict.NOT_COMPARABLE: "could not be compared",
}


def _legend(area: str, look: Look) -> Iterator[tuple[Text, str, str]]:
    """The glyphs of a screen, what they are called and what they mean."""
    if area in ("weights", "weight"):
        from tracer.report.weights import ASCII_GLYPHS, GLYPHS
        from tracer_tui import weights

        for status, meaning in weights.MEANING.items():
            glyph = (ASCII_GLYPHS if look.ascii_only else GLYPHS)[status]
            yield look.text(glyph, weights.STYLES[status]), status, meaning
    elif area == "mapping":
        from tracer_tui import pairing

        for state, meaning in pairing.MEANING.items():
            glyph, plain, style = pairing.GLYPHS[state]
            yield look.text(plain if look.ascii_only else glyph, style), state, meaning
    else:
        for verdict, meaning in _MEANING.items():
            yield look.mark(verdict), verdict, meaning


class HelpBox(VerticalScroll, Framed):
    """All keys."""


class HelpScreen(ModalScreen[None]):
    """Closed by the keys that close anything."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,question_mark,f1,enter", "dismiss", "Close"),
        ("j,down", "scroll(1)", "Down"),
        ("k,up", "scroll(-1)", "Up"),
    ]
    DEFAULT_CSS = """
    HelpScreen {
        align: center middle;
        & > HelpBox {
            width: 78; max-width: 100%; height: auto; max-height: 100%; padding: 0 2; scrollbar-size-vertical: 1;
        }
        & Static { height: auto; }
    }
    """

    def __init__(self, area: str) -> None:
        super().__init__()
        self._area = area

    def compose(self) -> ComposeResult:
        with HelpBox():
            yield Static(self._content(), markup=False)

    def on_mount(self) -> None:
        look = cast("TracerApp", self.app).look
        self.query_one(HelpBox).entitle(look.text("keys"), look.text("esc closes"))

    def action_scroll(self, lines: int) -> None:
        self.query_one(HelpBox).scroll_relative(y=lines, animate=False)

    def _content(self) -> Text:
        app = cast("TracerApp", self.app)
        look, out = app.look, Text()
        for action in actions.of(self._area, app.session.keymap):
            keys = " ".join(actions.shown(key) for key in action.keys)
            out.append_text(look.text(keys.rjust(11), "key")).append("  ")
            out.append_text(look.text(action.help)).append("\n")
        out.append_text(look.text("^q".rjust(11), "key")).append_text(Text("  Leave at once\n"))
        if self._area != "runs":
            out.append("\n")
            for mark, word, meaning in _legend(self._area, look):
                out.append(" " * 10).append_text(mark)
                out.append_text(look.text(f"  {word.replace('-', ' ')}: {meaning}")).append("\n")
        if self._area == "layers":
            out.append("\n").append_text(
                look.text(
                    "Filter terms, all of which must hold: a word of either name or the operation; is:diverged and the "
                    "other verdicts; op:conv* and name:enc/* with * and ?; err>1e-4 for max|Δ|, rel>1e-3 for rel L2."
                )
            )
        out.rstrip()
        return out
