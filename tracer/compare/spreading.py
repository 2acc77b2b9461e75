"""Comparing the tensors of two recordings in several threads, or on the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from tracer.compare import compiled
from tracer.compare.stats import Stats
from tracer.compare.tensors import Spread, Work
from tracer.errors import TraceError, TracerError
from tracer.names import display
from tracer.store import Recording, Trace, sources

if TYPE_CHECKING:
    from distributed import Client

Sides = tuple[Recording, Recording]
Marks = tuple[tuple[float, int], ...]
"""What tells recordings from others of the same names: when they were made, and how many tensors they have."""
Place = tuple[str, str, str, Marks]
"""Where a trace lies, the names of two of its recordings, and their marks as they are seen here."""
_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx")
_CONNECTING = 5
"""Seconds that a scheduler may take to answer."""


@contextlib.contextmanager
def threads(sides: Sides) -> Iterator[Spread]:
    """Compare in as many threads as there are processors for this process, and the parts of large tensors too."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool, parts = ThreadPoolExecutor(count), ThreadPoolExecutor(count)  # one alone would wait for itself

    def spread(work: Work) -> Callable[[], Stats]:
        return pool.submit(work.stats, sides, parts).result

    try:
        yield spread
    finally:
        pool.shutdown(cancel_futures=True)
        parts.shutdown(cancel_futures=True)


@contextlib.contextmanager
def cluster(address: str, sides: Sides) -> Iterator[Spread]:
    """Compare on the workers of the Dask scheduler at ``address``, which read the trace where it lies here.

    Raises TracerError where there is no such scheduler, where it has no workers or loses them, where a worker has no
    tracer, or another one, and where it does not see this trace.
    """
    shown = display(address)
    if "://" in address and address.partition("://")[0] not in _SCHEMES:
        raise TracerError(f"{shown} is no address of a Dask scheduler: tcp://HOST:PORT is")
    try:
        from distributed import Client
    except ImportError:
        raise TracerError("--dask needs Dask: pip install 'tracer-nn[dask]'") from None
    root = sources.called.get(sides[0].root) or str(sides[0].root.absolute())
    place = (root, sides[0].name, sides[1].name, _marks(sides))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        try:
            client = stack.enter_context(Client(address, timeout=_CONNECTING, set_as_default=False))  # type: ignore[no-untyped-call]
            _check(client, place, shown)
            compiling = all(client.run(_compiled).values())
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            if isinstance(error, TracerError):
                raise
            raise TracerError(f"no Dask scheduler answers at {shown}: {_first_line(error)}") from error

        def spread(work: Work) -> Callable[[], Stats]:
            future = client.submit(_stats, place, replace(work, compiled=work.compiled and compiling), pure=False)

            def wait() -> Stats:
                try:
                    found: Stats = future.result()
                except (TraceError, ValueError):
                    raise
                except Exception as error:  # whatever Dask calls a worker that is gone
                    raise TracerError(f"the Dask cluster at {shown} gave up: {_first_line(error)}") from error
                return found

            return wait

        yield spread


def _compiled() -> bool:
    return compiled.load() is not None


def _check(client: Client, place: Place, shown: str) -> None:
    """Raises TracerError unless every worker reads what is read here."""
    try:  # which unpacks what is sent to workers
        client.run_on_scheduler(_seen_nothing)  # type: ignore[no-untyped-call]
    except ModuleNotFoundError as error:
        raise TracerError(f"the Dask scheduler at {shown} has no {error.name}: pip install tracer-nn there") from None
    answers = client.run(_seen, place, on_error="return")
    if not answers:
        raise TracerError(f"the Dask scheduler at {shown} has no workers: dask worker {shown}")
    for worker, answer in answers.items():
        if missing := re.search(r"No module named \W*([\w.]+)", str(answer)):  # Dask wraps it in errors of its own
            said = f"has no {missing[1]}: pip install tracer-nn there"
        elif isinstance(answer, Exception):
            said = f"cannot read the trace: {_first_line(answer)}"
        elif answer != place[3]:
            said = f"sees another trace at {display(place[0])}, or has another tracer"
        else:
            continue
        raise TracerError(f"the Dask worker {display(str(worker))} {said}")


def _marks(sides: Sides) -> Marks:
    return tuple((side.created, len(side.activations)) for side in sides)


@lru_cache(maxsize=4)
def _opened(place: Place) -> Sides:
    trace = Trace.open(place[0])
    return trace.recording(place[1]), trace.recording(place[2])


def _seen(place: Place) -> Marks:
    """On a worker: what it sees of the recordings. Raises what reading them does."""
    return _marks(_opened(place))


def _seen_nothing() -> None:
    """On the scheduler: that this is found there is all."""


def _stats(place: Place, work: Work) -> Stats:
    """On a worker: one piece of work."""
    return work.stats(_opened(place))


def _first_line(error: BaseException) -> str:
    return display((str(error) or type(error).__name__).splitlines()[0], 200)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What goes wrong is raised: Dask's own log would tell it again, in many lines."""
    import logging

    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    before = [(logger, logger.level) for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in before:
            logger.setLevel(level)


__all__ = ["cluster", "threads"]
