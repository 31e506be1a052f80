"""The evaluation stream: every image once, in order, the last batch padded (Sec. 3.2)."""

import numpy as np

from vgg_jax.data.batch_stream import BatchStream, Requests, share
from vgg_jax.data.sources import Source
from vgg_jax.errors import DataError


def centre_crops(
    source: Source,
    *,
    batch_size: int,
    crop: int,
    smaller_side: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 0,
    on_error: str = "raise",
) -> BatchStream:
    """The centre crop of every image, each exactly once.

    Args:
      batch_size: images in a global batch; this process reads the `process_index`-th of `process_count` shares.
      crop: side of the crop, in pixels.
      smaller_side: what images are rescaled to (Q in Sec. 3.2), in pixels.
      threads: how many read and decode; 0 is one per core.
      on_error: "raise", or "skip" to give unreadable images mask 0 and list them in `problems`.

    Returns:
      A stream of ceil(N / batch_size) batches in every process; places beyond the last image have mask 0.

    Raises:
      DataError: the numbers do not fit together.
    """
    if not crop <= smaller_side:
        raise DataError(f"smaller_side={smaller_side} with crop={crop}: needs crop <= smaller_side")
    local = share(batch_size, process_index, process_count)

    def requests(k: int) -> Requests:
        index = k * batch_size + np.arange(batch_size)[local]
        index = np.where(index < len(source), index, -1)
        return Requests(index, np.full(len(index), smaller_side, np.int32), np.full((len(index), 2), 0.5))

    batches = range(-(-len(source) // batch_size))
    return BatchStream(source, requests, batches, crop=crop, threads=threads, on_error=on_error)
