"""Names that do harm where they are a path, a pattern, markup or an escape: stored as they are, shown as text.

Every name is the name of a layer in each framework that takes it, of a parameter, an output and a recording; each
recording is compared, explained, mapped and mapped again from the file, drawn, and told by the daemon. Group
``stored``: the name comes back from the trace exactly; ``inside``: no file but the trace's; ``screen``: nothing but
printable characters; ``told``: the name stands where it belongs.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import tempfile
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tracer
from tests.battery import Tally
from tests.live_driving import daemon
from tests.tui_driving import opened, press, shown
from tracer.cli.main import run as command
from tracer.names import display

NAMES = [
    "", ".", "..", "/", "//", "../../x", "/etc/passwd", "a/b", "a/", "a/b/c", "c:\\x", "..\\x", "~", "~root", "$HOME",
    "`id`", "$(id)", "; rm -rf x", "a b", " a", "a ", "-rf", "--json", "@5", "a@5", "zarr.json", "c", "c/0",
    ".zgroup", "__x", "con", "nul.txt", "Conv", "conv", "CONV", "Stra\u00dfe", "STRASSE", "\u00e9", "e\u0301",
    "\u0435", "e", "\u212a", "K", "\u0130", "x" * 300, "x" * 299 + "y", "\u00e9" * 200, "\U0001f600" * 90, "a\0b",
    "\0", "\n", "a\nb", "a\r\nb", "a\tb", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "\x1b]52;c;aGk=\x07", "\x9b31m", "\x7f", "\x08\x08",
    "\x1bP0;1|x\x1b\\", "\u202eevil", "\u2066x\u2069", "\u200b", "a\u200bb", "\ufeff", "\u2028", "\u2029", "\u00ad",
    "\ud800", "\udcff", "\ue000", "\U000e0041", "[bold]x[/]", "x[/]y", "[/]", "[@click=app.quit]x[/]",
    "[@click=app.bell]z[/]", "[link=file:///etc]x[/link]", "\\[x]", "[red", ":smile:", "$text-error", "{x}", "{{x}}",
    "{0}", "%s", "%n%n", "<b>x</b>", "<script>alert(1)</script>", "&amp;", "\"><img src=x>", "'", '"', "a'b\"c", "\\",
    "\\n", "\\x1b", "#0", "a#0", "a#1", "[0]", "a[1]", "a -> b", " -> ", "a \u21c4 b", "*", "a*", "?", "[a-z]", "!x",
    "op:conv*", "role:inner", "null", "true", "yes", "1e3", "0x10", "12:30:00", "- a", "? a", "a: b", "# a", "&a",
    "*a", "!!python/object/apply:os.system", "|", ">", "%YAML", "---", "...", "=x", "+1", "reference", "candidate",
    "pairs", "gives/preactivation", "/preactivation", "weight", "self", "forward", "None", "input", "x", "output",
    "NaN", "Infinity",
]  # fmt: skip
_PIECES = [
    "/", "..", ".", "\x1b[31m", "[bold]", "[/]", "\u202e", "\u200b", "#0", "[1]", "*", "{i}", "\n", "\0", "'", '"',
    "\\", "a", "A", "\u00e9", "\ud800", "<b>", ": ", "- ", "@", "~", "^", "%", "  ", "\x07", "zarr.json",
]  # fmt: skip
_TOGETHER = 40
"""Layers of one model."""
_SOME = 12
"""Of the names: what costs seconds."""


def run(seed: int, cases: int | None) -> Tally:
    """``cases``: how many names; by default all that are listed, and as many at random."""
    tally = Tally()
    draw = random.Random(seed)
    names = list(NAMES) if cases is None else draw.sample(NAMES, min(cases, len(NAMES)))
    names += [
        "".join(draw.choices(_PIECES, k=draw.randint(2, 6))) for _ in range(len(names) // (1 if cases is None else 4))
    ]
    names = list(dict.fromkeys(names))
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            _stored(names, Path(folder), tally)
        finally:
            os.chdir(before)
    return tally


def _stored(names: Sequence[str], folder: Path, tally: Tally) -> None:
    for number, start in enumerate(range(0, len(names), _TOGETHER)):
        some = names[start : start + _TOGETHER]
        _layers(some, folder / f"torch{number}", tally)
        _keras(some, folder / f"keras{number}", tally)
        _onnx(some, folder / f"onnx{number}", tally)
    _code(folder, tally)
    _recordings(names, folder / "recordings", tally)
    _files(names, folder, tally)
    _daemon(names, folder / "live", tally)
    strange = sorted(set(os.listdir(folder)) - {"recordings", "live"} - {f"{k}{n}" for k in _KINDS for n in range(99)})
    if strange:
        tally.breaks("inside", "all", f"made {strange}")
    else:
        tally.add("inside", "nothing but traces was made")


_KINDS = ("torch", "keras", "onnx")


# -- layers ------------------------------------------------------------------------------------------------------------


class _Named(nn.Module):
    """A parameter with a name, an output with it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._parameters[name] = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        weight = self._parameters[self.name]
        assert weight is not None
        return {self.name: torch.tanh(x @ weight)}


class _Net(nn.Module):
    """Layers with these names, one behind the other: ``add_module`` refuses some that a pickled model may have."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in names:
            self._modules[name] = _Named(name)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        for name, module in self._modules.items():
            assert module is not None
            x = module(x)[name]
            found[name] = x
        return found


_X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)


def _layers(names: Sequence[str], trace: Path, tally: Tally) -> None:
    """A model and a copy of it that is wrong in its last layer: everything that speaks of layers."""
    reference, candidate = _Net(names), _Net(names)
    with torch.no_grad():
        next(candidate._modules[names[-1]].parameters()).mul_(1.5)  # type: ignore[union-attr]
    one = tracer.record(reference, _X, name="a", trace=trace)
    tracer.record(candidate, None, name="b", trace=trace)
    with torch.no_grad():
        wanted = {name: value.numpy() for name, value in reference(torch.from_numpy(_X)).items()}
    # "" and what it would read like without its dot are the root's and its parts' own names.
    for name in names:
        if _found(one, name, wanted[name]):
            tally.add("stored", "torch: exactly")
        else:
            tally.breaks("stored", repr(name), "a torch layer that does not come back")
    _inside(trace, tally)
    own = set(one.structure.by_name)
    compared = _said(tally, "diff --all", "diff", "--all", trace=trace)
    pairs = json.loads(_said(tally, "diff --json", "diff", "--json", trace=trace))["pairs"]
    _all(tally, "diff --json", own, {name for pair in pairs for name in pair["reference"]}, at_least=names)
    for name in names:
        if name.strip() and display(name) not in compared and len(name) < 60:
            tally.breaks("told", repr(name), "not in the table of tracer diff")
        else:
            tally.add("told", "in the table")
    for words in (["explain"], ["explain", "--json"], ["map"], ["map", "--json"], ["weights"], ["weights", "--json"]):
        _said(tally, " ".join(words), *words, trace=trace)
    _said(tally, "graft", "graft", "--at", names[0], trace=trace, codes=(0, 1, 2, 3))
    mapping = trace.parent / f"{trace.name}.yaml"
    _said(tally, "map --write", "map", "--write", str(mapping), trace=trace)
    again = json.loads(_said(tally, "diff --map", "diff", "--json", "--map", str(mapping), trace=trace) or "{}")
    mapping.unlink(missing_ok=True)
    kept = [(p["reference"], p["candidate"]) for p in pairs]
    if sorted(kept) == sorted((p["reference"], p["candidate"]) for p in again.get("pairs", ())):
        tally.add("told", "the mapping file reads back the same")
    else:
        tally.breaks("told", f"{names[0]!r} …", "the mapping file reads back otherwise")
    asyncio.run(_drawn(trace, _KEYS, tally))


def _found(recording: Any, name: str, wanted: Any) -> bool:
    """Whether a layer's tensor is stored under its own name, or as an output by that name."""
    return any(
        node.owner == name
        and recording.stored(node.name) is not None
        and np.array_equal(recording.read(node.name), wanted)
        for node in recording.structure
    )


def _all(tally: Tally, group: str, known: set[str], found: set[str], *, at_least: Sequence[str]) -> None:
    if found <= known and len(found) >= len(at_least):
        tally.add("told", f"{group}: every name exactly")
    else:
        tally.breaks("told", group, f"{len(found)} of {len(at_least)}, unknown: {sorted(map(repr, found - known))[:3]}")


_KEYS = ("G", "enter", "c", "v", "q", "b", "q", "w", "q", "m")
"""From the layers to one of them and back, to the blocks, the weights and the mapping."""


async def _drawn(trace: Path, keys: Sequence[str], tally: Tally) -> None:
    """The terminal UI, walked through; a name that is markup changes nothing and runs nothing."""
    async with opened(trace, (160, 60)) as (app, pilot):
        screens = [shown(app)]
        for key in keys:
            await press(pilot, key)
            screens.append(shown(app))
            if key == "w":
                found = await pilot.click(offset=(20, 12))
                assert found is not None
        if not app.is_running:
            tally.breaks("screen", trace.name, "the interface ended")
    for text in screens:
        _printable(tally, "tui", text)


def _keras(names: Sequence[str], trace: Path, tally: Tally) -> None:
    import keras

    x = keras.Input((3,), name="given")
    y, kept = x, []
    for name in names:
        try:
            y = keras.layers.Dense(3, name=name)(y)
        except Exception:
            tally.add("stored", "keras itself refuses the name")
        else:
            kept.append(name)
    try:
        model = keras.Model(x, y)
    except ValueError:  # names that Keras takes for the same
        tally.add("stored", "keras itself refuses the names")
        return
    one = tracer.record(model, _X, name="a", trace=trace)
    values = keras.Model(x, [layer.output for layer in model.layers[1:]])(_X)
    for layer, value in zip(model.layers[1:], values if isinstance(values, list) else [values], strict=True):
        if _found(one, layer.name, np.asarray(value)):
            tally.add("stored", "keras: exactly")
        else:
            tally.breaks("stored", repr(layer.name), "a Keras layer that does not come back")
    _inside(trace, tally)
    tracer.record(model, None, name="b", trace=trace)
    _said(tally, "diff --all", "diff", "--all", trace=trace)


def _onnx(names: Sequence[str], trace: Path, tally: Tally) -> None:
    from tests.onnx_graphs import floats, model, node

    nodes, last = [], "given"
    for number, name in enumerate(names):
        try:
            name.encode()
        except UnicodeEncodeError:
            tally.add("stored", "onnx itself refuses the name")
            continue
        made = node("Tanh", "_", "_")
        made.name = name
        made.input[:], made.output[:] = [last], [f"{name}{number}"]
        nodes.append(made)
        last = made.output[0]
    proto = model(nodes, [floats("given", 2, 3)], "")
    del proto.graph.output[:]
    proto.graph.output.add().name = last
    one = tracer.record(proto, {"given": _X}, name="a", trace=trace)
    value = _X
    for made in nodes:
        value = np.tanh(value)
        if any(
            np.allclose(one.read(n.name), value, atol=1e-6) for n in one.structure if one.stored(n.name) is not None
        ):
            tally.add("stored", "onnx: with its tensor")
        else:
            tally.breaks("stored", repr(made.name), "an ONNX node that does not come back")
    _inside(trace, tally)
    tracer.record(proto, None, name="b", trace=trace)
    _said(tally, "diff --all", "diff", "--all", trace=trace)


_CODE = [
    'a"]\nopen("made", "w")#', "b'+str(open('made', 'w'))+'", '"""\nopen("made", "w")\n"""', "x\\", "{open('made')}",
    "c\nopen('made', 'w')", "\u2028open('made', 'w')", "d\ropen('made', 'w')", "'''\nopen('made', 'w')\n'''\\",
]  # fmt: skip
"""Names that are code where they stand in a script without being quoted."""


def _code(folder: Path, tally: Tally) -> None:
    """What ``explain --patch`` writes for such layers, between recordings of such names, runs and does no more."""

    def net(epsilon: float) -> nn.Module:
        torch.manual_seed(0)
        made = nn.Sequential()
        for name in _CODE:
            made._modules[f"{name}layer"], made._modules[name] = nn.Linear(3, 3), nn.BatchNorm1d(3, eps=epsilon)
        return made.eval()

    wrong, trace, script = net(0.1), folder / "torch98", folder / "fix.py"
    one = tracer.record(net(1e-5), _X, name=_CODE[2], trace=trace)
    two = tracer.record(wrong, None, name=_CODE[-1], trace=trace)
    _said(tally, "explain --patch", "explain", "--patch", str(script), one.name, two.name, trace=trace)
    known: dict[str, Any] = {}
    try:
        exec(compile(script.read_text(), "patch", "exec"), known)
        script.unlink()
        known["apply"](wrong)
    except Exception as error:
        tally.breaks("told", "explain --patch", f"{type(error).__name__}: {error}")
        return
    if Path("made").exists():
        tally.breaks("inside", "explain --patch", "a name was run")
    elif {m.eps for m in wrong.modules() if isinstance(m, nn.BatchNorm1d)} != {1e-5}:
        tally.breaks("told", "explain --patch", "not every layer was changed")
    else:
        tally.add("told", "explain --patch: names are text in the script")


# -- recordings, files, the daemon -----------------------------------------------------------------------------------


def _recordings(names: Sequence[str], trace: Path, tally: Tally) -> None:
    kept = []
    for name in names:
        try:
            one = tracer.record(nn.Linear(3, 2), _X, name=name or None, trace=trace)
        except tracer.InputError as error:
            _printable(tally, "refusal", str(error))
            tally.add("stored", "a recording that is refused in a line")
            continue
        if one.name == (name or "pt") and tracer.open(trace).recording(one.name).read("linear").shape == (2, 2):
            tally.add("stored", "a recording")
            kept.append(one.name)
        else:
            tally.breaks("stored", repr(name), "a recording that is called otherwise")
    _inside(trace, tally)
    listed = {
        one["name"] for one in json.loads(_said(tally, "runs --json", "runs", "--json", trace=trace))["recordings"]
    }
    if listed == set(kept):
        tally.add("told", "runs --json: every name exactly")
    else:
        tally.breaks("told", "runs --json", f"{sorted(map(repr, listed ^ set(kept)))[:3]}")
    _said(tally, "runs", "runs", trace=trace)
    for name in kept[1:_SOME]:
        _said(tally, "diff A B", "diff", "--", kept[0], name, trace=trace, codes=(0, 1, 2, 3))
    asyncio.run(_drawn(trace, (), tally))


def _files(names: Sequence[str], folder: Path, tally: Tally) -> None:
    """Model files, inputs and patterns that are not there: refused in one line."""
    for name in names:
        if "\0" in name:
            continue
        for words in (
            ["record", "pt", "--", f"{name}.pt"],
            ["diff", "--", "a", name],
            ["map", "--map", f"{name}.yaml"],
        ):
            _said(tally, f"refused: {words[0]}", *words, trace=folder / "recordings", codes=(2,))


def _daemon(names: Sequence[str], trace: Path, tally: Tally) -> None:
    with daemon(trace) as place:
        kept = []
        for name in names[:_SOME]:
            try:
                with tracer.attach(nn.Linear(3, 2), to="daemon", name=name or None) as attached:
                    attached.model(torch.from_numpy(_X))
                if attached.fault is None:
                    kept.append(name or "pt")
            except tracer.TracerError as error:
                _printable(tally, "refusal", str(error))
        for words in (["daemon", "status"], ["daemon", "status", "--json"], ["daemon", "logs"]):
            _said(tally, " ".join(words), *words, trace=None, codes=(0,))
        log = next(iter(sorted(place.glob("*.log"))), None)
        if log is not None:
            _printable(tally, "log", log.read_text(errors="surrogateescape"))
    have = {one.name for one in tracer.open(trace).recordings()} if kept else set()
    if have >= set(kept):
        tally.add("stored", "recordings of the daemon")
    else:
        tally.breaks("stored", "daemon", f"{sorted(map(repr, set(kept) - have))[:3]}")


# -- what is looked at -----------------------------------------------------------------------------------------------


def _said(tally: Tally, group: str, *words: str, trace: Path | None, codes: Sequence[int] = (0, 1)) -> str:
    """What a command prints; both its streams hold printable characters alone."""
    place = [] if trace is None else ["--trace", str(trace)]
    cut = words.index("--") if "--" in words else len(words)
    with _caught() as (out, err):
        code = command([*words[:cut], *place, *words[cut:]])
    for stream in (out, err):
        stream.flush()
    texts: list[str] = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    for text in texts:
        _printable(tally, group, text)
    if code not in codes or "Traceback" in texts[1]:
        tally.breaks("told", f"{group} {words!r}"[:160], f"{code}: {texts[1][-200:]}")
    else:
        tally.add("told", f"{group}: as it should end")
    return texts[0]


@contextlib.contextmanager
def _caught() -> Iterator[tuple[io.TextIOWrapper, io.TextIOWrapper]]:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


def _printable(tally: Tally, group: str, text: str) -> None:
    bad = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")}
    if bad:
        tally.breaks("screen", group, f"{sorted(map(hex, map(ord, bad)))} in {text[:80]!r}")
    else:
        tally.add("screen", group)


def _inside(trace: Path, tally: Tally) -> None:
    """All there is of a trace are files and folders, each inside it, with plain names."""
    for path in trace.rglob("*"):
        if path.is_symlink() or not path.name.isascii() or not path.name.isprintable() or len(path.name) > 140:
            tally.breaks("inside", str(path)[:80], "a file name that is not plain")
            return
    tally.add("inside", "plain file names")
