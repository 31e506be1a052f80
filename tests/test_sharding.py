import threading

import jax
import numpy as np
import pytest

from vgg_jax import ConfigError, sharding


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do():
    with pytest.raises(ConfigError, match="config.train.batch_size=250 does not divide over 8 devices; use 248 or 256"):
        sharding.check_batch_size("config.train.batch_size", 250, 8)
    with pytest.raises(
        ConfigError, match="batch_size=24 does not divide over 8 devices x 2 microbatches; use 16 or 32"
    ):
        sharding.check_batch_size("batch_size", 24, 8, 2)
    sharding.check_batch_size("batch_size", 32, 8, 2)


def test_a_placed_batch_is_split_in_order_over_the_devices(eight_devices):
    batch = {"image": np.arange(16 * 3).reshape(16, 3), "label": np.arange(16)}
    placed = sharding.place_batch(batch, eight_devices)
    for name, array in placed.items():
        np.testing.assert_array_equal(array, batch[name])
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {2}
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, batch[name][shard.index])


def test_the_mesh_holds_every_device_once():
    assert sorted(device.id for device in sharding.device_mesh().devices) == sorted(
        device.id for device in jax.devices()
    )


def test_prefetch_keeps_the_order_and_runs_ahead():
    taken, second = [], threading.Event()

    def items():
        for number in range(5):
            taken.append(number)
            if number == 1:
                second.set()
            yield number

    with sharding.prefetch(items(), lambda number: number * 10) as placed:
        first = next(placed)
        assert second.wait(10)  # the second is made while the first is in use
        assert [first, *placed] == [0, 10, 20, 30, 40]
    assert taken == [0, 1, 2, 3, 4]


def test_prefetch_raises_the_sources_error_where_it_came():
    def items():
        yield 1
        raise ValueError("photo.jpg is broken")

    with sharding.prefetch(items(), lambda item: item) as placed:
        assert next(placed) == 1
        with pytest.raises(ValueError, match="photo.jpg is broken"):
            next(placed)


def test_leaving_prefetch_stops_its_thread():
    with sharding.prefetch(iter(range(10**9)), lambda item: item) as placed:
        next(placed)
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
