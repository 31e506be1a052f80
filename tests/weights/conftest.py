import numpy as np
import pytest

from tests.weights.originals import WRITERS, original


@pytest.fixture
def images(rng):
    """Two images larger than the crop, so that a map comes out; neither side a multiple of 32."""
    return rng.integers(0, 256, (2, 70, 101, 3), np.uint8)


@pytest.fixture
def written(tmp_path):
    """A function that writes a net's file in a format, under a name that says nothing, with changed weights."""

    def write(kind="torchvision", net="A", change=None, batch_norm=False):
        weights = original(net, batch_norm)
        if change:
            change(weights)
        path = tmp_path / "weights"
        WRITERS[kind][0](path, net, weights)
        return path

    return write
