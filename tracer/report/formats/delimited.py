"""CSV (RFC 4180) and lines of JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from tracer.report.formats.rows import Document, table_of

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""What a text may not begin with: spreadsheets would run it as a formula. The apostrophe itself is among them, so that
taking the first one away always gives the text back."""


def csv_text(document: Document) -> str:
    """The rows of a document as RFC 4180 has them: a header line, CRLF at every line's end, quotes where needed.

    A text that a spreadsheet would take for a formula has an apostrophe put before it; numbers stay numbers.
    """
    table = table_of(document)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(table.columns)
    writer.writerows([_cell(row.get(column)) for column in table.columns] for row in table.rows(document))
    return out.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace").decode()  # lone surrogates, which no UTF-8 file holds
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None else str(value)


def lines(document: Document) -> Iterator[str]:
    """A document line by line: first all but its long lists, then each item of these as in ``--json``."""
    table = table_of(document)
    yield json.dumps({key: value for key, value in document.items() if key not in table.lists}, allow_nan=False)
    for key in table.lists:
        for item in document[key]:
            yield json.dumps(item, allow_nan=False)
