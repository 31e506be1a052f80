"""TensorFlow Datasets as a source, open to random access.

Of ArrayRecord files TFDS gives any record at any time, by its own data source. A TFRecord file, which it reads from
front to back only, is a chain (length, checksum, data, checksum): its records are found once by hopping from length to
length, and then read directly. The checksums are not looked at: decoding an image notices damage.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import read_only_builder

from vgg_jax.data.decode import size
from vgg_jax.data.objects import Object, gathered, image_class
from vgg_jax.data.source import Source, digest
from vgg_jax.errors import DataError, did_you_mean


class TfdsSource(Source):
    """A prepared TFDS data set of images with class labels, or objects as in tfds:voc. Nothing is ever downloaded.

    Splits are TFDS's own expressions. A data set without a split `validation` uses its `test` for it; the note says so.
    Objects are read at once, and an image that has none is left out, because it has no class; the note counts these.
    Boxes are what TFDS made of them: those of tfds:voc begin a pixel later than those of voc:PATH.
    """

    def __init__(self, name: str, split: str):
        builder = _builder(name)
        self._image, self._label, classes = _features(builder.info)
        own, note = split, ""
        if "validation" not in builder.info.splits and "test" in builder.info.splits:
            own = re.sub(r"\bvalidation\b", "test", split)
            note = "it has no validation split, its test split stands in" if own != split else ""
        super().__init__(f"tfds:{name}", split, classes, note)
        try:
            files = builder.info.splits[own].file_instructions
        except (KeyError, ValueError, AssertionError) as error:
            raise DataError(
                f"split {split!r} is not among {', '.join(sorted(builder.info.splits))}; "
                "slices look like train[:90%], train[90%:], train[:1000]"
            ) from error
        if not files:
            raise DataError(f"split {split!r} selects no images")
        self._paths = [epath.Path(file.filename) for file in files]
        self._file = np.repeat(np.arange(len(files)), [file.take for file in files])
        self._number = np.concatenate([np.arange(file.skip, file.skip + file.take) for file in files])
        decoders = {self._image: tfds.decode.SkipDecoding()}
        if builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD:
            self._examples: Sequence[dict] = builder.as_data_source(own, decoders=decoders)
        else:
            read = lambda record: builder.info.features.deserialize_example_np(record, decoders=decoders)
            self._examples = _TfRecords(files, self._paths, self._file, read)
        self._position = np.arange(len(self._number))
        if self._label == "objects":
            self._read_objects()
        with contextlib.suppress(OSError, DataError):  # of the first record; who reads it says why
            self.jpegs = self[0]["image"][:2] == b"\xff\xd8"

    def _read_objects(self) -> None:
        annotated = [self._objects_of(position) for position in self._position]
        self._position = np.flatnonzero(list(map(len, annotated)))
        if not len(self._position):
            raise DataError(f"split {self.split!r} has no objects")
        left_out = f"images left out, which have no object: {len(annotated) - len(self._position):,}"
        self.note = "; ".join(filter(None, (self.note, left_out * (len(self) < len(annotated)))))
        self.objects = gathered((annotated[position] for position in self._position), self.classes)
        number = {name: label for label, name in enumerate(self.classes)}
        self._labels = [number[image_class(annotated[position])] for position in self._position]

    def _objects_of(self, position: int) -> list[Object]:
        """The objects of a record; TFDS gives their boxes relative to the image."""
        try:
            example = self._example(position)
            height, width = size(io.BytesIO(example[self._image]))
        except DataError as error:
            raise DataError(f"{self._place(position)}: {error}") from error
        found = example["objects"]
        corners = np.asarray(found["bbox"]).reshape(-1, 4)[:, [1, 0, 3, 2]] * [width, height, width, height]
        difficult = found.get("is_difficult", np.zeros(len(corners), bool))
        names = [self.classes[label] for label in found["label"]]
        return list(map(Object, names, map(tuple, corners), map(bool, difficult)))

    def _example(self, position: int) -> dict:
        try:
            return self._examples[int(position)]
        except (OSError, MemoryError, ImportError):
            raise
        except Exception as error:  # a damaged record can make its parsers raise nearly anything
            reason, *_ = str(error).split("\n")
            raise DataError(f"the record is damaged: {reason}") from error

    def __len__(self) -> int:
        return len(self._position)

    def __getitem__(self, index: int) -> dict:
        example = self._example(self._position[index])
        label = example[self._label] if self.objects is None else self._labels[index]
        return example | {"image": example[self._image], "label": int(label)}

    def fingerprint(self) -> str:
        return digest((status.length, status.mtime) for status in (path.stat() for path in self._paths))

    def name_of(self, index: int) -> str:
        return self._place(self._position[index])

    def _place(self, position: int) -> str:
        return f"{self._paths[self._file[position]]}, record {self._number[position]}"

    def shared_with(self, other: Source) -> int:
        # A million records need no names to be distinguished.
        apart = isinstance(other, TfdsSource) and {*self._paths}.isdisjoint(other._paths)
        return 0 if apart else super().shared_with(other)


class _TfRecords:
    """The examples of TFRecord files, by position.

    Args:
      files: TFDS's instructions: which records of which file.
      paths, file: the files, and the position in `paths` of each record's file.
      read: makes an example of a record's bytes.
    """

    def __init__(self, files: list, paths: list[epath.Path], file: np.ndarray, read):
        with ThreadPoolExecutor(16) as pool:  # of use where a disk or a network makes each hop wait
            found = list(pool.map(_hop, paths, [file.skip + file.take for file in files]))
        self._paths, self._file, self._read = paths, file, read
        self._begin, self._end = np.concatenate(
            [bounds[file.skip :] for file, bounds in zip(files, found, strict=True)]
        ).T

    def __getitem__(self, index: int) -> dict:
        with self._paths[self._file[index]].open("rb") as file:
            file.seek(self._begin[index])
            return self._read(file.read(int(self._end[index] - self._begin[index])))


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
                raise DataError(f"{path} ends within record {record}, and should have {count}; prepare it again")
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
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # a damaged description can make its parsers raise nearly anything
        reason, *_ = str(error).strip().split("\n")
        raise DataError(
            f"TFDS cannot open it: {reason}\n"
            "A name is NAME, NAME/CONFIG or NAME/CONFIG:VERSION; a damaged data set must be prepared again"
        ) from error


def _not_prepared(name: str, data_dir: str | None) -> str:
    bare_name = re.split("[/:]", name)[0]
    known = tfds.list_builders(with_community_datasets=False)
    if bare_name not in known:
        return f"TFDS knows no such data set{did_you_mean(bare_name, known)}\nThe catalog: https://www.tensorflow.org/datasets"
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


def _features(info) -> tuple[str, str, tuple[str, ...]]:
    """The names of the image and of its class label, or "objects", and the classes."""
    image, label = info.supervised_keys if len(info.supervised_keys or ()) == 2 else ("image", "label")
    features = dict(info.features.items())
    if isinstance(features.get(image), tfds.features.Image):
        if isinstance(features.get(label), tfds.features.ClassLabel):
            return image, label, tuple(features[label].names)
        objects = getattr(features.get("objects"), "feature", None)
        parts = dict(objects.items()) if isinstance(objects, tfds.features.FeaturesDict) else {}
        kinds = {"bbox": tfds.features.BBoxFeature, "label": tfds.features.ClassLabel}
        if all(isinstance(parts.get(name), kind) for name, kind in kinds.items()):
            return image, "objects", tuple(parts["label"].names)
    raise DataError(f"its {image!r} and {label!r} are no image and class label; it has {', '.join(features)}")
