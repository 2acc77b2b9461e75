"""Whether a command printed what a page shows.

Lines must be equal but for

- ``…`` in a line, which stands for anything, and ``…`` alone on a line, which stands for any number of lines;
- a number with an exponent, or with three digits behind the point: rounding (below 2e-5, also 0) is any other rounding,
  for processors round differently; what is larger may be a twentieth off;
- in a row of noise (``~``), numbers may be ten times as large or small;
- seconds, dates, sizes in kB or MB, and versions of packages, which may be any;
- a share in per cent, which may be a twentieth or half a point off;
- blanks at the end of a line, and how many blanks stand between two words.
"""

from __future__ import annotations

import re

ROUNDING = 2e-5
_NUMBER = re.compile(
    r"(?P<anything>…)|(?P<date>\d{4}-\d\d-\d\d \d\d:\d\d)|(?P<version>\b\d+\.\d+\.\d+(?:\+\w+)?)"
    r"|(?P<size>[\d.,]+ (?:[kMG]?B|s|ms)\b)|(?P<share>-?\d+(?:\.\d+)? %)|(?P<real>-?\d+(?:\.\d+)?e[+-]\d+)"
    r"|(?P<long>-?\d+\.\d{3,})|(?P<zero>(?<=[→±] )0(?![\d.×]))"
)


def differing(shown: list[str], printed: list[str]) -> str:
    """What differs, in words; empty where everything fits."""
    shown, printed = _trimmed(shown), _trimmed(printed)
    at = 0
    waits = False
    for line in shown:
        if line.strip() == "…":
            waits = True
            continue
        while at < len(printed) and waits and not _fits(line, printed[at]):
            at += 1
        if at == len(printed):
            return f"not printed: {line}"
        if not _fits(line, printed[at]):
            return f"the page shows:   {line}\n  printed:          {printed[at]}"
        at, waits = at + 1, False
    return "" if waits or at == len(printed) else f"printed, and not shown: {printed[at]}"


def _trimmed(lines: list[str]) -> list[str]:
    """Without blank lines, which nobody misses, and with one blank between words."""
    return [" ".join(line.split()) for line in lines if line.strip()]


def _fits(shown: str, printed: str) -> bool:
    pattern, numbers, at = "", [], 0
    for found in _NUMBER.finditer(shown):
        pattern += re.escape(shown[at : found.start()])
        at = found.end()
        match found.lastgroup:
            case "anything":
                pattern += ".*?"
            case "date":
                pattern += r"\d{4}-\d\d-\d\d \d\d:\d\d"
            case "version":
                pattern += r"\d+\.\d+\.\d+(?:\+\w+)?"
            case "size":
                pattern += r"[\d.,]+ (?:[kMG]?B|s|ms)"
            case "share":
                pattern += r"(-?\d+(?:\.\d+)?) %"
                numbers.append((float(found[0][:-2]), 0.5))
            case _:
                pattern += r"(-?\d+(?:\.\d+)?(?:e[+-]\d+)?)"
                numbers.append((float(found[0]), 0.0))
    match = re.fullmatch(pattern + re.escape(shown[at:]), printed)
    return match is not None and all(
        _near(was, float(now), slack, noise=shown.startswith("~"))
        for (was, slack), now in zip(numbers, match.groups(), strict=True)
    )


def _near(was: float, now: float, slack: float, *, noise: bool) -> bool:
    if noise:
        return abs(was) / 10 <= abs(now) <= abs(was) * 10
    if not slack and abs(was) < ROUNDING:
        return abs(now) < ROUNDING
    return abs(was - now) <= max(slack, abs(was) / 20)
