"""Pictures for the documentation, made from real traces: ``scripts/screenshots [--only NAME …] [--keep FOLDER]``.

The terminal UI draws itself (``tracer ui --screenshot``), what commands print is drawn by rich, and the HTML report is
photographed by Chromium where there is one. All are of SpliceAI against its re-implementation (scripts/demo), and two
short trainings.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import demo_models
import numpy as np
from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
LARGEST = 200_000
"""Bytes of an SVG: what is larger does not belong into a repository."""
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Fonts that a reader's browser would fetch from elsewhere."""
_HOME = re.compile(r"/[\w./-]*/site-packages/")
"""Where packages lie on the machine that makes the pictures."""

SCREENS = {
    "layers": ("120x38", "tf pt", ""),
    "layer": ("120x38", "tf pt", "enter"),
    "curves": ("120x30", "tf pt", "enter c z z z z z"),
    "weights": ("120x30", "tf pt", "w"),
    "mapping": ("120x38", "tf pt", "m"),
    "blocks": ("120x30", "tf pt", "b"),
    "steps": ("120x30", "right wrong", ""),
}
"""Screens of the terminal UI: size, recordings, keys that lead there."""
COMMANDS = {"diff": "tracer diff tf pt"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="a screen, a command, or report")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the trace there, and take it from there")
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    wanted = arguments.only or [*SCREENS, *COMMANDS, "report"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.keep or Path(scratch)).resolve()
        os.environ |= {"TRACER_TRACE": "spliceai.zarr", "XDG_STATE_HOME": scratch, "COLUMNS": "118"}
        if not (folder / "spliceai.zarr").exists():
            record(folder)
        for name in wanted:
            print(name, flush=True)
            if name in SCREENS:
                screen(name, folder)
            elif name in COMMANDS:
                command(name, folder)
            else:
                report(folder)


def record(folder: Path) -> None:
    """The demo's pair, and two trainings that part in their middle, into one trace."""
    folder.mkdir(parents=True, exist_ok=True)
    h5 = str(demo_models.packaged_h5(1))
    demo = [sys.executable, str(Path(demo_models.__file__))]
    run([*demo, "dna", "--out", "."], folder)
    run([*demo, "transfer", "--h5", h5, "--out", "."], folder)
    run(["tracer", "record", "tf", h5, "--input", "dna.npy"], folder)
    run(["tracer", "record", "pt", "published.pt", "--arch", "demo_models:published"], folder)
    for name, later in (("right", 0.1), ("wrong", 0.2)):
        train(name, later, folder)


def train(name: str, later: float, folder: Path) -> None:
    """Sixty steps of a small network, every one recorded; ``later`` is the learning rate from step 30 on."""
    import torch

    import tracer

    torch.manual_seed(0)
    layers = [torch.nn.Conv1d(4, 16, 5), torch.nn.BatchNorm1d(16), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.tensor(np.random.default_rng(0).standard_normal((60, 16, 4, 64)), dtype=torch.float32)
    with tracer.attach(net, to=folder / "spliceai.zarr", name=name, mode="train"):
        for step, batch in enumerate(x):
            optimizer.param_groups[0]["lr"] = 0.1 if step < 30 else later
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(batch), (batch.mean((1, 2)) > 0).long()).backward()
            optimizer.step()


def run(words: list[str], folder: Path, *, codes: tuple[int, ...] = (0,), **environment: str) -> str:
    """What a program prints. Raises SystemExit where it ends with another code."""
    done = subprocess.run(words, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode not in codes:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}")
    return done.stdout


def screen(name: str, folder: Path) -> None:
    size, recordings, keys = SCREENS[name]
    made = folder / f"{name}.svg"
    made.unlink(missing_ok=True)
    press = ["--press", keys] if keys else []
    run(["tracer", "ui", *recordings.split(), "--size", size, "--screenshot", made.name, *press], folder)
    save(f"ui-{name}", made.read_text("utf-8"))


def command(name: str, folder: Path) -> None:
    """What the command prints on a terminal with colours, below the line that was typed."""
    printed = run(COMMANDS[name].split(), folder, codes=(0, 1), FORCE_COLOR="1")
    console = Console(record=True, width=120, file=open(os.devnull, "w"), color_system="truecolor")  # noqa: SIM115
    console.print(Text(f"$ {COMMANDS[name]}", style="bold"))
    console.print(Text.from_ansi(_HOME.sub("…/", printed).rstrip()))
    save(f"cli-{name}", console.export_svg(title="tracer"))


def report(folder: Path) -> None:
    """The top of the HTML report, as a browser shows it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("  left out: no Chromium here")
        return
    run(["tracer", "report", "tf", "pt", "-o", "report.html", "--force"], folder, codes=(0, 1))
    shot = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,1000"]
    page, picture = folder / "report.html", folder / "report.png"
    page.write_text(_HOME.sub("…/", page.read_text("utf-8")), "utf-8")
    subprocess.run([*shot, f"--screenshot={picture}", page.as_uri()], check=True, stderr=subprocess.DEVNULL)
    from PIL import Image

    with Image.open(picture) as image:  # few colours: a third of the bytes
        image.convert("RGB").quantize(128).save(IMAGES / "report.png", optimize=True)


def save(name: str, svg: str) -> None:
    """Raises SystemExit for one that is too large."""
    svg = _FONT.sub("", svg)
    if (size := len(svg.encode())) > LARGEST:
        sys.exit(f"{name}.svg has {size} bytes, more than {LARGEST}")
    (IMAGES / f"{name}.svg").write_text(svg, "utf-8")


if __name__ == "__main__":
    main()
