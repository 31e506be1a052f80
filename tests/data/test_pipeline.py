"""The batches of training and the examples of evaluation, from sources of every kind."""

import errno

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import encode, pillow_crop, pixels, with_orientation
from vgg_jax.data import retry
from vgg_jax.data.decode import decode
from vgg_jax.data.files import FileSource
from vgg_jax.data.open import open_source
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.rescaling import rescale
from vgg_jax.data.sampler import Requests, Sampler
from vgg_jax.data.source import Source
from vgg_jax.data.training_batches import TrainingBatches
from vgg_jax.errors import DataError


def sampler_of(source: Source, **options) -> Sampler:
    return Sampler(len(source), **{"batch_size": 6, "scale": (32, 64), "seed": 3} | options)


def batches_of(source: Source, stop: int, *, start: int = 0, threads: int = 0, on_error: str = "raise", **options):
    batches = TrainingBatches(
        source, sampler_of(source, **options), crop=32, start=start, stop=stop, threads=threads, on_error=on_error
    )
    return list(batches), batches.problems


def assert_equal(batches: list[dict], others: list[dict]):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


@pytest.fixture
def source(photo_folder):
    return open_source(f"folder:{photo_folder}", "train")


class InMemory(Source):
    """The same images as records: a source without files."""

    def __init__(self, source: Source):
        super().__init__("memory", "train", source.classes)
        self._source, self._images = source, [source[index] for index in range(len(source))]

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index]

    def name_of(self, index):
        return self._source.name_of(index)


def test_a_batch_is_what_its_sampler_says(source):
    requests = sampler_of(source)(2)
    batch = batches_of(source, 3)[0][2]
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "image": ((6, 32, 32, 3), "uint8"),
        "window": ((6, 4), "float32"),
        "label": ((6,), "int32"),
        "index": ((6,), "int32"),
        "mask": ((6,), "float32"),
    }
    np.testing.assert_array_equal(batch["index"], requests.index)
    np.testing.assert_array_equal(batch["mask"], 1)
    for row, index in enumerate(requests.index):
        example = source[int(index)]
        assert batch["label"][row] == example["label"]
        expected = pillow_crop(decode(example["image"]), int(requests.smaller_side[row]), requests.place[row], 32)
        assert np.abs(batch["image"][row].astype(int) - expected).max() <= 1


def test_records_give_the_batches_that_files_give(source):
    assert_equal(batches_of(source, 6)[0], batches_of(InMemory(source), 6)[0])


@pytest.mark.parametrize("threads", [0, 2, 7])
def test_the_number_of_threads_changes_nothing(source, threads):
    assert_equal(batches_of(source, 6, threads=1)[0], batches_of(source, 6, threads=threads)[0])


def test_the_batches_can_start_anywhere(source):
    assert_equal(batches_of(source, 9)[0][5:], batches_of(source, 9, start=5)[0])


def test_processes_share_each_batch(source):
    whole = batches_of(source, 5)[0]
    shares = [batches_of(source, 5, rows=np.arange(start, start + 2))[0] for start in (0, 2, 4)]
    together = [
        {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]} for batches in zip(*shares)
    ]
    assert all(len(batch["label"]) == 2 for batch in shares[0])
    assert_equal(whole, together)


class Flaky(InMemory):
    """Of every third image the first reads fail."""

    def __init__(self, source: Source, failures: int):
        super().__init__(source)
        self._left = dict.fromkeys(range(0, len(source), 3), failures)

    def __getitem__(self, index):
        if self._left.get(index):
            self._left[index] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return super().__getitem__(index)


def test_what_fails_now_and_then_is_read_again_counted_and_named(source, monkeypatch, caplog):
    monkeypatch.setattr(retry, "WAITS", (0.0, 0.0))
    assert_equal(batches_of(Flaky(source, 2), 6)[0], batches_of(InMemory(source), 6)[0])
    count = 2 * len(range(0, len(source), 3))
    assert len(caplog.records) == count and f"(failed attempts so far: {count})" in caplog.text
    assert f"{source.name_of(3)}: Input/output error; it is read again" in caplog.text
    with scaled_images(Flaky(source, 2), range(len(source)), [32]) as examples:
        assert [example.index for example in examples] == [*range(len(source))]
    with pytest.raises(DataError, match="Input/output error"):
        batches_of(Flaky(source, 99), 6)


@pytest.fixture
def spoiled(photo_folder, source):
    """The photographs with unreadable ones among them: {path: what is said of it}. Two are found by decoding only."""
    a, b, c = (photo_folder / "train" / name for name in "abc")
    (a / "00.jpg").write_bytes((a / "00.jpg").read_bytes()[:-500])
    (b / "01.jpg").write_bytes(b"")
    (c / "02.jpg").unlink()
    damaged = bytearray((a / "03.jpg").read_bytes())
    table = damaged.index(b"\xff\xc4")
    damaged[table + 5 : table + 21] = b"\xff" * 16  # a Huffman table that cannot be, behind a sound header
    (a / "03.jpg").write_bytes(damaged)
    return {
        str(a / "00.jpg"): "truncated",
        str(b / "01.jpg"): "the file is empty",
        str(c / "02.jpg"): "No such file",
        str(a / "03.jpg"): "damaged or unreadable",
    }


def test_an_unreadable_image_stops_the_batches_with_its_name(source, spoiled):
    with pytest.raises(DataError) as caught:
        batches_of(source, 4)
    assert any(path in str(caught.value) and said in str(caught.value) for path, said in spoiled.items())
    assert str(caught.value).endswith("To leave such images out: --config.data.on_error=skip")


def test_unreadable_images_are_left_out_and_the_others_keep_their_places_and_pixels(photo_folder, source, request):
    sound = batches_of(source, 4)[0]
    spoiled = request.getfixturevalue("spoiled")
    batches, problems = batches_of(source, 4, on_error="skip")
    assert sum(batch["mask"].sum() for batch in batches) == 20
    assert problems.keys() == spoiled.keys()
    assert all(said in problems[path] for path, said in spoiled.items())
    for k, (batch, before) in enumerate(zip(batches, sound)):
        for row, index in enumerate(sampler_of(source)(k).index):
            readable = source.name_of(int(index)) not in spoiled
            assert batch["mask"][row] == readable
            for name in ("image", "label", "window", "index"):
                np.testing.assert_array_equal(batch[name][row], before[name][row] if readable else 0)
    assert_equal(batches, batches_of(source, 4, on_error="skip", threads=5)[0])


def test_a_batch_in_which_no_image_can_be_read_is_a_batch(photo_folder, source):
    for path in (photo_folder / "train").rglob("*.jpg"):
        path.write_bytes(b"no image")
    (batch,), problems = batches_of(source, 1, on_error="skip")
    assert not batch["mask"].any() and not batch["image"].any() and len(problems) == 6


@pytest.mark.parametrize("left", [0, 1])
def test_batches_end_when_no_image_can_be_read(photo_folder, source, left):
    for path in sorted((photo_folder / "train").rglob("*.jpg"))[left:]:
        path.write_bytes(b"no image")
    if left:  # one image of an epoch keeps them going
        assert sum(batch["mask"].sum() for batch in batches_of(source, 16, on_error="skip")[0]) == 4
    else:
        assert len(batches_of(source, 7, on_error="skip")[0]) == 7
        with pytest.raises(
            DataError, match=r"classes: none of 24 images can be read; the last .*/\d+.jpg: not an image"
        ):
            batches_of(source, 8, on_error="skip")


def test_an_empty_place_stays_empty(source):
    requests = Requests(np.array([3, -1, 5]), np.array([40, 40, 40]), np.full((3, 2), 0.5))
    for each in (source, InMemory(source)):
        (batch,) = TrainingBatches(each, lambda k: requests, crop=32, stop=1)
        assert batch["mask"].tolist() == [1, 0, 1] and not batch["image"][1].any()
        assert batch["label"].tolist() == [source[3]["label"], 0, source[5]["label"]]


def every_kind(photograph: Image.Image) -> dict[str, bytes]:
    """An image in every form that is no plain JPEG."""
    gray16 = Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257)
    return {
        "png.png": encode(photograph, "PNG"),
        "a png.jpg": encode(photograph, "PNG"),
        "gif.gif": encode(photograph, "GIF"),
        "bmp.bmp": encode(photograph, "BMP"),
        "webp.webp": encode(photograph, "WEBP"),
        "cmyk.jpg": encode(photograph.convert("CMYK")),
        "rotated.jpg": with_orientation(photograph, 6),
        "trailing.jpg": encode(photograph) + b"\0\0",
        "palette.png": encode(photograph.convert("P"), "PNG"),
        "alpha.png": encode(photograph.convert("RGBA"), "PNG"),
        "gray16.png": encode(gray16, "PNG"),
    }


def test_what_is_no_plain_jpeg_takes_the_slower_road_in_the_same_batch(tmp_path, photograph):
    for number, (name, encoded) in enumerate((every_kind(photograph) | {"plain.jpg": encode(photograph)}).items()):
        path = tmp_path / "train" / "ab"[number % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
    source = open_source(f"folder:{tmp_path}", "train")
    (batch,), _ = batches_of(source, 1, batch_size=12)
    requests = sampler_of(source, batch_size=12)(0)
    for row, index in enumerate(requests.index):
        image = decode(source[int(index)]["image"])
        expected = pillow_crop(image, int(requests.smaller_side[row]), requests.place[row], 32)
        assert np.abs(batch["image"][row].astype(int) - expected).max() <= 1, source.name_of(int(index))
    # Whole images at the test scales, from the same module.
    with scaled_images(source, range(12), (64, 334, 0)) as examples:
        for example in examples:
            image = decode(source[example.index]["image"])
            assert example.label == source[example.index]["label"] and not example.problem
            for scale, found in zip((64, 334, 0), example.images):
                expected = rescale(image, scale) if scale else image
                assert np.abs(found.astype(int) - expected).max() <= 1, source.name_of(example.index)


def test_digits_are_read_without_looking_for_jpegs():
    source = open_source("mnist5k", "train")
    assert not source.jpegs
    (batch,), _ = batches_of(source, 1)
    requests = sampler_of(source)(0)
    for row, index in enumerate(requests.index):
        expected = pillow_crop(
            pixels(source[int(index)]["image"]), int(requests.smaller_side[row]), requests.place[row], 32
        )
        assert np.abs(batch["image"][row].astype(int) - expected).max() <= 1


def test_closing_ends_the_batches(source):
    batches = TrainingBatches(source, sampler_of(source), crop=32)
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"on_error": "ignore"}, "config.data.on_error='ignore': it is 'raise' or 'skip'"),
        ({"threads": -1}, "config.data.threads=-1"),
    ],
)
def test_options_that_do_not_fit(source, options, message):
    with pytest.raises(DataError, match=message):
        batches_of(source, 1, **options)
    with pytest.raises(DataError, match=message), scaled_images(source, [0], (32,), **options):
        pass


def test_scaled_images_come_in_the_order_asked_for(source):
    indices = [5, 3, 23, 3]
    with scaled_images(source, indices, (32, 48)) as examples:
        found = list(examples)
    assert [example.index for example in found] == indices
    for example in found:
        assert example.label == source[example.index]["label"]
        assert [min(image.shape[:2]) for image in example.images] == [32, 48]
    with scaled_images(InMemory(source), indices, (32, 48)) as examples:
        for one, other in zip(found, examples):
            for image, same in zip(one.images, other.images):
                np.testing.assert_array_equal(image, same)


def test_scaled_images_report_what_cannot_be_read(source, spoiled, tmp_path, photograph):
    with scaled_images(source, range(24), (32,), on_error="skip") as examples:
        problems = {source.name_of(example.index): example.problem for example in examples if not example.images}
    assert problems.keys() == spoiled.keys()
    assert all(said in problems[path] for path, said in spoiled.items())
    with (
        pytest.raises(DataError, match="To leave such images out"),
        scaled_images(source, range(24), (32,)) as examples,
    ):
        list(examples)
    elongated = tmp_path / "long.jpg"
    elongated.write_bytes(encode(photograph.crop((0, 0, 500, 2))))
    with scaled_images(FileSource([elongated]), [0], (256,), on_error="skip") as examples:
        (example,) = examples
    assert example.problem.startswith("2 x 500 pixels are too elongated") and example.label == -1
