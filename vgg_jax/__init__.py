"""VGG, whole: the networks of Simonyan and Zisserman (arXiv 1409.1556) in JAX and Flax.

>>> from flax import nnx
>>> import vgg_jax
>>> net = vgg_jax.VGG("A", num_classes=10, crop=32, width=0.125, rngs=nnx.Rngs(0))
>>> vgg_jax.SPECS["D"].parameter_count()
138357544
"""

from vgg_jax.errors import CheckpointError, ConfigError, DataError, UserError
from vgg_jax.inference.export import export_scorer
from vgg_jax.inference.features import features
from vgg_jax.inference.score_map import class_score_map
from vgg_jax.inference.scorer import Scorer
from vgg_jax.model.perceptual import content_distance, gram, lpips, read_lpips_linear, style_distance
from vgg_jax.model.specs import ALIASES, SPECS, Spec
from vgg_jax.model.vgg import VGG
from vgg_jax.weights import load, save_torchvision

__all__ = [
    "ALIASES",
    "SPECS",
    "VGG",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Scorer",
    "Spec",
    "UserError",
    "class_score_map",
    "content_distance",
    "export_scorer",
    "features",
    "gram",
    "load",
    "lpips",
    "read_lpips_linear",
    "save_torchvision",
    "style_distance",
]
