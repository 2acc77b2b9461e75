"""Results as tables of pandas: the rows and columns that ``--format csv`` writes, with numbers as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tracer.errors import MissingFrameworkError
from tracer.report.formats.rows import FIGURES, table_of

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(document: Mapping[str, Any]) -> DataFrame:
    """The rows of a document of ``--json``. Raises MissingFrameworkError where pandas is not installed."""
    try:
        pandas = import_module("pandas")
    except ImportError as error:
        raise MissingFrameworkError("a table needs pandas: pip install 'tracer-nn[pandas]'", ("pandas",)) from error
    table = table_of(document)
    made: DataFrame = pandas.DataFrame(list(table.rows(document)), columns=list(table.columns))
    # Of a column in which all is missing pandas cannot know that it holds numbers.
    return made.astype({name: "float64" for name in table.columns if name in FIGURES})
