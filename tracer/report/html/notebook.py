"""What a notebook shows of a result: fragments of HTML without a script, in whatever colours the notebook has."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tracer.report import graft as grafting
from tracer.report.html import charts, sections
from tracer.report.html.gathering import gather
from tracer.report.html.rendering import asset, environment, heading

if TYPE_CHECKING:
    from tracer.causes.explain import Explained
    from tracer.compare import Diff
    from tracer.rerun.grafted import Explanation, Graft
    from tracer.store import Recording
    from tracer.weighing.table import WeightTable

_ROWS = 200


def fragment(result: Diff | Explained | WeightTable | Graft | Explanation | Sequence[Recording]) -> str:
    """A result in short: a comparison, an explanation, a table of weights, a graft, or what a trace holds."""
    from tracer.causes.explain import Explained
    from tracer.compare import Diff
    from tracer.rerun.grafted import Explanation, Graft
    from tracer.weighing.table import WeightTable

    if isinstance(result, Diff):
        return _rendered("diff", **_compared(result))
    if isinstance(result, Explained):
        report = gather(result.diff, within=0, weights=False, explained=result)
        return _rendered("explained", heading=heading(report), causes=sections.causes_of(result, report.rows))
    if isinstance(result, WeightTable):
        return _rendered("weights", weights=sections.weights_of(result), names=_names(result), most=_ROWS)
    if isinstance(result, Graft | Explanation):
        return _rendered(
            "graft", graft=grafting.told(result), head=grafting.head(result), verdict=grafting.verdict(result)
        )
    return _rendered("recordings", recordings=[sections.described(recording) for recording in result])


def _compared(diff: Diff) -> dict[str, Any]:
    report = gather(diff, within=0, weights=False)
    return {
        "heading": heading(report), "rows": report.rows[:_ROWS], "cut": len(report.rows) - _ROWS,
        "names": _names(diff), "profile_height": charts.HEIGHT, "commands": report.commands,
    }  # fmt: skip


def _names(result: Diff | WeightTable) -> tuple[str, str]:
    return result.reference.name, result.candidate.name


def _rendered(what: str, **values: Any) -> str:
    return environment().get_template("fragment.html").render(what=what, style=asset("base.css"), **values)


def shown(result: object) -> bool:
    """Show a result where this is a notebook; whether it is one."""
    module = sys.modules.get("IPython")  # in a notebook it is there, and nowhere else is it wanted
    shell = None if module is None else module.get_ipython()
    if shell is None or getattr(shell, "kernel", None) is None:
        return False
    from importlib import import_module

    import_module("IPython.display").display(result)
    return True
