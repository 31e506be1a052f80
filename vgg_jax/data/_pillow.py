"""Pillow, or a line that says what it is for. Import it late: arrays that are at their scale do without."""

from vgg_jax.errors import DataError

try:
    from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise DataError("images are decoded and rescaled by Pillow, which is not installed: pip install pillow") from error

__all__ = ["ExifTags", "Image", "ImageOps", "UnidentifiedImageError"]
