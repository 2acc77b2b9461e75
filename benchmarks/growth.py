"""How the time and memory of an alignment grow with the models: structures of 200 to 10,000 nodes on either side.

python -m benchmarks.growth [SIZE …]     prints a table, writes benchmarks/growth.json

Each size runs in a process of its own on one core; seconds are processor time, memory is the largest resident size
less that of an alignment of a few nodes. The models are towers of residual blocks with normalisations and attention,
one side with other names, fused activations split, dropout, and one block missing in ten. The largest size is also
measured with blocks that are all equal: numbered as in the whole model, which says which are missing, and counted anew,
which leaves them open.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracer.alignment import align
from tracer.graph import Node, Param, Structure

SIZES = (200, 500, 1_000, 2_000, 5_000, 10_000)
CASES = ("widening", "equal", "counted-anew")
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def tower(nodes: int, *, candidate: bool, equal: bool = False) -> Structure:
    """A model of about ``nodes`` nodes; the candidate misses a tenth of the blocks and has nodes of its own.

    Every 25 blocks are wider than those before, or all are ``equal``.
    """
    out = [Node("x", "input", "x", role="input", shape=(3, 17, 64))]

    def add(name: str, kind: str, parents: tuple[str, ...], shape: tuple[int, ...], *params: tuple[int, ...]) -> str:
        listed = tuple(Param(f"p{i}", tuple(reversed(p)) if candidate else p, "float32") for i, p in enumerate(params))
        out.append(Node(name, kind, kind, parents=parents, shape=shape, params=listed, owner=name))
        return name

    last, block = "x", 0
    per_block = 15 if candidate else 14
    while len(out) < nodes:
        if candidate and block % 10 == 7:
            block += 1
            nodes -= per_block
            continue
        scope = f"layers.{block}." if candidate else f"block_{block}/"
        width = 64 if equal else 64 + 8 * (block // 25)
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
        if block % 25 == 0 and not equal:
            width = 64 + 8 * (block // 25)
            last = add(scope + "widen", "dense", (last,), (3, 17, width), (out[-1].shape[-1], width), (width,))
    return Structure(tuple(out), (last,))


def twin(name: str) -> str:
    """The candidate's name of a node of the reference."""
    return name.replace("block_", "layers.").replace("/", ".")


def counted_anew(structure: Structure) -> tuple[Structure, dict[str, str]]:
    """A candidate whose blocks are numbered without gaps, and its names by those before."""
    order = dict.fromkeys(node.name.split(".")[1] for node in structure if node.name.startswith("layers."))
    number = {before: str(now) for now, before in enumerate(order)}

    def name(before: str) -> str:
        parts = before.split(".")
        return ".".join([parts[0], number[parts[1]], *parts[2:]]) if parts[0] == "layers" else before

    nodes = (replace(n, name=name(n.name), parents=tuple(map(name, n.parents))) for n in structure)
    return Structure(tuple(nodes), tuple(map(name, structure.outputs))), {n.name: name(n.name) for n in structure}


def measure(size: int, case: str) -> dict[str, Any]:
    """One alignment in this process."""
    align(tower(30, candidate=False), tower(30, candidate=True))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours, theirs = (tower(size, candidate=side, equal=case != CASES[0]) for side in (False, True))
    names = {node.name: node.name for node in theirs}
    if case == CASES[2]:
        theirs, names = counted_anew(theirs)
    began, wall = time.process_time(), time.perf_counter()
    found = align(ours, theirs)
    took, waited = time.process_time() - began, time.perf_counter() - wall
    truth = {n.name: names.get(twin(n.name)) for n in ours}
    own = [p for p in found.pairs if "output" not in p.evidence]
    right = [truth[p.aligned] == p.candidate[-1] for p in own]
    return {
        "case": case,
        "nodes": [len(ours), len(theirs)],
        "seconds": round(took, 2),
        "wall": round(waited, 2),
        "megabytes": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
        "pairs": len(own),
        "right": sum(right),
        "wrong": len(right) - sum(right),
        "sure_wrong": sum(p.confidence >= 0.9 and not good for p, good in zip(own, right, strict=True)),
        "expected": sum(name is not None for name in truth.values()),
        "ambiguous": len(found.ambiguous),
    }


def main(sizes: list[int]) -> None:
    rows = []
    sizes = sizes or [*SIZES]
    for size, case in [*((size, CASES[0]) for size in sizes), *((max(sizes), case) for case in CASES[1:])]:
        command = [sys.executable, "-m", "benchmarks.growth", "--one", str(size), case]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | _THREADS, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{case:12} {row['nodes'][0]:6} x {row['nodes'][1]:6} nodes  {row['seconds']:7.2f} s  "
            f"{row['megabytes']:5} MB  pairs {row['pairs']}  right {row['right']} of {row['expected']}  "
            f"wrong {row['wrong']} ({row['sure_wrong']} of them sure)  ambiguous {row['ambiguous']}",
            flush=True,
        )
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]), sys.argv[3])))
    else:
        main([int(size) for size in sys.argv[1:]])
