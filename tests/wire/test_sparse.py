"""losswire.sparse: the largest elements, how much they are, and what a stranger says of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from losswire import sparse
from losswire.errors import TensorError


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 50)), st.data())
def test_the_largest_are_kept(array, draws):
    """So many as were asked for, none smaller than one that is not; NaN before all others."""
    count = draws.draw(st.integers(1, array.size))
    indices = sparse.largest(array, count)
    magnitude = np.where(np.isnan(array), np.inf, np.abs(array))
    others = np.delete(magnitude, indices)

    assert (np.diff(indices) > 0).all()
    assert indices.size == count
    assert not others.size or others.max() <= magnitude[indices].min()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_equal_elements_are_kept_from_the_first_on(dtype):
    """Where all are the same, which are kept is no accident."""
    assert sparse.largest(np.ones(5, dtype), 2).tolist() == [0, 1]
    assert sparse.largest(np.array([1, -2, 2, 1], dtype), 3).tolist() == [0, 1, 2]


def test_energy_is_the_share_of_the_squares():
    """3² of 3² + 4²."""
    array = np.array([3, 4], np.float32)

    assert sparse.energy(array, array[:1]) == pytest.approx(9 / 25)


def test_energy_of_nothing_is_all_of_it():
    """Of a gradient of zeros nothing is lost."""
    assert sparse.energy(np.zeros(4, np.float32), np.zeros(1, np.float32)) == 1


def test_energy_does_not_overflow():
    """Squares of float32's largest numbers are added up where there is room for them."""
    array = np.full(4, 3e38, np.float32)

    assert sparse.energy(array, array[:1]) == pytest.approx(0.25)


def test_what_is_kept_stands_where_it_was():
    """All others are 0."""
    found = sparse.dense(np.array([5, 7], np.int8), np.array([1, 3]), 4)

    assert found.tolist() == [0, 5, 0, 7]


def test_nothing_may_be_kept():
    """A tensor without elements, or one of zeros."""
    assert sparse.dense(np.array([], np.int8), np.array([], np.int64), 2).tolist() == [0, 0]


@pytest.mark.parametrize(
    "indices", [[-1, 0], [0, 4], [1, 1], [2, 1], [0, 1 << 62], [-(1 << 63), 1]]
)
def test_indices_that_a_stranger_made_up_are_refused(indices):
    """Out of range, twice the same, or falling: nothing is written by them."""
    with pytest.raises(TensorError, match="must ascend"):
        sparse.dense(np.zeros(2, np.int8), np.array(indices), 4)


@pytest.mark.parametrize("size", [1 << 62, 1 << 70])
def test_a_size_that_no_memory_holds_is_refused(size):
    """One element of an exbibyte is no reason to fail otherwise."""
    with pytest.raises(TensorError, match="memory must hold a sparse tensor"):
        sparse.dense(np.zeros(1, np.float32), np.zeros(1, np.int64), size)
