"""The mutated inputs by kind, and the functions that are given them."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from flax import nnx
from PIL import Image

from tests.weights.originals import WRITERS, mutated, original, state_dict
from vgg_jax import main
from vgg_jax.checkpoint import Checkpoints, find
from vgg_jax.commands.fuse import fuse
from vgg_jax.commands.paths import images_of
from vgg_jax.commands.target import of_run
from vgg_jax.config import default_config, eval_scales, validate
from vgg_jax.data.open import open_source
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.sampler import Requests
from vgg_jax.data.source import Source
from vgg_jax.data.training_batches import TrainingBatches
from vgg_jax.errors import DataError
from vgg_jax.evaluate.posteriors import Posteriors
from vgg_jax.model.from_config import new_network
from vgg_jax.model.perceptual import LPIPS_LAYERS, read_lpips_linear
from vgg_jax.model.specs import spec_of
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.schedule import make_schedule
from vgg_jax.train.state import arrays_of, check_freeze, new_state
from vgg_jax.weights import read

GUARDED = ("keras legacy", "keras model", "keras 3", "keras archive", "matconvnet", "matconvnet old")
"""Formats that are read in a process of their own, a third of a second each: few of them."""

SHARES = {
    "image, whole": 20,
    "image, cropped": 18,
    "weights": 25,
    "guarded weights": 1,
    "PyTorch": 3,
    "checkpoint": 1,
    "posteriors": 5,
    "LPIPS weights": 2,
    "config": 10,
    "overrides": 10,
    "source": 3,
    "path": 2,
}
"""How many of a hundred inputs are of a kind."""

Attempt = Callable[[int, random.Random], object]
"""Gives an input, by its number, to the program."""


def kind_of(number: int) -> str:
    """The kind of an input: every hundred numbers have the same, in a fixed mixed order."""
    kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
    return kinds[number * 37 % len(kinds)]


def attempts_of(
    kinds: Sequence[str], folder: Path, numbers: Sequence[int], seed: int, at_end: contextlib.ExitStack
) -> dict[str, Attempt]:
    """By kind, what is done with an input; the arguments are those of `mutated_inputs.torture`."""
    makers = {
        "image, whole": lambda: _Images(_whole, [n for n in numbers if kind_of(n) == "image, whole"], seed, at_end),
        "image, cropped": lambda: _Images(
            _cropped, [n for n in numbers if kind_of(n) == "image, cropped"], seed, at_end
        ),
        "weights": lambda: _weights(folder / "weights", [kind for kind in WRITERS if kind not in GUARDED]),
        "guarded weights": lambda: _weights(folder / "guarded", GUARDED),
        "PyTorch": lambda: _pytorch(folder / "pytorch"),
        "checkpoint": lambda: _checkpoint(folder / "run"),
        "posteriors": lambda: _posteriors(folder / "posteriors"),
        "LPIPS weights": lambda: _lpips(folder / "lpips"),
        "config": lambda: _config,
        "overrides": lambda: _overrides,
        "source": lambda: _source(folder / "source"),
        "path": lambda: _path(folder / "path"),
    }
    return {kind: makers[kind]() for kind in kinds}


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A file with one damage; of an archive mostly to a member before it is packed, for checksums find it otherwise."""
    if not data.startswith(b"PK") or chance.random() < 0.3:
        return mutated(data, chance)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(packed, "w") as archive:
        unlucky = chance.choice(whole.namelist())
        for name in whole.namelist():
            member = whole.read(name)
            archive.writestr(name, mutated(member, chance) if name == unlucky and member else member)
    return packed.getvalue()


def _photographs() -> list[bytes]:
    """One picture in every format and mode that people have."""
    rng = np.random.default_rng(0)
    patches = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((70, 50), Image.Resampling.BICUBIC)
    deep = Image.fromarray(np.asarray(patches.convert("L")).astype(np.uint16) * 257)
    upside_down = Image.Exif()
    upside_down[0x0112] = 6
    options = [
        (patches, "JPEG", {"quality": 90}),
        (patches, "JPEG", {"progressive": True}),
        (patches.convert("L"), "JPEG", {}),
        (patches.convert("CMYK"), "JPEG", {}),
        (patches, "JPEG", {"exif": upside_down}),
        (patches, "PNG", {}),
        (patches.convert("RGBA"), "PNG", {}),
        (patches.quantize(16), "PNG", {"transparency": 3}),
        (deep, "PNG", {}),
        (patches, "GIF", {"save_all": True, "append_images": [patches.rotate(90)]}),
        (patches, "BMP", {}),
        (patches, "WEBP", {}),
        (patches, "TIFF", {"compression": "tiff_lzw"}),
        (patches, "PPM", {}),
    ]
    encoded = []
    for picture, format, how in options:
        file = io.BytesIO()
        picture.save(file, format, **how)
        encoded.append(file.getvalue())
    return encoded


class _Mutated(Source):
    """The mutated image of each number."""

    def __init__(self, seed: int):
        super().__init__("mutated", "", ("a",))
        self._photographs, self._seed = _photographs(), seed

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> dict:
        chance = random.Random(f"{self._seed}/{index}")
        return {"image": mutated(chance.choice(self._photographs), chance), "label": 0}

    def name_of(self, index: int) -> str:
        return f"image {index}"


class _Images:
    """Images through one pipeline, which is opened again where it fails."""

    def __init__(self, pipeline, numbers: list[int], seed: int, at_end: contextlib.ExitStack):
        self._pipeline, self._numbers, self._source, self._at_end = pipeline, numbers, _Mutated(seed), at_end
        self._problems: Iterator[str] = iter(())

    def __call__(self, number: int, chance: random.Random) -> None:
        try:
            problem = next(self._problems)
        except StopIteration:
            self._problems = self._pipeline(self._source, self._numbers[self._numbers.index(number) :], self._at_end)
            problem = next(self._problems)
        if problem:
            raise DataError(problem)


def _whole(source: Source, numbers: list[int], at_end: contextlib.ExitStack) -> Iterator[str]:
    """Evaluation's road: the problem of each image, or ""."""
    options = {"threads": 2, "on_error": "skip"}
    examples = at_end.enter_context(scaled_images(source, numbers, (0, 48), **options))
    for number, example in zip(numbers, examples, strict=True):
        assert example.index == number
        assert bool(example.problem) != bool(example.images)
        for image in example.images:
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        yield example.problem


def _cropped(source: Source, numbers: list[int], at_end: contextlib.ExitStack) -> Iterator[str]:
    """Training's road."""

    def request(k: int) -> Requests:
        return Requests(np.array([numbers[k]]), np.array([40], np.int32), np.full((1, 2), 0.5))

    batches = TrainingBatches(source, request, crop=32, stop=len(numbers), threads=2, on_error="skip")
    at_end.callback(batches.close)
    for number, batch in zip(numbers, batches, strict=True):
        problem = batches.problems.pop(source.name_of(number), "")
        assert batch["mask"][0] == (not problem)
        yield problem


def _weights(folder: Path, formats: Sequence[str]) -> Attempt:
    """Weights of the formats, or what lies beside them."""
    folder.mkdir()
    files: list[tuple[str, bytes]] = []
    for name in formats:
        for net in WRITERS[name][2][:2]:
            WRITERS[name][0](folder / "net", net, original(net, window=1))
            files.append((name, (folder / "net").read_bytes()))
    config = json.dumps({"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}).encode()
    order = "\n".join(f"n{number:08} name" for number in range(7)).encode()

    def attempt(number: int, chance: random.Random) -> None:
        name, data = chance.choice(files)
        beside = chance.choice(["", "", "", "", "config.json", "order"])
        (folder / "net").write_bytes(data if beside else damaged(data, chance))
        (folder / "config.json").write_bytes(mutated(config, chance) if beside == "config.json" else config)
        (folder / "order").write_bytes(mutated(order, chance) if beside == "order" else order)
        found = read(folder / "net", partial=chance.random() < 0.5, class_order=folder / "order" if beside else None)
        assert all(np.isfinite(array).all() for layer in found.layers.values() for array in layer.values())
        if chance.random() < 0.05:
            found.network()

    return attempt


def _pytorch(folder: Path) -> Attempt:
    """Files of torch.save, of today and of before 2020."""
    import torch

    folder.mkdir()
    tensors = {name: torch.tensor(array) for name, array in state_dict("A", original("A", window=1)).items()}
    files = []
    for zipped in (True, False):
        torch.save(tensors, folder / "net", _use_new_zipfile_serialization=zipped)
        files.append((folder / "net").read_bytes())

    def attempt(number: int, chance: random.Random) -> None:
        (folder / "net").write_bytes(damaged(chance.choice(files), chance))
        read(folder / "net", partial=True)

    return attempt


def _checkpoint(folder: Path) -> Attempt:
    """A run of which one file is mutated, emptied or gone."""
    config = default_config()
    config.model.net, config.model.width, config.data.crop, config.data.scale = "A", 0.0625, 32, (32, 32)
    _, state = new_state(new_network(config, 3, jnp.float32), (), krizhevsky_momentum())
    meta = {"config": json.loads(config.to_json()), "classes": ["a", "b", "c"], "source": "x"}
    with contextlib.closing(Checkpoints(folder, 1)) as checkpoints:
        checkpoints.save(1, arrays_of(state), meta)
    files = sorted(path for path in folder.rglob("*") if path.is_file())

    def attempt(number: int, chance: random.Random) -> None:
        file = chance.choice(files)
        whole = file.read_bytes()
        if chance.random() < 0.1 or not whole:
            file.unlink()
        else:
            file.write_bytes(damaged(whole, chance) if chance.random() < 0.9 else b"")
        try:
            of_run(folder)
        finally:
            file.write_bytes(whole)

    return attempt


def _posteriors(folder: Path) -> Attempt:
    """Files that --mode=fuse takes: a mutated one and a whole one."""
    about = {"network": "A", "S": [32, 32], "protocol": "dense"}
    values = np.full((2, 4, 3), 1 / 3, np.float32)
    labels = np.array([0, 1, 2, 0], np.int32)
    Posteriors(values, (32, 40), labels, tuple("abcd"), ("x", "y", "z"), about).save(folder / "whole.npz")
    whole = (folder / "whole.npz").read_bytes()

    def attempt(number: int, chance: random.Random) -> None:
        (folder / "mutated.npz").write_bytes(damaged(whole, chance))
        fuse([folder / "mutated.npz", folder / "whole.npz"])

    return attempt


def _lpips(folder: Path) -> Attempt:
    folder.mkdir()
    np.savez(folder / "linear.npz", **{layer: np.ones(8, np.float32) for layer in LPIPS_LAYERS})
    whole = (folder / "linear.npz").read_bytes()

    def attempt(number: int, chance: random.Random) -> None:
        (folder / "linear.npz").write_bytes(damaged(whole, chance))
        read_lpips_linear(folder / "linear.npz")

    return attempt


NASTY = (
    *(None, True, -1, 0, 1, 3, 31, 33, 255, 10**4, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 10**23, -(10**23)),
    *(0.0, -0.5, 0.5, 1e-320, 1e308, float("inf"), -float("inf"), float("nan"), 1j, b"bytes"),
    *("", "x", " ", "0", "\n", "\udcff", "ä%s{0}$", "train[:90%]", "train[90%:]", "a" * 300, "../..", "D", "vgg16"),
    *((), (1,), (1, 2), (2, 1), (0, 0), ("conv1",), ("",), (1.5, None), ((1,), (2,)), ([],), (10**23, 10**23)),
    *([], [1, 2], {}, {"a": 1}),
)
"""Values that no key expects."""


def _value(default: object, chance: random.Random) -> object:
    """A value for a key, mostly of its type, for others are refused before they are looked at."""
    alike = [value for value in NASTY if type(value) is type(default)]
    return chance.choice(alike if alike and chance.random() < 0.7 else NASTY)


KEYS = tuple(
    f"{section}.{key}" if isinstance(values, ml_collections.ConfigDict) else section
    for section, values in default_config().items()
    for key in (values if isinstance(values, ml_collections.ConfigDict) else [""])
)


def _config(number: int, chance: random.Random) -> None:
    """A config with some keys set, missing or too many, checked and used for whatever needs no data."""
    config = default_config()
    with config.ignore_type(), config.unlocked():
        for _ in range(chance.choice([1, 1, 2, 3])):
            section, _, key = chance.choice(KEYS).rpartition(".")
            place = config[section] if section else config
            if not isinstance(place, ml_collections.ConfigDict):
                continue
            action = chance.randrange(20)
            if action == 0 and key in place:
                del place[key]
            elif action == 1:
                place[_garbled(key, chance).replace(".", "")] = chance.choice(NASTY)
            elif action == 2:
                config[section or key] = chance.choice(NASTY)
            elif action == 3 and isinstance(place.get(key), int | float):
                place[key] = chance.choice([-1, 2, 1000, 1e-3, 1e30]) * place[key]
            else:
                place[key] = _value(place.get(key), chance)
    validate(config)
    _use(config, chance)


def _use(config: ml_collections.ConfigDict, chance: random.Random) -> None:
    """What validation lets through works."""
    schedule = make_schedule(config)
    for step in (0, 10, 10**6):
        assert np.isfinite(schedule.rate_at(step))
        schedule.observe(step, 0.5)
    eval_scales(config)
    check_freeze(spec_of(config.model.net), tuple(config.train.freeze))
    if chance.random() < 0.05:
        nnx.eval_shape(lambda: new_network(config, 10, jnp.float32))
        jax.random.key(config.seed)


def _garbled(text: str, chance: random.Random) -> str:
    """A text with a few characters gone, doubled or others."""
    characters = list(text)
    for _ in range(chance.choice([1, 1, 2, 4])):
        place = chance.randrange(len(characters) + 1)
        some = chance.choice("=,.:()[]{}'\"\\/ \t\n%$*?~-0129eEinfNaTrueä\udcff")
        characters[place : place + chance.randrange(3)] = chance.choice([[], [some], [some] * 2, characters[-3:]])
    return "".join(characters)


def _overrides(number: int, chance: random.Random) -> None:
    """A command line: what it says of the config, of a mode and of flags."""
    known = dict(default_config().items())
    arguments = []
    for _ in range(chance.choice([1, 2, 3])):
        key = chance.choice(KEYS)
        section, _, name = key.rpartition(".")
        default = known[section][name] if section else known[name or section]
        value = str(default) if chance.random() < 0.3 else str(_value(default, chance))
        arguments.append(f"--config.{key}={value}")
    some = [
        f"--mode={chance.choice([*main.MODES])}",
        "--workdir=x",
        "--json",
        "--protocol=both",
        "--layers=fc6",
        "a.jpg",
    ]
    arguments += chance.sample(some, chance.choice([0, 0, 0, 1, 2]))
    if chance.random() < 0.2:
        arguments.insert(
            0, f"--config=configs/{chance.choice(['vgg16.py', 'vgg16.py:jitter', 'quickstart.py', 'no.py'])}"
        )
    if chance.random() < 0.5:
        place = chance.randrange(len(arguments))
        arguments[place] = _garbled(arguments[place], chance)
    _parse(["main", *arguments])


def _parse(arguments: list[str]) -> None:
    """As `main.main` begins; the flags are as they were before."""
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    sys.argv = arguments
    with contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):  # --help
        rest = main._parse(arguments)
        main._check_given(main.MODES[main.MODE.value], rest[1:])
        validate(main.CONFIG.value)
        config = default_config()
        config.update_from_flattened_dict(flags.FLAGS["config"].override_values)
        validate(config)


def _folder_of_photographs(folder: Path) -> Path:
    for number, encoded in enumerate(_photographs()):
        path = folder / "train" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
    return folder


def _source(folder: Path) -> Attempt:
    """A folder and a split by their names, of which one is garbled."""
    home = _folder_of_photographs(folder)

    def attempt(number: int, chance: random.Random) -> None:
        split = chance.choice(["train", "train[:90%]", "train[90%:]", "train[:10]", "validation", "test[-3:]"])
        name = f"folder:{home}"
        if chance.random() < 0.7:
            split = _garbled(split, chance)
        else:
            name = _garbled(name, chance)
        source = open_source(name, split)
        assert len(source) and source[0]["image"]

    return attempt


def _path(folder: Path) -> Attempt:
    """A path to images, to weights or to a run."""
    home = _folder_of_photographs(folder)
    nasty = ("/dev/null", "/dev/zero", "x" * 300, "x/" * 3000, "~nobody", "\0", "\udcff", "/proc/self/mem", "[")

    def attempt(number: int, chance: random.Random) -> None:
        taker = chance.choice([lambda path: images_of([path]), find, read, read_lpips_linear])
        taker(chance.choice([*nasty, str(home / _garbled("train/class 0/*.png", chance).lstrip("/.~"))]))

    return attempt
