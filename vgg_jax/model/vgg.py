"""The network: convolutional stages and a head that is always convolutional (Sec. 2, Sec. 3.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from vgg_jax import sharding
from vgg_jax.errors import ConfigError, did_you_mean
from vgg_jax.model import specs
from vgg_jax.model.convolution import METHODS
from vgg_jax.model.images import check_color, check_images
from vgg_jax.model.init import initializer, zeros
from vgg_jax.model.layers import (
    Conv,
    dropout,
    local_response_normalization,
    mask_edges,
    mask_outside,
    rectified_max_pool,
    relu,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key, UInt8

IMAGENET_MEAN_RGB = (123.68, 116.779, 103.939)
"""Mean RGB of the ILSVRC-2012 training set in 0..255, as in the released models."""

MAX_PARAMETERS = 10**10
"""Of one net: 40 GB in float32."""


class MeanRGB(nnx.Variable):
    """The training set's mean color, in 0..255: not trained, part of every checkpoint."""


class VGG(nnx.Module):
    """One of the paper's networks on RGB images in 0..255.

    The head is convolutional: fc6 is a VALID convolution whose window is crop / 32, fc7 and fc8 are 1x1. A crop gives a
    1 x 1 map of class scores, a larger image an h' x w' map (Sec. 3.2); the weights are the same.

    In a function of your own it is compiled by `jax.jit`, on a CPU better by `vgg_jax.compiler.jit`.

    Args:
      net: a letter of Table 1 or its alias (`vgg_jax.SPECS`).
      num_classes: outputs of fc8.
      crop: side of the training crop in pixels, a multiple of 32.
      width: factor on the channels of every layer, 1 being the paper's.
      hidden: units of fc6 and of fc7; by default 4096, times the width.
      dropout: probability with which units of fc6 and fc7 are dropped in training.
      batch_norm: batch normalization after every convolution (not the paper's).
      init: name of the initialization (`vgg_jax.model.init.SCHEMES`).
      mean_rgb: what is subtracted from every pixel, in 0..255.
      classes: names of the classes, where they are known.
      dtype: the dtype of the computation; parameters and scores are float32.
      remat: compute each stage again in the backward pass instead of keeping its activations.
      conv: how convolutions are computed, "lax", "winograd", or by backend and dtype "auto"
        (`vgg_jax.model.convolution`). `jax.jvp` takes "lax".
      rngs: the stream `params` initializes the weights.

    Raises:
      ConfigError: an argument is out of range; the message names it.

    >>> net = VGG("A", num_classes=10, crop=32, width=0.125, rngs=nnx.Rngs(0))
    >>> net(jnp.zeros((2, 32, 32, 3))).shape, net(jnp.zeros((1, 64, 96, 3))).shape
    ((2, 1, 1, 10), (1, 2, 3, 10))
    """

    def __init__(
        self,
        net: str = "D",
        *,
        num_classes: int = 1000,
        crop: int = 224,
        width: float = 1.0,
        hidden: int | None = None,
        dropout: float = 0.5,
        batch_norm: bool = False,
        init: str = "glorot",
        mean_rgb: Sequence[float] = IMAGENET_MEAN_RGB,
        classes: Sequence[str] = (),
        dtype: jnp.dtype = jnp.float32,
        remat: bool = False,
        conv: str = "auto",
        rngs: nnx.Rngs,
    ):
        self.spec = specs.spec_of(net)
        if not isinstance(crop, Integral) or crop < 1 or crop % self.spec.stride:
            raise ConfigError(f"crop={crop} is not a multiple of {self.spec.stride}, the stride of the five pools")
        if not isinstance(num_classes, Integral) or num_classes < 1:
            raise ConfigError(f"num_classes={num_classes}: a net needs at least one class")
        if not isinstance(width, Real) or not 0 < width < math.inf:
            raise ConfigError(f"width={width}: the width is a positive factor, 1 the paper's")
        if not isinstance(dropout, Real) or not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout} is not a probability in [0, 1)")
        if hidden is not None and (not isinstance(hidden, Integral) or hidden < 1):
            raise ConfigError(f"hidden={hidden}: fc6 and fc7 need at least one unit; the paper's have 4096")
        if classes and len(classes) != num_classes:
            raise ConfigError(f"classes has {len(classes)} names for num_classes={num_classes}")
        if conv not in METHODS:
            raise ConfigError(f"conv={conv!r}: there are {', '.join(METHODS)}{did_you_mean(conv, METHODS)}")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ConfigError(f"dtype={dtype}: the computation is in floating-point numbers, float32 or bfloat16")
        if not isinstance(rngs, nnx.Rngs):
            raise ConfigError(f"rngs={rngs}: give flax.nnx.Rngs(SEED)")
        self.crop, self.width, self.dropout, self.remat, self.conv = crop, width, dropout, remat, conv
        self.num_classes, self.batch_norm, self.dtype = num_classes, batch_norm, jnp.dtype(dtype)
        self.hidden = hidden or specs.scaled(specs.HIDDEN_UNITS, width)
        self.classes = tuple(classes)
        self.mean_rgb = MeanRGB(jnp.asarray(check_color("mean_rgb", mean_rgb), jnp.float32))

        kernel_init = initializer(init, self.spec.weight_layers)
        sizes = num_classes, crop, width, batch_norm, self.hidden
        if (count := self.spec.parameter_count(*sizes)) > MAX_PARAMETERS:
            raise ConfigError(
                f"num_classes={num_classes}, crop={crop}, width={width:g}, hidden={self.hidden}: {count:.1e} "
                f"parameters, the most is {MAX_PARAMETERS:.0e}; the paper's largest net has 1.4e+08"
            )
        shapes = self.spec.parameter_shapes(*sizes)
        for name, shape in shapes.items():
            layer, array = name.split("/")
            if array == "kernel":
                padding = "VALID" if layer in specs.FULLY_CONNECTED else "SAME"
                options = {"padding": padding, "dtype": self.dtype, "kernel_init": kernel_init, "bias_init": zeros}
                setattr(self, layer, Conv(*shape[2:], shape[:2], **options, rngs=rngs))
            elif array == "scale":
                # epsilon and momentum of the published _bn weights.
                setattr(self, layer, nnx.BatchNorm(*shape, momentum=0.9, epsilon=1e-5, dtype=self.dtype, rngs=rngs))

    @property
    def of_the_papers_size(self) -> bool:
        """Whether width, hidden units and crop are the paper's, and there is no batch normalization."""
        return not self.batch_norm and (self.width, self.hidden, self.crop) == (1.0, specs.HIDDEN_UNITS, 224)

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of all activations that `taps` can ask for, in order."""
        names = []
        for stage, convolutions in enumerate(self.spec.stages, start=1):
            for number in range(1, len(convolutions) + 1):
                names += [f"conv{stage}_{number}"]
                names += [f"bn{stage}_{number}"] if self.batch_norm else []
                names += [f"relu{stage}_{number}"]
                names += [f"norm{stage}"] if self.spec.lrn and stage == number == 1 else []
            names += [f"pool{stage}"]
        return (*names, "fc6", "relu6", "fc7", "relu7", "fc8")

    def __call__(
        self,
        images: Float[Array, "n h w 3"] | UInt8[Array, "n h w 3"],
        *,
        sizes: Int[Array, "n 2"] | None = None,
        taps: Sequence[str] = (),
        keys: Key[Array, " n"] | None = None,
    ) -> Float[Array, "n h2 w2 classes"] | tuple[Float[Array, "n h2 w2 classes"], dict[str, Array]]:
        """The class-score map of a batch of images.

        Args:
          images: RGB in 0..255, at least `crop` pixels high and wide.
          sizes: height and width of each image in pixels, where images of several sizes stand in the upper left corners
            of one bucket; what lies beyond an image then has no influence on it, and all its activations are those of
            the image alone, with zeros beyond them.
          taps: names of activations to return as well; `fc6` is before its ReLU, `relu6` after it.
          keys: one PRNG key per image. With them the net is in training: dropout draws from them and batch
            normalization uses the batch (and updates its averages). Without them it is deterministic.

        Returns:
          float32 scores before the soft-max; with `taps` a pair of them and {name: activation}.

        Raises:
          ConfigError: the images are smaller than the crop, or not RGB; a tap has no activation of that name; `sizes`
            or `keys` are not one per image; `sizes` are given in training.
        """
        self._check(images, taps, sizes)
        _check_sides(images, self.crop, "the net's crop")
        if sizes is not None and keys is not None:
            raise ConfigError("sizes are given in training: the batch's statistics would count what is not there")
        if keys is not None and jnp.shape(keys)[:1] != images.shape[:1]:
            raise ConfigError(f"keys of shape {jnp.shape(keys)}: expected one per image, {images.shape[0]}")
        x, tapped = self._stages(images, sizes, keys is not None, tuple(taps))
        scores, seen = self._head(x, None if sizes is None else self.map_sizes(sizes), tuple(taps), keys)
        return (scores, tapped | seen) if taps else scores

    def head(
        self, pool5: Float[Array, "n h w c"], *, keys: Key[Array, " n"] | None = None
    ) -> Float[Array, "n h2 w2 classes"]:
        """The class-score map of a batch of images from their pool5: fc6, fc7 and fc8 alone.

        Args:
          pool5: as `activations_of` gives it.
          keys: as in `__call__`, for dropout.

        Raises:
          ConfigError: it is smaller than fc6's window, or of other channels.

        >>> net = VGG("A", num_classes=10, crop=32, width=0.125, rngs=nnx.Rngs(0))
        >>> images = jnp.full((2, 32, 64, 3), 200.0)
        >>> bool((net.head(net.activations_of(images, ["pool5"])["pool5"]) == net(images)).all())
        True
        """
        window, channels = self.crop // self.spec.stride, self.fc6.in_features
        if pool5.ndim != 4 or pool5.shape[-1] != channels or min(pool5.shape[1:3]) < window:
            raise ConfigError(
                f"pool5 of shape {pool5.shape}: expected (n, h, w, {channels}), {window} or more at a side"
            )
        return self._head(pool5.astype(self.dtype), None, (), keys)[0]

    def activations_of(
        self,
        images: Float[Array, "n h w 3"] | UInt8[Array, "n h w 3"],
        taps: Sequence[str],
        *,
        sizes: Int[Array, "n 2"] | None = None,
    ) -> dict[str, Array]:
        """The activations of a batch of images, without what comes after the last of them.

        Args:
          images: RGB in 0..255, large enough for the last tap: of `crop` pixels for the head's, otherwise of one pixel
            after as many pools as come before it.
          taps: names of activations.
          sizes: as in `__call__`.

        Returns:
          {name: activation}, as `__call__` has them.

        Raises:
          ConfigError: the images are too small or not RGB; a tap has no activation of that name, or there is no tap;
            `sizes` are not one per image.

        >>> net = VGG("A", num_classes=10, crop=32, width=0.125, rngs=nnx.Rngs(0))
        >>> net.activations_of(jnp.zeros((1, 9, 7, 3)), ["relu2_1"])["relu2_1"].shape
        (1, 4, 3, 16)
        """
        self._check(images, taps, sizes)
        if not taps:
            raise ConfigError("no activation is asked for: taps is empty")
        last = max(taps, key=self.activations.index)
        if self.in_head(last):
            return self(images, sizes=sizes, taps=taps)[1]
        _check_sides(images, self.stride(last), f"the least for {last}")
        return self._stages(images, sizes, False, tuple(taps), last)[1]

    def map_sizes(self, sizes: Int[Array, "n 2"]) -> Int[Array, "n 2"]:
        """Height and width of the class-score maps of images of these sizes in pixels (Sec. 3.2).

        >>> net = VGG("A", num_classes=10, crop=64, width=0.125, rngs=nnx.Rngs(0))
        >>> net.map_sizes(jnp.array([[64, 64], [95, 160]])).tolist()
        [[1, 1], [1, 4]]
        """
        return sizes // self.spec.stride - (self.crop // self.spec.stride - 1)

    def in_head(self, activation: str) -> bool:
        """Whether an activation comes after the last pool, and so takes images of the crop's size at least."""
        return self.activations.index(activation) > self.activations.index("pool5")

    def stride(self, activation: str) -> int:
        """Pixels of the image between neighboring places of an activation."""
        return 2 ** sum(name.startswith("pool") for name in self.activations[: self.activations.index(activation) + 1])

    def activation_sizes(self, activation: str, sizes: Int[Array, "n 2"]) -> Int[Array, "n 2"]:
        """Height and width of an activation of images of these sizes in pixels.

        >>> net = VGG("A", num_classes=10, crop=32, width=0.125, rngs=nnx.Rngs(0))
        >>> [net.activation_sizes(name, jnp.array([[32, 65]])).tolist() for name in ("relu2_1", "pool2", "fc7")]
        [[[16, 32]], [[8, 16]], [[1, 2]]]
        """
        return self.map_sizes(sizes) if self.in_head(activation) else sizes // self.stride(activation)

    def _stages(
        self, images: Array, sizes: Array | None, training: bool, taps: tuple[str, ...], last: str | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """The five stages, or those up to the activation `last`: what comes out, and what was tapped."""
        x = (images.astype(jnp.float32) - self.mean_rgb[...]).astype(self.dtype)
        x = mask_outside(x, sizes)  # all of it: what is not a number there would pass zeros in a kernel
        stage = nnx.remat(VGG._stage, static_argnums=(3, 4, 5, 6)) if self.remat else VGG._stage
        tapped: dict[str, Array] = {}
        for number in range(1, len(self.spec.stages) + 1):
            x, seen_here = stage(self, x, sizes, number, training, taps, last)
            tapped |= seen_here
            if last in tapped:
                break
            sizes = None if sizes is None else sizes >> 1  # a division of signed numbers is ten operations
        return x, tapped

    def _stage(
        self, x: Array, sizes: Array | None, stage: int, training: bool, taps: tuple[str, ...], last: str | None
    ) -> tuple[Array, dict[str, Array]]:
        """The convolutions of one stage and its pool, or those up to the activation `last`."""
        tapped = {}
        for name, activation, its_sizes in self._activations(x, sizes, stage, training):
            if name in taps:
                tapped[name] = mask_outside(activation, its_sizes)
            if name == last:
                break
        return activation, tapped

    def _activations(
        self, x: Array, sizes: Array | None, stage: int, training: bool
    ) -> Iterator[tuple[str, Array, Array | None]]:
        """One activation of a stage after the other, each computed when it is asked for, and the sizes it has.

        What lies beyond an image is zeroed where a convolution is about to see it, as its padding would be.
        """
        for number, row in enumerate(self.spec.stages[stage - 1], start=1):
            name = f"{stage}_{number}"
            x = getattr(self, f"conv{name}")(mask_edges(x, sizes, row.size // 2), self.conv)
            yield f"conv{name}", x, sizes
            if self.batch_norm:
                x = getattr(self, f"bn{name}")(x, use_running_average=not training)
                yield f"bn{name}", x, sizes
            before, x = x, relu(x)
            yield f"relu{name}", x, sizes
            if self.spec.lrn and stage == number == 1:
                before = x = local_response_normalization(x)
                yield "norm1", x, sizes
        # An odd border has no place in the pool's output, and half a window in the bucket's.
        yield f"pool{stage}", rectified_max_pool(before), None if sizes is None else sizes >> 1

    def _head(
        self, x: Array, sizes: Array | None, taps: tuple[str, ...], keys: Array | None
    ) -> tuple[Array, dict[str, Array]]:
        """The FC layers, on maps of these sizes: the scores, and what was tapped."""
        tapped: dict[str, Array] = {}

        def seen(name: str, x: Array) -> Array:
            if name in taps:
                tapped[name] = mask_outside(x, sizes)
            return x

        x = sharding.split_activation(x, "pool5")
        for name, rectified in (("fc6", "relu6"), ("fc7", "relu7")):
            x = seen(rectified, relu(seen(name, getattr(self, name)(x, self.conv))))
            if keys is not None:
                x = dropout(x, jax.vmap(jax.random.fold_in, (0, None))(keys, int(name[2])), self.dropout)
            x = sharding.split_activation(x, name)
        return seen("fc8", mask_outside(self.fc8(x, self.conv), sizes)).astype(jnp.float32), tapped

    def _check(self, images: Array, taps: Sequence[str], sizes: Array | None) -> None:
        check_images(images)
        if sizes is not None and getattr(sizes, "shape", None) != (shape := (images.shape[0], 2)):
            given = getattr(sizes, "shape", type(sizes).__name__)
            raise ConfigError(f"sizes of shape {given}: expected height and width of each image, {shape}")
        if isinstance(taps, str) or not isinstance(taps, Iterable):
            raise ConfigError(f"taps={taps!r}: give names of activations, ('fc6', 'relu6')")
        for tap in taps:
            if tap not in self.activations:
                known = ", ".join(self.activations) + did_you_mean(tap, self.activations)
                raise ConfigError(f"no activation {tap!r} in net {self.spec.name}: it has {known}")


def _check_sides(images: Array, smallest: int, reason: str) -> None:
    height, width = images.shape[1:3]
    if height < smallest or width < smallest:
        raise ConfigError(f"images of {height} x {width} pixels are smaller than {reason}, {smallest}: rescale them")
