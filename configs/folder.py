"""A narrow net A on your own photographs: a folder of class folders.

    vgg_jax --config=folder:PATH --workdir=runs/mine

PATH holds a folder per class, or train, validation (or val) and test with a folder per class in each; where test alone
is missing, validation stands in; without any of them the images are divided 80 / 10 / 10. The whole path may also be
given as --config.data.source=folder:PATH.

Measured on two CPU cores: see docs/results.md, clothing photographs.
"""

from ml_collections import ConfigDict

from vgg_jax.config import default_config


def get_config(path: str = "photographs") -> ConfigDict:
    config = default_config()
    config.model.net = "A"
    config.model.width = 0.25
    config.init.scheme = "he"
    config.data.source = f"folder:{path}"
    config.data.crop = 96
    config.data.scale = (104, 160)
    config.train.batch_size = 64
    config.train.steps = 1_500
    config.schedule.kind = "step"
    config.schedule.boundaries = (1_000, 1_350)
    config.evaluate.split = "test"
    config.evaluate.every = 100
    config.log.every = 20
    config.checkpoint.every = 100
    return config
