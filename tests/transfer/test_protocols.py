"""Splits: their sizes, disjoint, drawn by the seed; VOC's labels; the paper's tables."""

from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx

from vgg_jax import VGG
from vgg_jax.config import default_config
from vgg_jax.data.objects import presence
from vgg_jax.data.source import Objects
from vgg_jax.errors import DataError
from vgg_jax.transfer.paper import TABLE_11, papers_row
from vgg_jax.transfer.protocols import first_of_each, random_splits


@pytest.fixture
def labels(rng):
    """Caltech-101 in small: between 31 and 200 images of a class, in any order."""
    return rng.permutation(np.repeat(np.arange(5), [31, 40, 80, 81, 200]))


def test_sizes_and_disjointness(labels):
    for split in random_splits(labels, 3, train=30, test=50, seed=0):
        assert np.bincount(labels[split.train]).tolist() == [30] * 5
        assert np.bincount(labels[split.test]).tolist() == [1, 10, 50, 50, 50]
        together = np.concatenate(split)
        assert len(set(together)) == len(together)


def test_all_others_are_tested_if_no_number_is_given(labels):
    (split,) = random_splits(labels, 1, train=20, test=0, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(len(labels)))


def test_splits_are_functions_of_seed_and_number(labels):
    options = {"train": 10, "test": 10}
    three, two, other = (random_splits(labels, n, seed=s, **options) for n, s in ((3, 0), (2, 0), (1, 1)))
    for split, again in zip(three, two, strict=False):
        np.testing.assert_array_equal(np.concatenate(split), np.concatenate(again))
    trained = [frozenset(split.train) for split in (*three, *other)]
    assert len(set(trained)) == 4


def test_every_image_is_as_likely(labels):
    counts = np.zeros(len(labels))
    for split in random_splits(labels, 400, train=8, test=4, seed=0):
        counts[split.train] += 1
    of_class = counts[labels == 1]  # 8 of 40: 80 of 400 times, with a deviation of 8
    assert abs(of_class - 80).max() < 4 * 8


def test_images_that_cannot_be_used_are_in_no_part(labels):
    rows = np.flatnonzero(np.arange(len(labels)) % 3 > 0)
    (split,) = random_splits(labels, 1, train=5, test=0, seed=0, rows=rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(split)), rows)


@pytest.mark.parametrize("train", [31, 0])
def test_a_class_with_too_few_images_is_named(labels, train):
    with pytest.raises(DataError, match="class ant: 31 images, of which") as raised:
        random_splits(labels, 1, train=train, test=50, seed=0, classes=("ant", "bee", "cat", "dog", "emu"))
    assert "30 training images of a class at most" in str(raised.value)


def test_the_last_class_without_an_image_is_named(labels):
    with pytest.raises(DataError, match="class fox: 0 images, of which 5 are .* tested; leave the class out"):
        random_splits(labels, 1, train=5, test=5, seed=0, classes=("ant", "bee", "cat", "dog", "emu", "fox"))


def test_few_shots_are_among_those_of_more(labels):
    (split,) = random_splits(labels, 1, train=30, test=50, seed=0)
    former = set()
    for shots in (1, 2, 5, 30, 40):
        rows = first_of_each(split.train, labels, shots)
        assert np.bincount(labels[rows]).tolist() == [min(shots, 30)] * 5
        assert former <= set(rows) <= set(split.train)
        former = set(rows)


def test_labels_of_vocs_objects():
    """A difficult object alone leaves the image out for its class; beside one that is not difficult it counts."""
    objects = Objects(
        np.array([0, 0, 1, 2, 2]), np.array([1, 1, 2, 0, 1]), np.zeros((5, 4)), np.array([0, 1, 1, 0, 0], bool)
    )
    source = SimpleNamespace(name="voc", objects=objects, classes=("a", "b", "c"), __len__=None)
    source = type("Photographs", (), {**vars(source), "__len__": lambda self: 4})()
    assert presence(source).tolist() == [[0, 1, 0], [0, 0, -1], [1, 1, 0], [0, 0, 0]]
    source.objects = None
    with pytest.raises(DataError, match="voc has one label"):
        presence(source)


def test_the_papers_figures():
    """Sums over the columns of Table 11, made by hand from the paper."""
    of = [[figure.split(" ± ") for figure in column.figures.values()] for column in TABLE_11]
    assert [round(sum(float(mean) for mean, *_ in column), 1) for column in of] == [268.3, 267.3, 276.8, 256.3]
    assert [round(sum(float(deviation) for _, deviation in column), 1) for column in of[2:]] == [2.0, 0.8]


CALTECH = "tfds:caltech101", 102, 30, "mean_class_recall"
VOC = "voc:VOCdevkit/VOC2007", 20, 0, "mean_ap_11"
OWN = {"transfer.splits": 0, "data.train_split": "train+validation", "evaluate.split": "test"}


@pytest.fixture
def figure():
    """The figure beside a result, by the source, its classes, the shots, the metric, the nets and the config."""

    def figure(source, classes, shots, metric, networks, changes, **sizes):
        sizes = {"crop": 224, "width": 1.0, "hidden": 4096, "batch_norm": False} | sizes
        nets = [nnx.eval_shape(lambda name=name: VGG(name, **sizes, rngs=nnx.Rngs(0))) for name in networks]
        config = default_config()
        config.update_from_flattened_dict(changes)
        score = SimpleNamespace(shots=shots, values={metric: (0.5,)})
        of = SimpleNamespace(name=source, classes=range(classes))
        return papers_row(SimpleNamespace(source=of, score=score, problems={}), nets, config)

    return figure


@pytest.mark.parametrize(
    ("source", "classes", "shots", "metric", "networks", "changes", "text"),
    [
        (*CALTECH, "D", {}, "91.8 ± 1.0"),
        ("folder:/data/256_ObjectCategories", 257, 60, "mean_class_recall", "DE", {}, "86.2 ± 0.3"),
        (*VOC, "E", OWN, "89.3"),
        ("tfds:voc/2012", 20, 0, "mean_ap", "D", OWN, "89.0"),
        (
            "tfds:voc/2012",
            20,
            0,
            "mean_ap",
            "D",
            OWN | {"data.train_split": "train", "evaluate.split": "validation"},
            "",
        ),
        (*VOC, "E", OWN | {"data.train_split": "train"}, ""),
        (*VOC, "E", OWN | {"transfer.regions": ("image", "box")}, ""),
        (*CALTECH, "D", {"transfer.splits": 0}, ""),
        ("tfds:caltech101", 102, 10, "mean_class_recall", "D", {}, ""),
        ("folder:caltech101", 20, 30, "mean_class_recall", "D", {}, ""),
        ("tfds:caltech101", 102, 30, "accuracy", "D", {}, ""),
        (*CALTECH, "A", {}, ""),
        ("tfds:flowers", 102, 30, "mean_class_recall", "D", {}, ""),
    ],
)
def test_the_figure_beside_a_result(figure, source, classes, shots, metric, networks, changes, text):
    assert figure(source, classes, shots, metric, networks, changes) == text


@pytest.mark.parametrize("size", [{"width": 1 / 16}, {"hidden": 512}, {"crop": 192}, {"batch_norm": True}])
def test_beside_a_net_of_other_sizes_there_is_no_figure(figure, size):
    assert not figure(*CALTECH, "D", {}, **size)
