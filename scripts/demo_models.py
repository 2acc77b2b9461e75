"""SpliceAI for demonstrations: the published Keras weights in OpenSpliceAI's PyTorch class.

    python scripts/demo_models.py transfer --h5 spliceai1.h5 --out DIR    writes DIR/published.pt
    python scripts/demo_models.py dna --out DIR                           writes DIR/dna.npy, (2, 10100, 4)

`published.pt` is a state dict for both `demo_models:published` and `demo_models:corrected`. The PyTorch class takes
(N, 4, L), the Keras model (N, L, 4). Frameworks are imported only where they are needed.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Window and dilation of the sixteen residual units, for a context of 10,000.
WINDOWS = (11,) * 8 + (21,) * 4 + (41,) * 4
DILATIONS = (1,) * 4 + (4,) * 4 + (10,) * 4 + (25,) * 4
CONTEXT = 10_000


def _twins() -> dict[str, str]:
    """Keras layer to PyTorch node. Keras numbered its layers in the order in which PyTorch's class makes them."""
    names: dict[str, list[str]] = {
        "conv1d": ["initial_conv", "initial_skip.conv"],
        "batch_normalization": [],
        "activation": [],
        "add": [],
        "cropping1d": ["crop.slice"],
    }
    for position in range(20):
        unit = f"residual_units.{position}"
        names["add"].append(f"{unit}.add")
        if position % 5 == 4:
            names["conv1d"].append(f"{unit}.conv")
            continue
        names["conv1d"] += [f"{unit}.conv1", f"{unit}.conv2"]
        names["batch_normalization"] += [f"{unit}.batchnorm1", f"{unit}.batchnorm2"]
        names["activation"] += [f"{unit}.relu1", f"{unit}.relu2"]
    names["conv1d"].append("final_conv")
    return {f"{stem}_{i}": node for stem, nodes in names.items() for i, node in enumerate(nodes, start=1)}


TWINS = _twins()


def packaged_h5(number: int) -> Path:
    """The file `spliceai{number}.h5` of the installed `spliceai` package, which is not imported."""
    spec = importlib.util.find_spec("spliceai")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pip install --no-deps spliceai")
    return Path(spec.origin).parent / "models" / f"spliceai{number}.h5"


def published() -> Any:
    """OpenSpliceAI's class as published, with the architecture of the .h5 files and untrained."""
    from openspliceai.train_base.openspliceai import SpliceAI

    return SpliceAI(32, np.asarray(WINDOWS), np.asarray(DILATIONS)).eval()


def corrected() -> Any:
    """The same class made to compute what the Keras models compute: ReLU, and BatchNorm's epsilon 1e-3."""
    from torch import nn

    model = published()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eps = 1e-3
        for name, child in module.named_children():
            if isinstance(child, nn.LeakyReLU):
                setattr(module, name, nn.ReLU())
    return model


def transfer(h5: Path, model: Any) -> Any:
    """Fill ``model`` with the weights of a SpliceAI .h5 file: every layer of the file, every tensor of the model."""
    import torch

    state = {name: tensor for name, tensor in model.state_dict().items() if name.endswith("num_batches_tracked")}
    for layer, weights in read_h5(h5).items():
        for name, array in weights.items():
            state[f"{TWINS[layer]}.{name}"] = torch.from_numpy(array)
    model.load_state_dict(state, strict=True)
    return model


def read_h5(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The weights by Keras layer, under PyTorch's names and layouts."""
    import h5py

    with h5py.File(path) as file:
        layers = {
            name: {key.split(":")[0]: values[()] for key, values in group[name].items()}
            for name, group in file["model_weights"].items()
            if name in group
        }
    return {name: _as_torch(weights) for name, weights in layers.items()}


def _as_torch(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    if "kernel" in weights:
        # (width, in, out) to (out, in, width)
        return {"weight": weights["kernel"].transpose(2, 1, 0).copy(), "bias": weights["bias"]}
    return {names[key]: values for key, values in weights.items()}


def dna(batch: int = 2, length: int = CONTEXT + 100, seed: int = 0) -> np.ndarray:
    """Seeded one-hot DNA, (batch, length, 4), float32, with an exon in the middle so that there is a site to find."""
    letters = np.random.default_rng(seed).integers(0, 4, (batch, length))
    for offset, motif in ((-45, "TTTTCTTTTCTTCCTTTCAG"), (30, "AAGGTAAGTAT")):
        start = length // 2 + offset
        letters[:, start : start + len(motif)] = ["ACGT".index(base) for base in motif]
    return np.eye(4, dtype=np.float32)[letters]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    carry = commands.add_parser("transfer", help="carry a SpliceAI .h5 file into the PyTorch class")
    carry.add_argument("--h5", type=Path, default=None, help="default: spliceai1.h5 of the spliceai package")
    sequence = commands.add_parser("dna", help="write a seeded one-hot input")
    sequence.add_argument("--length", type=int, default=CONTEXT + 100, help=f"more than {CONTEXT}")
    sequence.add_argument("--seed", type=int, default=0)
    for command in (carry, sequence):
        command.add_argument("--out", type=Path, required=True, help="directory, made if needed")
    options = parser.parse_args(arguments)
    if options.command == "dna" and options.length <= CONTEXT:
        parser.error(f"--length must exceed {CONTEXT}: the network crops that much")

    options.out.mkdir(parents=True, exist_ok=True)
    if options.command == "dna":
        target = options.out / "dna.npy"
        np.save(target, dna(length=options.length, seed=options.seed))
    else:
        import torch

        target = options.out / "published.pt"
        torch.save(transfer(options.h5 or packaged_h5(1), published()).state_dict(), target)
    print(target)


if __name__ == "__main__":
    main()
