"""Photographs to test with: the two that scikit-learn ships, encoded in every way that a data set may."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from vgg_jax.data.rescaling import rescaled_size


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """A landscape photograph, 500 x 334, RGB."""
    return Image.fromarray(load_sample_image("china.jpg")).resize((500, 334), Image.Resampling.BICUBIC)


def encode(image: Image.Image, file_format: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def with_orientation(image: Image.Image, orientation: int, **options) -> bytes:
    """A JPEG whose Exif data say how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, exif=exif, **options)


def pillow_crop(image: np.ndarray, smaller_side: int, place, size: int) -> np.ndarray:
    """The oracle of a crop: Pillow rescales the whole image, then the window is cut out."""
    height, width = rescaled_size(*image.shape[:2], smaller_side)
    whole = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    top, left = int(place[0] * (height - size + 1)), int(place[1] * (width - size + 1))
    return whole[top : top + size, left : left + size]


def triangle_filter(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The oracle of rescaling, by its definition, in float64: a triangle as wide as a pixel of the larger grid."""

    def weights(side: int, rescaled: int) -> np.ndarray:
        ratio = side / rescaled
        centers = (np.arange(rescaled) + 0.5) * ratio
        distance = np.abs(np.arange(side) + 0.5 - centers[:, None]) / max(ratio, 1.0)
        triangle = np.maximum(1 - distance, 0)
        return triangle / triangle.sum(1, keepdims=True)

    rows, columns = weights(image.shape[0], height), weights(image.shape[1], width)
    return np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)


def pixels(encoded: bytes) -> np.ndarray:
    """What Pillow makes of it, RGB."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


@pytest.fixture
def photo_folder(tmp_path, photograph):
    """A folder of 3 classes with 8 photographs each, all different and of many sizes, in train/."""
    for number in range(24):
        part = photograph.crop((number * 5, number * 3, number * 5 + 150 + 7 * number, number * 3 + 180 - 4 * number))
        path = tmp_path / "train" / "abc"[number % 3] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(part, quality=90))
    return tmp_path
