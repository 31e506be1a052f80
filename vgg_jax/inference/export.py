"""Dense evaluation (Sec. 3.2) as a file that runs where this package is not, by `jax.export`.

The file is an .npz with the compiled program and the net's parameters by name. JAX and NumPy run it:

    arrays = dict(numpy.load("scorer.npz"))
    scorer = jax.export.deserialize(bytearray(arrays.pop("scorer")))
    classes = arrays.pop("classes")  # their names, or none
    score = jax.jit(scorer.call)
    posteriors = score(jax.device_put(arrays), images)  # uint8 (b, h, w, 3) to (b, classes)

The parameters are arguments of the program, not constants in it: XLA compiles it once for each shape of the images, and
with net D's 550 MB among its constants that takes four times as long and three times the memory. With images smaller
than the crop it says "Error refining shapes"; the exception's cause names the size that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from vgg_jax.errors import ConfigError
from vgg_jax.files import check_replaceable, writing, written_aside
from vgg_jax.inference.arrays import check_net
from vgg_jax.inference.scorer import unpadded_posteriors
from vgg_jax.model.vgg import VGG

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_scorer(net: VGG, path: str | Path, *, flip: bool = True, platforms: Sequence[str] | None = None) -> None:
    """Writes a net as a program that scores images of any size from the crop up, whole and uncropped (Sec. 3.2).

    Args:
      net: any net; it is exported as it is evaluated, in its own dtype.
      path: the file to write, say `scorer.npz`; a scorer that is there is replaced, and stays as it is if this fails.
      flip: whether the mirror image counts too.
      platforms: where the program will run, of `PLATFORMS`; by default where JAX runs now. One file can hold several.

    Raises:
      ConfigError: the file cannot be written, or is of another kind; there is no such platform.

    JAX promises to run such a file for six months of its releases: keep the checkpoint too.
    """
    check_net(net)
    for platform in platforms or ():
        if platform not in PLATFORMS:
            raise ConfigError(f"platforms={tuple(platforms)}: {platform!r} is none of {', '.join(PLATFORMS)}")
    check_replaceable(Path(path), _holds_scorer)
    graphdef, state = nnx.split(net)
    variables = {"/".join(keys): (keys, variable) for keys, variable in nnx.to_flat_state(state)}
    arrays = {name: variable[...] for name, (_, variable) in variables.items()}

    def score(arrays, images):
        given = [(keys, variable.replace(arrays[name])) for name, (keys, variable) in variables.items()]
        return unpadded_posteriors(nnx.merge(graphdef, nnx.from_flat_state(given)), images, flip=flip)

    shape = export.symbolic_shape("b, h, w, 3", constraints=[f"h >= {net.crop}", f"w >= {net.crop}"])
    shapes = [{name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}]
    shapes += [jax.ShapeDtypeStruct(shape, jnp.uint8)]
    program = export.export(jax.jit(score), platforms=platforms)(*shapes).serialize()
    classes = np.array(net.classes, np.str_)
    with writing(path), written_aside(Path(path)) as partial, partial.open("wb") as file:
        np.savez(file, scorer=np.frombuffer(program, np.uint8), classes=classes, **arrays)


def _holds_scorer(path: Path) -> bool:
    with np.load(path, mmap_mode="r") as file:
        return {"scorer", "classes"} <= {*file.files}
