"""How large a rescaled image is, and its pixels, against the triangle filter by its definition."""

import numpy as np
import pytest

from tests.data.conftest import triangle_filter
from vgg_jax.data.rescaling import check_rescaled_size, rescale, rescaled_size
from vgg_jax.errors import DataError


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


@pytest.mark.parametrize("height, width, smaller_side", [(334, 500, 256), (97, 41, 64), (50, 33, 96), (224, 224, 224)])
def test_rescaling_is_the_triangle_filter(photograph, height, width, smaller_side):
    image = np.asarray(photograph)[:height, :width]
    reference = triangle_filter(image, *rescaled_size(height, width, smaller_side))
    assert np.abs(rescale(image, smaller_side) - reference).max() <= 1.01  # Pillow rounds twice


def test_an_elongated_image_is_refused():
    check_rescaled_size(300, 400, (256, 512))
    with pytest.raises(DataError, match="2 x 800 pixels are too elongated: at the test scale Q = 256"):
        check_rescaled_size(2, 800, (32, 256))
