"""The documents of ``--json`` as flat rows: what CSV, lines of JSON and Markdown tables are made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """How one document is laid out.

    Attributes:
        lists: the keys of the document's lists whose items are the lines of JSONL.
        columns: of CSV and Markdown, in order; later versions add to their end only.
        rows: the document's rows, each with a value (or None) for every column.
        names: columns of names and code, which Markdown sets as code.
        title: what the document is, in words.
    """

    lists: tuple[str, ...]
    columns: tuple[str, ...]
    rows: Callable[[Document], Iterator[Row]]
    names: frozenset[str]
    title: str


def table_of(document: Document) -> Table:
    """The layout of a document, by its ``schema``. Raises KeyError for one that has none."""
    kind = str(document["schema"]).partition("/")[0]
    if kind == "tracer-graft" and "defects" not in document:
        return _GRAFTED
    return _TABLES[kind]


def joined(names: Sequence[str] | None) -> str | None:
    """The nodes or parameters of one side of a pair in one cell."""
    return None if names is None else " + ".join(names)


def axes(pair: Mapping[str, Any]) -> str | None:
    """A pair's axes: ``0 2 1`` (which of the candidate's each of the reference's is), or its arrangement's pattern."""
    if pair["arrangement"] is not None:
        return str(pair["arrangement"]["pattern"])
    return None if pair["axes"] is None else " ".join("-" if axis is None else str(axis) for axis in pair["axes"])


def _shape(shape: Sequence[int] | None) -> str | None:
    return None if shape is None else "x".join(map(str, shape))


def _diff(document: Document) -> Iterator[Row]:
    # The fewer pairs share a finding, the more it says of each of them.
    shared = sorted(document["causes"], key=lambda one: len(one["pairs"]), reverse=True)
    causes = {name: one for one in shared for name in one["pairs"]}
    for number, pair in enumerate(document["pairs"]):
        cause = causes.get(pair["aligned"]) if pair["verdict"] == "diverged" else None
        ours, theirs = pair["operation"]["reference"], pair["operation"]["candidate"]
        yield {
            "number": number,
            **{key: pair[key] for key in ("verdict", "max_abs", "mean_abs", "rel_l2", "cosine", "outside", "local")},
            "reference": joined(pair["reference"]), "candidate": joined(pair["candidate"]),
            "operation": ours if ours == theirs else f"{ours} / {theirs}",
            "shape": _shape(pair["shape"]), "axes": axes(pair),
            "floor": pair["floor"], "confidence": pair["confidence"],
            "cause": cause and cause["cause"], "fix": cause and cause["fix"], "reason": pair["reason"],
        }  # fmt: skip
    for side, names in document["unmatched"].items():
        for name in names:
            yield {"verdict": "unmatched", side: name, "reason": f"no twin in the {_OTHER[side]}"}


_OTHER = {"reference": "candidate", "candidate": "reference"}


def _explain(document: Document) -> Iterator[Row]:
    for one in (*document["causes"], *document["latent"]):
        details, proof = one["details"], one["proof"]
        yield {
            **{key: one[key] for key in ("pair", "status", "cause", "fix")}, "pairs": len(one["pairs"]),
            "what": "; ".join(cause["what"] for cause in details), "before": proof["before"], "after": proof["after"],
            "floor": proof["floor"],
            "source": next((cause["source"] for cause in details if cause["source"]), None),
        }  # fmt: skip


def _weights(document: Document) -> Iterator[Row]:
    for row in document["rows"]:
        figures = row["figures"] or {}
        sides = {side: row[side] for side in _OTHER}
        yield {
            **{key: row[key] for key in ("aligned", "status", "role", "relation", "confidence")},
            **{side: joined([_parameter(one) for one in found]) for side, found in sides.items()},
            **{f"{side}_shape": joined([_shape(one["shape"]) or "" for one in found]) for side, found in sides.items()},
            **{key: figures.get(key) for key in ("max_abs", "mean_abs", "rel_max", "rel_l2")},
            "says": row["likeness"]["text"] if row["likeness"] else row["reason"],
        }  # fmt: skip


def _parameter(one: Mapping[str, Any]) -> str:
    return f"{one['owner']}/{one['name']}" if one["owner"] else str(one["name"])


def _map(document: Document) -> Iterator[Row]:
    for pair in document["pairs"]:
        yield {
            "status": "paired", "reference": joined(pair["reference"]), "candidate": joined(pair["candidate"]),
            "shape": _shape(pair["shape"]), "axes": axes(pair), "confidence": pair["confidence"],
        }  # fmt: skip
    for one in document["ambiguous"]:
        likely, confidence = one["candidates"][0] if one["candidates"] else (None, None)
        yield {"status": "ambiguous", "reference": joined(one["reference"]), "candidate": likely,
               "confidence": confidence, "reason": one["reason"]}  # fmt: skip
    open_ = {name for one in document["ambiguous"] for name in one["reference"]}
    for side, names in document["unmatched"].items():
        for name in names:
            if side != "reference" or name not in open_:
                yield {"status": "unmatched", side: name, "reason": f"no twin in the {_OTHER[side]}"}


def _runs(document: Document) -> Iterator[Row]:
    keys = ("name", "state", "framework", "model", "loader", "mode", "reference", "pairs", "activations", "planned",
            "gradients", "bytes", "created", "error")  # fmt: skip
    for run in document["recordings"]:
        model, given = run["model"], run["input"]
        yield {
            **{key: run[key] for key in keys}, "created": _moment(run["created"]), "steps": len(run["steps"]) or None,
            "model": model.get("name") or model.get("class") if isinstance(model, Mapping) else model,
            "input": given.get("id") if isinstance(given, Mapping) else given,
        }  # fmt: skip


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _steps(document: Document) -> Iterator[Row]:
    for one in document["steps"]:
        yield {key: one.get(key) for key in ("step", "verdict", "first", "first_error", "error")}


def _defects(document: Document) -> Iterator[Row]:
    for defect in document["defects"]:
        yield {**defect, "pairs": joined(defect["pairs"])}


def _outputs(document: Document) -> Iterator[Row]:
    for one in document["outputs"]:
        yield {
            "output": one["name"], "changed": one["changed"],
            **{f"{when}_{key}": one[when][key] for when in ("before", "after") for key in ("max_abs", "rel_l2")},
        }  # fmt: skip


def _growth(document: Document) -> Iterator[Row]:
    for pair in document["pairs"]:
        yield {"reference": pair["aligned"], "candidate": joined(pair["candidate"]), "grows": pair["grows"]}


FIGURES = frozenset(
    ["max_abs", "mean_abs", "rel_max", "rel_l2", "cosine", "outside", "local", "floor", "confidence", "before", "after",
     "first_error", "explains", "alone", "last", "grows", "changed",
     *(f"{when}_{key}" for when in ("before", "after") for key in ("max_abs", "rel_l2"))]
)  # fmt: skip
"""Columns of numbers any of which may be missing."""
_SIDES = frozenset({"reference", "candidate"})
_GRAFTED = Table(
    ("outputs",), ("output", "before_max_abs", "before_rel_l2", "after_max_abs", "after_rel_l2", "changed"), _outputs,
    frozenset({"output"}), "graft",
)  # fmt: skip
_TABLES = {
    "tracer-diff": Table(
        ("pairs",),
        ("number", "verdict", "reference", "candidate", "operation", "shape", "axes", "max_abs", "mean_abs", "rel_l2",
         "cosine", "outside", "local", "floor", "confidence", "cause", "fix", "reason"),
        _diff, _SIDES, "comparison",
    ),
    "tracer-explain": Table(
        ("causes", "latent"),
        ("pair", "status", "cause", "what", "fix", "pairs", "before", "after", "floor", "source"),
        _explain, frozenset({"pair", "fix", "source"}), "causes",
    ),
    "tracer-weights": Table(
        ("rows",),
        ("aligned", "status", "role", "reference", "candidate", "reference_shape", "candidate_shape", "relation",
         "max_abs", "mean_abs", "rel_max", "rel_l2", "confidence", "says"),
        _weights, _SIDES | {"aligned"}, "weights",
    ),
    "tracer-map": Table(
        ("pairs",), ("status", "reference", "candidate", "shape", "axes", "confidence", "reason"), _map, _SIDES,
        "mapping",
    ),
    "tracer-runs": Table(
        ("recordings",),
        ("name", "state", "framework", "model", "loader", "input", "mode", "reference", "pairs", "activations",
         "planned", "gradients", "steps", "bytes", "created", "error"),
        _runs, frozenset({"name", "model", "reference"}), "recordings",
    ),
    "tracer-steps": Table(
        ("steps",), ("step", "verdict", "first", "first_error", "error"), _steps, frozenset({"first"}), "steps"
    ),
    "tracer-graft": Table(
        ("defects",), ("pairs", "settings", "local", "explains", "alone", "last", "grows"), _defects,
        frozenset({"pairs"}), "graft",
    ),
    "tracer-growth": Table(
        ("pairs",), ("reference", "candidate", "grows"), _growth, _SIDES, "growth of small changes"
    ),
}  # fmt: skip
