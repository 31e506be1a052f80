import collections

import numpy as np
import pytest

from tests.data.conftest import encode
from tests.data.test_decode import assert_same_image, pillow_crop
from vgg_jax.data.decode import decode
from vgg_jax.data.open import open_source
from vgg_jax.data.source import Source
from vgg_jax.data.train_stream import TrainStream
from vgg_jax.errors import DataError


def stream(source: Source, **options) -> TrainStream:
    return TrainStream(source, **{"batch_size": 6, "crop": 32, "scale": (32, 64), "seed": 3} | options)


def take(stream: TrainStream, count: int) -> list[dict]:
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def assert_equal(batches: list[dict], others: list[dict]):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


@pytest.fixture
def source(photo_folder):
    return open_source(f"folder:{photo_folder}", "train")


def test_a_batch_is_what_its_plan_says(source):
    batches = stream(source)
    plan = batches.plan(2)
    batch = take(batches, 3)[2]
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "image": ((6, 32, 32, 3), "uint8"),
        "label": ((6,), "int32"),
        "index": ((6,), "int32"),
        "mask": ((6,), "float32"),
    }
    np.testing.assert_array_equal(batch["index"], plan.index)
    np.testing.assert_array_equal(batch["mask"], 1)
    for row, index in enumerate(plan.index):
        example = source[index]
        assert batch["label"][row] == example["label"]
        expected = pillow_crop(decode(example["image"]), int(plan.smaller_side[row]), plan.place[row], 32)
        assert_same_image(batch["image"][row], expected)


def test_every_epoch_shows_every_image_once_in_a_new_order(source):
    batches = stream(source, batch_size=5)  # 24 images: batches run across the borders
    shown = np.concatenate([batches.plan(k).index for k in range(24)])
    batches.close()
    epochs = shown.reshape(5, 24)
    for epoch in epochs:
        assert sorted(epoch) == list(range(24))
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_scales_and_places_are_uniform(source):
    batches = stream(source, batch_size=2000, scale=(40, 43))
    plan = batches.plan(0)
    batches.close()
    counts = collections.Counter(plan.smaller_side.tolist())
    assert sorted(counts) == [40, 41, 42, 43]
    assert min(counts.values()) > 400
    assert plan.place.min() >= 0 and plan.place.max() < 1
    np.testing.assert_allclose(plan.place.mean(axis=0), 0.5, atol=0.03)
    np.testing.assert_allclose(plan.place.std(axis=0), 12**-0.5, atol=0.02)


def test_draws_differ_between_batches_and_seeds(source):
    batches, other = stream(source), stream(source, seed=4)
    plans = [batches.plan(0), batches.plan(1), other.plan(0)]
    batches.close()
    other.close()
    assert len({plan.place.tobytes() for plan in plans}) == 3
    assert len({plan.index.tobytes() for plan in plans}) == 3


@pytest.mark.parametrize("threads", [0, 2, 7])
def test_the_number_of_threads_changes_nothing(source, threads):
    assert_equal(take(stream(source, threads=1), 6), take(stream(source, threads=threads), 6))


def test_a_stream_can_start_anywhere(source):
    assert_equal(take(stream(source), 9)[5:], take(stream(source, start=5), 4))


def test_processes_share_each_batch(source):
    whole = take(stream(source), 5)
    shares = [take(stream(source, process_index=index, process_count=3), 5) for index in range(3)]
    together = [
        {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]} for batches in zip(*shares)
    ]
    assert all(len(batch["label"]) == 2 for batch in shares[0])
    assert_equal(whole, together)


@pytest.fixture
def spoiled(photo_folder, source):
    """The photographs with three unreadable ones among them: {path: what is said of it}."""
    a, b, c = (photo_folder / "train" / name for name in "abc")
    (a / "00.jpg").write_bytes((a / "00.jpg").read_bytes()[:-500])
    (b / "01.jpg").write_bytes(b"")
    (c / "02.jpg").unlink()
    return {str(a / "00.jpg"): "truncated", str(b / "01.jpg"): "the file is empty", str(c / "02.jpg"): "No such file"}


def test_an_unreadable_image_stops_the_stream_with_its_name(source, spoiled):
    with pytest.raises(DataError) as caught:
        take(stream(source), 4)
    assert any(path in str(caught.value) and said in str(caught.value) for path, said in spoiled.items())
    assert str(caught.value).endswith("To leave such images out: --config.data.on_error=skip")


def test_unreadable_images_are_left_out_and_listed(source, spoiled):
    skipping = stream(source, on_error="skip")
    plans = [skipping.plan(k) for k in range(4)]
    batches = take(skipping, 4)
    assert sum(batch["mask"].sum() for batch in batches) == 21
    assert skipping.problems.keys() == spoiled.keys()
    assert all(said in skipping.problems[path] for path, said in spoiled.items())
    for plan, batch in zip(plans, batches):
        for row, index in enumerate(plan.index):
            readable = source.name_of(index) not in spoiled
            assert batch["mask"][row] == readable
            assert batch["image"][row].any() == readable
    assert_equal(batches, take(stream(source, on_error="skip", threads=5), 4))


def test_what_is_in_a_folder_need_not_be_what_its_name_says(photo_folder, photograph):
    a = photo_folder / "train" / "a"
    (a / "00.jpg").rename(a / "00.JPEG")
    (a / "00.JPEG").write_bytes(encode(photograph, "PNG"))
    (a / "03.jpg").write_bytes(encode(photograph.convert("CMYK")))
    batches = take(stream(open_source(f"folder:{photo_folder}", "train")), 4)
    assert sum(batch["mask"].sum() for batch in batches) == 24


def test_closing_ends_the_stream(source):
    batches = stream(source)
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scale": (31, 64)}, r"scale=\(31, 64\) with crop=32: needs crop <= s_min <= s_max"),
        ({"scale": (64, 40)}, "needs crop <= s_min <= s_max"),
        ({"process_count": 4}, "batch_size=6 does not divide over 4 processes; use 4"),
        ({"process_count": 8}, "batch_size=6 does not divide over 8 processes; use 8"),
        ({"on_error": "ignore"}, "config.data.on_error='ignore': it is 'raise' or 'skip'"),
        ({"threads": -1}, "config.data.threads=-1"),
    ],
)
def test_options_that_do_not_fit(source, options, message):
    with pytest.raises(DataError, match=message):
        stream(source, **options)
