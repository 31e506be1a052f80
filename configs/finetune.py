"""Net D with published convolutions, frozen, and small FC layers trained on your own photographs (Sec. 4, App. B).

    vgg_jax --config=finetune:PATH --workdir=runs/tuned
    vgg_jax --mode=evaluate --workdir=runs/tuned

PATH is a folder as configs/folder.py has it. The weights come from the hub, or from a file:

    --config.init.weights=vgg16.safetensors
    --config.init.weights=vgg16_conv.npz --config.init.preprocessing=torchvision

The convolutions are computed once, on four fixed views of each image, and kept in the workdir: 51 kB a view. The rest
takes a minute, so that other rates, dropouts or sizes of the FC layers cost no more: copy the workdir's `features/`
into a new one. More views of the same images add to those that are there.

Measured on two CPU cores: see docs/results.md, clothing photographs.
"""

from ml_collections import ConfigDict

from vgg_jax.config import default_config
from vgg_jax.model.specs import CONVOLUTIONAL_STAGES


def get_config(path: str = "photographs") -> ConfigDict:
    config = default_config()
    config.model.net = "D"
    config.model.hidden = 512
    config.init.scheme = "he"
    config.init.weights = "timm/vgg16.tv_in1k"
    config.data.source = f"folder:{path}"
    config.data.crop = 160
    config.data.scale = (160, 192)
    config.train.batch_size = 64
    config.train.freeze = CONVOLUTIONAL_STAGES
    config.train.cached_views = 4
    config.train.steps = 2_000
    config.train.learning_rate = 2e-3
    config.schedule.kind = "step"
    config.schedule.boundaries = (1_300, 1_800)
    config.evaluate.split = "test"
    config.evaluate.scale = 160
    config.evaluate.scales = (160, 192)
    config.evaluate.every = 1_000
    config.checkpoint.every = 500
    return config
