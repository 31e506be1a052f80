"""Where images come from: one string in the config names a source (Sec. 3.1, 4).

  tfds:NAME      any TFDS data set with an image and a class label, e.g. tfds:imagenet2012, tfds:imagenette, tfds:stl10
  folder:PATH    a folder of class folders, with or without train, validation, test below it
  mnist5k        5,000 MNIST digits that come with a package: real data without a download

A source is a fixed sequence of (encoded image, label), open to random access: the position in the data is then a
function of the training step alone, and resuming needs nothing but the step.
"""

import difflib
from abc import ABC, abstractmethod

from vgg_jax.errors import DataError


class Source(ABC):
    """One split of a data set, as a sequence of encoded images with their labels.

    Attributes:
      name, split: what it was opened with.
      classes: the class names; a label is a position in them.
      note: a remark that a reader of the log should not miss, or "".
      jpegs: whether JPEGs are to be expected; their decoder then gets loaded before the first is met.
    """

    def __init__(self, name: str, split: str, classes: tuple[str, ...], note: str = ""):
        self.name, self.split, self.classes, self.note = name, split, classes, note
        self.jpegs = True

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int) -> tuple[bytes, int]:
        """The encoded image (JPEG, PNG, ...) and its label. Called from many threads at once.

        Raises:
          OSError, DataError: the bytes cannot be read.
        """

    @abstractmethod
    def where(self, index: int) -> str:
        """Where a person finds this image: its path, or its file and record number."""

    def describe(self) -> str:
        """One line for the log: classes, images, split, and what is unusual."""
        summary = f"{self.name}, split {self.split}: {len(self):,} images of {len(self.classes):,} classes"
        return f"{summary} ({self.note})" if self.note else summary


def open_source(name: str, split: str) -> Source:
    """Opens one split of a source.

    Args:
      name: `tfds:NAME`, `folder:PATH` or `mnist5k`.
      split: a role (`train`, `validation`, `test`), or a slice of one: `train[:90%]`, `train[90%:]`, `train[:1000]`.
        Every such slice of a folder or of mnist5k holds every class, for it is cut from a fixed shuffle.

    Raises:
      DataError: no such source or split, or its data are missing; the message says what to do.
    """
    # Each kind is imported only when it is asked for: TFDS alone takes seconds.
    scheme, _, rest = name.partition(":")
    try:
        if scheme == "tfds" and rest:
            from vgg_jax.data.tfds_source import TfdsSource

            return TfdsSource(rest, split)
        if scheme == "folder" and rest:
            from vgg_jax.data.folder_source import FolderSource

            return FolderSource(rest, split)
        if name == "mnist5k":
            from vgg_jax.data.mnist_source import MnistSource

            return MnistSource(split)
    except DataError as error:
        raise DataError(f"config.data.source={name!r}: {error}") from error
    nearest = difflib.get_close_matches(scheme, ("tfds", "folder", "mnist5k"), n=1)
    suggestion = f"; did you mean {nearest[0]!r}?" if nearest and nearest[0] != scheme else ""
    raise DataError(
        f"config.data.source={name!r}: no such source{suggestion}\nA source is tfds:NAME, folder:PATH or mnist5k"
    )
