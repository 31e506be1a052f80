import numpy as np
import pytest

from tests.data.test_image_ops import assert_same_image, pillow_crop
from vgg_jax.data.eval_stream import centre_crops
from vgg_jax.data.image_ops import decode, rescaled_size
from vgg_jax.data.sources import open_source
from vgg_jax.errors import DataError

OPTIONS = {"batch_size": 10, "crop": 32, "smaller_side": 40}


@pytest.fixture
def source(photo_folder):
    return open_source(f"folder:{photo_folder}", "train")


def test_every_image_comes_once_and_the_rest_is_masked(source):
    batches = list(centre_crops(source, **OPTIONS))
    assert [batch["mask"].sum() for batch in batches] == [10, 10, 4]
    assert all(batch["image"].shape == (10, 32, 32, 3) for batch in batches)
    shown = np.concatenate([batch["index"][batch["mask"] == 1] for batch in batches])
    np.testing.assert_array_equal(shown, np.arange(24))
    assert not batches[-1]["image"][4:].any()


def test_a_crop_is_the_centre_of_the_rescaled_image(source):
    for batch in centre_crops(source, **OPTIONS):
        for image, label, index, mask in zip(*(batch[name] for name in ("image", "label", "index", "mask"))):
            if mask:
                encoded, expected_label = source.read(index)
                whole = decode(encoded)
                free = np.subtract(rescaled_size(*whole.shape[:2], 40), 32)
                place = (free + 1) // 2 / (free + 1)  # half up
                assert_same_image(image, pillow_crop(whole, 40, place + 1e-9, 32))
                assert label == expected_label


def test_processes_share_the_images_and_the_number_of_batches(source):
    whole = list(centre_crops(source, **OPTIONS | {"batch_size": 9}))
    shares = [
        list(centre_crops(source, **OPTIONS | {"batch_size": 9}, process_index=index, process_count=3, threads=3))
        for index in range(3)
    ]
    assert [len(share) for share in shares] == [3, 3, 3]
    for batch, parts in zip(whole, zip(*shares)):
        for name in batch:
            np.testing.assert_array_equal(batch[name], np.concatenate([part[name] for part in parts]))


def test_unreadable_images_are_raised_or_listed(source, photo_folder):
    path = photo_folder / "train" / "b" / "04.jpg"
    path.write_text("not a photograph")
    with pytest.raises(DataError, match=f"{path}: not an image in a known format"):
        list(centre_crops(source, **OPTIONS))
    stream = centre_crops(source, **OPTIONS, on_error="skip")
    assert sum(batch["mask"].sum() for batch in stream) == 23
    assert stream.problems == {str(path): "not an image in a known format"}


def test_options_that_do_not_fit(source):
    with pytest.raises(DataError, match="smaller_side=30 with crop=32"):
        centre_crops(source, **OPTIONS | {"smaller_side": 30})
    with pytest.raises(DataError, match="batch_size=10 does not divide over 4 processes; use 8"):
        centre_crops(source, **OPTIONS, process_count=4)
