"""Where images come from: one string in the config names a source (Sec. 3.1, 4).

tfds:NAME      any TFDS data set with an image and a class label, e.g. tfds:imagenet2012, tfds:imagenette, tfds:stl10
folder:PATH    a folder of class folders, with or without train, validation, test below it
mnist5k        5,000 MNIST digits that come with a package: real data without a download
"""

from vgg_jax.data.source import Source
from vgg_jax.errors import DataError, did_you_mean


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
            from vgg_jax.data.tfds import TfdsSource

            return TfdsSource(rest, split)
        if scheme == "folder" and rest:
            from vgg_jax.data.folder import FolderSource

            return FolderSource(rest, split)
        if name == "mnist5k":
            from vgg_jax.data.digits import MnistSource

            return MnistSource(split)
    except DataError as error:
        raise DataError(f"config.data.source={name!r}: {error}") from error
    suggestion = "" if scheme in ("tfds", "folder") else did_you_mean(scheme, ("tfds", "folder", "mnist5k"))
    raise DataError(
        f"config.data.source={name!r}: no such source{suggestion}\nA source is tfds:NAME, folder:PATH or mnist5k"
    )
