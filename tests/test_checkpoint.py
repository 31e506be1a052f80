import contextlib
import json
import resource
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from vgg_jax import CheckpointError, ConfigError
from vgg_jax.checkpoint import Checkpoints, find, load_network, read_meta
from vgg_jax.config import default_config
from vgg_jax.model.from_config import new_network
from vgg_jax.progress import _seconds_compiling
from vgg_jax.sharding import place_state
from vgg_jax.train.initialize import finetune_from, initialize
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.state import arrays_of, new_state, with_arrays

CLASSES = [f"class {number}" for number in range(10)]


@pytest.fixture
def config():
    config = default_config()
    config.model.net, config.model.width, config.data.crop = "A", 0.0625, 32
    return config


def state_of(config, freeze=(), seed=0):
    config.seed = seed
    _, state = new_state(new_network(config, 10, jnp.float32), freeze, krizhevsky_momentum())
    return state


def meta(config):
    return {"config": json.loads(config.to_json()), "classes": CLASSES, "source": "x"}


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def save(folder, config, state, step=1):
    with contextlib.closing(Checkpoints(folder, 3)) as checkpoints:
        checkpoints.save(step, arrays_of(state), meta(config))


def restored(folder, state):
    """The latest state, and its meta."""
    with contextlib.closing(Checkpoints(folder, 3)) as checkpoints:
        arrays, meta = checkpoints.restore(arrays_of(state), check=lambda meta: None)
    return with_arrays(state, arrays, meta["step"]), meta


def test_no_process_looks_into_the_folder_before_the_first_one_has_made_it(tmp_path, two_processes, monkeypatch):
    """NFS would repeat for a while that it is not there."""
    mkdir, folder = Path.mkdir, tmp_path / "run/checkpoints"

    def slow(path, *arguments, **options):
        time.sleep(0.1)
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", slow)
    monkeypatch.setattr(ocp, "AsyncCheckpointer", lambda handler: None)
    assert two_processes(lambda: Checkpoints(tmp_path / "run", 3) and folder.is_dir()) == [True, True]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_state_comes_back_bit_for_bit(tmp_path, config, batch_norm):
    config.model.batch_norm = batch_norm
    state = state_of(config, freeze=("conv1",), seed=1)
    state = state.replace(optimizer=jax.tree.map(lambda v: v + 0.25, state.optimizer))
    save(tmp_path, config, state, step=7)
    other = state_of(config, freeze=("conv1",), seed=2)
    assert not same(state.trainable, other.trainable)
    again, meta = restored(tmp_path, other)
    assert again.step == 7 and meta["classes"] == CLASSES
    for part in ("trainable", "rest", "optimizer"):
        assert same(getattr(state, part), getattr(again, part)), part


@pytest.mark.parametrize(("task", "named"), [("classification", CLASSES), ("localization", [])])
def test_the_outputs_of_classification_alone_are_named(tmp_path, config, task, named):
    config.task = task
    save(tmp_path, config, state_of(config))
    net, meta = load_network(tmp_path)
    assert list(net.classes) == named and meta["classes"] == CLASSES and net.num_classes == 10


def test_a_state_comes_back_onto_eight_devices(tmp_path, config, eight_devices):
    state = state_of(config)
    save(tmp_path, config, state)
    again, _ = restored(tmp_path, place_state(state_of(config, seed=3), eight_devices))
    assert same(state.trainable, again.trainable)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(again))


def test_no_program_is_compiled_to_save_small_arrays_of_eight_devices(tmp_path, config, eight_devices):
    """Each device would save a slice of each array, by a program of its own."""
    state, seconds = place_state(state_of(config), eight_devices), _seconds_compiling()
    before = seconds[0]
    save(tmp_path, config, state)
    assert seconds[0] == before
    assert same(restored(tmp_path, state)[0].trainable, state.trainable)


def test_saving_is_not_disturbed_by_the_steps_that_follow(tmp_path, config):
    state = state_of(config)
    kept = jax.tree.map(np.array, state.trainable)
    spoil = jax.jit(lambda tree: jax.tree.map(lambda a: a * 0 - 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.save(1, arrays_of(state), meta(config))
    jax.block_until_ready(spoil(spoil(state.trainable)))  # donated, as the train step does
    checkpoints.close()
    net, _ = load_network(tmp_path)
    assert same(kept, nnx.state(net, nnx.Param))


def test_the_last_n_and_the_best_are_kept(tmp_path, config):
    state = state_of(config)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, metric in [(1, 0.3), (2, 0.9), (3, 0.5), (4, None), (5, 0.6)]:
        checkpoints.save(step, arrays_of(state), meta(config))
        if metric is not None:
            checkpoints.complete(step, {"validation": {"top1": metric}}, metric)
    checkpoints.wait()
    assert (checkpoints.latest, checkpoints.best) == (5, 2)
    checkpoints.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 4, 5]


def test_checkpoints_that_call_their_metric_accuracy_still_rank(tmp_path, config):
    state = state_of(config)
    items = {name: ocp.args.StandardSave(tree) for name, tree in arrays_of(state).items()}
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["accuracy"])
    with ocp.CheckpointManager(tmp_path / "checkpoints", options=options) as manager:  # as they were once saved
        items["meta"] = ocp.args.JsonSave(meta(config) | {"step": 3})
        manager.save(3, args=ocp.args.Composite(**items), metrics={"accuracy": 0.9})
    with contextlib.closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (3, 3)
        for step, metric in [(4, 0.8), (5, 0.7)]:
            checkpoints.save(step, arrays_of(state), meta(config))
            checkpoints.complete(step, {}, metric)
        checkpoints.wait()
        assert checkpoints.best == 3
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [3, 5]
    assert same(restored(tmp_path, state_of(config, seed=1))[0].trainable, state.trainable)


def test_a_network_may_have_other_outputs_than_classes(tmp_path, config):
    _, state = new_state(new_network(config, 40, jnp.float32), (), krizhevsky_momentum())
    with contextlib.closing(Checkpoints(tmp_path, 3)) as checkpoints:
        checkpoints.save(1, arrays_of(state), meta(config) | {"outputs": 40})
    net, reported = load_network(tmp_path)
    assert net.num_classes == 40 and not net.classes and reported["classes"] == CLASSES


def test_a_network_opens_without_optimizer_and_config_file(tmp_path, config, rng):
    config.model.batch_norm = True
    state = state_of(config, seed=4)
    save(tmp_path, config, state, step=3)
    shutil.rmtree(tmp_path / "checkpoints/3/optimizer")
    net, reported = load_network(tmp_path)
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    original = new_network(config, 10, jnp.float32)
    np.testing.assert_array_equal(net(images), original(images))
    assert reported["step"] == 3 and net.num_classes == 10


def test_a_half_written_checkpoint_is_not_used(tmp_path, config):
    state = state_of(config)
    save(tmp_path, config, state, step=1)
    folder = tmp_path / "checkpoints"
    (folder / "2.orbax-checkpoint-tmp").mkdir()
    (folder / "2.orbax-checkpoint-tmp" / "net").mkdir()
    assert find(tmp_path) == [folder / "1"]
    checkpoints = Checkpoints(tmp_path, 3)
    assert checkpoints.latest == 1
    # The run that goes on writes that step again.
    checkpoints.save(2, arrays_of(state), meta(config))
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    assert load_network(tmp_path)[1]["step"] == 2


def test_what_does_not_fit_on_the_disk_is_not_begun(tmp_path, config, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=500_000))
    with pytest.raises(
        ConfigError, match=r"/checkpoints: no room for the checkpoint of step 1, 0\.9 MB; 0\.5 MB are left"
    ):
        save(tmp_path, config, state_of(config))
    assert not any((tmp_path / "checkpoints").iterdir())


def test_a_path_may_be_a_run_its_checkpoints_or_one_step(tmp_path, config):
    state = state_of(config)
    checkpoints = Checkpoints(tmp_path, 3)
    for step in (9, 10):
        checkpoints.save(step, arrays_of(state), meta(config))
    checkpoints.close()
    steps = [tmp_path / "checkpoints" / step for step in ("10", "9")]
    assert find(tmp_path) == find(tmp_path / "checkpoints") == steps  # the newest first
    assert [find(step) for step in steps] == [[step] for step in steps]


def test_missing_damaged_and_foreign_checkpoints_are_refused(tmp_path, config):
    with pytest.raises(CheckpointError, match="nowhere: is not there; give a run's --workdir"):
        find(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="x{300}: is not there"):
        find(tmp_path / ("x" * 300))
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        find(tmp_path)
    save(tmp_path, config, state_of(config), step=1)
    config.model.net = "B"
    with pytest.raises(CheckpointError, match="missing conv1_2/bias.*missing conv1_2/kernel"):
        restored(tmp_path, state_of(config))
    config.model.net, config.model.width = "A", 0.125
    with pytest.raises(CheckpointError, match=r"conv1_1/kernel is \(3, 3, 3, 4\), here \(3, 3, 3, 8\)"):
        restored(tmp_path, state_of(config))
    config.model.width = 0.0625
    with pytest.raises(
        CheckpointError, match="optimizer is of another network or freezes other layers: missing conv1_1/bias"
    ):
        save(tmp_path / "frozen", config, state_of(config, freeze=("conv1",)), step=1)
        restored(tmp_path / "frozen", state_of(config))
    (tmp_path / "checkpoints/1/meta/metadata").write_text('{"step": 1')
    with pytest.raises(CheckpointError, match="meta cannot be read"):
        load_network(tmp_path)


def test_a_checkpoint_with_damaged_files_is_refused(tmp_path, config):
    save(tmp_path, config, state_of(config), step=1)
    for path in (tmp_path / "checkpoints/1/net").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="checkpoints/1/net"):
        load_network(tmp_path)


def test_what_a_validation_gave_is_added_to_its_step(tmp_path, config):
    state = state_of(config)
    with contextlib.closing(Checkpoints(tmp_path, 3)) as checkpoints:
        checkpoints.save(1, arrays_of(state), meta(config) | {"validation": {}})
        checkpoints.wait()
        assert checkpoints.best is None and read_meta(tmp_path / "checkpoints/1")["validation"] == {}
        checkpoints.complete(1, {"validation": {"top1": 0.25}}, 0.25)
        assert checkpoints.best == 1
    again, reported = restored(tmp_path, state_of(config, seed=1))
    assert reported["validation"] == {"top1": 0.25} and reported["classes"] == CLASSES
    assert same(again.trainable, state.trainable)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def cut(step):
    largest = max(files(step / "net"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


def rewrite(step, **changes):
    path = step / "meta/metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def of_another_step(step):
    shutil.rmtree(step / "net")
    shutil.copytree(step.with_name("1") / "net", step / "net")


DAMAGE = {
    "cut": cut,
    "a file gone": lambda step: (step / "net/manifest.ocdbt").unlink(),
    "net gone": lambda step: shutil.rmtree(step / "net"),
    "meta gone": lambda step: shutil.rmtree(step / "meta"),
    "meta of junk": lambda step: (step / "meta/metadata").write_bytes(b"\xff{junk"),
    "meta of other values": lambda step: rewrite(step, classes=CLASSES[::-1]),
    "meta of other types": lambda step: (step / "meta/metadata").write_text('{"config": [3], "classes": 4}'),
    "meta of none": lambda step: (step / "meta/metadata").write_text("[]"),
    "empty": empty,
    "arrays of another step": of_another_step,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two checkpoints, 1 and 2, and the states of both."""
    config, folder = default_config(), tmp_path_factory.mktemp("run")
    config.model.net, config.model.width, config.data.crop = "A", 0.0625, 32
    states = [state_of(config, seed=seed) for seed in (1, 2)]
    states[1] = states[1].replace(optimizer=jax.tree.map(lambda v: v + 1, states[1].optimizer))
    for step, state in enumerate(states, start=1):
        save(folder, config, state, step)
    return folder, *states


def said(caplog):
    return [record.message for record in caplog.records if record.name.startswith("vgg_jax")]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, run, damage, caplog):
    folder, before, state = run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    step = tmp_path / "checkpoints/2"
    damage(step)
    junk = {path.relative_to(step): path.read_bytes() for path in files(step)}
    with caplog.at_level("WARNING", logger="vgg_jax"):
        net, reported = load_network(tmp_path)
    assert reported["step"] == 1 and same(nnx.state(net, nnx.Param), before.trainable)
    (line,) = said(caplog)
    assert str(step) in line and "is damaged: " in line and line.endswith("the one before is used, step 1")
    assert "\n" not in line and len(line) < 300 + len(str(step))
    with pytest.raises(CheckpointError) as caught:  # asked for, it is refused
        load_network(step)
    assert "\n" not in str(caught.value)
    again, reported = restored(tmp_path, state)
    assert reported["step"] == 1 and same(again.trainable, before.trainable)
    # It is kept, out of the way of the run that saves this step again.
    aside = step.with_name("2.damaged1")
    assert said(caplog)[-1] == f"{step} is kept as 2.damaged1" and not step.exists()
    assert junk == {path.relative_to(aside): path.read_bytes() for path in files(aside)}


def test_a_velocity_that_was_changed_keeps_a_run_from_going_on_there(tmp_path, run, caplog):
    folder, _, state = run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints/2/optimizer")
    shutil.copytree(tmp_path / "checkpoints/1/optimizer", tmp_path / "checkpoints/2/optimizer")
    assert load_network(tmp_path)[1]["step"] == 2  # which does not need it
    with caplog.at_level("WARNING", logger="vgg_jax"):
        assert restored(tmp_path, state)[1]["step"] == 1
    changed = (
        "checkpoints/2/optimizer is damaged: conv1_1/bias and 21 more arrays are not what was saved; the one before"
    )
    assert changed in said(caplog)[0]


def test_a_run_of_damaged_checkpoints_is_refused_and_left_as_it_is(tmp_path, run):
    folder, _, state = run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for step in (1, 2):
        cut(tmp_path / f"checkpoints/{step}")
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match="checkpoints/1/net is damaged: .*; use another step or run"):
        restored(tmp_path, state)
    assert files(tmp_path) == before


def test_a_flipped_byte_changes_nothing_or_is_noticed(tmp_path, run):
    (folder, _, state), rng, noticed = run, np.random.default_rng(0), 0
    shutil.copytree(folder / "checkpoints/2", tmp_path, dirs_exist_ok=True)
    paths = [path for path in files(tmp_path) if "optimizer" not in path.parts and path.stat().st_size]
    sizes = np.array([path.stat().st_size for path in paths])
    for _ in range(20):  # all bytes alike: the files' names, and so their order, differ from run to run
        path = rng.choice(paths, p=sizes / sizes.sum())
        sound = path.read_bytes()
        flipped = bytearray(sound)
        flipped[rng.integers(len(sound))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            net, reported = load_network(tmp_path)
            assert same(nnx.state(net, nnx.Param), state.trainable) and reported["classes"] == CLASSES
        except CheckpointError as error:
            noticed += 1
            assert "\n" not in str(error)
        path.write_bytes(sound)
    assert noticed > 10


def test_checkpoints_without_checksums_still_open(tmp_path, config):
    state = state_of(config)
    save(tmp_path, config, state)
    path = tmp_path / "checkpoints/1/meta/metadata"
    kept = json.loads(path.read_text())
    assert kept["checksums"].keys() == {"net", "optimizer"}
    path.write_text(json.dumps({key: value for key, value in kept.items() if not key.startswith("checksum")}))
    assert same(restored(tmp_path, state_of(config, seed=1))[0].trainable, state.trainable)


def test_checkpoints_that_cannot_be_written_are_reported_in_a_line(tmp_path, config, monkeypatch):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(CheckpointError, match="checkpoints: a checkpoint cannot be written: File exists"):
        Checkpoints(tmp_path, 3)
    (tmp_path / "checkpoints").unlink()

    def full(*arguments, **named):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\n" + "at somewhere\n" * 100)

    checkpoints = Checkpoints(tmp_path, 3)
    monkeypatch.setattr(ocp.AsyncCheckpointer, "save", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: RESOURCE_EXHAUSTED: No space left on device$"):
        checkpoints.save(1, arrays_of(state_of(config)), meta(config))
    checkpoints.close()


def test_a_full_disk_costs_a_checkpoint_that_may_be_left_out(tmp_path, config, caplog):
    """No file may grow beyond 4 kB while step 2 is saved, which the writing thread finds."""
    state, limits = state_of(config), resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.closing(Checkpoints(tmp_path, 3)) as checkpoints:
        checkpoints.save(1, arrays_of(state), meta(config))
        checkpoints.wait()
        for may_be, raised in ((False, pytest.raises(CheckpointError)), (True, contextlib.nullcontext())):
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
            try:
                with raised, checkpoints.failures_logged(may_be):
                    checkpoints.save(2, arrays_of(state), meta(config))
                    checkpoints.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert checkpoints.latest == 1
        (said,) = (record.message for record in caplog.records if record.name.startswith("vgg_jax"))
        assert "a checkpoint cannot be written: " in said
        assert said.endswith("The run goes on without it; the last one is of step 1")
        checkpoints.save(3, arrays_of(state), meta(config))
    with contextlib.closing(Checkpoints(tmp_path, 3)):  # threads of step 2 may have written beside step 3
        assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "3"}  # and no half of another
    assert same(restored(tmp_path, state_of(config, seed=1))[0].trainable, state.trainable)


def layers(config, classes=10):
    arrays = nnx.to_pure_dict(nnx.state(new_network(config, classes, jnp.float32)))
    del arrays["mean_rgb"]
    return arrays


def test_fine_tuning_takes_all_layers_and_draws_fc8_only_for_other_classes(config):
    donor = layers(config)
    config.seed = 1
    for classes, drawn in ((10, []), (4, ["fc8"])):
        fresh = layers(config, classes)
        params, new = finetune_from(fresh, donor, "runs/x")
        assert new == drawn
        for layer in params:
            expected = fresh if layer in drawn else donor
            np.testing.assert_array_equal(params[layer]["kernel"], expected[layer]["kernel"])


def test_fine_tuning_refuses_another_network(config):
    donor = layers(config)
    config.model.net = "B"
    with pytest.raises(ConfigError, match="config.init.from_run='runs/x' is another network: missing conv1_2/"):
        finetune_from(layers(config), donor, "runs/x")


def test_a_run_begins_from_another_with_its_mean(tmp_path, config, caplog):
    save(tmp_path, config, state_of(config, seed=5), step=2)
    config.seed, config.init.from_run = 6, str(tmp_path)
    with caplog.at_level("INFO", logger="vgg_jax"):
        net = initialize(config, 4, (1.0, 2.0, 3.0), jnp.float32)
    config.init.from_run, config.seed = "", 5
    original = new_network(config, 10, jnp.float32)
    np.testing.assert_array_equal(net.mean_rgb[...], original.mean_rgb[...])
    np.testing.assert_array_equal(net.conv5_2.kernel[...], original.conv5_2.kernel[...])
    assert net.fc8.kernel.shape[-1] == 4
    assert "copied conv1_1, conv2_1" in caplog.text and "randomly initialized (glorot) fc8" in caplog.text
