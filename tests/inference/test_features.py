"""Features against the float64 network on each image alone; in bounded memory; in files that are whole or not there."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import vgg_jax
from tests.oracles import convolved, reference
from tests.photographs import image_of, rescaled
from vgg_jax.data.rescaling import MAX_PIXELS
from vgg_jax.inference import activations, array_folder, feature_file
from vgg_jax.inference.features import features
from vgg_jax.locks import locked

ROOT = Path(__file__).parents[2]
SIZES = [(40, 40), (33, 57), (75, 41), (64, 150), (20, 31), (33, 56)]
LAYERS = ("conv1_1", "relu3_1", "pool5", "fc7", "relu7")  # conv1_1 and fc7 have negative activations
SCALE = 48


@pytest.fixture(scope="module")
def net():
    net = vgg_jax.VGG("A", num_classes=10, crop=32, width=1 / 16, init="he", rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for name in ("conv1_1", "conv3_1", "fc6", "fc7"):  # biases that matter: the initialization's are zero
        bias = getattr(net, name).bias
        bias[...] = jnp.asarray(rng.normal(size=bias.shape), jnp.float32)
    return net


@pytest.fixture(scope="module")
def images():
    return [image_of(size, seed) for seed, size in enumerate(SIZES)]


def expected(net, image, scale, pool, flip):
    """By layer, from the float64 network on the image alone and on its mirror image."""
    alone = rescaled(image, scale)[None]
    seen = [reference(net, alone), reference(net, alone[:, :, ::-1])] if flip else [reference(net, alone)]
    of_map = {
        "mean": lambda x, back: x[0].mean((0, 1)),
        "max": lambda x, back: x[0].max((0, 1)),
        None: lambda x, back: x[0][:, ::back],
    }[pool]
    return {layer: np.mean([of_map(s[layer], back) for s, back in zip(seen, (1, -1))], 0) for layer in LAYERS}


def assert_alike(found, wanted, name):
    assert found.shape == wanted.shape and found.dtype == np.float32, name
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=str(name))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pool", ["mean", "max", None])
def test_they_are_the_references_on_each_image_alone(pool, flip, net, images, one_device):
    found = features(net, iter(images), LAYERS, (SCALE,), pool, flip=flip, mesh=one_device)
    assert tuple(found) == LAYERS
    for number, image in enumerate(images):
        for layer, wanted in expected(net, image, SCALE, pool, flip).items():
            assert_alike(found[layer][number], wanted, (number, layer))
    if pool is None:
        assert isinstance(found["pool5"], list) and found["conv1_1"][1].shape == (48, 83, 4)
        assert all(values.base is None for values in found["pool5"])  # no view that keeps a batch


@pytest.mark.parametrize("combine", ["average", "stack", "max"])
def test_several_scales_are_averaged_stacked_or_max_pooled(combine, net, images, one_device):
    images, scales = images[:3], (64, 32, 40)
    found = features(net, images, LAYERS, scales, combine=combine, mesh=one_device)
    for number, image in enumerate(images):
        parts = [expected(net, image, scale, "mean", flip=True) for scale in scales]
        for layer in LAYERS:
            of_layer = [part[layer] for part in parts]
            wanted = {"average": sum(of_layer) / 3, "stack": np.concatenate(of_layer), "max": np.max(of_layer, 0)}
            assert_alike(found[layer][number], wanted[combine], (number, layer))


def test_batches_and_devices_change_nothing(net, images, one_device, eight_devices):
    alone = features(net, images, ("relu3_1", "relu7"), (SCALE,), mesh=one_device, batch_size=1)
    for options in ({"mesh": eight_devices}, {"mesh": one_device, "batch_size": 7}):
        together = features(net, images, ("relu3_1", "relu7"), (SCALE,), **options)
        for layer, values in alone.items():
            np.testing.assert_allclose(together[layer], values, rtol=0, atol=1e-5 * values.max())


def test_the_mirror_image_counts_by_default_when_pooled_but_not_for_maps(net, images, one_device):
    ask = lambda pool, **options: features(net, images[1:2], ("fc7",), (SCALE,), pool, mesh=one_device, **options)
    np.testing.assert_array_equal(ask("mean")["fc7"], ask("mean", flip=True)["fc7"])
    np.testing.assert_array_equal(ask(None)["fc7"], ask(None, flip=False)["fc7"])
    assert not np.allclose(ask("mean")["fc7"], ask("mean", flip=False)["fc7"], rtol=1e-3)


def test_a_mean_over_many_places_is_exact(net, one_device):
    """A quarter of a million places, all of one sign: a plain sum in float32 would lose digits."""
    image = image_of((416, 620), 0)
    found = features(net, [image], ("relu1_1",), (416,), flip=False, mesh=one_device)["relu1_1"][0]
    kernel, bias = (np.float64(array[...]) for array in (net.conv1_1.kernel, net.conv1_1.bias))
    centered = np.float64(image)[None] - np.float64(net.mean_rgb[...])
    assert_alike(found, np.maximum(convolved(centered, kernel, bias, 1), 0)[0].mean((0, 1)), "relu1_1")


def test_bfloat16_is_near_and_given_in_float32(images, one_device):
    make = lambda dtype: vgg_jax.VGG("A", crop=32, width=1 / 16, init="he", dtype=dtype, rngs=nnx.Rngs(0))
    exact, coarse = (
        features(make(dtype), images[:2], ("relu7",), (SCALE,), mesh=one_device)["relu7"]
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert coarse.dtype == np.float32
    assert 1e-5 < np.abs(coarse - exact).max() / np.abs(exact).max() < 0.05


def test_no_images_give_no_features(net, one_device, tmp_path):
    found = features(net, [], ("pool5", "relu7"), (32, 48), combine="stack", mesh=one_device)
    assert {layer: values.shape for layer, values in found.items()} == {"pool5": (0, 64), "relu7": (0, 512)}
    assert features(net, [], ("pool5",), (32,), None, mesh=one_device) == {"pool5": []}
    features(net, [], ("pool5",), (32,), mesh=one_device, into=tmp_path / "none.npz")
    with np.load(tmp_path / "none.npz") as file:
        assert file["pool5"].shape == (0, 32) and file["images"].shape == (0,)


# Bounded memory


@pytest.mark.parametrize("pool", ["mean", None])
def test_images_are_asked_for_a_few_ahead_of_what_is_written(pool, net, one_device, tmp_path):
    count, threads, places, written = 400, 2, 4, [0]
    kinds = [(32, 32), (32, 60), (60, 32)]
    # Being read; waiting on each bucket; a few batches under way.
    most = 4 * threads + 1 + len(kinds) * (places - 1) + 8 * places

    def endless():
        for number in range(count):
            assert number - written[0] <= most
            yield image_of(kinds[number % 3], number % 7)

    options = {"batch_size": places, "threads": threads, "mesh": one_device}
    options["progress"] = lambda done: written.__setitem__(0, done)
    features(net, endless(), ("relu2_1", "pool5"), (32,), pool, into=tmp_path / "f.npz", **options)
    assert written == [count]
    with np.load(tmp_path / "f.npz") as file:
        assert len(file["images"]) == count and len(file.files) == (4 if pool else 2 + 2 * count)


def test_programs_are_few(net, one_device, monkeypatch):
    traced, original = [], activations.activations
    monkeypatch.setattr(activations, "activations", lambda *a, **o: traced.append(a[1].shape) or original(*a, **o))
    images = [np.zeros((32, 33 + number % 60, 3), np.uint8) for number in range(240)]
    features(net, images, ("pool2",), (32,), mesh=one_device, batch_size=4)
    # Eight buckets for sixty shapes, 40 to 96 pixels wide; a full and a last batch on each.
    assert len({shape[1:] for shape in traced}) == 8 and len(traced) <= 16


# Files


@pytest.fixture
def folder(tmp_path, images):
    """Photographs, one of which cannot be read."""
    for number, image in enumerate(images[:5]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    return tmp_path


@pytest.mark.parametrize("pool", ["max", None])
def test_numpy_alone_reads_the_file(pool, folder, net, one_device):
    paths, problems = [folder / f"{number}.png" for number in range(5)], {}
    options = {"layers": ("relu3_1", "fc7"), "scales": (SCALE,), "pool": pool, "flip": True, "mesh": one_device}
    assert features(net, paths, into=folder / "f.npz", problems=problems, **options) is None
    good = [path for path in paths if path.stem != "2"]
    assert problems == {str(folder / "2.png"): "not an image in a known format"}
    # The images as arrays, in memory.
    wanted = features(net, [np.asarray(Image.open(path)) for path in good], **options)
    read = (
        "import json, sys, numpy as np\n"
        "file = np.load(sys.argv[1])\n"
        "assert not any(name.startswith(('jax', 'vgg')) for name in sys.modules)\n"
        "print(json.dumps({key: file[key].tolist() for key in file.files}))"
    )
    script = [sys.executable, "-c", read, folder / "f.npz"]
    file = json.loads(subprocess.run(script, check=True, capture_output=True, cwd=folder).stdout)
    assert file["images"] == [str(path) for path in good]
    about = {"net": "A", "scales": [SCALE], "pool": pool, "combine": "average", "flip": True}
    about["channels"] = {layer: values[0].shape[-1] for layer, values in wanted.items()}
    assert json.loads(file["about"]) == about
    for layer, values in wanted.items():
        for number, value in enumerate(values):
            stored = file[layer][number] if pool else file[f"{layer}/{number}"]
            np.testing.assert_allclose(np.float32(stored), value, rtol=1e-6)
    assert [path.name for path in folder.iterdir() if "npz" in path.name] == ["f.npz"]


def test_a_file_that_was_cut_off_goes_on_and_ends_with_the_same_bytes(folder, net, one_device, monkeypatch, caplog):
    (folder / "2.png").write_bytes((folder / "1.png").read_bytes())
    paths = [folder / f"{number}.png" for number in range(5)]
    options = {"scales": (SCALE, 32), "combine": "stack", "mesh": one_device, "batch_size": 1}
    ask = lambda out, **more: features(net, paths, ("pool5",), into=folder / out, **options, **more)
    ask("whole.npz")
    monkeypatch.setattr(array_folder, "SECONDS", 0.0)
    for until in (2, 4):  # at the first scale, and at the second
        with pytest.raises(KeyboardInterrupt):
            ask("f.npz", progress=lambda done, until=until: _interrupt() if done >= until else None)
        assert not (folder / "f.npz").exists() and (folder / "f.npz.unfinished").is_dir()
    (folder / "f.npz.unfinished/theirs.txt").touch()  # and stays
    batches = []
    complete = array_folder.Unfinished.complete
    monkeypatch.setattr(array_folder.Unfinished, "complete", lambda *args: batches.append(args) or complete(*args))
    with caplog.at_level(logging.INFO, "vgg_jax"):
        ask("f.npz")
    assert len(batches) < 5 and "from batch" in caplog.text
    assert (folder / "f.npz").read_bytes() == (folder / "whole.npz").read_bytes()
    assert [path.name for path in (folder / "f.npz.unfinished").iterdir()] == ["theirs.txt"]


def test_a_second_call_into_one_file_and_a_file_without_images_are_refused(folder, net, one_device):
    paths = [folder / f"{number}.png" for number in range(5)]
    ask = lambda paths, **more: features(net, paths, into=folder / "f.npz", mesh=one_device, **more)
    with locked(folder / "f.npz.unfinished"), pytest.raises(vgg_jax.ConfigError, match="two would mix their files"):
        ask(paths, layers=("pool5",), scales=(32,), problems={})
    with pytest.raises(vgg_jax.DataError, match=r"2.png: not an image in a known format$"):
        ask(paths, layers=("pool5",), scales=(32,))
    with pytest.raises(vgg_jax.DataError, match=r"files: no image could be read; the first is .*2.png: not an image"):
        ask(paths[2:3], layers=("pool5",), scales=(32,), problems={})
    assert not (folder / "f.npz").exists()
    ask(paths, layers=net.activations, scales=(SCALE,), problems={})  # a name of all of them would be too long
    assert set(net.activations) < set(np.load(folder / "f.npz").files)


def test_each_of_several_processes_may_have_files_of_its_own(folder, net, one_device, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    features(net, [folder / "0.png"], ("pool5",), (32,), mesh=one_device, into=folder / "f.npz")  # waits for none
    assert len(np.load(folder / "f.npz")["images"]) == 1


def _interrupt():
    raise KeyboardInterrupt


def test_an_image_that_cannot_be_read_is_named(folder, net, images, one_device):
    ask = lambda images, **options: features(net, images, ("pool5",), (32,), mesh=one_device, **options)
    with pytest.raises(vgg_jax.DataError, match=r"2\.png: not an image in a known format"):
        ask([folder / "0.png", folder / "2.png"])
    with pytest.raises(vgg_jax.DataError, match=r"^no-such.png: No such file or directory"):
        ask(["no-such.png"])
    with pytest.raises(vgg_jax.DataError, match=r"image 1 is of shape \(40, 40\): expected \(height, width, 3\)"):
        ask([images[0], np.zeros((40, 40), np.uint8)], problems={})  # a mistake in the program, never left out
    thin, problems = np.zeros((2, MAX_PIXELS, 3), np.uint8), {}
    with pytest.raises(
        vgg_jax.DataError, match=r"image 0: 2 x 4194304 pixels are too elongated.* Q = 32 they are 32 x 67108864"
    ):
        ask([thin])
    for mixed in ([images[0], folder / "0.png"], [folder / "0.png", images[0]]):
        with pytest.raises(vgg_jax.DataError, match=r"image 1 is of type (PosixPath|ndarray)"):
            ask(mixed)
    assert ask([images[0], thin, images[1]], problems=problems)["pool5"].shape == (2, 32)
    assert list(problems) == ["image 1"] and problems["image 1"].startswith("2 x 4194304 pixels")


@pytest.mark.parametrize("pool", ["mean", None])
def test_what_fails_leaves_no_file_and_the_old_one_as_it_was(pool, folder, net, images, one_device):
    def cut_short():
        yield from images
        raise KeyboardInterrupt

    ask = lambda images: features(net, images, ("pool5",), (32,), pool, mesh=one_device, into=folder / "f.npz")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ask(cut_short())
        assert not [path for path in folder.iterdir() if "npz" in path.name]
    ask(images)
    before = (folder / "f.npz").read_bytes()
    with pytest.raises(vgg_jax.DataError):
        ask([images[0], folder / "2.png"])
    assert (folder / "f.npz").read_bytes() == before
    assert [path.name for path in folder.iterdir() if "npz" in path.name] == ["f.npz"]


def test_only_features_are_replaced_by_features(folder, net, one_device):
    np.savez(folder / "theirs.npz", images=["theirs"], about="theirs")
    ask = lambda out: features(net, iter([]), ("pool5",), (32,), mesh=one_device, into=out)
    for name in ("0.png", "theirs.npz"):
        before = (folder / name).read_bytes()
        with pytest.raises(vgg_jax.ConfigError, match=f"{folder / name}: is there already and would be replaced"):
            ask(folder / name)
        assert (folder / name).read_bytes() == before
    for _ in range(2):
        ask(folder / "f.npz")


def test_a_full_disk_is_reported(net, images, one_device, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_file.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(vgg_jax.ConfigError, match=r"f\.npz: cannot be written: No space left on device"):
        features(net, images, ("pool5",), (32,), mesh=one_device, into=tmp_path / "f.npz")
    assert not [path for path in tmp_path.iterdir() if "npz" in path.name]


SLOW = """
import sys, time
import numpy as np
from flax import nnx
import vgg_jax
from vgg_jax.inference.features import features
def slow():
    while True:
        time.sleep(0.01)
        yield np.zeros((32, 32, 3), np.uint8)
net = vgg_jax.VGG("A", num_classes=10, crop=32, width=1 / 16, rngs=nnx.Rngs(0))
progress = lambda done: print(done, flush=True)
features(net, slow(), ("relu1_1",), (32,), None, batch_size=4, into=sys.argv[1], progress=progress)
"""


def test_a_killed_process_leaves_nothing_that_is_taken_for_a_file(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    script = [sys.executable, "-c", SLOW, tmp_path / "f.npz"]
    with subprocess.Popen(script, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) > 20:
                break
        process.send_signal(signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".partial"
    with left.open("rb") as file, pytest.raises(zipfile.BadZipFile):
        np.load(file)


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ("relu3_3",)}, "no activation 'relu3_3' in net A.*did you mean 'relu3_"),
        ({"layers": ()}, "no activation is asked for"),
        (
            {"layers": ("pool5", "fc6"), "scales": (64, 40)},
            r"Q = 40 is below the net's crop, which fc6 needs, 64",
        ),
        ({"scales": (31,)}, "Q = 31 is below the least for its layers, 32 pixels"),
        ({"scales": ()}, "one or more test scales Q in whole pixels"),
        ({"scales": 64}, "one or more test scales Q in whole pixels"),
        ({"scales": (64.5,)}, "one or more test scales Q in whole pixels"),
        ({"pool": "sum"}, "pool='sum': there are 'mean', 'max' and None"),
        ({"combine": "sum"}, "combine='sum': there are 'average', 'stack' and 'max'"),
        ({"pool": None, "scales": (64, 96)}, "the maps of several scales differ in size"),
        ({"images": "a.jpg"}, "images='a.jpg': give a list of images, or of paths"),
        ({"images": None}, "images='None': give a list of images, or of paths"),
        ({"layers": (5,)}, "no activation 5 in net A"),
        ({"batch_size": 0}, "batch_size=0: a number of images, or None"),
        ({"into": "README.md/f.npz"}, "README.md/f.npz: cannot be written: File exists"),
        ({"into": "."}, "is a folder; name another file"),
    ],
)
def test_impossible_features_are_refused_before_an_image_is_read(options, message):
    def untouched():
        raise AssertionError
        yield

    net = vgg_jax.VGG("A", num_classes=10, crop=64, width=1 / 16, rngs=nnx.Rngs(0))
    with pytest.raises(vgg_jax.ConfigError, match=message):
        features(net, **{"images": untouched(), "layers": ("pool5",), "scales": (64,)} | options)
