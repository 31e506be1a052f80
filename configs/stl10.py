"""Net A at a quarter of its width on STL-10: 10 classes, 5,000 training photographs of 96 x 96 pixels.

    tfds build stl10
    vgg_jax --config=stl10 --workdir=runs/stl10

He's initialization, because 5,000 images are too few for a deep net to start learning from Glorot's; the paper's
plateau schedule. Expected accuracy: not measured (the data must be downloaded). Cost: about 17 G multiply-adds a step,
forward and backward.
"""

from ml_collections import ConfigDict

from vgg_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.net = "A"
    config.model.width = 0.25
    config.init.scheme = "he"
    config.data.source = "tfds:stl10"
    config.data.train_split = "train[:90%]"
    config.data.validation_split = "train[90%:]"
    config.data.crop = 96
    config.data.scale = (96, 128)
    config.train.batch_size = 64
    config.train.steps = 20_000
    config.schedule.patience = 8
    config.schedule.min_interval = 1_000
    config.evaluate.split = "test"
    config.evaluate.every = 200
    config.checkpoint.every = 200
    return config
