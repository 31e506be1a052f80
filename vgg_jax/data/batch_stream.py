from vgg_jax.data.pipeline import TrainingBatches as BatchStream  # noqa: F401
from vgg_jax.data.pipeline import cores  # noqa: F401
from vgg_jax.data.sampler import Requests, process_slice  # noqa: F401
