"""Frozen convolutions computed once: fixed views of the images in place of fresh crops (Sec. 3.1, fine-tuning).

With `config.train.cached_views=K` every example of a task has K views. A view is a scale, a window, a flip and a color
shift, drawn once from (seed, example, view); what the frozen convolutions make of it, pool5, is computed before the
first step and kept in the workdir, `features/view0`, `view1` and so on (`inference.feature_store`): a larger K finds
what a smaller one left, and a run that was stopped what it had computed. The steps read pool5 and run the FC layers
alone, in a hundredth of the time.

Epoch e shows every image once, in an order drawn from (seed, e), by its view e mod K. A batch is a function of the seed
and of its number, as one of fresh crops is; dropout is drawn in every step. Batch normalization, frozen with its
convolutions, uses its averages.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vgg_jax import compiler, processes, sharding
from vgg_jax.data import sampler
from vgg_jax.data.sampler import Requests
from vgg_jax.data.training_batches import TrainingBatches
from vgg_jax.errors import ConfigError
from vgg_jax.inference import array_folder, feature_store
from vgg_jax.model.checksum import checksum
from vgg_jax.model.specs import CONVOLUTIONAL_STAGES, scaled, spec_of
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress
from vgg_jax.tasks.random_crops import RandomCrops, split_keys
from vgg_jax.train.state import is_frozen
from vgg_jax.train.step import Metrics

if TYPE_CHECKING:
    from jaxtyping import Array

log = logging.getLogger(__name__)

MAX_BYTES = 16 * 10**9
"""The most that is kept in a workdir."""

_VIEWS_STEP = 2**32 - 1  # in place of a step's number in `step.image_keys`; no run reaches it
_TOGETHER = 16  # views that the convolutions run on at once, on each device

Places = tuple[np.ndarray, np.ndarray]
"""Which images, and which view of each."""


class CachedFeatures:
    """A task whose FC layers are trained on the output of frozen convolutions, computed once.

    Args:
      task: what the network is trained for; its config freezes all convolutions, see `check_frozen`.
      mesh: all devices.
      workdir: the run's folder; the output is kept in its `features/`.

    Raises:
      ConfigError: it is too much to keep.
    """

    def __init__(self, task: RandomCrops, mesh: Mesh, workdir: Path):
        self._task, self._config = task, (config := task.config)
        self.source, self.classes, self.outputs, self.mean_rgb = task.source, task.classes, task.outputs, task.mean_rgb
        self.monitor, self.evaluate, self.problems = task.monitor, task.evaluate, task.problems
        self._mesh, self._home, self._view_count = mesh, workdir / "features", config.train.cached_views
        size, seed = config.train.batch_size, config.seed
        self._order = sampler.EpochOrder(len(self.source), size, seed, sampler.CACHED_ORDER)
        spec, side = spec_of(config.model.net), config.data.crop // 32
        pool5 = side, side, scaled(list(spec.convolutions.values())[-1].channels, config.model.width)
        self._shape = self._view_count, len(self.source), *pool5
        self._check_bytes(MAX_BYTES, "the most that is kept")
        self.batch_shapes = task.shapes_with(pool5=(pool5, jnp.float32))

    def batches(self, net: VGG, start: int) -> Iterator[dict[str, np.ndarray]]:
        """pool5 of views, targets and `mask`; before them, unless the workdir has it, pool5 of all views is computed.

        Raises:
          DataError: an image cannot be read.
          CheckpointError: what the workdir has is damaged.
        """
        made_of = self._dependencies(net)
        folders = [self._home / f"view{view}" for view in range(self._view_count)]
        whole = self._config.data.on_error == "raise"
        is_complete = lambda view: feature_store.is_complete(folders[view], made_of | {"view": view}, whole=whole)
        missing = processes.by_first(lambda: [view for view in range(self._view_count) if not is_complete(view)])
        if missing:
            self._compute(net, made_of, {view: folders[view] for view in missing}, whole)
        views, problems = zip(*(feature_store.read(folder, self.source) for folder in folders), strict=True)
        self.problems.maps.extend(problems)

        def batch(k: int) -> dict[str, np.ndarray]:
            index, view = self.places(k)
            rows = {name: np.empty((len(index), *of.shape[1:]), of.dtype) for name, of in self.batch_shapes.items()}
            for number in np.unique(view):
                here = view == number
                for name, array in rows.items():
                    array[here] = views[number][name][index[here]]
            return rows

        return (batch(k) for k in itertools.count(start))

    def images(self, k: int) -> list[str]:
        """The names of the images of batch k."""
        return list(map(self.source.name_of, self._order(k)[0].tolist()))

    def loss(self, net: VGG, batch: dict[str, Array], keys: Array) -> tuple[Array, Metrics]:
        """The task's criterion of the FC layers: a view was augmented before the convolutions."""
        return self._task.criterion(net.head(batch["pool5"], keys=split_keys(keys)[1]), batch)

    def preview(self, batch: dict[str, np.ndarray], keys: Array) -> tuple[np.ndarray, Sequence[str]]:
        """The first images of batch 0 as the convolutions saw them, read again."""
        del keys
        return self._task.shown(self.views(*(places[: len(batch["mask"])] for places in self.places(0))))

    def places(self, k: int) -> Places:
        """This process's share of batch k."""
        index, epoch = self._order(k)
        mine = sharding.local_rows(self._mesh, len(index))
        return index[mine], epoch[mine] % self._view_count

    def views(self, index: np.ndarray, view: np.ndarray) -> dict[str, Array]:
        """Views of images as the net gets them: `image`, RGB around 0..255 (n, crop, crop, 3), and the targets."""
        places = {"index": jnp.asarray(index), "view": jnp.asarray(view)}
        with contextlib.closing(self._crops(lambda _: (index, view), 1)) as crops:
            return jax.jit(self._augmented)(next(crops) | places)

    def _compute(self, net: VGG, made_of: dict, missing: dict[int, Path], whole: bool) -> None:
        """Fills the folders of some views; each process computes its share of the images on its own devices."""
        graphdef, state = nnx.split(net)
        mesh = self._mesh if jax.process_count() == 1 else sharding.local_mesh()
        state = sharding.place_state(jax.tree.map(sharding.whole, state), mesh)

        @compiler.jit
        def convolved(state, batch):
            batch = self._augmented(batch)
            pool5 = nnx.merge(graphdef, state).activations_of(batch["image"], ["pool5"])["pool5"].astype(jnp.float32)
            return {"pool5": pool5} | {name: batch[name] for name in (*self._task.targets, "mask")}

        there = 512 * sum(file.stat().st_blocks for file in self._home.rglob("view*/*.npy"))
        self._check_bytes(shutil.disk_usage(self._home.parent).free + there, f"the room left in {self._home.parent}")
        images = f"{len(self.source):,}"
        log.info("computing the frozen convolutions on %d views of %s images, once", len(missing), images)
        began, run, progress = time.monotonic(), functools.partial(convolved, state), Progress("views", first=None)
        for place, (view, folder) in enumerate(missing.items()):
            shown = lambda row, rows, place=place: progress(place * rows + row, len(missing) * rows)
            compute = functools.partial(self._compute_view, view, run, mesh, shown)
            feature_store.fill(folder, made_of | {"view": view}, self.source, compute, whole=whole)
        progress.clear()
        size = _size(4 * math.prod(self._shape))
        log.info("computed in %.0f s; %s kept in %s", time.monotonic() - began, size, self._home)

    def _compute_view(
        self,
        view: int,
        convolved: Callable[[dict], dict],
        mesh: Mesh,
        progress: Callable[[int, int], None],
        unfinished: array_folder.Unfinished,
        indices: range,
    ) -> None:
        """Fills arrays with a view of some images, a few at a time."""
        size, start, total, numbers = _TOGETHER * mesh.size, unfinished.rows, len(indices), np.asarray(indices)
        if start:
            log.info("%s of %s images are there already", f"{start:,}", f"{total:,}")
        progress(start, total)

        def places(k: int) -> Places:
            number = start + k * size + np.arange(size)
            return np.where(number < total, np.take(numbers, number, mode="clip"), -1), np.full(size, view)

        with contextlib.closing(self._crops(places, -(-(total - start) // size))) as stream:
            for k, batch in enumerate(stream):
                index, views = places(k)
                batch |= {"index": index.astype(np.int32), "view": views.astype(np.int32)}
                found = jax.device_get(convolved(jax.device_put(batch, sharding.split_batch(mesh))))
                first, index = start + k * size, index[index >= 0]
                for name, array in unfinished.arrays.items():
                    array[first : first + len(index)] = found[name][: len(index)]
                unread = map(self.source.name_of, index[found["mask"][: len(index)] == 0])
                unfinished.problems |= {name: stream.problems.get(name, "") for name in unread}
                unfinished.complete(first + len(index))
                progress(unfinished.rows, total)

    def _crops(self, places: Callable[[int], Places], count: int) -> TrainingBatches:
        """The crops of views in `count` batches; `places(k)` are the images and views of batch k."""
        data, seed = self._config.data, self._config.seed

        def window(image: int, view: int) -> tuple[int, np.ndarray]:
            """S, and where the window lies; what an empty place, -1, gets is not used."""
            draws = sampler.generator(seed, sampler.CACHED_CROPS, max(image, 0), view)
            return int(draws.integers(*data.scale, endpoint=True)), draws.random(2)

        def requests(k: int) -> Requests:
            index, view = places(k)
            windows = map(window, np.asarray(index).tolist(), np.asarray(view).tolist())
            return Requests(index, *map(np.array, zip(*windows, strict=True)))

        return self._task.crops(requests, stop=count)

    def _augmented(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Crops of the views `view` of the images `index`, flipped and shifted in color."""
        family = jax.random.fold_in(jax.random.key(self._config.seed), np.uint32(_VIEWS_STEP))

        def key(image: Array, view: Array) -> Array:
            return jax.random.fold_in(jax.random.fold_in(family, image), view)

        return self._task.augment(batch, jax.vmap(key)(batch["index"], batch["view"]))

    def _dependencies(self, net: VGG) -> dict:
        """Everything that a view's activations depend on, as JSON values."""
        data = self._config.data
        return feature_store.identity(self.source) | {
            "net": net.spec.name,
            "arrays": {name: (rows.shape[1:], rows.dtype.name) for name, rows in self.batch_shapes.items()},
            **{key: data[key] for key in ("crop", "scale", "flip", "color_shift")},
            "colors": vars(self._task.colors),
            "seed": self._config.seed,
            "dtype": net.dtype.name,
            "convolutions": checksum(net, head=False),
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


def check_frozen(config: ConfigDict) -> None:
    """Refuses views of a config that trains a convolution.

    Raises:
      ConfigError: with the layers that are trained.
    """
    spec = spec_of(config.model.net)
    trained = [layer for layer in spec.convolutions if not is_frozen(layer, tuple(config.train.freeze))]
    if trained:
        raise ConfigError(
            f"config.train.cached_views={config.train.cached_views} keeps the output of the convolutions, but "
            f"{', '.join(trained)} {'is' if len(trained) == 1 else 'are'} trained: set "
            f"config.train.freeze={CONVOLUTIONAL_STAGES}, or config.train.cached_views=0"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
