"""Adapters that other distributions bring: found, named in errors, and kept from disturbing the others."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cli import ENVIRONMENT, refused, run
from tests.test_testing import write_example
from tracer import adapter as adapters
from tracer.errors import AdapterError, InputError, MissingFrameworkError

TEMPLATE = """
from tracer_toynet import ToyAdapter
class Mine(ToyAdapter):
    requires = {requires!r}
    extra = {extra!r}
"""


def install(folder: Path, name: str, entry: str, module: str, text: str) -> None:
    """A distribution as pip leaves it, with one adapter."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tracer.adapters]\n{entry}\n")
    if text:
        (folder / f"{module}.py").write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the example of docs/adapters.md as a distribution, and a model of it."""
    folder = tmp_path / "site"
    folder.mkdir()
    write_example(folder)
    install(folder, "tracer-toynet", "toy = tracer_toynet:ToyAdapter", "tracer_toynet", "")
    monkeypatch.syspath_prepend(str(folder))
    known = set(sys.modules)
    import toynet  # type: ignore[import-not-found]

    ones = toynet.Dense(np.ones((4, 2), "f4"), np.zeros(2, "f4"))
    toynet.save(toynet.Net({"dense": ones, "relu": toynet.ReLU()}), tmp_path / "net.toy")
    yield folder
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


def path(site: Path) -> str:
    return f"{ENVIRONMENT['PYTHONPATH']}:{site}"


def test_an_adapter_of_another_distribution_is_one_of_ours(site: Path, tmp_path: Path) -> None:
    assert {"pt", "tf", "toy"} <= set(adapters.names())
    import toynet

    net = toynet.load(tmp_path / "net.toy")
    assert adapters.for_object(net)[0] == "toy"
    assert adapters.claiming(tmp_path / "net.toy") == ("toy",)
    done = run("record", "toy", "net.toy", cwd=tmp_path, PYTHONPATH=path(site))
    assert "3 of 3 activations" in done.stdout
    text = run("inspect", "net.toy", cwd=tmp_path, PYTHONPATH=path(site)).stdout
    assert "dense" in text
    assert "parameters: 10 (10 trainable), 40 B" in text
    assert "adapter toy: ready: a .toy file" in run("info", cwd=tmp_path, PYTHONPATH=path(site)).stdout


def test_what_is_installed_while_the_program_runs_is_found(site: Path) -> None:
    assert "late" not in adapters.names()
    install(site, "tracer-late", "late = tracer_toynet:ToyAdapter", "tracer_toynet", "")
    assert "late" in adapters.names()


@pytest.mark.parametrize(
    ("extra", "says"), [("", "pip install tracer-more"), ("fast", "pip install 'tracer-more[fast]'")]
)
def test_a_missing_framework_names_the_adapters_own_distribution(site: Path, extra: str, says: str) -> None:
    text = TEMPLATE.format(requires=("no_such.framework",), extra=extra)
    install(site, "tracer-more", "more = more:Mine", "more", text)
    with pytest.raises(MissingFrameworkError) as caught:
        adapters.get("more")
    assert str(caught.value) == f"'more' needs no_such.framework: {says}"
    assert adapters.get("more", check=False).framework == "toynet"


BROKEN = {
    "raises": ("broken = broken:Mine", "raise RuntimeError('no\\nlicence')",
        "cannot be imported: RuntimeError: no licence"),
    "exits": ("broken = broken:Mine", "raise SystemExit(3)", "cannot be imported: SystemExit"),
    "lacks a module": ("broken = broken:Mine", "import no_such_module", "cannot be imported: ModuleNotFoundError"),
    "is no adapter": ("broken = broken:Mine", "class Mine: pass", "broken:Mine is no subclass of Adapter"),
    "is no class": ("broken = broken:Mine", "Mine = 3", "broken:Mine is no subclass of Adapter"),
    "has no methods": ("broken = broken:Mine", "from tracer.adapter import Adapter\nclass Mine(Adapter): pass",
        "does not say framework, requires, formats, load, owns, preflight, wrap"),
    "wants arguments": ("broken = broken:Mine", "from tracer_toynet import ToyAdapter\nclass Mine(ToyAdapter):\n"
        "    def __init__(self, more): pass", "is broken: TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_adapter_is_named_and_disturbs_no_other(fault: str, site: Path, tmp_path: Path) -> None:
    entry, text, says = BROKEN[fault]
    install(site, "tracer-broken", entry, "broken", text)
    with pytest.raises(AdapterError) as caught:
        adapters.get("broken")
    assert "'broken' of tracer-broken" in str(caught.value)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert adapters.get("toy").framework == "toynet"
    if fault != "wants arguments":  # that one is a class, which claims and owns what it says
        assert adapters.claiming(tmp_path / "net.toy") == ("toy",)
        import toynet

        assert adapters.for_object(toynet.load(tmp_path / "net.toy"))[0] == "toy"


def test_the_command_line_with_a_broken_adapter(site: Path, tmp_path: Path) -> None:
    install(site, "tracer-broken", "broken = broken:Mine", "broken", "raise RuntimeError('no licence')")
    done = run("info", cwd=tmp_path, PYTHONPATH=path(site))
    assert (
        "adapter broken: adapter 'broken' of tracer-broken cannot be imported: RuntimeError: no licence" in done.stdout
    )
    assert "adapter toy: ready" in done.stdout
    found = json.loads(run("info", "--json", cwd=tmp_path, PYTHONPATH=path(site)).stdout)
    assert "no licence" in found["adapters"]["broken"]
    refused(
        "record", "broken", "net.toy", cwd=tmp_path, says="of tracer-broken cannot be imported", PYTHONPATH=path(site)
    )
    run("record", "toy", "net.toy", cwd=tmp_path, PYTHONPATH=path(site))
    assert "toy" in run("runs", cwd=tmp_path, PYTHONPATH=path(site)).stdout
    with pytest.raises(InputError, match=r"no adapter knows objects of type builtins.object .adapter 'broken' of"):
        adapters.for_object(object())


def test_names_that_are_taken(site: Path, tmp_path: Path) -> None:
    install(site, "tracer-thief", "pt = tracer_toynet:ToyAdapter", "", "")
    install(site, "tracer-copy", "toy = tracer_toynet:ToyAdapter", "", "")
    assert adapters.get("pt").framework == "pytorch"
    assert adapters.shadowed() == {"tracer-thief": "its adapter 'pt' is not used: tracer has one of that name"}
    with pytest.raises(AdapterError, match=r"^tracer-copy and tracer-toynet both have an adapter named 'toy'"):
        adapters.get("toy")
    done = run("info", cwd=tmp_path, PYTHONPATH=path(site)).stdout
    assert "tracer-thief: its adapter 'pt' is not used" in done
    assert "adapter pt: ready" in done


def test_an_unknown_name_lists_those_installed(site: Path, tmp_path: Path) -> None:
    says = refused("record", "jax", "net.toy", cwd=tmp_path, says="no adapter named 'jax'", PYTHONPATH=path(site))
    assert {"pt", "tf", "toy"} <= set(says.partition("installed: ")[2].split(", "))


def test_what_nobody_claims(site: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("milk, eggs\n")
    refused("inspect", "notes.txt", cwd=tmp_path, says="say --adapter", PYTHONPATH=path(site))
