"""Caltech-101: 102 classes with the background, 3 random splits, 30 images of a class to train on (App. B, Table 11).

    vgg_jax --mode=transfer --config=transfer/caltech101 --weights=vgg16.safetensors --workdir=runs/caltech101
    vgg_jax --mode=transfer --config=transfer/caltech101 --weights=vgg16.safetensors,vgg19.safetensors --workdir=...

The second command is the paper's late fusion. The data set is TFDS's; a folder of class folders works too:
--config.data.source=folder:101_ObjectCategories --config.data.train_split=train+validation+test

The paper has 91.8 +- 1.0 % mean class recall for net D, 92.3 +- 0.5 for E, 92.7 +- 0.5 for both.
"""

from ml_collections import ConfigDict

from vgg_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.source = "tfds:caltech101"
    config.data.train_split = "train+test"  # TFDS's own split is ignored: the splits are random
    config.evaluate.scales = (256, 384, 512)
    config.transfer.curve = (1, 5, 10, 15, 20, 25)
    return config
