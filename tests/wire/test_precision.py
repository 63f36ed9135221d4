"""losswire.precision: fewer bytes, by no more error than is stated, whatever the numbers."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from losswire import precision
from losswire.precision import BLOCK, Narrow, widened

FLOATS = st.sampled_from([np.float32, np.float64])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)


def arrays(**elements):
    """Arrays of float32 or float64, NaN and infinities among them unless they are ruled out."""
    return FLOATS.flatmap(
        lambda dtype: hnp.arrays(
            dtype, SHAPES, elements=hnp.from_dtype(np.dtype(np.float32), **elements)
        )
    )


finite = arrays(allow_nan=False, allow_infinity=False)


def there_and_back(array, wire):
    """An array as its receiver has it."""
    if wire == "bfloat16":
        return precision.of_bfloat16(precision.bfloat16(array))
    return precision.of_scaled(*precision.scaled(array, wire))


def rows_of(array):
    return array.reshape(precision.row_shape(array.shape))


def largest_of(array):
    """The largest magnitude of each element's row."""
    rows = rows_of(array)
    top = np.abs(rows).max(axis=1, initial=0, keepdims=True)
    return np.broadcast_to(top, rows.shape).reshape(array.shape)


@settings(deadline=None)
@given(arrays())
def test_bfloat16_is_what_ml_dtypes_makes(array):
    """Rounded to nearest, ties to even; NaN, infinities, zeros and the smallest numbers as they are."""
    with np.errstate(over="ignore", invalid="ignore"):
        expected = array.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)

    np.testing.assert_array_equal(there_and_back(array, "bfloat16"), expected)


@pytest.mark.parametrize("bits", [0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000])
def test_no_nan_becomes_a_number(bits):
    """A NaN whose payload would be rounded away, or carried into the sign, is one all the same."""
    array = np.array([0x3F800000, bits, 0x40000000], np.uint32).view(np.float32)

    np.testing.assert_array_equal(there_and_back(array, "bfloat16"), [1, np.nan, 2])


def test_bfloat16_of_what_it_has_no_room_for():
    """Half a step above its largest number it is infinite; just below it is that number."""
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    half_a_step = 2.0**119
    above = np.float32(largest + half_a_step)

    found = there_and_back(np.array([largest, np.nextafter(above, 0), above, -above]), "bfloat16")
    assert found.tolist() == [largest, largest, np.inf, -np.inf]


@settings(deadline=None)
@given(finite)
def test_bfloat16_is_off_by_a_256th_at_most(array):
    """Its stated bound, or half its smallest number."""
    error = np.abs(there_and_back(array, "bfloat16").astype(np.float64) - array)

    assert (error <= np.maximum(np.abs(array) * 2.0**-8, 2.0**-134))[np.abs(array) < 3.38e38].all()


@settings(deadline=None)
@given(finite)
def test_float16_is_off_by_a_2048th_at_most(array):
    """Its stated bound: of the element, or of a great deal less than its row's largest."""
    with np.errstate(over="ignore"):
        error = np.abs(there_and_back(array, "float16").astype(np.float64) - array)
    bound = np.maximum(np.abs(array) * 2.0**-11, largest_of(array) * 2.0**-39)

    assert (error <= np.maximum(bound, 2.0**-149))[np.abs(array) < 3.38e38].all()


@settings(deadline=None)
@given(hnp.arrays(np.float16, SHAPES, elements={"allow_nan": False, "allow_infinity": False}))
def test_what_was_float16_before_is_exact(array):
    """Scales are powers of two, so a half that was widened comes back as it was, whatever its row."""
    wide = array.astype(np.float32)
    held = np.abs(wide) >= largest_of(wide) * 2.0**-29

    np.testing.assert_array_equal(there_and_back(wide, "float16")[held], wide[held])


@settings(deadline=None)
@given(finite)
def test_int8_is_off_by_half_a_step_at_most(array):
    """Its stated bound: 1/254 of its row's largest."""
    error = np.abs(there_and_back(array, "int8").astype(np.float64) - array)
    bound = largest_of(array).astype(np.float64) / 254 * (1 + 2.0**-20)

    assert (error <= np.maximum(bound, 2.0**-140)).all()


@pytest.mark.parametrize("wire", ["bfloat16", "float16", "int8"])
@settings(deadline=None)
@given(array=finite)
def test_all_of_a_row_of_zeros_is_zero(wire, array):
    """A row of zeros is that again: no division by its largest."""
    np.testing.assert_array_equal(there_and_back(array * 0, wire), np.abs(array * 0))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wire", ["bfloat16", "float16", "int8"])
def test_what_is_not_finite_stays_so_and_changes_no_other_row(wire, odd):
    """It arrives as it was, but in int8, where its whole row is NaN; other rows are as without it."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    sick = array.copy()
    sick[1, 2] = odd

    found, well = there_and_back(sick, wire), there_and_back(array, wire)
    np.testing.assert_array_equal(found[[0, 2]], well[[0, 2]])
    if wire == "int8":
        assert np.isnan(found[1]).all()
    else:
        np.testing.assert_array_equal(found[1, 2], np.float32(odd))


def test_gradients_of_a_large_mean_do_not_vanish_in_float16():
    """float16 itself has nothing below 6e-8, which a mean over a few million elements is."""
    tiny = np.full((4, 5), 1e-9, np.float32)

    np.testing.assert_allclose(there_and_back(tiny, "float16"), tiny, rtol=2.0**-11)


@pytest.mark.parametrize("wire", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("shape", [(BLOCK * 2 + 3,), (3, BLOCK + 1), (BLOCK, 3), (5, 7)])
def test_blocks_are_joined_without_a_seam(wire, shape):
    """Long rows, short rows and many rows: each element is as it would be alone with its row."""
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    whole = there_and_back(array, wire)
    alone = np.concatenate([there_and_back(row[None], wire) for row in rows_of(array)])

    np.testing.assert_array_equal(rows_of(whole), alone)


@pytest.mark.parametrize("wire", ["bfloat16", "float16", "int8"])
def test_a_transposed_array_is_written_in_its_own_order(wire):
    """The order in memory is not the order of elements."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T

    np.testing.assert_array_equal(there_and_back(array, wire), there_and_back(array.copy(), wire))


@pytest.mark.parametrize(
    ("values", "fit"),
    [
        ([0, 1, 1], "bit"),
        ([0, 255], "uint8"),
        ([-1, 127], "int8"),
        ([0, 256], "int16"),
        ([-129, 0], "int16"),
        ([0, 1 << 15], "int32"),
        ([0, 1 << 31], "int64"),
        ([-(1 << 63), (1 << 63) - 1], "int64"),
        ([], "int64"),
    ],
)
def test_integers_fit_what_holds_each_of_them(values, fit):
    """The shortest type, and never one that is too short."""
    assert precision.fitting(np.array(values, np.int64)) == fit


def test_integers_that_are_short_already_stay_as_they_are():
    """There is nothing to win from another type of the same size."""
    assert precision.fitting(np.array([-1, 5], np.int8)) == "int8"
    assert precision.fitting(np.array([2, 5], np.uint8)) == "uint8"


@settings(deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=1, max_side=20)))
def test_bits_survive(array):
    """Eight in a byte, whatever their number."""
    packed = precision.bits(array)

    assert packed.size == -(-array.size // 8)
    np.testing.assert_array_equal(widened("bool", array.shape, packed.data, Narrow("bit")), array)
    np.testing.assert_array_equal(widened("int64", array.shape, packed.data, Narrow("bit")), array)
