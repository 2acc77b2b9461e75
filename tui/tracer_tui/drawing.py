"""The interface as a picture, without a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tracer_tui.app import TracerApp
from tracer_tui.session import Session

if TYPE_CHECKING:
    from textual.pilot import Pilot

_TURNS = 3


def picture(session: Session, size: tuple[int, int], keys: Sequence[str] = ()) -> str:
    """The screen as SVG once all is computed and ``keys``, by Textual's names, were pressed one after the other.

    Args:
        size: columns and lines.
    """
    found: list[str] = []

    async def pilot(pilot: Pilot[Any]) -> None:
        await _settle(pilot)
        for key in keys:
            await pilot.press(key)
            await _settle(pilot)
        found.append(pilot.app.export_screenshot(title=f"tracer {session.trace.root.name}"))
        pilot.app.exit()

    app = TracerApp(session)
    app.run(headless=True, size=size, auto_pilot=pilot)
    if not found:
        raise RuntimeError("the interface ended before it could be drawn")
    return found[0]


async def _settle(pilot: Pilot[Any]) -> None:
    """Wait until nothing is being computed."""
    for _ in range(_TURNS):
        await pilot.pause()
        await pilot.app.workers.wait_for_complete()
    await pilot.pause()
