"""PASCAL VOC-2012's actions: what people in given boxes do, by mean average precision (App. B, Table 12).

    vgg_jax --mode=transfer --config=transfer/voc2012_action:PATH --weights=vgg16.safetensors,vgg19.safetensors \\
        --workdir=runs/action

PATH is the devkit's folder VOC2012. Each person is described by the whole image and by the box, and the descriptors are
stacked; --config.transfer.regions=image takes the whole image only. Trained on train, tested on validation: only the
evaluation server has the labels of the test images. The paper used it for its 79.2 % (whole image) and 84.0 % (image
and box) of nets D and E, so the paper has no comparable figure.
"""

from ml_collections import ConfigDict

from vgg_jax.configs.transfer import voc2012


def get_config(path: str = "VOCdevkit/VOC2012") -> ConfigDict:
    config = voc2012.get_config()
    config.data.source = f"voc-action:{path}"
    config.transfer.regions = ("image", "box")
    config.transfer.rest = "other"  # VOC's own program leaves it out of the mean
    return config
