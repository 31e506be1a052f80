import numpy as np
import pytest

from vgg_jax.evaluate.posteriors import Posteriors
from vgg_jax.evaluate.result import EvaluationResult, fusion_rows


def result_of(network, protocols, scale, scales, **of_part):
    """A network's result on two images of two classes, from the posterior of each image's own class by part and Q."""
    parts = {}
    for part, sure in of_part.items():
        values = np.array([[[p, 1 - p], [1 - p, p]] for p in sure.values()], np.float32)
        about = {"network": network, "S": [48, 48]}
        parts[part] = Posteriors(values, tuple(sure), np.array([0, 1]), ("a", "b"), ("cat", "dog"), about)
    return EvaluationResult(network, scale, scales, protocols, parts, "a source", False)


def test_each_protocol_fills_its_tables():
    sure = {16: 0.9, 48: 0.2, 80: 0.7}
    given = {"center": {48: 0.9}, "dense": sure, "crops": sure}
    result = result_of("A", ("center", "dense", "crops", "both"), 48, (16, 48, 80), **given)
    several = (16, 48, 80)
    assert [(row.table, row.protocol, row.Q, row.top1) for row in result.rows()] == [
        (0, "center", (48,), 0),
        (3, "dense", (48,), 100),
        (4, "dense", several, 0),
        (5, "dense", several, 0),
        (5, "crops", several, 0),
        (5, "both", several, 0),
    ]


@pytest.mark.parametrize("other", ["crops", "both"])
def test_table_5_has_its_dense_row_beside_either_of_the_others(other):
    sure = {16: 0.9, 48: 0.2}
    rows = result_of("A", ("dense", other), 48, (16, 48), dense=sure, crops=sure).rows()
    assert [row.protocol for row in rows if row.table == 5] == ["dense", other]


def test_crops_are_of_the_several_scales_even_if_that_is_another_one():
    rows = result_of("A", ("crops",), 48, (40,), crops={40: 0.9}).rows()
    assert [(row.table, row.Q, row.top1) for row in rows] == [(5, (40,), 0)]


@pytest.mark.parametrize(("scales", "S"), [((48,), (48, 48)), ((80, 16), (0, 0))])
def test_networks_are_fused_each_over_its_own_scales(scales, S):
    one = result_of("A", ("center", "dense"), 48, (48,), dense={48: 0.3}, center={48: 0.9})
    two = result_of("B", ("dense",), 48, scales, dense=dict.fromkeys(scales, 0.9))
    (row,) = fusion_rows([one, two])  # the second has no center crop
    assert (row.table, row.network, row.S, row.Q) == (6, "A + B", S, tuple(sorted({48, *scales})))
    assert row.top1 == 0
