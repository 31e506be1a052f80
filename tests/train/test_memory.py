"""The plan of a step's memory: parameters exactly, activations of a small net by hand, and what to change."""

import logging

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from vgg_jax.ahead import program
from vgg_jax.config import default_config
from vgg_jax.errors import ConfigError
from vgg_jax.model.specs import SPECS
from vgg_jax.train import memory


@pytest.fixture
def config() -> ConfigDict:
    config = default_config()
    config.model.net, config.model.width, config.model.dtype = "A", 0.0625, "bfloat16"
    config.data.crop, config.data.scale, config.train.batch_size = 64, (64, 64), 16
    return config


def state_of(config, mesh):
    return program.training_step(config, 10, mesh).state


def test_parameters_and_optimizer_are_exact(config, eight_devices):
    count = 4 * SPECS["A"].parameter_count(10, 64, 0.0625)
    plan = memory.plan(config, state_of(config, eight_devices), eight_devices, 2)
    assert plan[:3] == (count + 3 * 4, count, count)  # and the mean RGB


def test_of_split_layers_a_chip_has_its_part(config, eight_devices):
    mesh = jax.sharding.Mesh(eight_devices.devices.reshape(2, 4), ("data", "model"))
    shapes = SPECS["A"].parameter_shapes(10, 64, 0.0625)
    split = [("fc6/kernel", 2 * 2 * 32 * 256), ("fc6/bias", 256), ("fc7/kernel", 256 * 256)]
    assert shapes["fc6/kernel"] == (2, 2, 32, 256)
    saved = 4 * 3 / 4 * sum(size for _, size in split)
    plan = memory.plan(config, state_of(config, mesh), mesh, 2)
    assert plan.optimizer == 4 * SPECS["A"].parameter_count(10, 64, 0.0625) - saved


def test_activations_by_hand(config):
    # Net A at 1/16: channels 4, 8, 16 16, 32 32, 32 32 on maps of 64, 32, 16, 8 and 4. The backward pass of the second
    # convolution of stage 3 needs most: two pools before it, with a byte a window; its input; and both gradients.
    pools = 32**2 * 4, 16**2 * 8
    assert memory.activations(config, 2) == (2 + 1) * sum(pools) + 3 * 2 * 16**2 * 16
    config.model.remat = True
    assert memory.activations(config, 2) == 2 * sum(pools) + 3 * 2 * 16**2 * 16
    config.model.remat, config.model.net = False, "B"  # its first stage has two convolutions: input and both gradients
    assert memory.activations(config, 2) == 3 * 2 * 64**2 * 4


def test_what_is_named_fits(config, one_device):
    state = state_of(config, one_device)
    whole = memory.plan(config, state, one_device, 2)
    way_out = memory.ways_out(config, state, one_device, 2, 1, whole.total - 1)
    assert way_out.startswith("config.train.microbatches=2 (") and "config.model.remat=True" in way_out
    config.train.microbatches = 2
    assert memory.plan(config, state, one_device, 2).activations == whole.activations // 2


def test_a_run_that_does_not_fit_is_refused_and_one_that_may_not_is_warned_of(config, one_device, monkeypatch, caplog):
    state = state_of(config, one_device)
    plan = memory.plan(config, state, one_device, 2)
    memory.check(config, state, one_device, 2)  # a CPU does not say what it has
    monkeypatch.setattr(logging.getLogger("vgg_jax"), "propagate", True)
    for capacity, warnings in ((plan.total, 0), (plan.total - 1, 1)):
        monkeypatch.setattr(memory, "device_memory", lambda mesh, capacity=capacity: capacity)
        memory.check(config, state, one_device, 2)
        assert len(caplog.messages) == warnings
    assert "change config.train.microbatches=2" in caplog.text
    monkeypatch.setattr(memory, "device_memory", lambda mesh: plan.parameters)
    with pytest.raises(ConfigError, match=r"needs about .* GB of each device.*: change config\.mesh\.model"):
        memory.check(config, state, one_device, 2)


def test_an_error_for_want_of_memory_names_what_to_change(config, one_device):
    state = state_of(config, one_device)
    named = pytest.raises(memory.OutOfMemory, match=r"memory is full \(.*\); change config.train.microbatches=")
    with named, memory.out_of_memory_named(config, state, one_device, 2):
        jnp.zeros(2**50, jnp.uint8).block_until_ready()
