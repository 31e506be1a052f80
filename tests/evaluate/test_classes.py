import numpy as np
import pytest

import vgg_jax
from vgg_jax.data.source import Source
from vgg_jax.evaluate.classes import eval_classes
from vgg_jax.weights import imagenet


class Named(Source):
    """A source of which only the classes matter."""

    def __init__(self, *classes):
        super().__init__("tfds:named", "validation", classes)

    def __len__(self):
        return 6

    __getitem__ = name_of = None


def test_the_same_classes_are_found_in_any_order(rng):
    posteriors = rng.dirichlet(np.ones(3), 6).astype(np.float32)
    found = eval_classes(("cat", "dog", "red bus"), Named("red bus", "cat", "dog"), "", "D")
    assert found.names == ("red bus", "cat", "dog") and not found.note and not found.beyond_source
    np.testing.assert_array_equal(found.restricted(posteriors), posteriors[:, [2, 0, 1]])
    assert found.of_source.tolist() == [0, 1, 2]


def test_the_sources_alone_are_renormalized_and_all_are_as_they_are(rng):
    known = imagenet()
    posteriors = rng.dirichlet(np.ones(1000), 6).astype(np.float32)
    source = Named("n03000684", "n01440764", "n15075141 toilet_tissue")  # by id, and by id and name
    columns = [[name.split()[0] for name in known].index(label.split()[0]) for label in source.classes]
    few, all_ = (eval_classes(known, source, choice, "D") for choice in ("source", "all"))
    chosen = np.float64(posteriors)[:, columns]
    np.testing.assert_allclose(few.restricted(posteriors), chosen / chosen.sum(1, keepdims=True), rtol=1e-5)
    assert few.names == source.classes and few.of_source.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(all_.restricted(posteriors), posteriors)
    assert all_.names == known and all_.of_source.tolist() == columns
    assert "these 3 of the network's 1,000" in few.note and "all 1,000" in all_.note


def test_a_class_that_has_no_chance_at_all_is_no_division_by_zero():
    found = eval_classes(("a", "b", "c"), Named("a", "b"), "source", "D")
    np.testing.assert_array_equal(found.restricted(np.float32([[0, 0, 1], [0.25, 0, 0.75]])), [[0, 0], [1, 0]])


@pytest.mark.parametrize(
    ("known", "classes", "choice", "message"),
    [
        ((), ("a",), "all", "D does not name its classes: what it answers on tfds:named has no meaning"),
        (("a", "b"), ("a", "c", "d"), "all", "D has no class 'c' and 1 more of tfds:named.*; its own 2 are a, b"),
        (("red bus", "b"), ("red",), "source", "D has no class 'red' of tfds:named"),
        (
            ("a", "b", "c"),
            ("c", "a"),
            "",
            "D knows 3 classes, tfds:named has 2 of them: --config.evaluate.classes=source .* these 2, by renormalized"
            " posteriors; --config.evaluate.classes=all over all 3",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_the_way_out(known, classes, choice, message):
    with pytest.raises(vgg_jax.DataError, match=message):
        eval_classes(known, Named(*classes), choice, "D")
