import collections

import numpy as np

from vgg_jax.data.sampler import EpochOrder, Sampler


def sampler_of(size: int = 24, **options) -> Sampler:
    return Sampler(size, **{"batch_size": 6, "scale": (32, 64), "seed": 3} | options)


def test_every_epoch_shows_every_image_once_in_a_new_order():
    order = EpochOrder(24, 5, seed=3)  # batches run across the borders
    shown, epochs = (np.concatenate(column) for column in zip(*map(order, range(24))))
    np.testing.assert_array_equal(epochs, np.arange(120) // 24)
    for epoch in shown.reshape(5, 24):
        assert sorted(epoch) == list(range(24))
    assert len({tuple(epoch) for epoch in shown.reshape(5, 24)}) == 5
    np.testing.assert_array_equal(sampler_of(batch_size=5)(7).index, order(7)[0])


def test_scales_and_places_are_uniform():
    requests = sampler_of(batch_size=2000, scale=(40, 43))(0)
    counts = collections.Counter(requests.smaller_side.tolist())
    assert sorted(counts) == [40, 41, 42, 43]
    assert min(counts.values()) > 400
    assert requests.place.min() >= 0 and requests.place.max() < 1
    np.testing.assert_allclose(requests.place.mean(axis=0), 0.5, atol=0.03)
    np.testing.assert_allclose(requests.place.std(axis=0), 12**-0.5, atol=0.02)


def test_draws_differ_between_batches_and_seeds():
    requests = [sampler_of()(0), sampler_of()(1), sampler_of(seed=4)(0)]
    assert len({request.place.tobytes() for request in requests}) == 3
    assert len({request.index.tobytes() for request in requests}) == 3


def test_the_draws_are_those_of_earlier_runs():
    """A run that was begun before goes on with the same crops; change this only with a reason to break them."""
    requests = sampler_of()(5)
    assert requests.index.tolist() == [9, 17, 15, 5, 4, 22]
    assert requests.smaller_side.tolist() == [61, 61, 60, 38, 44, 44]


def test_processes_share_each_batch():
    whole = sampler_of()(4)
    shares = [sampler_of(rows=np.arange(start, start + 2))(4) for start in (0, 2, 4)]
    for name in whole._fields:
        together = np.concatenate([getattr(share, name) for share in shares])
        np.testing.assert_array_equal(together, getattr(whole, name))
