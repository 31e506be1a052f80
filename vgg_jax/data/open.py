"""Where images come from: one string in the config names a source (Sec. 3.1, 4).

tfds:NAME        any TFDS data set with an image and a class label, e.g. tfds:imagenet2012, tfds:imagenette, tfds:stl10
folder:PATH      a folder of class folders, with or without train, validation, test below it
voc:PATH         a folder of images with Pascal VOC's XML annotations, in VOC's layout or ILSVRC's: boxes
voc-action:PATH  persons and their actions, of VOC-2012
boxes:FILE       a file with a line of JSON for each image and its boxes
mnist5k          5,000 MNIST digits that come with a package: real data without a download
"""

import importlib

from vgg_jax.data.source import Source
from vgg_jax.errors import DataError, did_you_mean

_SOURCES = {
    "tfds": ("tfds", "TfdsSource"),
    "folder": ("folder", "FolderSource"),
    "voc": ("voc", "VocSource"),
    "voc-action": ("voc", "VocActionSource"),
    "boxes": ("box_file", "BoxFileSource"),
}
"""The module and the class of each kind, imported only when it is asked for: TFDS alone takes seconds."""


def open_source(name: str, split: str) -> Source:
    """Opens one split of a source.

    Args:
      name: one of these.
      split: a role (`train`, `validation`, `test`), or a slice of one: `train[:90%]`, `train[90%:]`, `train[:1000]`;
        several are joined by +. Of all but tfds, a slice is cut from a fixed shuffle and so holds every class.

    Raises:
      DataError: no such source or split, or its data are missing; the message says what to do.
    """
    scheme, _, rest = name.partition(":")
    try:
        if scheme in _SOURCES and rest:
            module, kind = _SOURCES[scheme]
            return getattr(importlib.import_module(f"vgg_jax.data.{module}"), kind)(rest, split)
        if name == "mnist5k":
            from vgg_jax.data.digits import MnistSource

            return MnistSource(split)
    except (DataError, OSError) as error:
        raise DataError(f"config.data.source={name!r}: {error}") from error
    suggestion = "" if scheme in _SOURCES else did_you_mean(scheme, (*_SOURCES, "mnist5k"))
    raise DataError(
        f"config.data.source={name!r}: no such source{suggestion}\n"
        "A source is tfds:NAME, folder:PATH, voc:PATH, voc-action:PATH, boxes:FILE or mnist5k"
    )
