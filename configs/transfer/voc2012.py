"""PASCAL VOC-2012: which of 20 classes an image shows, by mean average precision (App. B, Table 11).

    vgg_jax --mode=transfer --config=transfer/voc2012 --weights=vgg16.safetensors --workdir=runs/voc2012

Trained on train, tested on validation: only the evaluation server has the labels of the test images. The paper used it,
so its 89.0 % for net D and for E, 89.3 for both, are of other images.
--config.data.source=voc:VOCdevkit/VOC2012 reads the devkit's own folder.
"""

from ml_collections import ConfigDict

from vgg_jax.configs.transfer import voc2007


def get_config() -> ConfigDict:
    config = voc2007.get_config()
    config.data.source = "tfds:voc/2012"
    config.data.train_split = "train"
    config.evaluate.split = "validation"
    config.transfer.metric = "mean_ap"
    return config
