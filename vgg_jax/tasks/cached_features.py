"""Frozen convolutions computed once: fixed views of the images in place of fresh crops (Sec. 3.1, fine-tuning).

With `config.train.cached_views=K` every image has K views. A view is a scale, a window, a flip and a colour shift,
drawn once from (seed, image, view); what the frozen convolutions make of it, pool5, is computed before the first step
and kept in the workdir (`view_store`), where a larger K finds what a smaller one left. The steps read pool5 and run the
FC layers alone, in a hundredth of the time.

Epoch e shows every image once, in an order drawn from (seed, e), by its view e mod K. A batch is a function of the seed
and of its number, as one of fresh crops is; dropout is drawn in every step. Batch normalisation, frozen with its
convolutions, uses its averages.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vgg_jax import compiler, sharding
from vgg_jax.data.batch_stream import BatchStream, Requests, process_slice
from vgg_jax.data.source import Source
from vgg_jax.data.statistics import ColorStatistics
from vgg_jax.errors import ConfigError
from vgg_jax.model.specs import scaled, spec_of
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress
from vgg_jax.tasks import activation_store
from vgg_jax.train.crops import augmentation
from vgg_jax.train.state import is_frozen

log = logging.getLogger(__name__)

MOST_BYTES = 16 * 10**9
"""The most that is kept in a workdir."""

_ORDER, _WINDOWS = 2, 3  # families of random streams on the host; `data.train_stream` has 0 and 1
_PIXELS = 2**32 - 1  # in the place of a step's number in `step.image_keys`: no run reaches it
_TOGETHER = 16  # views that the convolutions run on at once, on each device


def check_frozen(config: ConfigDict) -> None:
    """Refuses views of a config that trains a convolution.

    Raises:
      ConfigError: with the layers, and the way out.
    """
    spec = spec_of(config.model.net)
    trained = [layer for layer in spec.convolutions if not is_frozen(layer, tuple(config.train.freeze))]
    if trained:
        stages = tuple(f"conv{number}" for number in range(1, len(spec.stages) + 1))
        raise ConfigError(
            f"config.train.cached_views={config.train.cached_views} keeps the output of the convolutions, but "
            f"{', '.join(trained)} {'is' if len(trained) == 1 else 'are'} trained: set config.train.freeze={stages}, "
            "or config.train.cached_views=0"
        )


class Views:
    """The frozen convolutions' output on fixed views; see `vgg_jax.train.loop.Inputs`.

    Args:
      config: the run's; all convolutions are frozen.
      source: the training images.
      colors: their principal colours.
      mesh: the devices.
      workdir: the run's folder; the output is kept in its `views/`.

    Raises:
      ConfigError: it is too much to keep.
    """

    def __init__(self, config: ConfigDict, source: Source, colors: ColorStatistics, mesh: Mesh, workdir: Path):
        self._config, self._source, self._colors, self._mesh = config, source, colors, mesh
        self._folder, self._count = workdir / "views", config.train.cached_views
        self._shift, self._augment = augmentation(config, colors), jax.jit(self._augmented)
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)  # a batch may need two epochs' orders
        spec, side = spec_of(config.model.net), config.data.crop // 32
        channels = scaled(list(spec.convolutions.values())[-1].channels, config.model.width)
        self._shape = self._count, len(source), side, side, channels
        self._check_bytes(MOST_BYTES, "the most that is kept")
        size = config.train.batch_size
        self.batch = {
            "image": jax.ShapeDtypeStruct((size, side, side, channels), jnp.float32),
            "label": jax.ShapeDtypeStruct((size,), jnp.int32),
            "mask": jax.ShapeDtypeStruct((size,), jnp.float32),
        }

    def augment(self, activations: jax.Array, keys: jax.Array) -> jax.Array:
        """The activations as they are: a view was augmented before the convolutions."""
        del keys
        return activations

    def remaining(self, net: VGG) -> Callable[..., jax.Array]:
        """The net's FC layers, a function of pool5 and keys."""
        return net.head

    def stream(self, net: VGG, start: int) -> ViewStream:
        """The batches from the `start`-th on; before them, unless the workdir has it, pool5 of all views is computed.

        Raises:
          DataError: an image cannot be read.
          CheckpointError: what the workdir has is damaged.
        """
        of = self._dependencies(net)
        there = activation_store.views_of(self._folder, of)
        if sharding.agreed(there < self._count):
            self._compute(net, of, 0 if sharding.agreed(not there) else there)
        return ViewStream(self, *activation_store.opened(self._folder), start)

    def first_seen(self, activations: jax.Array, keys: jax.Array) -> jax.Array:
        """The first images of batch 0 as the convolutions saw them, read again."""
        index, view = (places[: len(activations)] for places in self.places(0))
        return self.pixels(index, view)

    def places(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """This process's share of batch k: which images, and which views of them."""
        size, images = self._config.train.batch_size, self._shape[1]
        epoch, position = np.divmod(k * size + np.arange(size), images)
        index = np.empty(size, np.int64)
        for number in np.unique(epoch):
            index[epoch == number] = self._order(int(number))[position[epoch == number]]
        mine = process_slice(size, jax.process_index(), jax.process_count())
        return index[mine], epoch[mine] % self._count

    def pixels(self, index: np.ndarray, view: np.ndarray) -> jax.Array:
        """Views of images as the net gets them: RGB around 0..255, float32 (n, crop, crop, 3)."""
        with contextlib.closing(self._crops(lambda _: (index, view), range(1))) as crops:
            return self._augment(next(crops)["image"], jnp.asarray(index), jnp.asarray(view))

    def _compute(self, net: VGG, of: dict, first: int) -> None:
        """Fills the folder: all views of all images from the `first` view on, a few at a time on all devices."""
        graphdef, state = nnx.split(net)

        @compiler.jit
        def convolved(state, batch):
            pixels = self._augmented(batch["image"], batch["index"], batch["view"])
            pool5 = nnx.merge(graphdef, state).activations_of(pixels, ["pool5"])["pool5"].astype(jnp.float32)
            return {"pool5": pool5, "label": batch["label"], "mask": batch["mask"]}

        views, images = self._shape[:2]
        begin, total, size = first * images, views * images, _TOGETHER * self._mesh.size
        mine = process_slice(size, jax.process_index(), jax.process_count())

        def places(k: int) -> tuple[np.ndarray, np.ndarray]:
            number = begin + k * size + np.arange(size)
            view, index = np.divmod(number, images)
            return np.where(number < total, index, -1), np.where(number < total, view, 0)

        self._check_bytes(shutil.disk_usage(self._folder.parent).free, f"the room left in {self._folder.parent}")
        log.info("computing the frozen convolutions on %d views of %s images, once", views - first, f"{images:,}")
        began, progress = time.monotonic(), Progress("views")
        with contextlib.ExitStack() as at_end:
            crops = at_end.enter_context(
                contextlib.closing(
                    self._crops(lambda k: [p[mine] for p in places(k)], range(-(-(total - begin) // size)))
                )
            )
            if jax.process_index() == 0:
                kept, unreadable = at_end.enter_context(activation_store.writing(self._folder, of, self._shape, first))
            for k, batch in enumerate(crops):
                index, view = places(k)
                fed = {name: batch[name] for name in ("image", "label", "mask")}
                fed |= {"index": index[mine].astype(np.int32), "view": view[mine].astype(np.int32)}
                made = _on_host(convolved(state, sharding.place_batch(fed, self._mesh)))
                if jax.process_index() == 0:
                    there = index >= 0
                    kept.pool5[view[there], index[there]] = made["pool5"][there]
                    kept.mask[view[there], index[there]] = made["mask"][there]
                    good, bad = index[there & (made["mask"] > 0)], index[there & (made["mask"] == 0)]
                    kept.label[good] = made["label"][there & (made["mask"] > 0)]
                    unreadable |= {where: crops.problems.get(where, "") for where in map(self._source.name_of, bad)}
                progress(min((k + 1) * size, total - begin), total - begin)
        progress.clear()
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("views")  # the others open what the first has written
        size = _size(4 * math.prod(self._shape))
        log.info("computed in %.0f s; %s kept in %s", time.monotonic() - began, size, self._folder)

    def _crops(self, places, batches) -> BatchStream:
        """The crops of views, a batch for each of `batches`; `places(k)` are the images and views of batch k."""
        config = self._config

        def requests(k: int) -> Requests:
            index, view = places(k)
            draws = [self._draw_window(int(i), int(v)) for i, v in zip(index, view, strict=True)]
            return Requests(index, *map(np.array, zip(*draws, strict=True)))

        return BatchStream(
            self._source,
            requests,
            batches,
            crop=config.data.crop,
            threads=config.data.threads,
            on_error=config.data.on_error,
        )

    def _draw_window(self, image: int, view: int) -> tuple[int, np.ndarray]:
        """S, and where the window lies."""
        draws = _generator(self._config.seed, _WINDOWS, max(image, 0), view)  # an empty place is drawn, and left
        return int(draws.integers(*self._config.data.scale, endpoint=True)), draws.random(2)

    def _augmented(self, crops: jax.Array, index: jax.Array, view: jax.Array) -> jax.Array:
        family = jax.random.fold_in(jax.random.key(self._config.seed), np.uint32(_PIXELS))

        def key(image: jax.Array, view: jax.Array) -> jax.Array:
            return jax.random.fold_in(jax.random.fold_in(family, image), view)

        return self._shift(crops, jax.vmap(key)(index, view))

    def _draw_order(self, epoch: int) -> np.ndarray:
        return _generator(self._config.seed, _ORDER, epoch).permutation(self._shape[1])

    def _dependencies(self, net: VGG) -> dict:
        """Everything that a view's activations depend on, as JSON values."""
        data, digest = self._config.data, hashlib.sha256()
        state = nnx.to_pure_dict(nnx.state(net))
        for layer in sorted(state):
            if not layer.startswith("fc"):
                for array in jax.tree.leaves(state[layer]):
                    digest.update(np.ascontiguousarray(array))
        return {
            "source": self._source.name,
            "split": self._source.split,
            "net": net.spec.name,
            "shape": list(self._shape[1:]),
            "crop": data.crop,
            "scale": list(data.scale),
            "flip": data.flip,
            "color_shift": data.color_shift,
            "colors": vars(self._colors),
            "seed": self._config.seed,
            "dtype": net.dtype.name,
            "convolutions": digest.hexdigest(),
        }

    def _check_bytes(self, room: int, what: str) -> None:
        views, images, *one = self._shape
        each = 4.0 * images * math.prod(one)
        if views * each <= room:
            return
        fewer = f"config.train.cached_views={int(room // each)} fits; or " if room >= each else ""
        raise ConfigError(
            f"config.train.cached_views={views}: pool5 of {views} views of {images:,} images, {tuple(one)} in float32, "
            f"takes {_size(views * each)}, and {what} is {_size(room)}: {fewer}lower config.data.crop="
            f"{self._config.data.crop}, or train on fresh crops with config.train.cached_views=0"
        )


class ViewStream:
    """An endless iterator over this process's shares of batches: pool5 as `image`, `label`, `mask`.

    Attributes:
      problems: images that could not be read, and why: {where: reason}; their mask is 0.
    """

    def __init__(self, views: Views, kept: activation_store.Kept, problems: dict[str, str], start: int):
        self.problems = problems
        self._views, self._kept, self._next = views, kept, start

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        index, view = self._views.places(self._next)
        self._next += 1
        kept = self._kept
        return {"image": kept.pool5[view, index], "label": kept.label[index], "mask": kept.mask[view, index]}

    def close(self) -> None:
        """Nothing: the arrays are unmapped with their last user."""


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def _on_host(arrays: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Whole arrays, on every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, arrays)
    from jax.experimental import multihost_utils

    return jax.tree.map(lambda array: multihost_utils.process_allgather(array, tiled=True), arrays)


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
