import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vgg_jax import ConfigError, sharding
from vgg_jax.ahead.collectives import collectives
from vgg_jax.ahead.hlo import parse
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.state import new_state


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
    assert sorted(device.id for device in sharding.device_mesh().devices.flat) == sorted(
        device.id for device in jax.devices()
    )


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX tells of a device that is not here."""

    id: int
    platform: str
    device_kind: str
    slice_index: int
    coords: tuple[int, ...] = ()
    core_on_chip: int = 0
    process_index: int = 0


def test_several_hosts_with_gpus_share_fc_layers_within_a_host():
    gpus = [Chip(number, "gpu", "NVIDIA H100 80GB HBM3", number % 2) for number in range(16)]
    mesh = sharding.device_mesh(4, gpus)
    assert dict(mesh.shape) == {"data": 4, "model": 4} and set(mesh.devices.flat) == set(gpus)
    assert [{gpu.slice_index for gpu in row} for row in mesh.devices] == [{0}, {0}, {1}, {1}]
    with pytest.raises(ConfigError, match="config.mesh.model=16 does not divide 8 devices of one of 2 hosts or slices"):
        sharding.device_mesh(16, gpus)


@pytest.mark.parametrize("kind, sides", [("TPU v6 lite", (8, 8, 1)), ("TPU v5", (4, 4, 2))])
@pytest.mark.parametrize("slices", [1, 2])
def test_a_few_chips_of_a_tpus_side_share_fc_layers(kind, sides, slices):
    """JAX's own `make_mesh` refuses to split a side, and several slices."""
    places = [(number, place) for number in range(slices) for place in np.ndindex(sides)]
    tpus = [Chip(number, "tpu", kind, piece, place) for number, (piece, place) in enumerate(places)]
    mesh = sharding.device_mesh(2, tpus)
    assert mesh.devices.shape == (len(tpus) // 2, 2) and set(mesh.devices.flat) == set(tpus)
    for one, other in mesh.devices:
        assert one.slice_index == other.slice_index
        assert sum(abs(a - b) for a, b in zip(one.coords, other.coords, strict=True)) == 1  # neighbors


def test_a_state_lies_on_every_device(eight_devices, tiny_net):
    state = nnx.state(tiny_net())
    placed = sharding.place_state(state, eight_devices)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True):
        assert len(after.sharding.device_set) == 8 and after.sharding.is_fully_replicated
        np.testing.assert_array_equal(before, after)


@pytest.fixture
def four_by_two(eight_devices):
    return jax.sharding.Mesh(eight_devices.devices.reshape(4, 2), ("data", "model"))


def shards(array):
    return {shard.data.shape for shard in array.addressable_shards}


def test_the_fc_layers_are_split_over_the_model_axis(four_by_two, tiny_net):
    net = tiny_net(hidden=16)
    _, state = new_state(net, (), krizhevsky_momentum())
    for tree in (placed := sharding.place_state(state, four_by_two)).trainable, optax.tree.get(placed, "trace"):
        arrays = nnx.to_pure_dict(tree)
        assert shards(arrays["fc6"]["kernel"]) == {(1, 1, 32, 8)} and shards(arrays["fc6"]["bias"]) == {(8,)}
        assert shards(arrays["fc7"]["kernel"]) == {(1, 1, 8, 16)} and arrays["fc7"]["bias"].is_fully_replicated
        assert arrays["fc8"]["kernel"].is_fully_replicated and arrays["conv1_1"]["kernel"].is_fully_replicated
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True):
        np.testing.assert_array_equal(before, after)


def test_zero_splits_the_optimizers_arrays_over_the_data_axis_too(four_by_two, tiny_net):
    _, state = new_state(tiny_net(hidden=16), (), krizhevsky_momentum())
    placed = sharding.place_state(state, four_by_two, zero=True)
    velocity = nnx.to_pure_dict(optax.tree.get(placed, "trace"))
    assert shards(velocity["fc6"]["kernel"]) == {(1, 1, 8, 8)}  # both axes
    assert shards(velocity["conv5_2"]["kernel"]) == {(3, 3, 8, 32)}  # the longest, the first of two
    assert velocity["conv1_1"]["bias"].addressable_shards[0].data.shape == (1,)
    assert nnx.to_pure_dict(placed.trainable)["conv5_2"]["kernel"].is_fully_replicated


def test_a_model_axis_that_divides_no_devices_or_units_is_refused(four_by_two, tiny_net):
    assert dict(sharding.device_mesh(4).shape) == {"data": 2, "model": 4}
    with pytest.raises(ConfigError, match="config.mesh.model=3 does not divide 8 devices; use one of 1, 2, 4, 8"):
        sharding.device_mesh(3)
    with pytest.raises(ConfigError, match="config.mesh.model=2 does not divide the 15 units of fc6/"):
        sharding.place_state(nnx.state(tiny_net(hidden=15)), four_by_two)


def test_devices_that_share_layers_exchange_activations_and_no_kernels(tiny_net):
    mesh, net = sharding.device_mesh(4), tiny_net()
    net.conv = "lax"
    graphdef, trainable, rest = nnx.split(net, nnx.Param, ...)
    squares = lambda trainable, pool5: (nnx.merge(graphdef, trainable, rest).head(pool5) ** 2).sum()
    shapes = jax.tree.map(
        lambda a, where: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where),
        (trainable, jnp.zeros((1024, 1, 1, net.fc6.in_features))),
        (sharding.state_shardings(trainable, mesh), sharding.split_batch(mesh)),
    )
    with jax.set_mesh(mesh):
        program = jax.jit(jax.grad(squares, (0, 1))).trace(*shapes).lower().compile()
    gathered = [each for each in collectives(parse(program.as_text()), 8) if each.kind == "all-gather"]
    # In each of two groups of four: pool5 of 512 images, and the gradient of their fc7.
    assert [(each.group, each.bytes) for each in gathered] == [(4, 4 * 512 * (net.fc6.in_features + net.hidden))]
