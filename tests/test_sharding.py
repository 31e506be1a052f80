import jax
import numpy as np
import pytest
from flax import nnx

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


def test_a_state_lies_on_every_device(eight_devices, tiny_net):
    state = nnx.state(tiny_net())
    placed = sharding.place_state(state, eight_devices)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True):
        assert len(after.sharding.device_set) == 8 and after.sharding.is_fully_replicated
        np.testing.assert_array_equal(before, after)


def test_the_first_rule_whose_pattern_an_array_has_places_it(eight_devices, tiny_net, monkeypatch):
    rules = (("fc[67]/kernel", jax.P(None, None, None, "data")), ("", jax.P()))
    monkeypatch.setattr(sharding, "RULES", rules)
    state = {"trainable": nnx.state(tiny_net(hidden=16))}
    placed = nnx.to_pure_dict(sharding.place_state(state, eight_devices)["trainable"])
    assert placed["fc6"]["kernel"].addressable_shards[0].data.shape == (1, 1, 32, 2)
    assert (
        placed["fc6"]["bias"].sharding.is_fully_replicated and placed["conv1_1"]["kernel"].sharding.is_fully_replicated
    )
