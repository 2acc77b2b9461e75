"""A few of the files of ``scripts/battery files``, and that its payloads would act where nothing held them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("tf_keras")
pytest.importorskip("onnx")

from tests import cli
from tests.battery import Tally, _mutations, files
from tests.battery._attack import Listener, attack, attempt, place

_SHOWN = (
    "os.system, old format", "as a hook", "TorchScript, on loading", "Keras 3 Lambda in .h5", "Keras 2 .json get_file",
    ".keras external", "ReadFile in a .pb", "WriteFile as initializer", "objects in an archive", "deep lists",
    "a pipe as m.yaml",
)  # fmt: skip
_ACTING = {
    "connect": "opened a connection", "TorchScript, on loading": "ran code",
    "ReadFile in a .pb": "what no model may read",
}  # fmt: skip


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def test_payloads_do_nothing(listener: Listener) -> None:
    tally = Tally()
    chosen = [case for case in files.payloads() if case.name in _SHOWN]
    assert {case.name for case in chosen} == set(_SHOWN)
    for case in chosen:
        attack(case, listener, tally)
    assert tally.broken == []
    assert tally.cases > len(chosen)


@pytest.mark.parametrize("name", list(_ACTING))
def test_payloads_would_act(name: str, listener: Listener) -> None:
    """Consented to, and without a sandbox: what the battery looks for is there to be seen."""
    case = next(case for case in files.payloads() if case.name == name)
    with place(listener) as where:
        trusted = next(command for command in case.make(where) if "--trust" in command)
        fault, _ = attempt((*trusted, "--no-sandbox"), where, listener)
        assert _ACTING[name] in fault


def test_the_formats_load_undamaged(listener: Listener) -> None:
    """Else nothing would be shown by what damage does."""
    for form in _mutations.formats():
        if not form.recordings and form.name in ("keras", "SavedModel", "pt2 --trust"):
            with place(listener) as where:
                for name, raw in form.files().items():
                    (where.work / name).parent.mkdir(parents=True, exist_ok=True)
                    (where.work / name).write_bytes(raw)
                cli.run(*form.command, cwd=where.work)


@pytest.mark.parametrize("name", ["pt", "h5", "packed trace, tracer diff"])
def test_damaged_files_are_one_line(name: str, listener: Listener) -> None:
    tally = Tally()
    for form in _mutations.chosen([name]):
        _mutations.run(form, 3, 1, listener, tally)
    assert tally.broken == []
    assert tally.cases == 3
