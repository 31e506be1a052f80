"""TensorFlow Datasets as a source, open to random access.

TFDS itself reads its files from front to back; training wants any record at any time. ArrayRecord files allow that.
A TFRecord file is a chain (length, checksum, data, checksum), so its records are found once by hopping from length to
length, and then read directly. The checksums are not looked at: decoding an image notices damage.
"""

import difflib
import os
import re
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.proto import tf_example_pb2

from vgg_jax.data.source import Source
from vgg_jax.errors import DataError


class TfdsSource(Source):
    """A prepared TFDS data set whose supervised pair is an image and a class label. Nothing is ever downloaded.

    Splits are TFDS's own expressions. A data set without a split `validation` uses its `test` for it; the note says so.
    """

    def __init__(self, name: str, split: str):
        builder = _builder(name)
        self._image, self._label = _features(builder.info)
        own, note = split, ""
        if "validation" not in builder.info.splits and "test" in builder.info.splits:
            own = re.sub(r"\bvalidation\b", "test", split)
            note = "it has no validation split, its test split stands in" if own != split else ""
        super().__init__(f"tfds:{name}", split, tuple(builder.info.features[self._label].names), note)
        try:
            files = builder.info.splits[own].file_instructions
        except (KeyError, ValueError, AssertionError) as error:
            raise DataError(
                f"split {split!r} is not among {', '.join(sorted(builder.info.splits))}; "
                "slices look like train[:90%], train[90%:], train[:1000]"
            ) from error
        if not files:
            raise DataError(f"split {split!r} selects no images")
        array_records = builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD
        self._records = _ArrayRecords(files) if array_records else _TfRecords(files)

    def __len__(self) -> int:
        return len(self._records.number)

    def __getitem__(self, index: int) -> dict:
        features = tf_example_pb2.Example.FromString(self._records.read(index)).features.feature
        return {
            "image": features[self._image].bytes_list.value[0],
            "label": features[self._label].int64_list.value[0],
        }

    def name_of(self, index: int) -> str:
        return f"{self._records.path(index)}, record {self._records.number[index]}"


class _Records:
    """The records of some files, in order, by position.

    Attributes:
      file, number: int arrays, the position of each record's file in `paths`, and its own position in that file.
    """

    def __init__(self, files: list):
        self.paths = [epath.Path(file.filename) for file in files]
        self.file = np.repeat(np.arange(len(files)), [file.take for file in files])
        self.number = np.concatenate([np.arange(file.skip, file.skip + file.take) for file in files])

    def path(self, index: int) -> epath.Path:
        return self.paths[self.file[index]]

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The serialised `tf.Example`."""


class _ArrayRecords(_Records):
    def __init__(self, files: list):
        super().__init__(files)
        self._reader = ArrayRecordDataSource(files)

    def read(self, index: int) -> bytes:
        return self._reader[index]


class _TfRecords(_Records):
    def __init__(self, files: list):
        super().__init__(files)
        with ThreadPoolExecutor(16) as pool:  # of use where a disk or a network makes each hop wait
            found = list(pool.map(_hop, self.paths, [file.skip + file.take for file in files]))
        taken = [bounds[file.skip :] for file, bounds in zip(files, found, strict=True)]
        self._begin, self._end = np.concatenate(taken).T

    def read(self, index: int) -> bytes:
        with self.path(index).open("rb") as file:
            file.seek(self._begin[index])
            return file.read(int(self._end[index] - self._begin[index]))


def _hop(path: epath.Path, count: int) -> np.ndarray:
    """Where the data of a TFRecord file's first records begin and end, int64 (count, 2)."""
    bounds, position = np.empty((count, 2), np.int64), 0
    size = path.stat().length
    with path.open("rb") as file:
        for record in range(count):
            file.seek(position)
            begin = position + 12  # after 8 bytes of length and 4 of checksum
            end = begin + int.from_bytes(file.read(8), "little")
            if begin > size or end > size:
                raise DataError(f"{path} ends within record {record}, and should have {count}; prepare it anew")
            bounds[record] = begin, end
            position = end + 4
    return bounds


def _builder(name: str):
    data_dir = os.environ.get("TFDS_DATA_DIR") or None
    try:
        # From the files alone: the data set's own builder would ask the network for what it does not find here.
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise DataError(_not_prepared(name, data_dir)) from error


def _not_prepared(name: str, data_dir: str | None) -> str:
    bare_name = re.split("[/:]", name)[0]
    known = tfds.list_builders(with_community_datasets=False)
    if bare_name not in known:
        nearest = difflib.get_close_matches(bare_name, known, n=1)
        suggestion = f"; did you mean tfds:{nearest[0]}?" if nearest else ""
        return f"TFDS knows no such data set{suggestion}\nThe catalogue: https://www.tensorflow.org/datasets"
    place = f"TFDS_DATA_DIR={data_dir}" if data_dir else "TFDS_DATA_DIR (default: ~/tensorflow_datasets)"
    # Not `tfds build`, which needs Apache Beam even for a data set that does not.
    command = f"""python -c "import tensorflow_datasets as tfds; tfds.load('{name}')\""""
    way_out = f"Prepare it, once, with: {command}"
    if bare_name == "imagenet2012":
        way_out = (
            "ImageNet cannot be downloaded automatically: put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
            f"into {data_dir or '~/tensorflow_datasets'}/downloads/manual and run: {command}"
        )
    return f"not found in {place}.\n{way_out}\nTo see training run right now: make quickstart"


def _features(info) -> tuple[str, str]:
    """The names of the image and of its class label."""
    image, label = info.supervised_keys if len(info.supervised_keys or ()) == 2 else ("image", "label")
    kinds = {image: tfds.features.Image, label: tfds.features.ClassLabel}
    if not all(name in info.features and isinstance(info.features[name], kind) for name, kind in kinds.items()):
        raise DataError(f"its {image!r} and {label!r} are no image and class label; it has {', '.join(info.features)}")
    return image, label
