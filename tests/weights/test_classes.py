import numpy as np
import pytest

from tests.weights.originals import FED, SYNSETS, answer, original
from vgg_jax import CheckpointError, ConfigError
from vgg_jax.weights import imagenet, load, read

LABELS = {"n01440764": "n01440764 tench", "n02123045": "n02123045 tabby", "n15075141": "n15075141 toilet_tissue"}


def test_imagenets_classes_are_sorted_and_unique():
    ids = [label.split(" ")[0] for label in imagenet()]
    assert len(set(ids)) == 1000 and ids == sorted(ids)
    assert set(LABELS.values()) < set(imagenet())


def test_matconvnet_names_its_classes_in_its_order_or_sorted(written, images):
    path = written("matconvnet", "D")
    expected = answer("D", original("D"), FED["rgb"](np.float64(images)))
    as_published, in_order = load(path), load(path, class_order="sorted")
    assert [label.split(" ")[0] for label in as_published.classes] == SYNSETS
    assert as_published.classes[0] == "n02123045 tabby"
    assert [label.split(" ")[0] for label in in_order.classes] == sorted(SYNSETS)
    np.testing.assert_allclose(as_published(images), expected, atol=1e-4)
    columns = np.argsort(SYNSETS)
    np.testing.assert_allclose(in_order(images), expected[..., columns], atol=1e-4)


def test_caffes_classes_are_sorted_by_a_list_beside_it(written, images, tmp_path):
    path = written("caffe v1", "D")
    assert load(path).classes == ()
    words = tmp_path / "synset_words.txt"
    words.write_text("".join(f"{synset} a name, another\n" for synset in SYNSETS))
    net = load(path, class_order=words)
    assert [label.split(" ")[0] for label in net.classes] == sorted(SYNSETS)
    assert LABELS["n01440764"] in net.classes
    expected = answer("D", original("D"), FED["caffe"](np.float64(images)))[..., np.argsort(SYNSETS)]
    np.testing.assert_allclose(net(images), expected, atol=1e-4)


def test_lists_that_do_not_fit_are_refused(written, tmp_path):
    path, words = written("caffe", "D"), tmp_path / "words.txt"
    with pytest.raises(ConfigError, match="class_order='sorted'.*does not name its classes"):
        load(path, class_order="sorted")
    with pytest.raises(ConfigError, match="class_order='nowhere.txt' cannot be read"):
        load(path, class_order="nowhere.txt")
    words.write_text("\n".join([*SYNSETS[:5], SYNSETS[0]]))
    with pytest.raises(CheckpointError, match="has 7 classes, and the list in class_order 6, 5 different ones"):
        load(path, class_order=words)


@pytest.mark.parametrize(("kind", "known"), [("torchvision", True), ("keras legacy", True), ("caffe", False)])
def test_a_thousand_classes_are_imagenets_where_the_format_sorts_them(kind, known, written):
    def thousand(weights):
        weights["fc8/kernel"] = np.zeros((1, 1, 24, 1000), np.float32)
        weights["fc8/bias"] = np.zeros(1000, np.float32)

    assert read(written(kind, "D", thousand)).classes == (imagenet() if known else ())
