"""TensorFlow as this package uses it: on the host only, and quiet. Import it late: it takes seconds."""

import os

from vgg_jax.errors import DataError

# A damaged image is an error that we report ourselves. JAX, imported before, has set its own default, 1.
if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nothing here uses oneDNN, whose greeting no log level silences
# Images are the parallel work, each in one thread: the threads of a single op would only stand in their way.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
# TensorFlow loads Keras at once, a third of its import. Nothing here needs it, and by this it looks for one that is not
# there; `tf.keras` still finds the real one when it is asked for.
_keras = os.environ.get("TF_USE_LEGACY_KERAS")
os.environ["TF_USE_LEGACY_KERAS"] = "1"
try:
    import tensorflow as tf
except ImportError as error:
    raise DataError(
        f"files and data sets are read by TensorFlow, which cannot be imported ({error}): pip install tensorflow-cpu"
    ) from error
finally:
    os.environ.pop("TF_USE_LEGACY_KERAS")
    if _keras is not None:
        os.environ["TF_USE_LEGACY_KERAS"] = _keras

# The accelerators belong to JAX; a TensorFlow built for GPUs would otherwise claim their whole memory.
tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
