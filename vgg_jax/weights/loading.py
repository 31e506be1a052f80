"""Published weights, whatever their format, as a network on plain RGB in 0..255 with the original's answers.

A file is recognized by its content, read without executing anything, compared with the paper's networks (`identify`),
its preprocessing folded in (`preprocessing`) and its classes named (`classes`).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import zipfile
from numbers import Integral
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vgg_jax.errors import CheckpointError, ConfigError
from vgg_jax.files import printable
from vgg_jax.model.vgg import VGG
from vgg_jax.weights import classes as class_names
from vgg_jax.weights import hub
from vgg_jax.weights.formats import caffe, keras, matconvnet, npz, run, safetensors, torchvision
from vgg_jax.weights.identify import Architecture, Hints, identified
from vgg_jax.weights.layouts import as_hwio
from vgg_jax.weights.preprocessing import PREPROCESSING, Preprocessing, preprocessing_of
from vgg_jax.weights.raw_checkpoint import RawCheckpoint, Reader, check_size

log = logging.getLogger(__name__)

FORMATS = (
    "torchvision .pth, safetensors of torchvision or timm, Keras .h5, .weights.h5 and .keras, .caffemodel, MatConvNet "
    ".mat, .npz by layer, a run's --workdir"
)

READERS: dict[bytes, tuple[Reader, str]] = {
    b"\x89HDF\r\n\x1a\n": (keras.read, "HDF5"),
    b"MATLAB 5.0 MAT-file": (matconvnet.read, "a .mat file"),
    # How files of torch.save began until 2020, some of torchvision's among them.
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": (torchvision.read, "a file of PyTorch"),
    # A NetParameter's name, inputs or layers.
    **dict.fromkeys((b"\x0a", b"\x12", b"\x1a", b"\xa2"), (caffe.read, "a Caffe model")),
}
"""The reader of a file by its first bytes, and the format's name."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A file's weights in this package's convention: what was loaded, and what is missing.

    Attributes:
      source, format: where they are from, for messages.
      net, batch_norm, width, hidden, num_classes, crop, classes, dropout: arguments of `vgg_jax.VGG`.
      mean_rgb: what the network subtracts, RGB in 0..255.
      layers: {layer: {array: values}}, kernels (h, w, i, o) in float32, conv1_1 for RGB in 0..255.
      absent: the layers that the file lacks; `network` initializes them at random.
    """

    source: str
    format: str
    net: str
    batch_norm: bool
    width: float
    hidden: int
    num_classes: int
    crop: int
    classes: tuple[str, ...]
    dropout: float
    mean_rgb: tuple[float, float, float]
    layers: dict[str, dict[str, np.ndarray]]
    absent: tuple[str, ...]

    def network(self, *, dtype: jnp.dtype = jnp.float32, seed: int = 0) -> VGG:
        """The network; layers that the file lacks are initialized after He et al. (2015).

        Args:
          dtype: of the computation.
          seed: of these layers.

        Raises:
          ConfigError: it is none.
        """
        if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise ConfigError(f"seed={seed!r}: a whole number from 0 on, below 2**63")
        names = "num_classes", "crop", "width", "hidden", "dropout", "batch_norm", "mean_rgb", "classes"
        arguments = {name: getattr(self, name) for name in names}
        new = lambda: VGG(self.net, **arguments, init="he", dtype=dtype, rngs=nnx.Rngs(params=seed))
        graphdef, state = nnx.split(new() if self.absent else nnx.eval_shape(new))
        mean = jnp.asarray(self.mean_rgb, jnp.float32)
        nnx.replace_by_pure_dict(state, {"mean_rgb": mean, **jax.tree.map(jnp.asarray, self.layers)})
        return nnx.merge(graphdef, state)


def load(
    source: str | Path,
    *,
    net: str | None = None,
    partial: bool = False,
    num_classes: int | None = None,
    hidden: int | None = None,
    crop: int | None = None,
    preprocessing: str | Preprocessing | None = None,
    class_order: str | Path | None = None,
    dtype: jnp.dtype = jnp.float32,
    seed: int = 0,
) -> VGG:
    """A network with published weights, or those of a run, on plain RGB images in 0..255.

    It answers as the original does on what the original is fed: whatever that is, is folded into the mean color and
    conv1_1. What was loaded and what is random is logged; `vgg_jax.weights.read` returns it.

    Args:
      source: a file or a folder, recognized by its content: a state dict of torchvision or timm (`.pth`, safetensors),
        Keras's `.h5`, `.weights.h5` and `.keras`, a `.caffemodel`, MatConvNet's `.mat`, an `.npz` by layer name, a run
        of this package. Or the name of a repository on the Hugging Face hub, `timm/vgg16.tv_in1k`.
      net: the paper's letter or an alias, where the file cannot tell: for A-LRN, or a few convolutions alone.
      partial: whether layers may be missing; they are initialized at random, from `seed`.
      num_classes, hidden, crop: of a file without fc8, fc6 and fc7; by default 1000, 4096 times the width, 224.
      preprocessing: what the original is fed, if not what its format usually is: a name of `PREPROCESSING`
        ("torchvision", "torchvision-features", "caffe", "rgb") or a `Preprocessing`. An `.npz` must state it here or
        in its arrays `mean_rgb` and `std_rgb`.
      class_order: to have fc8's columns in the sorted order of the classes: "sorted" for a file that names its classes
        (MatConvNet's), or the path of a list, one synset per line in the order of the file's columns (Caffe's).
      dtype: of the computation; parameters are float32.
      seed: of the layers that are missing.

    Returns:
      The network, its crop, classes and mean color set. `net.classes` says the order of its classes, `()` if unknown.

    Raises:
      CheckpointError: there is no such file or repository; it is of no known format, damaged, hostile or of another
        network, of which every tensor is named that is missing, unexpected, mis-shaped or not finite; or the package
        that reads its format is not installed.
      ConfigError: an argument contradicts the file, or the preprocessing is not stated.
    """
    hints = {"net": net, "partial": partial, "num_classes": num_classes, "hidden": hidden, "crop": crop}
    found = read(source, preprocessing=preprocessing, class_order=class_order, **hints)
    return found.network(dtype=dtype, seed=seed)


def read(
    source: str | Path,
    *,
    preprocessing: str | Preprocessing | None = None,
    class_order: str | Path | None = None,
    **hints: str | bool | int | None,
) -> Weights:
    """What `load` makes a network of: its arguments, the arrays by layer, and which layers the file lacks.

    Arguments and errors are those of `load`; `hints` are `vgg_jax.weights.identify.Hints`.
    """
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f"source={source!r}: give a file, a folder, or OWNER/NAME of a repository on the hub")
    label = str(source)
    contents = _contents(hub.fetch(label) if hub.is_name(label) else Path(source))
    net = hints.pop("net", None) or contents.net
    fit = identified(label, contents.tensors, contents.layout, Hints(net, **hints))
    stated = contents.preprocessing if preprocessing is None else preprocessing_of(preprocessing)
    if stated is None:
        raise ConfigError(
            f"{label} {contents.because}. Give preprocessing=, one of {', '.join(PREPROCESSING)}, or "
            "a Preprocessing(mean_rgb, std_rgb, bgr)"
        )
    if 0 < max(stated.mean_rgb) <= 1:
        log.warning("%s: mean_rgb=%s is almost black; if [0, 1] is meant, multiply it by 255", label, stated.mean_rgb)
    layers = _layers(label, contents, fit)
    if "conv1_1" in layers:
        layers["conv1_1"]["kernel"] = stated.folded(layers["conv1_1"]["kernel"])
        if not np.isfinite(layers["conv1_1"]["kernel"]).all():
            raise CheckpointError(f"{label}: conv1_1 divided by std_rgb={stated.std_rgb} is infinite: damaged")
    classes = _classes(label, contents, fit, class_order, layers)
    loaded, random = ", ".join(layers), ", ".join(fit.absent) or "none"
    log.info("%s: %s, %s; loaded %s; randomly initialized: %s", label, contents.format, fit, loaded, random)
    return Weights(
        source=label,
        format=contents.format,
        net=fit.spec.name,
        **{name: getattr(fit, name) for name in ("batch_norm", "width", "hidden", "num_classes", "crop", "absent")},
        classes=classes,
        dropout=contents.dropout,
        mean_rgb=stated.mean_rgb,
        layers=layers,
    )


def _contents(path: Path) -> RawCheckpoint:
    """What is in a file or a folder."""
    reader, kind = _recognized(path)
    try:
        return reader(path)
    except CheckpointError:
        raise
    except ConfigError as error:  # what it states of its preprocessing
        raise CheckpointError(f"{path}: {error}") from error
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{path} begins as {kind}, which takes the package {error.name} to read: pip install {error.name}"
        ) from error
    except Exception as error:  # a damaged file fails anywhere, in any of six libraries: it is the file's fault
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} begins as {kind} and cannot be read: {reason}; it is cut short or damaged: download it again"
        ) from error


def _recognized(path: Path) -> tuple[Reader, str]:
    """The reader of a file, by its first bytes or its members, and its format's name."""
    if os.path.isdir(path):  # `Path.is_dir` raises where a name is too long or a folder may not be looked into
        if (path / hub.FILE).is_file():
            return lambda folder: safetensors.read(folder / hub.FILE), "a folder of safetensors"
        return run.read, "a run of vgg_jax"
    if not os.path.isfile(path):
        shown = printable(str(path))
        raise CheckpointError(f"{shown}: no such file or folder; nor is it OWNER/NAME of a repository on the hub")
    check_size(path, path.stat().st_size)
    try:
        with path.open("rb") as file:
            head = file.read(128)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if head[8:9] == b"{":  # first, because the length before it can look like any of the others
        return safetensors.read, "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return _recognized_archive(path)
    for start, reader in READERS.items():
        if head.startswith(start):
            return reader
    if head.startswith(b"MATLAB 7.3 MAT-file"):
        raise CheckpointError(f"{path} is of MATLAB 7.3; in MATLAB, save it again with -v7")
    if head.startswith(b"\x80"):
        raise CheckpointError(f"{path} is a Python pickle, which could run any code: not opened. Known: {FORMATS}")
    raise CheckpointError(f"{path} begins with {head[:8]!r}, which is no format of weights known here: {FORMATS}")


def _recognized_archive(path: Path) -> tuple[Reader, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            declared = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} begins as a zip archive and is none: {error}; download it again") from error
    check_size(path, declared)
    if keras.WEIGHTS in members:
        return keras.read_archive, "a .keras archive"
    if any(member.endswith("data.pkl") for member in members):
        return torchvision.read, "a file of PyTorch"
    if members and all(member.endswith(".npy") for member in members):
        return npz.read, "an .npz"
    raise CheckpointError(f"{path} is a zip archive of {', '.join(members[:5]) or 'nothing'}; known are {FORMATS}")


def _layers(label: str, contents: RawCheckpoint, fit: Architecture) -> dict[str, dict[str, np.ndarray]]:
    """The arrays by layer in our layout, taken out of the contents; a NaN is refused."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    faults = []
    for ours, theirs in fit.table.items():
        layer, name = ours.split("/")
        if layer in fit.absent:
            continue
        array = contents.tensors.pop(theirs)
        if name == "kernel":
            array = as_hwio(array, contents.layout.axes(layer, array.ndim), fit.shapes[ours])
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is named below
            array = np.array(array, np.float32, order="C")  # a copy: the file may be mapped into memory
        if bad := array.size - np.count_nonzero(np.isfinite(array)):
            faults.append(f"{theirs}{'' if theirs == ours else f' ({ours})'} has {bad} NaN or infinite values")
        elif name == "var" and (array < 0).any():
            faults.append(f"{theirs} ({ours}) has negative variances")
        layers.setdefault(layer, {})[name] = array
    if faults:
        raise CheckpointError(f"{label}: {'; '.join(faults)}. Download it again, or save it before it diverged")
    return layers


def _classes(
    label: str, contents: RawCheckpoint, fit: Architecture, class_order: str | Path | None, layers: dict
) -> tuple[str, ...]:
    """The classes in the order of the network's columns, which are sorted if that is asked for."""
    carried = contents.classes
    if not carried and contents.imagenet and fit.num_classes == 1000:
        carried = class_names.imagenet()
    if class_order is None:
        if carried and len(carried) != fit.num_classes:
            raise CheckpointError(f"{label} names {len(carried)} classes and its fc8 has {fit.num_classes}: damaged")
        return carried
    columns, classes = class_names.sorted_columns(class_order, carried, fit.num_classes, label)
    if "fc8" in layers:
        layers["fc8"] = {name: np.ascontiguousarray(array[..., columns]) for name, array in layers["fc8"].items()}
    return classes
