"""Weights put into a Keras model, and saved in Keras's own formats."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracer.adapter import Array, LoadRequest
from tracer.errors import InputError
from tracer.names import display
from tracer.text import first_line
from tracer.weighing.fitting import fitted
from tracer_keras.describe import weights
from tracer_keras.flavour import Flavour
from tracer_keras.tree import Paths


def assign(paths: Paths, values: Mapping[tuple[str, str], Array]) -> None:
    """Put values into variables, by owner and name as :func:`describe.weights` gives them.

    Raises InputError before anything is changed.
    """
    held = {(path, param.name): (param, weight) for path, param, weight in weights(paths)}
    for key, value in fitted(values, {key: param for key, (param, _) in held.items()}).items():
        held[key][1].assign(value)


def save(model: Any, flavour: Flavour, path: Path) -> None:
    """Write ``.weights.h5``, ``.keras`` (the whole model) or ``.h5`` (the same, where Keras can: else weights alone).

    Raises InputError where Keras cannot, OSError.
    """
    with _quiet():
        try:
            if path.name.endswith(".weights.h5"):
                model.save_weights(str(path))
            elif path.suffix == ".h5" and flavour.legacy and not flavour.is_functional(model):
                model.save_weights(str(path), save_format="h5")
            else:
                model.save(str(path))
        except OSError:
            raise
        except Exception as error:  # what a custom layer raises in get_config, and Keras on top of it
            other = "" if path.name.endswith(".weights.h5") else ": a .weights.h5 holds the weights alone"
            raise InputError(f"Keras cannot write {display(path.name)} ({first_line(error, 160)}){other}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keras warns of its own older formats in three ways."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def filled(request: LoadRequest, path: Path) -> LoadRequest:
    """How the model of ``request`` is loaded with the file that :func:`save` wrote."""
    if request.arch is not None:
        return replace(request, path=None, weights=path)
    if path.name.endswith(".weights.h5"):
        return replace(request, weights=path)
    return replace(request, path=path, weights=None)
