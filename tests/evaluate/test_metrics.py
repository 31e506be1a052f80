import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss, top_k_accuracy_score

from vgg_jax.evaluate.metrics import hits, ranks, summary


def stable_ranks(scores, labels):
    """Places of the labels when a stable sort puts the best score first and what is no number before it."""
    scores = np.where(np.isnan(scores), np.inf, scores)
    order = np.argsort(-scores, axis=1, kind="stable")
    return (order == labels[:, None]).argmax(1)


@pytest.mark.parametrize("library", [np, jnp])
def test_ranks_are_a_stable_sorts(library, rng):
    scores = rng.integers(0, 6, (500, 10)).astype(np.float32)  # many ties
    labels = rng.integers(0, 10, 500)
    np.testing.assert_array_equal(ranks(library.asarray(scores), library.asarray(labels)), stable_ranks(scores, labels))


def test_what_is_no_number_counts_against_the_label(rng):
    scores = rng.integers(0, 6, (500, 10)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    labels = rng.integers(0, 10, 500)
    own = np.isnan(scores[np.arange(500), labels])
    found = ranks(scores, labels)
    # Another class's ranks before the label; the label's own puts it last.
    np.testing.assert_array_equal(
        found[~own], (np.isnan(scores).sum(1) + stable_ranks(np.nan_to_num(scores, nan=-1), labels))[~own]
    )
    assert own.any() and (found[own] >= 9).all()


def test_hits_count_what_the_mask_leaves(rng):
    scores, labels = rng.normal(size=(50, 10)), rng.integers(0, 10, 50)
    mask = (rng.random(50) < 0.5).astype(np.float32)
    place = stable_ranks(scores, labels)
    found = hits(jnp.asarray(scores), jnp.asarray(labels), jnp.asarray(mask))
    assert float(found["top1"]) == ((place == 0) & (mask == 1)).sum()
    assert float(found["top5"]) == ((place < 5) & (mask == 1)).sum()


def test_the_summary_is_scikit_learns(rng):
    posteriors = rng.dirichlet(np.ones(10), 300).astype(np.float32)
    labels = rng.integers(0, 10, 300)
    found = summary(posteriors, labels)
    for name, k in (("top1", 1), ("top5", 5)):
        assert found[name] == pytest.approx(top_k_accuracy_score(labels, posteriors, k=k, labels=range(10)))
    exact = np.float64(posteriors)
    assert found["loss"] == pytest.approx(
        log_loss(labels, exact / exact.sum(1, keepdims=True), labels=range(10)), rel=1e-5
    )
    assert found["images"] == 300


def test_an_impossible_label_costs_103_nats():
    found = summary(np.float32([[1, 0], [1, 0]]), np.array([1, 0]))
    assert found["loss"] == pytest.approx(149 * np.log(2) / 2) and 149 * np.log(2) == pytest.approx(103.28, abs=0.01)


def test_fewer_than_five_classes_are_all_among_the_best_five(rng):
    assert summary(rng.dirichlet(np.ones(3), 20), rng.integers(0, 3, 20))["top5"] == 1
