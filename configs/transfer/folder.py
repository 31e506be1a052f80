"""Your own photographs, a folder for each class: a linear classifier on a network's descriptors (App. B).

    vgg_jax --mode=transfer --config=transfer/folder:PATH --weights=vgg16.safetensors --workdir=runs/mine
    vgg_jax --mode=predict --workdir=runs/mine --weights=vgg16.safetensors new/*.jpg

PATH holds a folder per class; 3 random splits are made, with 30 images of a class to train on and up to 50 to test
on. If it has train, validation and test with a folder per class in each, these can be used instead:
--config.transfer.splits=0 --config.transfer.shots=0 --config.data.train_split=train+validation

Weights without FC layers give descriptors of pool5:

    vgg_jax --mode=transfer --config=transfer/folder:PATH --workdir=runs/mine --weights=vgg16_conv.npz \\
        --config.init.preprocessing=torchvision --config.transfer.layers=pool5
"""

from ml_collections import ConfigDict

from vgg_jax.config import default_config


def get_config(path: str = "photographs") -> ConfigDict:
    config = default_config()
    config.data.source = f"folder:{path}"
    config.data.train_split = "train+validation+test"
    config.evaluate.split = "test"
    config.evaluate.scales = (256, 384, 512)
    config.transfer.curve = (1, 5, 15)
    return config
