"""PASCAL VOC-2007: which of 20 classes an image shows, by mean average precision (App. B, Table 11).

    vgg_jax --mode=transfer --config=transfer/voc2007 --weights=vgg16.safetensors --workdir=runs/voc2007

Trained on train and validation, tested on test, by VOC-2007's 11-point average precision; difficult objects do not
count.
--config.data.source=voc:VOCdevkit/VOC2007 reads the devkit's own folder.

The paper has 89.3 % for net D and for E, 89.7 for both; with {256, 384, 512} alone it loses 0.3 %.
"""

from ml_collections import ConfigDict

from vgg_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.source = "tfds:voc/2007"
    config.data.train_split = "train+validation"
    config.evaluate.split = "test"
    config.evaluate.scales = (256, 384, 512, 640, 768)
    config.transfer.combine = ("average",)
    config.transfer.metric = "mean_ap_11"
    config.transfer.splits = 0
    config.transfer.shots = 0
    return config
