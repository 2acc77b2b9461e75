"""Train the same small network in Keras and in PyTorch, each in an environment of its own, and watch them part.

    python scripts/two_trainings.py --keras KERAS_PYTHON --torch TORCH_PYTHON

The first interpreter has tracer. The other two need their framework and what docs/live.md says of an environment that
records. Three programs train from the same weights on the same batches, and a daemon compares them as they run: Keras,
PyTorch, and PyTorch with another epsilon in Adam.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLASSES, CHANNELS, LENGTH, BATCH = 4, 3, 20, 16
EPSILON = 1e-10
"""Of Adam, where it is right: so small that it does not matter that Keras adds it before the bias is corrected."""
TRACER = [sys.executable, "-c", "from tracer.cli.main import main; main()"]


def drawn(steps: int) -> tuple[dict[str, Any], Any, Any]:
    """Weights in PyTorch's layout, samples (channels last) and their classes: numpy draws them alike everywhere."""
    import numpy as np

    draw = np.random.default_rng(0)
    weights = {
        "conv.weight": draw.normal(0, 0.3, (8, CHANNELS, 3)), "conv.bias": np.zeros(8),
        "out.weight": draw.normal(0, 0.3, (CLASSES, 8)), "out.bias": np.zeros(CLASSES),
    }  # fmt: skip
    classes = draw.integers(0, CLASSES, steps * BATCH)
    samples = draw.normal(size=(steps * BATCH, LENGTH, CHANNELS)) + classes[:, None, None] / 2
    return {name: value.astype("f4") for name, value in weights.items()}, samples.astype("f4"), classes


def train_keras(name: str, steps: int, every: int, epsilon: float) -> None:
    import keras

    import tracer

    weights, samples, classes = drawn(steps)
    model = keras.Sequential([
        keras.Input((LENGTH, CHANNELS)), keras.layers.Conv1D(8, 3, padding="same", name="conv"),
        keras.layers.ReLU(name="relu"), keras.layers.GlobalAveragePooling1D(name="mean"),
        keras.layers.Dense(CLASSES, name="out"),
    ])  # fmt: skip
    model.get_layer("conv").set_weights([weights["conv.weight"].transpose(2, 1, 0), weights["conv.bias"]])
    model.get_layer("out").set_weights([weights["out.weight"].T, weights["out.bias"]])
    model.compile(
        keras.optimizers.Adam(1e-2, epsilon=epsilon), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    watch = tracer.KerasCallback(to="daemon", name=name, every=every)
    model.fit(samples, classes, batch_size=BATCH, shuffle=False, callbacks=[watch], verbose=0)


def train_torch(name: str, steps: int, every: int, epsilon: float) -> None:
    import torch
    from torch import nn

    import tracer

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(CHANNELS, 8, 3, padding=1)
            self.out = nn.Linear(8, CLASSES)

        def forward(self, x: torch.Tensor) -> Any:
            return self.out(torch.relu(self.conv(x)).mean(-1))

    weights, samples, classes = drawn(steps)
    model = Net()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, eps=epsilon)
    with tracer.attach(model, to="daemon", name=name, every=every, mode="train", reference="keras"):
        for step in range(steps):
            batch = slice(step * BATCH, (step + 1) * BATCH)
            optimizer.zero_grad()
            x, y = torch.from_numpy(samples[batch].transpose(0, 2, 1)), torch.from_numpy(classes[batch])
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def both(options: argparse.Namespace) -> None:
    """Start the daemon, the three programs, and say what it saw. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="tracer-") as folder:
        environment = {**os.environ, "TRACER_RUNTIME": str(Path(folder) / "run"), "TRACER_TRACE": str(options.trace)}

        def tracer(*words: str) -> None:
            print(f"\n$ tracer {' '.join(words)}", flush=True)
            code = subprocess.run([*TRACER, *words], env=environment).returncode
            if code not in (0, 1):  # 1: they part
                raise SystemExit(code)

        def train(python: str, framework: str, name: str, epsilon: float) -> subprocess.Popen[bytes]:
            more = [name, str(options.steps), str(options.every), str(epsilon)]
            return subprocess.Popen([python, __file__, "train", framework, *more], env=environment)

        tracer("daemon", "start", "--trace", str(options.trace))
        try:
            # The reference is there first; then all three run side by side.
            programs = [train(options.keras, "keras", "keras", EPSILON)]
            while programs[0].poll() is None and not (options.trace / "recordings" / "keras").exists():
                time.sleep(0.1)
            programs += [
                train(options.torch, "torch", "torch", EPSILON),
                train(options.torch, "torch", "torch-epsilon", options.epsilon),
            ]
            codes = [program.wait() for program in programs]
            if any(codes):
                raise SystemExit("a training failed")
            # Sixteen steps take less time than the comparison's start.
            while json.loads(subprocess.check_output([*TRACER, "daemon", "status", "--json"], env=environment))[
                "to_look_at"
            ]:
                time.sleep(0.2)
            tracer("daemon", "status")
        finally:
            tracer("daemon", "stop")
        tracer("runs")
        tracer("steps", "keras", "torch")
        tracer("steps", "keras", "torch-epsilon")


def main() -> None:
    if sys.argv[1:2] == ["train"]:
        framework, name, steps, every, epsilon = sys.argv[2:]
        train = train_keras if framework == "keras" else train_torch
        train(name, int(steps), int(every), float(epsilon))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras", default=sys.executable, help="Python of the environment with Keras")
    parser.add_argument("--torch", default=sys.executable, help="Python of the environment with PyTorch")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--epsilon", type=float, default=1e-5, help="of the third program's Adam")
    parser.add_argument("--trace", type=Path, default=Path("two-trainings.zarr"))
    both(parser.parse_args())


if __name__ == "__main__":
    main()
