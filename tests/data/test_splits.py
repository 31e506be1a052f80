import numpy as np
import pytest

from vgg_jax.data import splits
from vgg_jax.errors import DataError


@pytest.mark.parametrize("count", [1, 7, 100, 1281])
@pytest.mark.parametrize("cut", ["90%", "50%", "3", "-2", "33%"])
def test_two_sides_of_a_cut_are_disjoint_and_complete(count, cut):
    parts = []
    for expression in (f"train[:{cut}]", f"train[{cut}:]"):
        try:
            parts += splits.positions(expression, count).tolist()
        except DataError as error:
            assert "selects none" in str(error)
    assert sorted(parts) == list(range(count))


def test_the_order_is_shuffled_and_fixed():
    positions = splits.positions("test", 1000)
    assert sorted(positions) == list(range(1000))
    assert np.abs(np.corrcoef(positions, np.arange(1000))[0, 1]) < 0.1
    np.testing.assert_array_equal(positions, splits.positions("test", 1000))
    np.testing.assert_array_equal(positions[:100], splits.positions("train[:10%]", 1000))


@pytest.mark.parametrize("expression", ["", "dev", "train[", "train[:10%", "train[5]", "train[:1.5%]", "train+test"])
def test_what_is_no_split_says_what_is(expression):
    with pytest.raises(DataError, match="is not understood; a split is train, validation or test, or a slice"):
        splits.parse(expression)


def test_an_empty_slice_is_an_error():
    with pytest.raises(DataError, match=r"split 'train\[:0\]' selects none of 100 images"):
        splits.positions("train[:0]", 100)
