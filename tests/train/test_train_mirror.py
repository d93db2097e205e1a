"""Boxes of a volume that may reach over its border."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from znn_dask.model.predict import mirrored
from znn_dask.train.mirror import read_box, reflected


def test_boxes_are_read_at_coordinates() -> None:
    array = np.arange(2 * 5 * 6 * 7).reshape(2, 5, 6, 7)
    z, y, x = np.array([3, 2, 1]), np.array([4, 4]), np.arange(2, 6)
    np.testing.assert_array_equal(read_box(array, (z, y, x)), array[:, z[:, None, None], y[:, None], x])


@given(st.data())
def test_ranges_of_coordinates_are_reflected_and_read_as_arrays_are(data) -> None:
    array = np.arange(2 * 5 * 6 * 7).reshape(2, 5, 6, 7)
    found = []
    for n in array.shape[1:]:
        low = data.draw(st.integers(0, n - 1))
        high = data.draw(st.integers(low + 1, n))
        start, length = data.draw(st.integers(-9, 15)), data.draw(st.integers(1, 12))
        places = range(start, start + length) if data.draw(st.booleans()) else range(start, start - length, -1)
        found.append(reflected(places, low, high))
        np.testing.assert_array_equal(found[-1], mirrored(np.array(places), low, high))
        assert isinstance(found[-1], range) == all(low <= place < high for place in places)
    z, y, x = (np.array(places) for places in found)
    np.testing.assert_array_equal(read_box(array, found), array[:, z[:, None, None], y[:, None], x])
