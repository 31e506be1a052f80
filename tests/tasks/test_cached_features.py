"""Frozen convolutions computed once: as if computed in every step, whatever interrupts, on whatever devices."""

import contextlib
import functools
import itertools
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from vgg_jax import CheckpointError, ConfigError, DataError
from vgg_jax.checkpoint import read_arrays
from vgg_jax.commands.evaluate import evaluate
from vgg_jax.commands.target import of_run
from vgg_jax.config import default_config
from vgg_jax.data.decode import crop, upright
from vgg_jax.data.open import open_source
from vgg_jax.data.statistics import IMAGENET
from vgg_jax.inference import array_folder, feature_store
from vgg_jax.stopping import Stopped
from vgg_jax.tasks import cached_features
from vgg_jax.tasks.cached_features import CachedFeatures
from vgg_jax.tasks.choose import make_task
from vgg_jax.tasks.classification import classification_loss
from vgg_jax.tasks.random_crops import split_keys
from vgg_jax.train import loop
from vgg_jax.train.initialize import initialize
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.schedule import Schedule
from vgg_jax.train.state import new_state
from vgg_jax.train.step import make_train_step

FROZEN = ("conv1", "conv2", "conv3", "conv4", "conv5")
train = functools.partial(loop.train, make_task=make_task)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two classes, 21 training images and 4 to validate, 44 x 52 pixels."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(1)
    for split, counts in (("train", (11, 10)), ("validation", (2, 2))):
        for name, count in zip(("dark", "light"), counts):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 160, (11, 13, 3)) + (90 if name == "light" else 0)
                image = Image.fromarray(pixels.astype(np.uint8)).resize((52, 44))
                image.save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture
def config(photographs):
    config = default_config()
    config.model.net, config.model.width, config.model.hidden, config.init.scheme = "A", 0.0625, 16, "he"
    config.data.source, config.data.crop, config.data.scale = f"folder:{photographs}", 32, (32, 44)
    config.data.statistics, config.data.threads = "imagenet", 2
    config.train.batch_size, config.train.steps, config.train.learning_rate = 8, 9, 0.01
    config.train.freeze, config.train.cached_views = FROZEN, 2
    config.schedule.kind = "fixed"
    config.evaluate.every, config.checkpoint.every, config.log.every = 9, 9, 3
    config.evaluate.protocols = ("center",)
    return config


def made(config, mesh, workdir):
    workdir.mkdir(exist_ok=True)
    return make_task(config, mesh, workdir)


def network(config):
    return initialize(config, 2, IMAGENET.mean, jnp.float32)


def arrays(workdir):
    return read_arrays(max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name)))


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def close(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.allclose(x, y, rtol=1e-5, atol=1e-6)), a, b))


def test_a_kept_view_is_what_the_convolutions_make_of_that_crop(config, one_device, tmp_path):
    net, task = network(config), made(config, one_device, tmp_path)
    source = open_source(config.data.source, "train")
    whole = nnx.jit(lambda net, image: net(image[None], taps=["pool5"])[1]["pool5"][0])
    for k, batch in enumerate(itertools.islice(task.batches(net, 0), 6)):
        index, view = task.places(k)
        for place, pixels in enumerate(task.views(index, view)["image"]):
            np.testing.assert_allclose(batch["pool5"][place], whole(net, pixels), rtol=1e-5, atol=1e-6)
            assert batch["label"][place] == source[index[place]]["label"] and batch["mask"][place] == 1


def test_a_view_is_a_window_that_may_be_flipped_and_shifted_in_color(config, one_device, tmp_path):
    source = open_source(config.data.source, "train")
    index, view = np.arange(21).repeat(2), np.tile([0, 1], 21)
    config.data.color_shift, config.data.scale = 0.0, (33, 33)  # windows at 2 x 8 places
    plain = np.asarray(made(config, one_device, tmp_path).views(index, view)["image"])
    flipped = 0
    for image, pixels in zip(index, plain):
        photograph = upright(source[image]["image"])
        places = [np.array((row / 2, column / 8)) for row in range(2) for column in range(8)]
        windows = [crop(photograph, 33, place, 32)[0] for place in places]
        assert any(np.array_equal(pixels, window) for window in windows) or (
            any(np.array_equal(pixels[:, ::-1], window) for window in windows)
        )
        flipped += not any(np.array_equal(pixels, window) for window in windows)
    assert 8 < flipped < 34
    config.data.color_shift = 0.1
    shift = np.asarray(made(config, one_device, tmp_path).views(index, view)["image"]) - plain
    assert np.ptp(shift, axis=(1, 2)).max() < 1e-3  # one color for all pixels of an image
    assert len(np.unique(shift[:, 0, 0].round(3), axis=0)) == 42 and 1 < shift.std() < 60


def test_a_view_depends_on_seed_image_and_number_alone(config, one_device, tmp_path):
    config.data.flip = False
    pixels = lambda *places: made(config, one_device, tmp_path).views(*map(np.array, places))["image"]
    both = np.asarray(pixels([3, 7, 3], [1, 0, 0]))
    np.testing.assert_array_equal(both[1:2], pixels([7], [0]))
    assert not np.array_equal(both[0], both[2])
    config.train.cached_views, config.train.batch_size = 5, 16
    np.testing.assert_array_equal(both, pixels([3, 7, 3], [1, 0, 0]))
    config.seed = 1
    assert not np.array_equal(both[2], pixels([3], [0])[0])


def test_every_epoch_shows_every_image_once_by_its_next_view(config, one_device, tmp_path):
    task = made(config, one_device, tmp_path)
    index, view = (np.concatenate(parts) for parts in zip(*(task.places(k) for k in range(21))))
    orders = index.reshape(8, 21)
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(21), (8, 1)))
    assert len(np.unique(orders, axis=0)) == 8
    np.testing.assert_array_equal(view.reshape(8, 21), np.tile([[0], [1]], (4, 21)))


def test_training_on_kept_views_is_training_on_the_views(config, one_device, tmp_path, monkeypatch):
    """The run against whole networks that are fed the same augmented crops, no convolution kept."""
    train(config, tmp_path / "run")
    run = arrays(tmp_path / "run")

    task, net = made(config, one_device, tmp_path / "oracle"), network(config)
    optimizer = krizhevsky_momentum(config.train.momentum, config.train.weight_decay)
    graphdef, state = new_state(net, FROZEN, optimizer)
    start = jax.tree.map(np.array, nnx.to_pure_dict(nnx.merge_state(state.trainable, state.rest)))
    loss = lambda net, batch, keys: classification_loss(net(batch["image"], keys=split_keys(keys)[1]), batch)
    update = jax.jit(make_train_step(graphdef, loss, optimizer, seed=config.seed))
    source = open_source(config.data.source, "train")
    for k in range(config.train.steps):
        index, view = task.places(k)
        label = np.array([source[i]["label"] for i in index], np.int32)
        batch = {"image": task.views(index, view)["image"], "label": label, "mask": np.ones(8, np.float32)}
        state, _ = update(state, batch, jnp.float32(config.train.learning_rate))
    oracle = nnx.to_pure_dict(nnx.merge_state(state.trainable, state.rest))

    assert close(run, oracle)
    moved = {layer for layer in start if not same(start[layer], run[layer])}
    assert moved == {"fc6", "fc7", "fc8"}  # and the rest has the same bits
    assert (tmp_path / "run/batch.png").exists()
    table = evaluate([of_run(tmp_path / "run")], tmp_path / "evaluation")
    assert f"| center crop | {len(open_source(config.data.source, config.evaluate.split))} " in table


def test_the_head_is_the_networks(config):
    net = network(config)
    images = jax.random.uniform(jax.random.key(0), (3, 64, 96, 3)) * 255
    keys = jax.random.split(jax.random.key(1), 3)
    scores, tapped = nnx.jit(lambda net, images, keys: net(images, keys=keys, taps=["pool5", "fc6"]))(net, images, keys)
    again = nnx.jit(lambda net, pool5, keys: net.head(pool5, keys=keys))(net, tapped["pool5"], keys)
    assert scores.shape == (3, 2, 3, 2)
    np.testing.assert_allclose(again, scores, rtol=1e-5, atol=1e-5)
    still = net.head(tapped["pool5"])
    assert not np.allclose(still, scores) and np.isfinite(still).all()


def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(config, tmp_path, monkeypatch):
    train(config, tmp_path / "whole")
    rate_at = Schedule.rate_at

    def with_request(schedule, step):
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
        return rate_at(schedule, step)

    with monkeypatch.context() as patched:
        patched.setattr(Schedule, "rate_at", with_request)
        with pytest.raises(Stopped):
            train(config, tmp_path / "cut")
    shutil.copytree(tmp_path / "cut", tmp_path / "without views")
    shutil.rmtree(tmp_path / "without views/features")
    with monkeypatch.context() as patched:  # what is kept is used
        patched.setattr(CachedFeatures, "_compute", None)
        train(config, tmp_path / "cut")
    train(config, tmp_path / "without views")  # what is lost is computed again
    assert same(arrays(tmp_path / "whole"), arrays(tmp_path / "cut"))
    assert same(arrays(tmp_path / "whole"), arrays(tmp_path / "without views"))


def test_eight_devices_keep_what_one_does(config, one_device, eight_devices, tmp_path):
    net = network(config)
    one, eight = (
        next(made(config, mesh, tmp_path / name).batches(net, 2))
        for name, mesh in (("one", one_device), ("eight", eight_devices))
    )
    assert close(one, eight)


def test_two_processes_keep_what_one_does(config, one_device, tmp_path, two_processes):
    net = network(config)
    next(made(config, one_device, tmp_path / "alone").batches(net, 0))
    (tmp_path / "shared/features/shares/view0-2of3").mkdir(parents=True)  # of more processes, which were killed
    (tmp_path / "shared/features/shares/view0-2of3.lock").touch()
    both = two_processes(lambda: made(config, one_device, tmp_path / "shared").batches(net, 0))
    assert not any(isinstance(each, Exception) for each in both), both
    for view in range(config.train.cached_views):
        alone, shared = (array_folder.read(tmp_path / name / f"features/view{view}")[0] for name in ("alone", "shared"))
        assert close(alone, shared)
    assert not (tmp_path / "shared/features/shares").exists()


def test_more_views_cost_only_the_new_ones(config, one_device, tmp_path, monkeypatch):
    net, made_views = network(config), []
    begun = CachedFeatures._compute
    monkeypatch.setattr(
        CachedFeatures, "_compute", lambda self, *args: made_views.append([*args[2]]) or begun(self, *args)
    )
    for count, folder in ((1, "grown"), (3, "grown"), (2, "grown"), (3, "at once")):
        config.train.cached_views = count
        made(config, one_device, tmp_path / folder).batches(net, 0)
    assert made_views == [[0], [1, 2], [0, 1, 2]]
    for view in ("view0", "view1", "view2"):
        grown, at_once = (
            array_folder.read(tmp_path / folder / "features" / view)[0] for folder in ("grown", "at once")
        )
        assert len(grown["pool5"]) == 21 and close(grown, at_once)


def test_what_was_made_otherwise_is_made_again(config, one_device, tmp_path, caplog):
    net = network(config)
    first = next(made(config, one_device, tmp_path).batches(net, 0))
    net.conv5_2.bias[...] += 1.0
    second = next(made(config, one_device, tmp_path).batches(net, 0))
    assert "view1 was made otherwise (convolutions: " in caplog.text and not same(first, second)
    config.data.flip = False
    next(made(config, one_device, tmp_path).batches(net, 0))
    assert "flip: True -> False" in caplog.text
    (tmp_path / "features/view1/of.json").write_text('{"of"')
    next(made(config, one_device, tmp_path).batches(net, 0))
    assert "view1 cannot be read" in caplog.text
    pool5 = tmp_path / "features/view1/pool5.npy"
    pool5.write_bytes(pool5.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="view1 is damaged: .*remove it"):
        made(config, one_device, tmp_path).batches(net, 0)


def test_a_pass_that_was_cut_off_goes_on_where_it_was(config, one_device, tmp_path, photographs, monkeypatch):
    shutil.copytree(photographs, tmp_path / "photographs")
    config.data.source, config.data.on_error = f"folder:{tmp_path / 'photographs'}", "skip"
    (tmp_path / "photographs/train/dark/4.png").write_bytes(b"no image")
    net, run = network(config), tmp_path / "run"
    made(config, one_device, tmp_path / "whole").batches(net, 0)
    whole, problems = array_folder.read(tmp_path / "whole/features/view1")
    config.train.cached_views = 1
    made(config, one_device, run).batches(net, 0)
    config.train.cached_views = 2

    def computed(until=None, kill=False):
        """The batches that a pass computes, which is cut off after some: by an interruption or by a kill."""
        done = []

        def progress(_, rows, of):
            done.append(rows)
            if len(done) == until:
                if kill:  # then nothing more is written, though its arrays may have been
                    patched.setattr(array_folder.Unfinished, "keep", lambda self: None)
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(cached_features.Progress, "__call__", progress)
            patched.setattr(array_folder, "SECONDS", 1e9 if kill else 0.0)
            with contextlib.suppress(KeyboardInterrupt):
                made(config, one_device, run).batches(net, 0)
        return done

    assert computed(until=2, kill=True) == [0, 16]  # which was not noted yet, so that it counts for nothing
    assert computed(until=2) == [0, 16]
    unfinished, _ = array_folder.read(run / "features/view1.partial", "r+")
    for array in unfinished.values():
        array[16:] = -1  # the beginning of what comes next
        array.flush()
    assert computed() == [16, 21]
    resumed, resumed_problems = array_folder.read(run / "features/view1")
    assert same(whole, resumed) and problems == resumed_problems != {}
    assert not list(run.glob("features/*.partial"))


def test_what_was_begun_without_an_image_is_begun_anew_where_none_may_be_missing(
    config, one_device, tmp_path, photographs, monkeypatch
):
    shutil.copytree(photographs, tmp_path / "photographs")
    config.data.source, config.data.on_error = f"folder:{tmp_path / 'photographs'}", "skip"
    (tmp_path / "photographs/train/dark/4.png").write_bytes(b"no image")
    net, run = network(config), tmp_path / "run"

    def cut_off(_, rows, of):
        if rows:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(cached_features.Progress, "__call__", cut_off)
        patched.setattr(array_folder, "SECONDS", 0.0)
        made(config, one_device, run).batches(net, 0)
    config.data.on_error = "raise"
    with pytest.raises(DataError, match="dark/4.png: not an image in a known format"):
        made(config, one_device, run).batches(net, 0)
    assert not (run / "features/view0").exists()


def test_processes_go_by_what_the_first_one_finds(config, one_device, tmp_path, two_processes, monkeypatch):
    """On NFS the second may not see it yet, and would compute alone."""
    net, task, computed = network(config), made(config, one_device, tmp_path), []
    found = False
    monkeypatch.setattr(feature_store, "is_complete", lambda *_, **whole: found and jax.process_index() == 0)
    monkeypatch.setattr(feature_store, "read", lambda *_: ({}, {}))
    monkeypatch.setattr(task, "_compute", lambda net, made_of, missing, whole: computed.append(sorted(missing)))
    two_processes(lambda: task.batches(net, 0))
    assert computed == [[*range(config.train.cached_views)]] * 2
    found = True
    two_processes(lambda: task.batches(net, 0))
    assert len(computed) == 2


def test_what_was_cut_off_and_made_otherwise_is_made_again(config, one_device, tmp_path, monkeypatch, caplog):
    net = network(config)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(cached_features.Progress, "__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        made(config, one_device, tmp_path).batches(net, 0)
    config.data.flip = False
    batch = next(made(config, one_device, tmp_path).batches(net, 0))
    assert "view0.partial was made otherwise (flip: True -> False): computed again" in caplog.text
    assert same(batch, next(made(config, one_device, tmp_path / "other").batches(net, 0)))


def test_a_convolution_that_is_trained_is_refused(config, tmp_path):
    config.train.freeze = ("conv1", "conv2", "conv3", "conv4", "conv5_1")
    message = (
        r"config.train.cached_views=2 keeps the output of the convolutions, but conv5_2 is trained: "
        r"set config.train.freeze=\('conv1', 'conv2', 'conv3', 'conv4', 'conv5'\), or config.train.cached_views=0"
    )
    with pytest.raises(ConfigError, match=message):
        train(config, tmp_path)
    config.train.freeze = ()
    with pytest.raises(ConfigError, match="but conv1_1, .*, conv5_2 are trained"):
        train(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_much_to_keep_is_refused_before_it_is_made(config, one_device, tmp_path, monkeypatch):
    monkeypatch.setattr(cached_features, "MAX_BYTES", 3_000)
    message = (
        r"config.train.cached_views=2: pool5 of 2 views of 21 images, \(1, 1, 32\) in float32, takes 0.0 MB, and the "
        r"most that is kept is 0.0 MB: config.train.cached_views=1 fits; or lower config.data.crop=32, or train on "
        r"fresh crops with config.train.cached_views=0"
    )
    with pytest.raises(ConfigError, match=message):
        made(config, one_device, tmp_path)
    monkeypatch.setattr(cached_features, "MAX_BYTES", 10**10)
    monkeypatch.setattr(cached_features.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10))
    with pytest.raises(ConfigError, match=r"the room left in .* is 0.0 MB: lower config.data.crop"):
        made(config, one_device, tmp_path).batches(network(config), 0)


def test_a_bad_image_stops_the_run_or_counts_for_nothing(config, one_device, tmp_path, photographs):
    shutil.copytree(photographs, tmp_path / "photographs")
    config.data.source = f"folder:{tmp_path / 'photographs'}"
    bad = tmp_path / "photographs/train/light/3.png"
    bad.write_bytes(b"no image")
    net, source = network(config), open_source(config.data.source, "train")
    with pytest.raises(DataError, match="light/3.png"):
        made(config, one_device, tmp_path / "raise").batches(net, 0)
    config.data.on_error = "skip"
    for _ in range(2):  # made, and found again
        task = made(config, one_device, tmp_path / "skip")
        batches = list(itertools.islice(task.batches(net, 0), 6))
        masks = np.concatenate([batch["mask"] for batch in batches])
        index = np.concatenate([task.places(k)[0] for k in range(6)])
        np.testing.assert_array_equal(masks == 0, [source.name_of(i) == str(bad) for i in index])
        assert 2 <= (masks == 0).sum() <= 3
        assert [*task.problems] == [str(bad)] and "image" in task.problems[str(bad)]
    kept = json.loads((tmp_path / "skip/features/view0/of.json").read_text())
    assert kept["of"]["split"] == "train"
