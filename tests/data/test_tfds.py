"""TFDS data sets, made here and read back: both file formats, several files, splits and slices."""

import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vgg_jax.data.decode import decode
from vgg_jax.data.objects import EachObject, checked
from vgg_jax.data.open import open_source
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.sampler import Sampler
from vgg_jax.data.training_batches import TrainingBatches
from vgg_jax.errors import DataError

FORMATS = ("tfrecord", "array_record")


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Photographs whose label is their number modulo 3, and whose height tells their number."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = (("train", 60), ("test", 9))

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["red", "green", "blue"])}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.SPLITS}

    def _generate_examples(self, count):
        for number in range(count):
            image = np.random.default_rng(number).integers(0, 256, (40 + number, 50, 3), np.uint8)
            yield number, {"image": image, "label": number % 3}


class TinySplit(TinyPhotos):
    SPLITS = (("train", 6), ("validation", 4), ("test", 5))


class TinyWords(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"word": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"word": "photograph"}


class TinyBoxes(tfds.core.GeneratorBasedBuilder):
    """Images of 40 x 50 pixels and their objects, features as tfds:voc has them; every fourth image has none."""

    VERSION = tfds.core.Version("1.0.0")
    BOX = tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=0.75, xmax=1.0)
    WHOLE = tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=1.0, xmax=1.0)

    def _info(self):
        objects = {
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "bbox": tfds.features.BBoxFeature(),
            "is_difficult": np.bool_,
        }
        features = {"image": tfds.features.Image(), "objects": tfds.features.Sequence(objects)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(8), "test": self._generate_examples(1)}

    def _generate_examples(self, count):
        for number in range(count):
            dog = {"label": "dog", "bbox": self.BOX, "is_difficult": True}
            cat = {"label": "cat", "bbox": self.WHOLE, "is_difficult": False}
            yield (
                number,
                {
                    "image": np.full((50, 40, 3), number, np.uint8),
                    "objects": [[], [cat], [dog], [dog, cat]][number % 4],
                },
            )


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """{format: data_dir} with these data sets in them, the photographs in several files."""
    tfds.disable_progress_bar()
    data_dirs = {}
    for file_format in FORMATS:
        data_dirs[file_format] = tmp_path_factory.mktemp(file_format)
        for builder, shards in ((TinyPhotos, 3), (TinySplit, 1), (TinyWords, 1), (TinyBoxes, 1)):
            config = tfds.download.DownloadConfig(num_shards=shards)
            builder(data_dir=data_dirs[file_format], file_format=file_format).download_and_prepare(
                download_config=config
            )
    return data_dirs


@pytest.fixture(params=FORMATS)
def data_dir(request, prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared[request.param]))
    return prepared[request.param]


def expected(data_dir, split: str) -> list[tuple[np.ndarray, int]]:
    """The oracle: TFDS reads it itself, TFRecords from front to back."""
    builder = tfds.builder("tiny_photos", data_dir=data_dir)
    if builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD:
        examples = builder.as_data_source(split)
    else:
        one_by_one = tfds.ReadConfig(interleave_cycle_length=1)
        examples = tfds.as_numpy(builder.as_dataset(split=split, read_config=one_by_one))
    return [(example["image"], int(example["label"])) for example in examples]


@pytest.mark.parametrize("split", ["train", "test", "train[:90%]", "train[35%:70%]", "train[45:]", "train+test[:3]"])
def test_records_are_those_that_tfds_reads(data_dir, split):
    source = open_source("tfds:tiny_photos", split)
    images = expected(data_dir, split)
    assert len(source) == len(images)
    assert source.classes == ("red", "green", "blue")
    for index in np.random.default_rng(0).permutation(len(source)):
        example = source[index]
        np.testing.assert_array_equal(decode(example["image"]), images[index][0])
        assert example["label"] == images[index][1]
    assert source.describe() == f"tfds:tiny_photos, split {split}: {len(images)} images of 3 classes"


def test_a_record_says_where_it_is(data_dir):
    source = open_source("tfds:tiny_photos", "train[50%:]")
    places = [source.name_of(index).split(", record ") for index in range(len(source))]
    assert len({tuple(place) for place in places}) == 30
    assert {path for path, _ in places} <= {str(path) for path in data_dir.glob("tiny_photos/1.0.0/*train*")}
    assert len({path for path, _ in places}) == 2


def test_a_fingerprint_changes_with_the_files(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared["array_record"], tmp_path / "data")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    fingerprint = lambda split: open_source("tfds:tiny_photos", split).fingerprint()
    before = {split: fingerprint(split) for split in ("train", "test")}
    (file,) = (tmp_path / "data/tiny_photos/1.0.0").glob("*test*00000-of*")
    os.utime(file, (0, 0))
    assert fingerprint("train") == before["train"] and fingerprint("test") != before["test"]


def test_images_of_two_splits_are_told_by_their_records(data_dir):
    whole, first, second, test = (
        open_source("tfds:tiny_photos", split) for split in ("train", "train[:90%]", "train[80%:]", "test")
    )
    assert [first.shared_with(other) for other in (whole, second, test)] == [54, 6, 0]


def test_test_stands_in_for_a_missing_validation(data_dir):
    source = open_source("tfds:tiny_photos", "validation[:5]")
    assert [source[i]["image"] for i in range(5)] == [
        open_source("tfds:tiny_photos", "test")[i]["image"] for i in range(5)
    ]
    assert source.describe() == (
        "tfds:tiny_photos, split validation[:5]: 5 images of 3 classes "
        "(it has no validation split, its test split stands in)"
    )
    assert len(open_source("tfds:tiny_split", "validation")) == 4


def test_it_trains(data_dir):
    source = open_source("tfds:tiny_photos", "train")
    sampler = Sampler(len(source), batch_size=20, scale=(32, 48), seed=0)
    batches = list(TrainingBatches(source, sampler, crop=32, stop=3))
    for batch in batches:
        assert batch["mask"].all() and list(batch["label"]) == [source[int(i)]["label"] for i in batch["index"]]
    assert sorted(np.concatenate([batch["index"] for batch in batches])) == list(range(60))


def test_a_file_that_was_cut_is_named(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared["tfrecord"] / "tiny_photos", tmp_path / "tiny_photos")
    file = sorted(tmp_path.glob("tiny_photos/1.0.0/*train*"))[1]
    file.write_bytes(file.read_bytes()[:-1000])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=f"{file} ends within record 19, and should have 20; prepare it again"):
        open_source("tfds:tiny_photos", "train")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_damaged_record_is_named_or_left_out(prepared, tmp_path, monkeypatch, file_format):
    shutil.copytree(prepared[file_format] / "tiny_photos", tmp_path / "tiny_photos")
    file = sorted(tmp_path.glob("tiny_photos/1.0.0/*train*"))[0]
    content = bytearray(file.read_bytes())
    place = 12 if file_format == "tfrecord" else len(content) // 2
    content[place : place + 28] = b"\xff" * 28
    file.write_bytes(content)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    source = open_source("tfds:tiny_photos", "train")
    with scaled_images(source, range(60), (32,), on_error="skip") as examples:
        problems = {source.name_of(example.index): example.problem for example in examples if example.problem}
    ((name, problem),) = problems.items()
    assert name.startswith(f"{file}, record ") and problem.startswith("the record is damaged: ")
    sampler = Sampler(60, batch_size=20, scale=(32, 48), seed=0)
    batches = list(TrainingBatches(source, sampler, crop=32, stop=3, on_error="skip"))
    assert sum(batch["mask"].sum() for batch in batches) == 59
    with pytest.raises(DataError, match=f"{name}: the record is damaged: .*\n.*on_error=skip"):
        list(TrainingBatches(source, sampler, crop=32, stop=3))


@pytest.mark.parametrize("split", ["dev", "train[", "trian"])
def test_an_unknown_split_lists_the_known(data_dir, split):
    with pytest.raises(DataError, match="is not among test, train; slices look like"):
        open_source("tfds:tiny_photos", split)


def test_an_empty_slice_is_an_error(data_dir):
    with pytest.raises(DataError, match=r"split 'train\[:0\]' selects no images"):
        open_source("tfds:tiny_photos", "train[:0]")


def test_a_data_set_without_images_is_refused(data_dir):
    with pytest.raises(DataError, match="its 'image' and 'label' are no image and class label; it has word"):
        open_source("tfds:tiny_words", "train")


def test_objects_of_the_records(data_dir):
    source = open_source("tfds:tiny_boxes", "train")
    assert source.describe() == (
        "tfds:tiny_boxes, split train: 6 images of 2 classes (images left out, which have no object: 2)"
    )
    of, whole, box = source.objects, [0, 0, 40, 50], [20, 12.5, 40, 37.5]
    expected = {1: [(0, whole, False)], 2: [(1, box, True)], 3: [(1, box, True), (0, whole, False)]}
    numbers = []
    for image in range(6):
        number, rows = int(decode(source[image]["image"])[0, 0, 0]), of.image == image
        columns = of.label[rows].tolist(), of.corners[rows].tolist(), of.difficult[rows].tolist()
        assert list(zip(*columns, strict=True)) == expected[number % 4]
        assert source[image]["label"] == (1 if number % 4 == 2 else 0)
        numbers.append(number)
    assert sorted(numbers) == [1, 2, 3, 5, 6, 7]
    assert len({source.name_of(image) for image in range(6)}) == 6
    np.testing.assert_array_equal(checked(source).objects.corners, of.corners)
    assert source.shared_with(EachObject(source)) == 4  # the others have difficult objects only
    with pytest.raises(DataError, match="split 'test' has no objects"):
        open_source("tfds:tiny_boxes", "test")


def test_a_missing_data_set_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError) as caught:
        open_source("tfds:imagenet2012", "train")
    assert str(caught.value) == (
        "config.data.source='tfds:imagenet2012': not found in TFDS_DATA_DIR (default: ~/tensorflow_datasets).\n"
        "ImageNet cannot be downloaded automatically: put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into "
        "~/tensorflow_datasets/downloads/manual and run: "
        "python -c \"import tensorflow_datasets as tfds; tfds.load('imagenet2012')\"\n"
        "To see training run right now: make quickstart"
    )
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError) as caught:
        open_source("tfds:stl10", "train")
    assert str(caught.value) == (
        f"config.data.source='tfds:stl10': not found in TFDS_DATA_DIR={tmp_path}.\n"
        "Prepare it, once, with: python -c \"import tensorflow_datasets as tfds; tfds.load('stl10')\"\n"
        "To see training run right now: make quickstart"
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tiny_photos/", "/data/photos", "a b", "tiny_photos:1:0"])
def test_what_is_no_name_of_a_data_set_says_what_is(data_dir, name):
    with pytest.raises(DataError) as caught:
        open_source(f"tfds:{name}", "train")
    assert str(caught.value) == (
        f"config.data.source='tfds:{name}': TFDS cannot open it: Parsing builder name string {name} failed.\n"
        "A name is NAME, NAME/CONFIG or NAME/CONFIG:VERSION; a damaged data set must be prepared again"
    )


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_a_damaged_description_is_an_error(prepared, tmp_path, monkeypatch, file):
    shutil.copytree(prepared["tfrecord"] / "tiny_photos", tmp_path / "tiny_photos")
    (tmp_path / "tiny_photos/1.0.0" / file).write_text("{")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="config.data.source='tfds:tiny_photos': TFDS cannot open it: "):
        open_source("tfds:tiny_photos", "train")


def test_a_misspelt_name_suggests_the_nearest(data_dir):
    with pytest.raises(DataError, match=r"TFDS knows no such data set; did you mean 'imagenette'\?"):
        open_source("tfds:imagenete/full-size", "train")
    with pytest.raises(DataError, match="TFDS knows no such data set\nThe catalog: https"):
        open_source("tfds:zzzzzzzz", "train")
