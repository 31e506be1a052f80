import numpy as np
import pytest

from vgg_jax.data import splits
from vgg_jax.errors import DataError


def select(expression: str, count: int) -> list[int]:
    return splits.select(expression, lambda role: range(count))


@pytest.mark.parametrize("count", [1, 7, 100, 1281])
@pytest.mark.parametrize("cut", ["90%", "50%", "3", "-2", "33%"])
def test_two_sides_of_a_cut_are_disjoint_and_complete(count, cut):
    parts = []
    for expression in (f"train[:{cut}]", f"train[{cut}:]"):
        try:
            parts += select(expression, count)
        except DataError as error:
            assert "selects none" in str(error)
    assert sorted(parts) == list(range(count))


def test_the_order_is_shuffled_and_fixed():
    selected = select("test", 1000)
    assert sorted(selected) == list(range(1000))
    assert np.abs(np.corrcoef(selected, np.arange(1000))[0, 1]) < 0.1
    assert selected == select("test", 1000)
    assert selected[:100] == select("train[:10%]", 1000)
    assert selected[:3] == [756, 726, 572]  # a run that goes on must find its images where they were


@pytest.mark.parametrize("count", [5, 286, 1001])
def test_five_folds_are_each_held_out_once(count):
    held_out = []
    for fold in range(5):
        low, high = f"{20 * fold}%", f"{20 * fold + 20}%"
        rest = [f"train[:{low}]"] * (fold > 0) + [f"train[{high}:]"] * (fold < 4)
        held = select(f"train[{low}:{high}]", count)
        assert sorted(held + select("+".join(rest), count)) == list(range(count))
        held_out += held
    assert sorted(held_out) == list(range(count))


def test_parts_of_several_roles():
    roles = {"train": "abcde", "validation": "xyz"}
    assert sorted(splits.select("train+validation", roles.get)) == [*"abcdexyz"]
    assert splits.select("validation[:1]+train[:1]", roles.get) == [
        *splits.select("validation[:1]", roles.get),
        *splits.select("train[:1]", roles.get),
    ]


@pytest.mark.parametrize("expression, count", [("train+train", 100), ("train[:60%]+test+train[50%:]", 10)])
def test_what_is_selected_twice_is_refused(expression, count):
    with pytest.raises(DataError, match=f"selects {count} images twice"):
        splits.select(expression, lambda role: [(role, number) for number in range(100)])


@pytest.mark.parametrize(
    "expression", ["", "dev", "train[", "train[:10%", "train[5]", "train[:1.5%]", "train+", "train+dev", "+train"]
)
def test_what_is_no_split_says_what_is(expression):
    with pytest.raises(DataError, match="is not understood; a split is train, validation or test, or a slice"):
        splits.parse(expression)


def test_less_than_half_an_image_from_the_end_is_none():
    assert len(select("train[:-10%]", 3)) == 3
    with pytest.raises(DataError, match="selects none of 3 images"):
        select("train[-10%:]", 3)


def test_an_empty_slice_is_an_error():
    with pytest.raises(DataError, match=r"split 'train\[:0\]' selects none of 100 images"):
        select("train[:0]", 100)
