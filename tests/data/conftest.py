"""Photographs to test with: the two that scikit-learn ships, encoded in every way that a data set may."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """A landscape photograph, 500 x 334, RGB."""
    return Image.fromarray(load_sample_image("china.jpg")).resize((500, 334), Image.Resampling.BICUBIC)


def encode(image: Image.Image, file_format: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


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
