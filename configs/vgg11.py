"""Net A (11 weight layers; 133 M parameters) on ILSVRC-2012, Sec. 3.1.

    vgg_jax --config=vgg11 --workdir=runs/A-s256
    vgg_jax --config=vgg11:smoke --workdir=runs/smoke   # a minute, anywhere

Paper (Table 3, dense evaluation, top-1 / top-5 error in %): 29.6 / 10.4 at S = Q = 256.
Cost, the paper's: 370,000 steps of 256 images, 2 to 3 weeks on four Titan Blacks.
Measured: not on ImageNet yet; the smoke stage runs in the tests. Needs tfds:imagenet2012 (150 GB).
"""

from ml_collections import ConfigDict

from vgg_jax.configs import common


def get_config(stage: str = "s256") -> ConfigDict:
    return common.imagenet("A", stage)
