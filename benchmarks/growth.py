"""How the time and memory of an alignment grow with the models: structures of 200 to 10,000 nodes on either side.

python -m benchmarks.growth [SIZE …]     prints a table, writes benchmarks/growth.json

Each size runs in a process of its own on one core; seconds are processor time, memory is the largest resident size
less that of an alignment of a few nodes. The models are towers of residual blocks with normalisations and attention,
one side with other names, fused activations split, dropout, and one block missing in ten.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from tracer.alignment import align
from tracer.graph import Node, Param, Structure

SIZES = (200, 500, 1_000, 2_000, 5_000, 10_000)
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def tower(nodes: int, *, candidate: bool) -> Structure:
    """A model of about ``nodes`` nodes; the candidate misses a tenth of the blocks and has nodes of its own."""
    out = [Node("x", "input", "x", role="input", shape=(3, 17, 64))]

    def add(name: str, kind: str, parents: tuple[str, ...], shape: tuple[int, ...], *params: tuple[int, ...]) -> str:
        listed = tuple(Param(f"p{i}", tuple(reversed(p)) if candidate else p, "float32") for i, p in enumerate(params))
        out.append(Node(name, kind, kind, parents=parents, shape=shape, params=listed))
        return name

    last, block = "x", 0
    per_block = 15 if candidate else 14
    while len(out) < nodes:
        if candidate and block % 10 == 7:
            block += 1
            nodes -= per_block
            continue
        scope = f"layers.{block}." if candidate else f"block_{block}/"
        width = 64 + 8 * (block // 25)
        wide = (3, 17, width)
        norm = add(scope + "norm", "layernorm", (last,), wide, (width,), (width,))
        q, k, v = (add(scope + n, "dense", (norm,), wide, (width, width), (width,)) for n in "qkv")
        scores = add(scope + "scores", "matmul", (q, k), (3, 17, 17))
        weights = add(scope + "softmax", "softmax", (scores,), (3, 17, 17))
        if candidate:
            weights = add(scope + "dropout", "dropout", (weights,), (3, 17, 17))
        mixed = add(scope + "mixed", "matmul", (weights, v), wide)
        proj = add(scope + "out", "dense", (mixed,), wide, (width, width), (width,))
        res = add(scope + "res", "add", (last, proj), wide)
        norm = add(scope + "norm2", "layernorm", (res,), wide, (width,), (width,))
        up = add(scope + "up", "dense", (norm,), (3, 17, 4 * width), (width, 4 * width), (4 * width,))
        act = add(scope + "act", "gelu", (up,), (3, 17, 4 * width))
        down = add(scope + "down", "dense", (act,), wide, (4 * width, width), (width,))
        last = add(scope + "res2", "add", (res, down), wide)
        block += 1
        if block % 25 == 0:
            width = 64 + 8 * (block // 25)
            last = add(scope + "widen", "dense", (last,), (3, 17, width), (out[-1].shape[-1], width), (width,))
    return Structure(tuple(out), (last,))


def twin(name: str) -> str:
    """The candidate's name of a node of the reference."""
    return name.replace("block_", "layers.").replace("/", ".")


def measure(size: int) -> dict[str, float]:
    """One alignment in this process."""
    align(tower(30, candidate=False), tower(30, candidate=True))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours, theirs = tower(size, candidate=False), tower(size, candidate=True)
    began, wall = time.process_time(), time.perf_counter()
    found = align(ours, theirs)
    took, waited = time.process_time() - began, time.perf_counter() - wall
    there = {node.name for node in theirs}
    truth = {n.name: twin(n.name) for n in ours}
    right = sum(truth[p.aligned] == p.candidate[-1] for p in found.pairs)
    return {
        "nodes": [len(ours), len(theirs)],
        "seconds": round(took, 2),
        "wall": round(waited, 2),
        "megabytes": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
        "pairs": len(found.pairs),
        "right": right,
        "expected": sum(name in there for name in truth.values()),
        "ambiguous": len(found.ambiguous),
    }


def main(sizes: list[int]) -> None:
    rows = []
    for size in sizes or SIZES:
        command = [sys.executable, "-m", "benchmarks.growth", "--one", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | _THREADS, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{row['nodes'][0]:6} x {row['nodes'][1]:6} nodes  {row['seconds']:7.2f} s  {row['megabytes']:5} MB  "
            f"pairs {row['pairs']}  right {row['right']} of {row['expected']}  ambiguous {row['ambiguous']}",
            flush=True,
        )
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main([int(size) for size in sys.argv[1:]])
