"""Drawing defects, and comparing what is said of them with what was drawn."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.causes.fuzzing import OPERATORS, Operator, told
from benchmarks.causes.judging import SAID, Judged, judged, line, shown
from benchmarks.causes.names import RIGHT, VAGUE
from benchmarks.causes.networks import CORRECT, NetworkBench
from benchmarks.causes.planted import rows_of
from benchmarks.causes.results import keep, table
from benchmarks.causes.runs import Run
from benchmarks.corpus.mutations import KINDS, Subject
from benchmarks.corpus.mutations.subject import Call, Kind, Work
from benchmarks.planted import Planted, defective, plant
from tracer.causes.naming import above
from tracer.errors import TracerError
from tracer.store import Trace

if TYPE_CHECKING:
    import torch

SETS = ("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh")
_DRAWS = 40
"""Draws for one defect, at most: many an operator finds no place, or changes nothing."""


def run_fuzz(options: argparse.Namespace) -> None:
    """Draws so many defects, spread over the networks, and prints what is said of each."""
    rows: list[dict[str, Any]] = []
    misled, runs = 0, 0
    networks = _networks()
    order = np.random.default_rng(options.seed).permutation(len(networks))
    for position, index in enumerate(order):
        count = options.cases // len(order) + int(position < options.cases % len(order))
        bench = networks[int(index)]
        title = bench.pair.port.name
        if options.names and not _among(title, options.names):
            continue
        for run in _drawn(bench, count, options):
            result = judged(run, bench.twins, options.seconds, None)
            rows += rows_of(run, result, told=True)
            misled, runs = misled + _misleads(run, result), runs + 1
            right = " / ".join(" ".join(sorted(RIGHT[kind])) for kind in run.kinds)
            print(f"{title:22} {run.name:44} {' '.join(result.outcomes):8} {len(result.false)} false"
                  f" {result.seconds:5.1f} s  [{right}]", flush=True)  # fmt: skip
            shown_ = {id(one): one for one in (*(one for said in result.said for one in said), *result.false)}
            for finding in shown_.values():
                mark = "false  " if any(finding is one for one in result.false) else ""
                texts = shown(finding) if options.verbose else (line(finding),)
                if options.verbose or any(one != "first" for one in result.outcomes) or mark:
                    for text in texts:
                        print(f"      {mark}{text[:300]}", flush=True)
    table("OPERATOR", rows, "kind")
    table("PORT", rows, "port")
    table("SET", rows, "set")
    print(f"{runs} ports: a wrong name is said of {misled} ({misled / max(runs, 1):.1%})")
    if not options.names:
        keep(f"fuzz {options.seed}", rows, options)


def _misleads(run: Run, result: Judged) -> bool:
    """Whether a finding anywhere has no name that is true of a defect: of what is found at another place than the
    benchmark knows of, the name may be right."""
    true = frozenset[str]().union(*(RIGHT[kind] | VAGUE[kind] for kind in run.kinds))
    every = (*(one for said in result.said for one in said), *result.false)
    return any(
        one.status in SAID and one.causes and not true & {*one.names, *(cause.id for cause in one.candidates)}
        for one in every
    )


def _networks() -> list[NetworkBench]:
    sets = [import_module(f"benchmarks.corpus.mutations.{name}").SET for name in SETS]
    return [NetworkBench(one, network) for one in sets for network in one.networks]


def _drawn(bench: NetworkBench, count: int, options: argparse.Namespace) -> Iterator[Run]:
    """Candidates with drawn defects, each recorded until the next is asked for."""
    import torch

    torch.set_num_threads(1)
    if not count:
        return
    if options.record:
        bench.record(())
    pair = bench.of.networks[bench.network]()
    model = bench.of.build(pair, CORRECT)
    try:
        if not isinstance(model, torch.nn.Module):
            return
        correct = bench.correct
        subject = Subject(model, _inputs(correct, model))
    except TracerError as error:
        print(f"{bench.pair.port.name}: {error}")
        return
    for case in range(count):
        seed = zlib.crc32(f"{bench.pair.port.name} {options.seed} {case}".encode())
        planted = _plant(subject, np.random.default_rng(seed), 2 if options.pairs else 1, options.kinds)
        if planted is None:
            continue
        place = Path(tempfile.mkdtemp())
        try:
            recorded = defective(planted.model, correct, {}, place / "trace.zarr")
            label = "two at once" if len(planted.kinds) > 1 else "one"
            yield Run(bench, planted, recorded, label=label, name="+".join(planted.kinds))
        except TracerError as error:
            print(f"{bench.pair.port.name}: {'+'.join(planted.kinds)}: {error}")
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _inputs(correct: Any, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """As the port is fed, by its forward's parameters; ids are no nodes of its graph, and their axes stay. An input's
    node is called otherwise where a module has the parameter's name."""
    saved = [values for values, _ in Trace.open(correct.root).inputs(correct.input_id).values()]
    own = {node.name: correct.read(node.name) for node in correct.structure.inputs}
    wanted = [name for name, given in signature(model.forward).parameters.items() if given.default is Parameter.empty]
    return {name: own.get(f"input_{name}", own.get(name, values)) for name, values in zip(wanted, saved, strict=True)}


def _plant(subject: Subject, rng: np.random.Generator, count: int, names: list[str]) -> Planted | None:
    operators = [one for one in OPERATORS if _among(one.name, names)]
    for _ in range(_DRAWS):
        chosen = [operators[int(i)] for i in rng.choice(len(operators), count, replace=False)]
        for one in chosen:
            KINDS[one.name] = Kind(one.name, _sites(one, rng), _applied(one, rng))
        planted = plant(subject, [one.name for one in chosen], int(rng.integers(1 << 30)))
        if planted is not None:
            return planted
    return None


def _sites(one: Operator, rng: np.random.Generator) -> Any:
    def sites(subject: Subject) -> list[Any]:
        found = list(one.sites(subject))
        return [found[int(rng.integers(len(found)))]] if found else []

    return sites


def _applied(one: Operator, rng: np.random.Generator) -> Any:
    def apply(work: Work, site: Any) -> bool:
        names = one.apply(work, site, rng)
        if names is not None:
            right, VAGUE[one.name] = told(names)
            RIGHT[one.name] = right | (_PREPARES if _prepares(work.subject, site) else frozenset())
        return names is not None

    return apply


_PREPARES = frozenset({"input-normalisation", "input-scale"})


def _prepares(subject: Subject, site: Any) -> bool:
    """Whether no layer with weights stands between what the model is given and a call."""
    structure = subject.structure
    if not isinstance(site, Call):
        return False
    return not any(structure.by_name[name].params for name in above(structure, site.node.name))


def _among(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
