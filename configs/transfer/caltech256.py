"""Caltech-256: 257 classes with the clutter, 3 random splits, 60 images of a class to train on (App. B, Table 11).

    vgg_jax --mode=transfer --config=transfer/caltech256:PATH --weights=vgg16.safetensors --workdir=runs/caltech256

PATH is the folder 256_ObjectCategories, which the data set unpacks to.

The paper has 85.0 +- 0.2 % mean class recall for net D, 85.1 +- 0.3 for E, 86.2 +- 0.3 for both.
"""

from ml_collections import ConfigDict

from vgg_jax.config import default_config


def get_config(path: str = "256_ObjectCategories") -> ConfigDict:
    config = default_config()
    config.data.source = f"folder:{path}"
    config.data.train_split = "train+validation+test"  # all images: the data set has no split of its own
    config.evaluate.scales = (256, 384, 512)
    config.transfer.shots = 60
    config.transfer.curve = (1, 5, 15, 30, 45)
    return config
