"""Triples in the order (z, y, x): how they are read, and their arithmetic axis by axis."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from znn_dask.errors import ParameterError
from znn_dask.geometry import ONE, add, as_triple, ceil_div, multiply, round_up, subtract, volume

triples = st.tuples(*[st.integers(1, 50)] * 3)


class Index:
    """Something that is no int but counts as one, as numpy's integers do."""

    def __index__(self) -> int:
        return 4


@pytest.mark.parametrize(
    ("value", "ndim", "expected"),
    [
        (3, 3, (3, 3, 3)),
        (3, 2, (1, 3, 3)),
        ((5, 7), 2, (1, 5, 7)),
        ([2, 3, 4], 3, (2, 3, 4)),
        ((2, 3, 4), 2, (2, 3, 4)),
        (range(1, 4), 3, (1, 2, 3)),
        ((Index(), 1, 1), 3, (4, 1, 1)),
    ],
)
def test_as_triple_reads(value, ndim, expected):
    triple = as_triple(value, ndim)
    assert triple == expected
    assert all(type(v) is int for v in triple)


@pytest.mark.parametrize("value", [True, "333", None, 3.0, (1, 2), (1, 2, 3, 4), (1, 2, 3.0), (1, True, 2), b"123"])
def test_as_triple_refuses_and_names_the_argument(value):
    with pytest.raises(ParameterError, match=r"kernel must be an int or "):
        as_triple(value, name="kernel")


def test_as_triple_refuses_what_is_too_small():
    with pytest.raises(ParameterError, match=r"kernel must be at least 1 along every axis, got \(3, 0, 3\)"):
        as_triple((3, 0, 3), name="kernel")
    assert as_triple((3, 0, 3), minimum=0) == (3, 0, 3)


@given(st.integers(-1000, 1000), st.integers(1, 50))
def test_ceil_div_is_the_smallest_integer_not_below(a, b):
    quotient = ceil_div(a, b)
    assert (quotient - 1) * b < a <= quotient * b


@given(triples, triples)
def test_arithmetic(a, b):
    assert subtract(add(a, b), b) == a
    assert multiply(a, ONE) == a
    assert volume(multiply(a, b)) == volume(a) * volume(b)


@given(triples, triples)
def test_round_up_is_the_smallest_multiple(size, multiple):
    rounded = round_up(size, multiple)
    assert all(r % m == 0 and r - m < s <= r for r, s, m in zip(rounded, size, multiple, strict=True))


def test_volume_counts_voxels():
    assert volume((2, 3, 4)) == 24
