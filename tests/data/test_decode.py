import io

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import encode, pillow_crop, pixels, triangle_filter, with_orientation
from vgg_jax.data.decode import crop, decode
from vgg_jax.errors import DataError


@pytest.mark.parametrize("smaller_side", [64, 97, 200, 256, 334, 400, 512, 1000])
@pytest.mark.parametrize("portrait", [False, True])
def test_a_crop_is_pillows_resize_then_crop(photograph, smaller_side, portrait):
    upright = photograph.transpose(Image.Transpose.ROTATE_90) if portrait else photograph
    image = np.asarray(upright)
    corners = [(0.0, 0.0), (0.0, 1 - 1e-9), (1 - 1e-9, 0.0), (1 - 1e-9, 1 - 1e-9)]
    for place in [*corners, (0.5, 0.5), *np.random.default_rng(smaller_side).random((5, 2))]:
        found, _ = crop(upright, smaller_side, np.array(place), 64)
        difference = np.abs(found.astype(int) - pillow_crop(image, smaller_side, place, 64))
        assert difference.max() <= 1 and (difference == 0).mean() > 0.98  # a box is held in float32


def test_the_window_is_what_the_crop_shows(photograph):
    """Oracle: the window cut out of the image first and rescaled alone, but for the filter's reach at its border."""
    image = np.asarray(photograph)
    found, (top, left, height, width) = crop(photograph, 167, np.array((0.3, 0.8)), 64)
    assert (height, width) == pytest.approx((128, 128)) and 0 < top < 334 - 128 and 0 < left < 500 - 128
    alone = image[round(top) : round(top + height), round(left) : round(left + width)]
    difference = np.abs(found.astype(float) - triangle_filter(alone, 64, 64))[2:-2, 2:-2]
    assert np.median(difference) < 8 and top == int(0.3 * 104) * 2 and left == int(0.8 * 187) * 2


def test_a_crop_without_rescaling_is_the_image_itself(photograph):
    np.testing.assert_array_equal(crop(photograph, 334, np.zeros(2), 224)[0], np.asarray(photograph)[:224, :224])


def test_the_center_is_rounded_half_up(photograph):
    ramp = Image.fromarray(np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None], (9, 9, 3)).copy())
    middle = np.array((0.5, 0.5))
    assert [crop(ramp, 9, middle, size)[0][0, 0, 0] for size in (9, 8, 7, 6, 5)] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("height, width", [(1, 1), (3, 200), (500, 2), (31, 33)])
def test_a_small_image_is_enlarged(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    place = np.array((0.3, 0.8))
    difference = np.abs(crop(Image.fromarray(image), 32, place, 32)[0].astype(int) - pillow_crop(image, 32, place, 32))
    assert difference.max() <= 1


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "WEBP"])
def test_every_format_is_read(photograph, file_format):
    encoded = encode(photograph, file_format)
    np.testing.assert_array_equal(decode(encoded), pixels(encoded))


def test_gray_is_repeated(photograph):
    gray = photograph.convert("L")
    for file_format in ("JPEG", "PNG"):
        encoded = encode(gray, file_format)
        np.testing.assert_array_equal(decode(encoded), pixels(encoded))


def test_16_bit_gray_is_scaled():
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.floor(wide * (255 / 65535) + 0.5)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(wide), "PNG")), expected[..., None].repeat(3, axis=2))


def test_transparency_becomes_white(photograph):
    red = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    red.putpixel((1, 0), (255, 0, 0, 128))
    np.testing.assert_array_equal(decode(encode(red, "PNG")), [[[255, 255, 255], [255, 127, 127]]])
    gray = Image.new("LA", (1, 1), (0, 0))
    np.testing.assert_array_equal(decode(encode(gray, "PNG")), [[[255, 255, 255]]])
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decode(encode(palette, "PNG")), [[[10, 20, 30], [40, 50, 60]]])
    np.testing.assert_array_equal(decode(encode(palette, "PNG", transparency=1)), [[[10, 20, 30], [255, 255, 255]]])


def test_cmyk_jpegs_have_their_colors(photograph):
    encoded = encode(photograph.convert("CMYK"), quality=95)
    assert Image.open(io.BytesIO(encoded)).mode == "CMYK"
    difference = np.abs(decode(encoded).astype(int) - np.asarray(photograph))
    assert difference.mean() < 4  # inverted colors would be off by a hundred


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_image_stands_upright(photograph, orientation):
    """Oracle: NumPy turns the stored pixels as the Exif standard says."""
    turn = {
        1: lambda image: image,
        2: lambda image: image[:, ::-1],
        3: lambda image: image[::-1, ::-1],
        4: lambda image: image[::-1],
        5: lambda image: image.swapaxes(0, 1),
        6: lambda image: image.swapaxes(0, 1)[:, ::-1],
        7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
        8: lambda image: image.swapaxes(0, 1)[::-1],
    }[orientation]
    encoded = with_orientation(photograph, orientation)
    expected = np.ascontiguousarray(turn(pixels(encoded)))
    np.testing.assert_array_equal(decode(encoded), expected)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    encoded = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(encoded)[0, 0], [255, 0, 0])


@pytest.mark.parametrize(
    "encoded, reason",
    [
        (b"", "the file is empty"),
        (b"These are words, not pixels.", "not an image in a known format"),
        (b"\xff\xd8\xff\xe0", "not an image in a known format|damaged or unreadable"),
    ],
)
def test_what_is_no_image_says_so(encoded, reason):
    with pytest.raises(DataError, match=reason):
        decode(encoded)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_a_cut_image_is_never_filled_with_gray(photograph, file_format):
    encoded = encode(photograph, file_format)
    with pytest.raises(DataError, match="damaged or unreadable"):
        decode(encoded[: len(encoded) // 2])


def test_pixels_without_a_range_are_refused():
    with pytest.raises(DataError, match="mode F"):
        decode(encode(Image.new("F", (4, 4)), "TIFF"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_absurd_size_is_refused_before_it_is_decoded():
    header = bytearray(encode(Image.new("1", (8, 8)), "BMP"))
    header[18:26] = (12_000).to_bytes(4, "little") * 2
    with pytest.raises(DataError, match="12000 x 12000 are more than"):
        decode(bytes(header))
