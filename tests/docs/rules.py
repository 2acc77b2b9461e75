"""Page by page: what it takes for granted, and what of it cannot run, with the reason."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.docs import small_models
from tests.docs.reading import Page
from tests.docs.running import Rules
from tests.docs.terminal import Shell


@cache
def _made() -> Path:
    """A folder with the small models, and a trace of both; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tracer-docs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shell = Shell(folder)
    for line in (
        f"python {small_models.__file__}",
        "tracer record tf model.h5",
        "tracer record pt weights.pt --arch net.py:Net",
    ):
        said = shell.run(line)
        assert shell.code == 0, said
    shutil.rmtree(folder / ".bin")
    return folder


def _models(directory: Path, space: dict[str, Any], *, trace: bool = True) -> None:
    """The small models, and a ``trace`` of both: recordings 'tf' and 'pt'."""
    shutil.copytree(_made(), directory, dirs_exist_ok=True)
    if not trace:
        shutil.rmtree(directory / "trace.zarr")


def _named(directory: Path, space: dict[str, Any]) -> None:
    """The small models under the names that pages use for anybody's, and their trace."""
    _models(directory, space)
    shutil.copy(directory / "weights.pt", directory / "model.pt")
    (directory / "mymodel.py").write_text((directory / "net.py").read_text())


def _ecg(directory: Path, space: dict[str, Any]) -> None:
    """The same again, as ECG models."""
    _models(directory, space)
    for old, new in (("model.h5", "ecg.h5"), ("weights.pt", "ecg.pt"), ("real.npy", "beats.npy")):
        (directory / old).rename(directory / new)
    (directory / "ecg_model.py").write_text((directory / "net.py").read_text().replace("Net", "ECG"))
    shutil.rmtree(directory / "trace.zarr")


def _live(directory: Path, space: dict[str, Any], *, wrong: bool = True, trace: str = "trace.zarr") -> None:
    """Live models and their recordings, under the names that pages use; alike but for an activation if ``wrong``."""
    import keras
    import numpy as np
    import torch

    import tracer

    layers = keras.layers
    keras_model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(8, activation="sigmoid"), layers.Activation("tanh"), layers.Dense(2)]
    )
    act = torch.nn.ReLU() if wrong else torch.nn.Tanh()  # behind a sigmoid several mistakes would look like this one
    torch_model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Sigmoid(), act, torch.nn.Linear(8, 2))
    for ours, theirs in ((0, 0), (2, 3)):
        kernel, bias = map(torch.from_numpy, keras_model.layers[ours].get_weights())
        torch_model[theirs].weight.data, torch_model[theirs].bias.data = kernel.T.contiguous(), bias
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    a, b = tracer.record(keras_model, x, trace=trace), tracer.record(torch_model, trace=trace)
    space |= {"tracer": tracer, "keras": keras, "torch": torch, "keras_model": keras_model, "torch_model": torch_model}
    space |= {"torch_module": torch_model, "x": x, "a": a, "b": b, "model_a": keras_model, "model_b": torch_model}


def _loaded(directory: Path, space: dict[str, Any]) -> None:
    """The files, and their models loaded, with the input that the first recording makes of itself."""
    import keras
    import torch

    import tracer

    _named(directory, space)
    net: dict[str, Any] = {}
    exec(compile((directory / "net.py").read_text(), str(directory / "net.py"), "exec"), net)
    torch_model = net["Net"]()
    torch_model.load_state_dict(torch.load(directory / "weights.pt"))
    x = tracer.open(_made() / "trace.zarr").recording("tf").read("beats")
    keras_model = keras.models.load_model(directory / "model.h5", compile=False)
    space |= {"keras_model": keras_model, "torch_model": torch_model, "x": x}


def _trace(directory: Path, space: dict[str, Any]) -> None:
    """A trace with the names of the page."""
    import numpy as np
    import torch

    import tracer

    model = torch.nn.Sequential()
    model.add_module("conv1d_3", torch.nn.Conv1d(4, 2, 3))
    tracer.record(model, np.ones((2, 4, 8), "float32"), name="tf")
    tracer.record(model, name="pt")


def _both(directory: Path, space: dict[str, Any]) -> None:
    """A trace on the disk for the commands, live models for Python."""
    _live(directory, space, trace="live.zarr")
    _models(directory, space)


FILES = partial(_models, trace=False)
RECORDED = _models

_SCREEN = "a screen: it runs until somebody leaves it"
_ELSEWHERE = "needs another environment, machine or cluster"
_DAEMON = "a daemon in the background: tests/test_daemon.py"
_REPOSITORY = "works on the repository itself, for minutes"
_REAL = "of a network that is not made here: "
_EXCERPT = "an excerpt: the whole of it is run by "
_FORMS = "one line for each kind of file: tests/test_inspect.py runs them"
_INSTALL = "changes the environment"
_AS_IN = "the same command is run in "

RULES: Mapping[str, Rules] = {
    "my-port-differs.md": Rules(
        FILES,
        {
            "tracer ui*": _SCREEN,
            "record both, *": "a picture: the headings below are its leaves",
            "tracer transfer *": f"{_AS_IN}tutorials/ecg.md",
            "tracer diff tf pt --local --all *": f"{_AS_IN}local.md",
            "tracer explain --probe *": f"{_AS_IN}causes.md",
            "tracer graft tf pt --at *": f"{_AS_IN}tutorials/tractography.md",
        },
    ),
    "accept-a-difference.md": Rules(RECORDED),
    "wrong-pair.md": Rules(RECORDED),
    "untrusted-model.md": Rules(FILES),
    "environments.md": Rules(exempt={"tracer *": _ELSEWHERE, "scp *": _ELSEWHERE}),
    "huge-models.md": Rules(FILES, {"tracer diff --*": _ELSEWHERE, "tracer push *": _ELSEWHERE}),
    "training-drifts.md": Rules(
        exempt={"tracer daemon *": _DAEMON, "tracer watch *": _DAEMON, "python train_*": _DAEMON}
    ),
    "how-to/ci.md": Rules(FILES),
    "README.md": Rules(
        _loaded,
        {
            "tracer record tf model.h5 *": f"{_AS_IN}my-port-differs.md",
            "tracer record tf spliceai1.h5 *": f"{_REAL}scripts/demo records it",
            "tracer record pt published.pt *": f"{_REAL}scripts/demo records it",
            "tracer diff → *": f"{_REAL}scripts/demo prints it",
            "tracer record tf mobilenet.keras *": f"{_REAL}MobileNetV2",
            "tracer transfer *": f"{_REAL}MobileNetV2",
            "tracer explain tf pt-transferred *": f"{_REAL}MobileNetV2",
            "tracer ui": _SCREEN,
            "scripts/*": _REPOSITORY,
        },
    ),
    "SECURITY.md": Rules(exempt={"scripts/*": _REPOSITORY}),
    "CONTRIBUTING.md": Rules(
        exempt={
            "pip *": _INSTALL,
            "tracer *": "needs the example's package: tests/test_third_party.py",
            "activation-quantised*": "what the example's package finds: tests/test_third_party.py",
        }
    ),
    "adapters.md": Rules(exempt={"class ToyAdapter(Adapter):": f"{_EXCERPT}tests/test_testing.py"}),
    "alignment.md": Rules(
        RECORDED,
        {
            "tracer map → *": f"{_REAL}BERT",
            "tracer map --write mapping.yaml --accept*": "would replace the file of the line above",
        },
    ),
    "axes.md": Rules(exempt={"first divergence: *": f"{_REAL}SpliceAI, scripts/demo prints it"}),
    "causes.md": Rules(
        _both,
        {
            "tracer explain --only 'block_3*' *": f"{_REAL}MobileNetV2",
            "tracer explain --verify *": f"{_AS_IN}my-port-differs.md",
            "from tracer.causes.case import Case": f"{_EXCERPT}tests/test_third_party.py, as examples/cause",
            "proof *": f"{_REAL}MobileNetV2",
            "✓ outputs: *": f"{_REAL}MobileNetV2",
            "activation-*": f"{_REAL}tests/test_probing.py has one like it",
        },
    ),
    "comparing.md": Rules(exempt={"settings differ *": f"{_REAL}ResNet-50"}),
    "noise.md": Rules(exempt={"proof *": f"{_REAL}MobileNetV2"}),
    "graft.md": Rules(
        RECORDED,
        {
            "tracer graft --at flatten*": f"{_REAL}tests/test_graft.py has one with a flatten",
            "tracer graft  *": f"{_AS_IN}my-port-differs.md",
            "tracer graft --grows *": "tests/test_schema.py runs it on files",
            "✓ *": f"{_REAL}tests/test_graft.py holds the form",
        },
    ),
    "inspect.md": Rules(
        FILES,
        {
            "tracer inspect model.keras": _FORMS,
            "tracer inspect weights.safetensors": _FORMS,
            "tracer inspect model.pt *": _FORMS,
        },
    ),
    "live.md": Rules(
        exempt={
            "import tracer": f"{_EXCERPT}tests/test_attach_torch.py, tests/test_attach_keras.py",
            "attached = tracer.attach(*": f"{_EXCERPT}tests/test_daemon.py",
            "tracer *": _DAEMON,
            "python train_*": _DAEMON,
            "pip *": _INSTALL,
        }
    ),
    "local.md": Rules(
        RECORDED,
        {"tracer record tf *": f"{_AS_IN}my-port-differs.md", "tracer diff --local  *": f"{_AS_IN}my-port-differs.md"},
    ),
    "recording.md": Rules(_ecg, {"*--python *": _ELSEWHERE, "tracer diff --local *": _ELSEWHERE}),
    "scale.md": Rules(exempt={"dask *": _ELSEWHERE, "tracer *": _ELSEWHERE, "pip *": _INSTALL}),
    "trace.md": Rules(
        _trace,
        {
            "recordings/<recording> *": "a picture of a folder",
            "tracer pack *": "a form: what stands in brackets is for the reader to fill in",
            "tracer pu* s3://*": _ELSEWHERE,
        },
    ),
    "export.md": Rules(RECORDED),
    "report.md": Rules(RECORDED),
    "ui.md": Rules(exempt={"tracer ui*": _SCREEN}),
    "weights.md": Rules(
        partial(_live, wrong=False),
        {
            "tracer *": f"{_REAL}VGG16; tests/test_transfer.py, tests/test_weights_table.py",
            "tf (vgg16.keras) *": f"{_REAL}VGG16",
            "schema, reference, *": "a list of keys",
            "def carry(get):": f"{_EXCERPT}tests/test_weights_carrying.py",
        },
    ),
    "docs/ci.md": Rules(),  # its files are run by tests/test_ci.py and tests/test_pytest_plugin.py
}


def rules_of(page: Page) -> Rules:
    """The rules of a page, by its folder and file or its file alone, for pages move. Without any, all of it is run."""
    path = page.path
    return RULES.get(f"{path.parent.name}/{path.name}") or RULES.get(path.name, Rules())
