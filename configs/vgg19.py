r"""Net E (19 weight layers; 144 M parameters) on ILSVRC-2012, Sec. 3.1.

    vgg_jax --config=vgg19 --workdir=runs/E-s256
    # or grown from net A, as the paper first did: --config.init.grow_from=runs/A-s256
    vgg_jax --config=vgg19:s384 --workdir=runs/E-s384 \
        --config.init.from_run=runs/E-s256
    vgg_jax --config=vgg19:jitter --workdir=runs/E-jitter \
        --config.init.from_run=runs/E-s384
    vgg_jax --config=vgg19:smoke --workdir=runs/smoke   # a minute, anywhere

Paper (Table 3, dense evaluation, top-1 / top-5 error in %):
  27.3 / 9.0 at S = Q = 256
  26.9 / 8.7 at S = Q = 384
  25.5 / 8.0 at S in [256; 512], Q = 384
Cost, the paper's: 370,000 steps of 256 images, 2 to 3 weeks on four Titan Blacks.
Measured: not on ImageNet yet; the smoke stage runs in the tests. Needs tfds:imagenet2012 (150 GB).
"""

from ml_collections import ConfigDict

from vgg_jax.configs import common


def get_config(stage: str = "s256") -> ConfigDict:
    return common.imagenet("E", stage)
