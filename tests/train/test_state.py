import pytest

from vgg_jax import ConfigError
from vgg_jax.model.specs import SPECS
from vgg_jax.train.state import check_freeze, is_frozen


def test_freezing_a_stage_takes_its_normalization_along():
    assert is_frozen("conv1_2", ("conv1",)) and is_frozen("bn1_2", ("conv1",)) and is_frozen("fc6", ("fc6",))
    assert not is_frozen("conv2_1", ("conv1",)) and not is_frozen("fc8", ("conv1", "fc6"))


def test_groups_that_cannot_be_frozen_are_refused():
    with pytest.raises(ConfigError, match=r"config.train.freeze: no layer 'conv6' in net D; there are conv1_1"):
        check_freeze(SPECS["D"], ("conv6",))
    with pytest.raises(ConfigError, match="names every layer"):
        check_freeze(SPECS["D"], tuple(f"conv{n}" for n in range(1, 6)) + ("fc6", "fc7", "fc8"))
