import io

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import encode, pixels
from tests.data.test_jpeg_header import with_orientation
from vgg_jax.data import decode as module
from vgg_jax.data.decode import crop, decode, rescaled_size
from vgg_jax.data.jpeg_header import plain_jpeg_size
from vgg_jax.errors import DataError


def pillow_crop(image: np.ndarray, smaller_side: int, place, size: int) -> np.ndarray:
    """The oracle: Pillow rescales the whole image, then the window is cut out."""
    height, width = rescaled_size(*image.shape[:2], smaller_side)
    whole = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    top, left = int(place[0] * (height - size + 1)), int(place[1] * (width - size + 1))
    return whole[top : top + size, left : left + size]


def assert_same_image(actual: np.ndarray, expected: np.ndarray):
    difference = np.abs(actual.astype(int) - expected.astype(int))
    assert difference.max() <= 2
    assert (difference == 0).mean() > 0.9


@pytest.mark.parametrize(
    "height, width, smaller_side, expected",
    [
        (375, 500, 256, (256, 341)),
        (500, 375, 256, (341, 256)),
        (256, 256, 256, (256, 256)),
        (2, 3, 1, (1, 2)),  # 1.5, half up
        (2, 5, 1, (1, 3)),  # 2.5, half up
        (56, 80, 512, (512, 731)),
        (1, 1000, 224, (224, 224000)),
    ],
)
def test_rescaled_size(height, width, smaller_side, expected):
    assert rescaled_size(height, width, smaller_side) == expected


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_rescaled_size_refuses_what_is_no_size(sizes):
    with pytest.raises(ValueError, match="must be positive"):
        rescaled_size(*sizes)


@pytest.mark.parametrize("smaller_side", [64, 97, 200, 256, 334, 400, 512, 1000])
@pytest.mark.parametrize("portrait", [False, True])
def test_a_crop_is_pillows_resize_then_crop(photograph, smaller_side, portrait):
    image = photograph.transpose(Image.Transpose.ROTATE_90) if portrait else photograph
    corners = [(0.0, 0.0), (0.0, 1 - 1e-9), (1 - 1e-9, 0.0), (1 - 1e-9, 1 - 1e-9)]
    places = [*corners, (0.5, 0.5), *np.random.default_rng(smaller_side).random((5, 2))]
    for options in ({"quality": 95}, {"quality": 60, "progressive": True}, {"subsampling": "4:4:4"}):
        encoded = encode(image, **options)
        whole = pixels(encoded)
        for place in places:
            assert_same_image(crop(encoded, smaller_side, place, 64), pillow_crop(whole, smaller_side, place, 64))


def test_only_the_window_of_a_plain_jpeg_is_decoded(photograph, monkeypatch):
    monkeypatch.setattr(module, "decode", None)
    assert crop(encode(photograph), 512, (0.5, 0.5), 224).shape == (224, 224, 3)


def test_a_decoded_window_equals_the_whole_image_there(photograph):
    """One spare pixel at each cut is enough, whatever the alignment of the chroma samples and blocks."""
    encoded = encode(photograph, quality=90)  # 4:2:0
    whole = pixels(encoded)
    for start in range(20, 37):
        rows, columns = (module._Span(slice(first, first + 50), 0, 50) for first in (start, start + 3))
        window = module._decode_window(encoded, rows, columns)
        expected = whole[rows.pixels, columns.pixels]
        np.testing.assert_array_equal(window[1:-1, 1:-1], expected[1:-1, 1:-1])


def test_a_crop_without_rescaling_is_the_image_itself(photograph):
    np.testing.assert_array_equal(crop(encode(photograph, "PNG"), 334, (0, 0), 224), np.asarray(photograph)[:224, :224])


def test_the_centre_is_rounded_half_up(photograph):
    ramp = Image.fromarray(np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None], (9, 9, 3)).copy())
    encoded = encode(ramp, "PNG")
    assert [crop(encoded, 9, (0.5, 0.5), size)[0, 0, 0] for size in (9, 8, 7, 6, 5)] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("height, width", [(1, 1), (3, 200), (500, 2), (31, 33)])
def test_a_small_image_is_enlarged(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    for encoded in (encode(Image.fromarray(image), "PNG"), encode(Image.fromarray(image))):
        assert_same_image(crop(encoded, 32, (0.3, 0.8), 32), pillow_crop(pixels(encoded), 32, (0.3, 0.8), 32))


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "WEBP"])
def test_every_format_is_read(photograph, file_format):
    encoded = encode(photograph, file_format)
    np.testing.assert_array_equal(decode(encoded), pixels(encoded))
    assert_same_image(crop(encoded, 256, (0.2, 0.7), 224), pillow_crop(pixels(encoded), 256, (0.2, 0.7), 224))


def test_grey_is_repeated(photograph):
    grey = photograph.convert("L")
    for file_format in ("JPEG", "PNG"):
        encoded = encode(grey, file_format)
        assert_same_image(crop(encoded, 256, (0.2, 0.7), 224), pillow_crop(pixels(encoded), 256, (0.2, 0.7), 224))


def test_16_bit_grey_is_scaled():
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.floor(wide * (255 / 65535) + 0.5)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(wide), "PNG")), expected[..., None].repeat(3, axis=2))


def test_transparency_becomes_white(photograph):
    red = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    red.putpixel((1, 0), (255, 0, 0, 128))
    np.testing.assert_array_equal(decode(encode(red, "PNG")), [[[255, 255, 255], [255, 127, 127]]])
    grey = Image.new("LA", (1, 1), (0, 0))
    np.testing.assert_array_equal(decode(encode(grey, "PNG")), [[[255, 255, 255]]])
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decode(encode(palette, "PNG")), [[[10, 20, 30], [40, 50, 60]]])
    np.testing.assert_array_equal(decode(encode(palette, "PNG", transparency=1)), [[[10, 20, 30], [255, 255, 255]]])


def test_cmyk_jpegs_have_their_colours(photograph):
    encoded = encode(photograph.convert("CMYK"), quality=95)
    assert Image.open(io.BytesIO(encoded)).mode == "CMYK"
    difference = np.abs(decode(encoded).astype(int) - np.asarray(photograph))
    assert difference.mean() < 4  # inverted colours would be off by a hundred
    assert_same_image(crop(encoded, 256, (0.5, 0.5), 224), pillow_crop(decode(encoded), 256, (0.5, 0.5), 224))


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
    assert_same_image(crop(encoded, 300, (0.2, 0.7), 224), pillow_crop(expected, 300, (0.2, 0.7), 224))


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
        crop(encoded, 256, (0.5, 0.5), 224)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_a_cut_image_is_never_filled_with_grey(photograph, file_format):
    encoded = encode(photograph, file_format)
    with pytest.raises(DataError, match="damaged or unreadable"):
        crop(encoded[: len(encoded) // 2], 256, (0.0, 0.0), 224)


def test_damage_behind_a_sound_header_is_noticed(photograph):
    encoded = bytearray(encode(photograph))
    table = encoded.index(b"\xff\xc4")
    encoded[table + 5 : table + 21] = b"\xff" * 16  # a Huffman table that cannot be
    assert plain_jpeg_size(bytes(encoded)) == (334, 500)
    with pytest.raises(DataError, match="damaged or unreadable"):
        crop(bytes(encoded), 256, (0.5, 0.5), 224)


def test_pixels_without_a_range_are_refused():
    with pytest.raises(DataError, match="mode F"):
        decode(encode(Image.new("F", (4, 4)), "TIFF"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_absurd_size_is_refused_before_it_is_decoded():
    header = bytearray(encode(Image.new("1", (8, 8)), "BMP"))
    header[18:26] = (12_000).to_bytes(4, "little") * 2
    with pytest.raises(DataError, match="12000 x 12000 are more than"):
        decode(bytes(header))
