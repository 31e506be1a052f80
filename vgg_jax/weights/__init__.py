"""Published weights of VGG in every format they come in, and back to torchvision's."""

from vgg_jax.weights.classes import imagenet
from vgg_jax.weights.export import save_torchvision
from vgg_jax.weights.loading import Weights, load, read
from vgg_jax.weights.preprocessing import PREPROCESSING, Preprocessing

__all__ = ["PREPROCESSING", "Preprocessing", "Weights", "imagenet", "load", "read", "save_torchvision"]
