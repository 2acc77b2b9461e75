"""Any string is a legal, distinct, reversible key, and harmless on a screen."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.names import decode, display, encode

NASTY = [
    "", ".", "..", "/", "../../x", "a/b", "zarr.json", "__x", "Conv", "conv", "\u00e9", "e\u0301", "~", "^a", "\0",
    "\x1b[2J", "a" * 119, "\u202ex", "\ud800", "~~", "c.0.0", "con",
]  # fmt: skip


@given(st.text(max_size=60))
def test_a_short_name_comes_back(name: str) -> None:
    key = encode(name)
    assert len(key) > 120 - 27 or decode(key) == name
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-~^")
    assert key not in ("", ".", "..")
    assert not key.startswith(("__", "."))


@given(st.text(max_size=400), st.text(max_size=400))
def test_distinct_names_have_keys_that_differ_by_more_than_case(a: str, b: str) -> None:
    if a != b:
        assert encode(a).lower() != encode(b).lower()


def test_nasty_names_are_distinct_keys() -> None:
    assert len({encode(name) for name in NASTY}) == len(NASTY)
    assert [decode(encode(name)) for name in NASTY] == NASTY


@pytest.mark.parametrize("length", [300, 70_000])
def test_a_long_name_is_a_short_key(length: int) -> None:
    a, b = encode("x" * length), encode("x" * length + "y")
    assert len(a) <= 120
    assert a != b
    assert decode(a) is None


@pytest.mark.parametrize("key", ["~zz", "^1", "a~", "~e9"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"encoded|decode"):
        decode(key)


@given(st.text())
def test_nothing_invisible_reaches_a_screen(text: str) -> None:
    shown = display(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)


def test_a_long_text_keeps_both_ends() -> None:
    assert display("abcdefghij", 5) == "ab…ij"
