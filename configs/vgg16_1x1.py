r"""Net C (16 weight layers, three of them 1x1 convolutions; 134 M parameters) on ILSVRC-2012, Sec. 3.1.

    vgg_jax --config=vgg16_1x1 --workdir=runs/C-s256
    # or grown from net A, as the paper first did: --config.init.grow_from=runs/A-s256
    vgg_jax --config=vgg16_1x1:s384 --workdir=runs/C-s384 \
        --config.init.from_run=runs/C-s256
    vgg_jax --config=vgg16_1x1:jitter --workdir=runs/C-jitter \
        --config.init.from_run=runs/C-s384
    vgg_jax --config=vgg16_1x1:smoke --workdir=runs/smoke   # a minute, anywhere

Paper (Table 3, dense evaluation, top-1 / top-5 error in %):
  28.1 / 9.4 at S = Q = 256
  28.1 / 9.3 at S = Q = 384
  27.3 / 8.8 at S in [256; 512], Q = 384
Cost, the paper's: 370,000 steps of 256 images, 2 to 3 weeks on four Titan Blacks.
Measured: not on ImageNet yet; the smoke stage runs in the tests. Needs tfds:imagenet2012 (150 GB).
"""

from ml_collections import ConfigDict

from vgg_jax.configs import common


def get_config(stage: str = "s256") -> ConfigDict:
    return common.imagenet("C", stage)
