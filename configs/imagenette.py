"""Net A at half its width on Imagenette: 10 ImageNet classes, 9,469 training photographs of many sizes.

    tfds build imagenette
    vgg_jax --config=imagenette --workdir=runs/imagenette

A small stand-in for the paper's protocol, not run or timed here: crops of 128 pixels out of photographs rescaled
to S in [144; 224]. Expected accuracy: not measured (the data must be downloaded).
"""

from ml_collections import ConfigDict

from vgg_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.net = "A"
    config.model.width = 0.5
    config.init.scheme = "he"
    config.data.source = "tfds:imagenette"
    config.data.crop = 128
    config.data.scale = (144, 224)
    config.train.batch_size = 128
    config.train.steps = 20_000
    config.schedule.min_interval = 1_000
    config.evaluate.every = 250
    config.checkpoint.every = 250
    return config
