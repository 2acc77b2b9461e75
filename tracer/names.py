"""Names are data: storing them as keys, and showing them as text."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
_LONGEST = 120
_ITSELF = re.compile(r"(?!__|zarr\.json\Z)[a-z0-9_-][a-z0-9._-]{0,119}\Z", re.ASCII)
"""Names that are their own keys."""


def encode(name: str) -> str:
    """A file-system- and Zarr-safe key for any string; distinct names get distinct keys.

    Lower-case letters, digits, ``.``, ``_`` and ``-`` stand for themselves; an upper-case letter is ``^`` and its
    lower case (so that no two keys differ by case alone), every other byte of the UTF-8 form ``~`` and two hex
    digits. Of a name that begins with ``.`` or ``__`` (reserved by Zarr) the first character is written that way
    too; the empty name is ``~``. :func:`decode` gives all these back. A key of more than 120 characters is cut and
    ends in a digest: that name is in the array's attributes alone.
    """
    if _ITSELF.match(name):
        return name
    out: list[str] = []
    for byte in name.encode("utf-8", "surrogatepass"):
        char = chr(byte)
        if char in _SAFE:
            out.append(char)
        elif "A" <= char <= "Z":
            out.append("^" + char.lower())
        else:
            out.append(f"~{byte:02x}")
    key = "".join(out)
    if not key:
        return "~"
    if key[0] == "." or key.startswith("__") or key == "zarr.json":
        key = f"~{ord(key[0]):02x}{key[1:]}"
    if len(key) > _LONGEST:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        key = f"{key[: _LONGEST - 26]}~~{digest}"
    return key


def decode(key: str) -> str | None:
    """The name of a key made by :func:`encode`; None for a digest key.

    Raises ValueError for a string that :func:`encode` never makes.
    """
    if key == "~":
        return ""
    if "~~" in key:
        return None
    out = bytearray()
    position = 0
    while position < len(key):
        char = key[position]
        if char == "~":
            digits = key[position + 1 : position + 3]
            if not re.fullmatch("[0-9a-f]{2}", digits):
                raise ValueError(f"not an encoded name: {key!r}")
            out.append(int(digits, 16))
            position += 3
        elif char == "^":
            if not re.fullmatch("[a-z]", key[position + 1 : position + 2]):
                raise ValueError(f"not an encoded name: {key!r}")
            out += key[position + 1].upper().encode()
            position += 2
        else:
            out += char.encode()
            position += 1
    return out.decode("utf-8", "surrogatepass")


_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def display(text: str, limit: int | None = None) -> str:
    """``text`` fit for a screen: control, bidirectional, zero-width and surrogate characters become escapes.

    With ``limit`` the middle of a longer text is replaced by ``…``.
    """
    shown = text
    if not text.isprintable():
        shown = "".join(
            char.encode("unicode_escape").decode() if unicodedata.category(char) in _INVISIBLE else char
            for char in text
        )
    if limit is not None and len(shown) > limit:
        head = (limit - 1) // 2
        shown = f"{shown[:head]}…{shown[len(shown) - (limit - 1 - head) :]}"
    return shown
