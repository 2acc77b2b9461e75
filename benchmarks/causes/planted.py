"""Explaining candidates with defects."""

from __future__ import annotations

import argparse
import cProfile
import pstats
import traceback
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from types import ModuleType
from typing import Any

from benchmarks.causes.judging import SAID, Judged, judged, line, shown
from benchmarks.causes.names import LATENT_KINDS, RIGHT, VAGUE
from benchmarks.causes.results import keep, table
from benchmarks.causes.runs import Run, at_once, record_at_once, singles
from benchmarks.corpus import ports
from benchmarks.corpus.mutations import KINDS
from benchmarks.corpus.record import kept, record
from benchmarks.defects import Bench, Stale, benches
from benchmarks.planted import twins_of
from tracer.errors import TracerError


def _planned(options: argparse.Namespace) -> Iterator[tuple[Any, list[str]]]:
    """The ports to take, each with the kinds to look for in it."""
    if options.networks:
        yield from _networks(options)
        return
    if options.second:
        yield from _second(options)
        return
    seen = [kind for kind in KINDS if kind in RIGHT]
    if options.new:
        from benchmarks.corpus.mutations import unseen

        _take(unseen)
        seen = list(unseen.RIGHT)
    kinds = [kind for kind in seen if _among(kind, options.kinds)]
    for bench in benches(options.names, held_out=options.held_out, make=options.record):
        yield bench, kinds


def _second(options: argparse.Namespace) -> Iterator[tuple[Bench, list[str]]]:
    """The ports of the second set: each kind is built into its own, some on the Keras side."""
    from benchmarks.corpus.mutations import second, unseen
    from benchmarks.corpus.mutations.second.keras_side import KINDS as ON_KERAS
    from benchmarks.corpus.mutations.second.keras_side import KerasBench

    _take(unseen)
    _take(second)
    known_ports = ports()
    for name in sorted({port for planned in second.PLANS.values() for port in planned}):
        if options.names and not _among(name, options.names):
            continue
        pair = kept(known_ports[name])
        if pair is None and options.record:
            pair = record(known_ports[name])
        if pair is None:
            print(f"{name}: not recorded (--record)")
            continue
        here = [kind for kind, planned in second.PLANS.items() if name in planned and _among(kind, options.kinds)]
        for cls in (Bench, KerasBench):
            if kinds := [kind for kind in here if (kind in ON_KERAS) == (cls is KerasBench)]:
                yield cls(pair), kinds


def _networks(options: argparse.Namespace) -> Iterator[tuple[Any, list[str]]]:
    """The networks of a set of their own, each with its defects and its correct ports."""
    from benchmarks.causes.networks import NetworkBench

    chosen = import_module(f"benchmarks.corpus.mutations.{options.networks}").SET
    for name, one in chosen.defects.items():
        RIGHT[name], VAGUE[name] = one.right, one.vague
        if one.latent:
            LATENT_KINDS.add(name)
    for network in chosen.networks:
        bench = NetworkBench(chosen, network)
        if not options.names or _among(bench.pair.port.name, options.names):
            yield bench, [name for name in bench.names if _among(name, options.kinds)]


def _take(kinds: ModuleType) -> None:
    """Let a set of defects be known with the others."""
    KINDS.update(kinds.KINDS)
    RIGHT.update(kinds.RIGHT)
    VAGUE.update(kinds.VAGUE)


def _among(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def run_defects(options: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    correct: list[Judged] = []
    failed = 0
    unseen = options.second or options.networks not in (None, "third")
    profile = cProfile.Profile() if options.profile else None
    for bench, kinds in _planned(options):
        port = bench.pair.port
        if options.record:
            _record(bench, kinds, options)
        twins: dict[str, str] | None = None
        for run in _runs(bench, kinds, options):
            if twins is None:
                twins = bench.twins if options.networks else twins_of(bench.reference, bench.correct)
            title = "+".join(run.kinds) or run.name
            try:
                result = judged(run, twins, options.seconds, profile)
            except Exception as error:  # an engine that fails on one is shown on the others all the same
                failed += 1
                print(f"{port.name:26} {title:26} FAILED {type(error).__name__}: {str(error)[:200]}", flush=True)
                if options.verbose:
                    traceback.print_exc()
                continue
            rows += rows_of(run, result, told=not unseen)
            if not run.kinds:
                correct.append(result)
            marks = " ".join(result.outcomes)
            print(f"{port.name:26} {title:26} {marks:8} {len(result.false)} false {result.latent} latent  "
                  f"{result.seconds:5.1f} s of {result.explained.looked} pairs", flush=True)  # fmt: skip
            if options.verbose if unseen else not port.held_out:
                _tell(result, options.verbose)
    if rows:
        table("KIND", rows, "kind")
        table("PORT", rows, "port")
        if options.second or options.networks:
            table("SET", rows, "set")
        if correct:
            said = [one.status for result in correct for one in result.false]
            print(f"{len(correct)} correct ports: {sum(status in SAID for status in said)} names said, "
                  f"{said.count('unknown')} unknown")  # fmt: skip
        names = (
            (options.networks, options.networks),
            ("second", options.second),
            ("new", options.new),
            ("stacks", options.stacks),
            ("defects", True),
        )
        keep(next(name for name, chosen in names if chosen), rows, options)
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    if failed:
        raise SystemExit(f"{failed} explanations failed")


def _record(bench: Any, kinds: Sequence[str], options: argparse.Namespace) -> None:
    try:
        if options.stacks:
            planted = [kind for kind in kinds if not KINDS[kind].latent]
            record_at_once(bench, planted, options.stacks, options.draws, options.seed)
        else:
            bench.record(kinds)
    except (TracerError, AssertionError, OSError, Stale) as error:
        print(f"{bench.pair.port.name}: {error}")


def _runs(bench: Any, kinds: Sequence[str], options: argparse.Namespace) -> Iterator[Run]:
    if options.networks:
        yield from bench.runs(kinds)
        return
    if not options.stacks:
        yield from singles(bench, kinds)
    for count in options.stacks:
        yield from at_once(bench, count, options.draws, options.seed)


def _tell(result: Judged, verbose: bool) -> None:
    for outcome, said in zip(result.outcomes, result.said, strict=True):
        if outcome != "first" or verbose:
            for finding in said[: None if verbose else 3]:
                for text in shown(finding) if verbose else (line(finding),):
                    print(f"      {text[:240]}")
    for finding in result.false[: None if verbose else 3]:
        for text in shown(finding) if verbose else (line(finding),):
            print(f"      false  {text[:240]}")


def rows_of(run: Run, result: Judged, *, told: bool) -> Iterator[dict[str, Any]]:
    """What is kept of a run, a row for each defect; ``told``: with what was said."""
    on_keras = run.candidate.framework != "pytorch"
    for i, kind in enumerate(run.kinds):
        others = [other for j, other in enumerate(result.said) if j != i]
        yield {
            "port": run.bench.pair.port.name,
            "held_out": run.bench.pair.port.held_out,
            "kind": kind,
            "kinds": run.kinds,
            "set": run.label
            or ("two in one layer" if run.one_layer else "on the Keras side" if on_keras else "on the PyTorch side"),
            "outcome": result.outcomes[i],
            "proven": result.proven[i],
            "together": run.one_layer or any(one in other for other in others for one in result.said[i]),
            "said": [line(finding) for finding in result.said[i] if told],
            "false": [line(finding) if told else "" for finding in result.false] if i == 0 else [],
            "latent": result.latent if i == 0 else 0,
            "looked": result.explained.looked,
            "unread": len(result.explained.unread),
            "seconds": round(result.seconds, 2) if i == 0 else 0.0,
            "parts": result.parts if i == 0 else 0,
            "slowest": round(max((f.seconds / len(f.pairs or "1") for f in result.explained.findings), default=0.0), 2),
        }
