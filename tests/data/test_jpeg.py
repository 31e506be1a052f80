"""Plain JPEGs in TensorFlow's graph, against Pillow and against the triangle filter by its definition."""

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import encode, pillow_crop, pixels, triangle_filter, with_orientation
from vgg_jax.data import decode, jpeg
from vgg_jax.data._tensorflow import tf
from vgg_jax.data.rescaling import rescale, rescaled_size


def fast_crop(encoded: bytes, smaller_side: int, place, size: int) -> tuple[np.ndarray, np.ndarray]:
    given = tf.constant(encoded), tf.constant(smaller_side), tf.constant(place, tf.float64), size
    return tuple(result.numpy() for result in jpeg.crop(*given))


def fast_whole(encoded: bytes, *scales: int) -> list[np.ndarray]:
    return [image.numpy() for image in jpeg.whole(tf.constant(encoded), scales)[1:]]


def is_plain(encoded: bytes) -> bool:
    try:
        return tuple(jpeg.plain_size(tf.constant(encoded)).numpy()) == (334, 500)
    except tf.errors.OpError:
        return False


def assert_within_a_gray_level(actual: np.ndarray, expected: np.ndarray):
    assert actual.shape == expected.shape and actual.dtype == np.uint8
    difference = np.abs(actual.astype(int) - expected)
    assert difference.max() <= 1 and (difference == 0).mean() > 0.75


@pytest.mark.parametrize("smaller_side", [64, 97, 256, 334, 400, 1000])
@pytest.mark.parametrize("portrait", [False, True])
def test_a_crop_is_pillows_resize_then_crop(photograph, smaller_side, portrait):
    image = photograph.transpose(Image.Transpose.ROTATE_90) if portrait else photograph
    places = [(0.0, 0.0), (1 - 1e-9, 1 - 1e-9), (0.5, 0.5), *np.random.default_rng(smaller_side).random((5, 2))]
    for options in ({"quality": 95}, {"quality": 60, "progressive": True}, {"subsampling": "4:4:4"}):
        encoded = encode(image, **options)
        whole = pixels(encoded)
        for place in places:
            found, window = fast_crop(encoded, smaller_side, place, 64)
            assert_within_a_gray_level(found, pillow_crop(whole, smaller_side, place, 64))
            np.testing.assert_array_equal(
                window, decode.crop(Image.fromarray(whole), smaller_side, np.array(place), 64)[1]
            )


@pytest.mark.parametrize("height, width", [(334, 500), (97, 41), (33, 50), (1, 300), (31, 2), (255, 257)])
@pytest.mark.parametrize("gray", [False, True])
def test_rescaling_is_the_triangle_filter_to_half_a_gray_level(photograph, height, width, gray):
    encoded = encode(photograph.convert("L" if gray else "RGB").crop((0, 0, width, height)), quality=95)
    image = pixels(encoded)
    scales = (32, 64, 96)
    for scale, found in zip(scales, fast_whole(encoded, *scales)):
        reference = triangle_filter(image, *rescaled_size(height, width, scale))
        assert np.abs(found - reference).max() <= 0.501  # float32 in the sums
        assert np.abs(found - rescale(image, scale).astype(int)).max() <= 1
    # A crop is a part of the rescaled image, the pixels at its border included.
    for smaller_side in (40, 64):
        whole = triangle_filter(image, *rescaled_size(height, width, smaller_side))
        top, left = (int(0.7 * (side - 31)) for side in whole.shape[:2])
        found, _ = fast_crop(encoded, smaller_side, (0.7, 0.7), 32)
        assert np.abs(found - whole[top : top + 32, left : left + 32]).max() <= 0.501


def test_an_image_of_the_very_scale_is_untouched(photograph):
    encoded = encode(photograph)
    for found in fast_whole(encoded, 334, 0):
        np.testing.assert_array_equal(found, pixels(encoded))


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"comment": b"\xff\xd9\xff\xda if"}, {"icc_profile": b"x" * 10**5}],
)
def test_plain_jpegs_are_known_as_such(photograph, options):
    assert is_plain(encode(photograph, **options)) and is_plain(encode(photograph.convert("L"), **options))


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_plain_only_if_it_is_upright(photograph, orientation, order):
    exif = Image.Exif()
    exif.endian = {"little": "<", "big": ">"}[order]
    exif[0x010F], exif[0x0112], exif[0x0131] = "a camera", orientation, "its software"
    assert is_plain(encode(photograph, exif=exif)) == (orientation == 1)


def test_tensorflow_writes_nothing_about_images_that_are_left_to_the_slower_road(photograph, capfd):
    """JAX sets a log level at which TensorFlow would write two lines for each of these images."""
    with pytest.raises(tf.errors.OpError):
        fast_crop(with_orientation(photograph, 6), 64, (0.5, 0.5), 64)
    with pytest.raises(tf.errors.OpError):
        fast_whole(b"no image", 64)
    assert capfd.readouterr().err == ""


def test_exif_data_without_an_orientation_leave_it_upright(photograph):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    assert is_plain(encode(photograph, exif=exif))


def test_unclear_orientations_are_left_to_the_slower_road(photograph):
    assert not is_plain(encode(photograph, xmp=b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'))
    twice = with_orientation(photograph, 1, comment=b"Exif\0\0")
    assert not is_plain(twice)


def test_other_kinds_are_not_plain(photograph):
    others = encode(photograph.convert("CMYK")), encode(photograph, "PNG"), encode(photograph, "WEBP")
    for other in (*others, b"", b"\xff\xd8\xff\xd9"):
        assert not is_plain(other)


def test_no_cut_makes_a_plain_jpeg(photograph):
    """Not even one behind a thumbnail that has an end marker of its own."""
    thumbnail = encode(photograph.resize((40, 30)))
    encoded = encode(photograph, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)
    assert is_plain(encoded)
    for end in range(0, len(encoded) - 1, 97):
        assert not is_plain(encoded[:end])


def test_damage_behind_a_sound_header_fails(photograph):
    encoded = bytearray(encode(photograph))
    table = encoded.index(b"\xff\xc4")
    encoded[table + 5 : table + 21] = b"\xff" * 16  # a Huffman table that cannot be
    with pytest.raises(tf.errors.OpError):
        fast_crop(bytes(encoded), 256, (0.5, 0.5), 224)


def test_noise_in_the_header_fails_or_changes_nothing(photograph):
    """A flipped byte never makes an image that Pillow would turn pass as upright."""
    encoded = bytearray(with_orientation(photograph.resize((40, 30)), 6))
    noise = np.random.default_rng(0)
    for _ in range(300):
        damaged = encoded.copy()
        for position in noise.integers(2, 120, size=2):
            damaged[position] = noise.integers(256)
        try:
            (image,) = fast_whole(bytes(damaged), 0)
        except tf.errors.OpError:
            continue
        np.testing.assert_array_equal(image, decode.decode(bytes(damaged)))


def test_an_absurd_or_too_elongated_image_is_not_decoded(photograph):
    size = (334).to_bytes(2, "big") + (500).to_bytes(2, "big")
    absurd = encode(photograph).replace(size, (65500).to_bytes(2, "big") * 2)
    assert not is_plain(absurd)
    with pytest.raises(tf.errors.OpError):
        fast_whole(encode(photograph.crop((0, 0, 500, 2))), 256)
