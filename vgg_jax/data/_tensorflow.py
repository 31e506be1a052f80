"""TensorFlow as this wing uses it: on the host only, and quiet."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf  # noqa: E402  (the log level is read on import)

# The accelerators belong to JAX; a TensorFlow built for GPUs would otherwise claim their whole memory.
tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
