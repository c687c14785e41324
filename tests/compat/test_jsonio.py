"""The JSON of the start path agrees with the json package."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joey.compat import jsonio

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_it_writes_json_reads_back(value: Any) -> None:
    assert json.loads(jsonio.dumps(value)) == value


@given(VALUES, st.sampled_from([None, 2]))
def test_it_reads_what_json_writes(value: Any, indent: int | None) -> None:
    assert jsonio.loads(" \n" + json.dumps(value, indent=indent, ensure_ascii=False) + "\t\n") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "{",
        "[1,",
        '{"a" 1}',
        "[1] 2",
        "nul",
        '"\x01"',
        "NaN",
        "Infinity",
        "01",
        "'a'",
        "{1: 2}",
        "[" * 100_000,
    ],
)
def test_what_is_not_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        jsonio.loads(text)


def test_an_error_says_where() -> None:
    with pytest.raises(ValueError, match="line 3 column"):
        jsonio.loads('{\n "a": 1\n "b": 2}')


def test_not_a_number_is_never_written() -> None:
    with pytest.raises(ValueError, match=r"."):
        jsonio.dumps(math.nan)
