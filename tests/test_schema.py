"""The JSON Schemas: they are made of the models, and real outputs of every command keep to them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import typer

import tracer
from tests import cli
from tests.live_driving import daemon, until
from tests.test_steps import series, write
from tracer import schemas
from tracer.cli.exportapp import app
from tracer.cli.main import run
from tracer.exporting import files as exported
from tracer.schemas import models
from tracer.store import Trace

ROOT = Path(__file__).parent.parent


def check(name: str, document: Any) -> Any:
    """Raises ValidationError where the document does not keep to the schema."""
    jsonschema.Draft202012Validator(schemas.load(name)).validate(document)
    return document


def printed(*arguments: object, code: int | None = 0) -> Any:
    """What a command of this process prints as JSON."""
    out = io.StringIO()
    with redirect_stdout(out):
        ended = run([*map(str, arguments), "--json"])
    assert code is None or ended == code, out.getvalue()
    return json.loads(out.getvalue())


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_a_schema_is_what_its_model_says_and_a_valid_one(name: str) -> None:
    assert schemas.text(name) == models.dumped(name), "python -m tracer.schemas writes it anew"
    found = schemas.load(name)
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$schema"] == models.DRAFT
    assert found["description"]
    for one in closed(found):
        assert one["additionalProperties"] is False, one.get("description")
        assert one["description"]


def closed(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects of a schema that have keys of their own."""
    for one in [schema, *schema.get("$defs", {}).values()]:
        if "properties" in one:
            yield one


def test_every_document_has_a_schema() -> None:
    named = {
        found
        for folder in ("tracer", "tui", "adapters")
        for path in (ROOT / folder).rglob("*.py")
        if "schemas" not in path.parts
        for found in re.findall(r'"tracer-([a-z-]+)/(\d+)"', path.read_text("utf-8"))
    }
    described = {
        tuple(one["properties"]["schema"]["const"].removeprefix("tracer-").split("/"))
        for name in schemas.names()
        for one in closed(schemas.load(name))
        if "schema" in one["properties"]
    }
    assert named == described
    assert sorted(models.MODELS) == schemas.names()


PRINTS = {
    "diff": "diff", "explain": "explain", "export": "export", "graft": "graft", "info": "info", "inspect": "inspect",
    "map": "map", "pack": "pack", "pull": "copy", "push": "copy", "record": "record", "runs": "runs", "show": "show",
    "status": "daemon", "steps": "steps", "transfer": "transfer", "watch": "event", "weights": "weights",
}  # fmt: skip
"""Which document each command prints with --json; the tests here hold outputs of all against their schemas, those of
``watch`` and ``push`` where there is a daemon and a server."""


def test_every_command_that_prints_json_is_held_against_a_schema() -> None:
    def names(group: Any) -> Iterator[str]:
        for command in group.commands.values():
            if hasattr(command, "commands"):
                yield from names(command)
            elif any("--json" in parameter.opts for parameter in command.params):
                yield command.name

    assert set(names(typer.main.get_command(app))) == set(PRINTS)
    assert set(PRINTS.values()) | {"baseline", "graphs", "growth"} == set(schemas.names())


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == schemas.names()
    assert run(["schema", "diff"]) == 0
    assert json.loads(capsys.readouterr().out) == schemas.load("diff")
    assert run(["schema", "dif\x1b"]) == 2
    assert r"no schema 'dif\x1b': baseline" in capsys.readouterr().err


def test_what_only_reads_a_trace(real_trace: Path, tmp_path: Path) -> None:
    option = ("--trace", real_trace)
    found = check("diff", printed("diff", *option, code=1))
    assert found["causes"]
    check("diff", printed("diff", *option, "--atol", "100"))
    for change in ({"pairs": None}, {"new": 1}, {"schema": "tracer-diff/2"}):
        with pytest.raises(jsonschema.ValidationError):
            check("diff", {**found, **change})
    for key in found:
        with pytest.raises(jsonschema.ValidationError):
            check("diff", {name: value for name, value in found.items() if name != key})
    with pytest.raises(jsonschema.ValidationError):
        check("diff", {**found, "pairs": [{**found["pairs"][0], "more": 1}]})
    check("explain", printed("explain", *option, code=1))
    check("weights", printed("weights", *option, code=None))
    check("map", printed("map", *option))
    check("runs", printed("runs", *option))
    check("info", printed("info"))
    shown = check("show", printed("show", "tf", *option))["tensors"]
    one = check("show", printed("show", "pt", "conv1", "--values", *option))["tensors"][0]
    assert one["twin"]["pair"]["verdict"] == "match"
    assert one["weights"]
    assert len(shown) > 1
    check("show", printed("show", "pt", "conv1/weight", *option))
    told = check("export", printed("export", "tf", "-o", tmp_path / "one.npz", "--weights", *option))
    assert {entry["kind"] for entry in told["tensors"]} == {"activation", "weight"}
    check("export", printed("export", "pt", "-o", f"{tmp_path}/folder/", "--like", "tf", *option))
    check("export", json.loads((tmp_path / "folder" / exported.INDEX).read_text()))
    check("graphs", printed("export", "--model-explorer", tmp_path / "graphs.json", *option))
    accepted = tmp_path / "accepted.json"
    printed("diff", *option, "--write-baseline", accepted)
    assert check("baseline", json.loads(accepted.read_text()))["accepted"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pickled models that differ in an epsilon, recorded with gradients."""
    folder = tmp_path_factory.mktemp("files")
    for name, epsilon in (("a", 1e-5), ("b", 1e-1)):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8, eps=epsilon), torch.nn.ReLU(), torch.nn.Linear(8, 2)]
        torch.save(torch.nn.Sequential(*layers).eval(), folder / f"{name}.pt")
        done = cli.run(
            "record", "pt", f"{name}.pt", "--name", name, "--input-shape", "2,4", "--grad", "--json", cwd=folder
        )  # fmt: skip
        check("record", json.loads(done.stdout))
    return folder


def test_what_runs_models_again(files: Path) -> None:
    def asked(*arguments: object, code: int | None = 0) -> Any:
        return json.loads(cli.run(*arguments, "--json", cwd=files, code=code).stdout)

    assert check("inspect", asked("inspect", "a.pt"))["parameters"]
    assert check("diff", asked("diff", "--local", code=1))["pairs"][2]["local"]
    assert check("diff", asked("diff", "--gradients", code=1))["of"] == "gradients"
    assert check("explain", asked("explain", "--verify", code=1))["verified"]["agrees"]
    assert check("graft", asked("graft"))["defects"]
    assert check("graft", asked("graft", "--at", "1"))["at"]
    assert check("growth", asked("graft", "--grows"))["pairs"]
    told = check("transfer", asked("transfer", "--from", "a", "--to", "b", "-o", "c.pt", "--anyway"))
    assert told["diff"]
    assert check("runs", asked("runs"))["recordings"][0]["model"]["load"]
    assert check("pack", asked("pack", "a"))["recordings"]


def test_shares_of_a_graft_have_no_bounds(tmp_path: Path) -> None:
    """Of two mistakes one makes up for half of the other: repaired alone it takes away twice what there is, and the
    other adds as much again."""

    def net(first: float, second: float) -> torch.nn.Module:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)).eval()
        with torch.no_grad():
            model[1].weight.copy_(torch.eye(3))
            model[0].bias += first
            model[1].bias += second
        return model

    models = net(0, 0), net(1, -0.5)
    a = tracer.record(models[0], torch.ones(2, 3), name="a", trace=tmp_path / "t.zarr")
    b = tracer.record(models[1], name="b", trace=tmp_path / "t.zarr")
    one = check("graft", tracer.graft(a, b, models=models, at="0").to_json())
    assert one["explained"] == pytest.approx(2, abs=1e-3)
    both = check("graft", tracer.graft(a, b, models=models).to_json())
    assert [defect["alone"] for defect in both["defects"]] == pytest.approx([2, -1], abs=1e-3)


def test_recordings_of_many_steps_and_the_daemon(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace = Trace.create(tmp_path / "trace.zarr")
    for name in ("a", "b"):
        with series(trace, name) as writer:
            for step in (0, 1):
                write(writer, step)
    found = check("steps", printed("steps", "a", "b", "--trace", trace.root))
    assert [one["verdict"] for one in found["steps"]] == ["match", "match"]
    model = torch.nn.Linear(3, 2)
    with daemon(tmp_path / "live.zarr"):
        with tracer.attach(model, to="daemon", name="one"):
            model(torch.full((2, 3), float("nan")))
            state = until(lambda: (now := printed("daemon", "status"))["last_events"] and now)
        check("daemon", state)
        for event in state["last_events"]:
            check("event", {key: value for key, value in event.items() if key != "kind"})
    capfd.readouterr()


def test_a_copy(tmp_path: Path) -> None:
    """Without a server: what is printed of one."""
    from tracer.cli import packing

    out = io.StringIO()
    with redirect_stdout(out):
        packing._told("", 3, {"trace": str(tmp_path), "url": "s3://bucket/path"}, True)
    check("copy", json.loads(out.getvalue()))
