import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import encode
from vgg_jax.data.jpeg_header import MAX_PIXELS, plain_jpeg_size


def with_orientation(image: Image.Image, orientation: int, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, exif=exif, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"keep_rgb": True},
        {"comment": b"\xff\xd9\xff\xda"},
        {"icc_profile": b"x" * 100_000},
    ],
)
def test_the_size_of_a_plain_jpeg_is_found(photograph, options):
    assert plain_jpeg_size(encode(photograph, **options)) == (334, 500)
    assert plain_jpeg_size(encode(photograph.convert("L"), **options)) == (334, 500)


def test_fill_bytes_and_trailing_bytes_do_no_harm(photograph):
    encoded = encode(photograph)
    assert plain_jpeg_size(encoded[:2] + b"\xff\xff" + encoded[2:] + b"\0" * 100) == (334, 500)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_plain_only_if_it_is_upright(photograph, orientation, order):
    exif = Image.Exif()
    exif.endian = {"little": "<", "big": ">"}[order]
    exif[0x010F], exif[0x0112], exif[0x0131] = "a camera", orientation, "its software"
    upright = plain_jpeg_size(encode(photograph, exif=exif))
    assert upright == ((334, 500) if orientation == 1 else None)


def test_an_orientation_in_xmp_is_noticed(photograph):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert plain_jpeg_size(encode(photograph, xmp=xmp)) is None


def test_other_kinds_are_not_plain(photograph):
    assert plain_jpeg_size(encode(photograph.convert("CMYK"))) is None
    assert plain_jpeg_size(encode(photograph, "PNG")) is None
    assert plain_jpeg_size(b"") is None


def test_no_cut_makes_a_plain_jpeg(photograph):
    encoded = encode(photograph.resize((40, 30)))
    for end in range(len(encoded) - 1):
        assert plain_jpeg_size(encoded[:end]) is None


def test_an_end_marker_in_a_thumbnail_does_not_hide_a_cut(photograph):
    thumbnail = encode(photograph.resize((40, 30)))
    encoded = encode(photograph, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)
    assert plain_jpeg_size(encoded) == (334, 500)
    assert plain_jpeg_size(encoded[:-1000]) is None


def test_noise_never_raises(photograph):
    encoded = bytearray(encode(photograph.resize((40, 30)), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"))
    noise = np.random.default_rng(0)
    for _ in range(2000):
        damaged = encoded.copy()
        for position in noise.integers(2, 200, size=5):
            damaged[position] = noise.integers(256)
        plain_jpeg_size(bytes(damaged))


def test_an_absurd_size_is_not_plain(photograph):
    encoded = encode(photograph)
    size = (334).to_bytes(2, "big") + (500).to_bytes(2, "big")
    assert MAX_PIXELS < 65500 * 65500
    assert plain_jpeg_size(encoded.replace(size, (65500).to_bytes(2, "big") * 2)) is None
