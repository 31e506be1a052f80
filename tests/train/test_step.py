"""The update: the same on one device, on eight, with FC layers split, and in microbatches; frozen layers; masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vgg_jax
from tests.forked import joined
from vgg_jax import processes, sharding
from vgg_jax.data.augment import augment
from vgg_jax.evaluate.metrics import hits
from vgg_jax.tasks.classification import classification_loss
from vgg_jax.tasks.random_crops import split_keys
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.state import new_state
from vgg_jax.train.step import image_keys, make_train_step

COLORS = {
    "eigenvalues": np.array([0.2, 0.02, 0.004], np.float32),
    "eigenvectors": np.linalg.qr(np.arange(9.0).reshape(3, 3) ** 2 + np.eye(3))[0].astype(np.float32),
}


def loss(net, batch, keys):
    pixel_keys, dropout_keys = split_keys(keys)
    batch = augment(batch, pixel_keys, flip=True, color_shift=0.1, **COLORS)
    return classification_loss(net(batch["image"], keys=dropout_keys), batch)


def batches(count, size=16):
    """Batches of which every third lacks an image."""
    rng = np.random.default_rng(5)
    for number in range(count):
        yield {
            "image": rng.integers(0, 256, (size, 32, 32, 3), np.uint8),
            "label": rng.integers(0, 10, size).astype(np.int32),
            "mask": (np.arange(size) != (number if number % 3 == 2 else -1)).astype(np.float32),
        }


def train(net, mesh, steps=20, *, microbatches=1, freeze=(), given=None, rate=3e-4, zero=False):
    optimizer = krizhevsky_momentum()
    graphdef, state = new_state(net, freeze, optimizer)
    state = sharding.place_state(state, mesh, zero=zero)
    kept = jax.tree.map(lambda a: a.sharding, state), sharding.replicated(mesh)
    update = make_train_step(graphdef, loss, optimizer, seed=0, microbatches=microbatches)
    losses = []
    with jax.set_mesh(mesh):
        update = jax.jit(update, out_shardings=kept)
        for batch in given or batches(steps):
            rows = sharding.local_rows(mesh, len(batch["mask"]))
            batch = {name: array[rows] for name, array in batch.items()}
            state, metrics = update(state, sharding.place_batch(batch, mesh), jnp.float32(rate))
            losses.append(float(metrics["loss"]))
    return state, losses, metrics


def difference(a, b):
    """The largest difference of two trees' arrays, relative to each array's largest value."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(np.abs(np.asarray(x) - np.asarray(y)).max() / max(np.abs(np.asarray(x)).max(), 1e-12) for x, y in pairs)


def narrow_net():
    return vgg_jax.VGG("A", num_classes=10, crop=32, width=1 / 32, init="he", rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def on_one_device():
    net = narrow_net()
    start = nnx.state(net, nnx.Param)
    state, losses, _ = train(net, jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",)))
    assert difference(start, state.trainable) > 1e-2  # twenty steps move the parameters
    return state, losses


@pytest.mark.parametrize(
    ("data", "model", "options"),
    [
        (8, 1, {}),
        (1, 1, {"microbatches": 4}),
        (4, 2, {"zero": True}),
    ],
)
def test_twenty_steps_are_the_same_on_devices_and_in_microbatches(on_one_device, data, model, options):
    devices = np.array(jax.devices()[: data * model]).reshape(data, model)
    state, losses, _ = train(narrow_net(), jax.sharding.Mesh(devices, ("data", "model")), **options)
    np.testing.assert_allclose(losses, on_one_device[1], rtol=1e-5)
    assert difference(on_one_device[0].trainable, state.trainable) < 1e-5
    assert difference(on_one_device[0].optimizer, state.optimizer) < 1e-4  # differences of gradients cancel


def twenty_steps(out):
    """In one of several processes, on a mesh in which the devices of all take turns."""
    processes.join()
    devices = np.array(jax.devices()).reshape(jax.process_count(), -1).T.reshape(-1, 4)
    mesh = jax.sharding.Mesh(devices, ("data", "model"))
    state, losses, _ = train(narrow_net(), mesh, microbatches=2, zero=True)
    arrays = [np.asarray(sharding.whole(array)) for array in jax.tree.leaves((state.trainable, state.optimizer))]
    if jax.process_index() == 0:
        np.savez(out / "after.npz", *arrays, losses=losses)


def test_twenty_steps_are_the_same_in_two_processes(on_one_device, tmp_path):
    for process in (pair := joined(2, 4, tmp_path, twenty_steps, tmp_path)):
        process.join(300)
    assert [process.exitcode for process in pair] == [0, 0], (tmp_path / "said1.txt").read_text()
    state, losses = on_one_device
    with np.load(tmp_path / "after.npz") as after:
        np.testing.assert_allclose(after["losses"], losses, rtol=1e-5)
        arrays = [after[f"arr_{number}"] for number in range(len(after.files) - 1)]
    trained = len(jax.tree.leaves(state.trainable))
    assert difference(state.trainable, arrays[:trained]) < 1e-5
    assert difference(state.optimizer, arrays[trained:]) < 1e-4


def test_the_convolutions_are_computed_once_on_a_model_axis():
    """Flops of one device: with the batch split over the data axis alone they would be four times as many."""

    def flops(data, model):
        mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(data, model), ("data", "model"))
        optimizer = krizhevsky_momentum()
        graphdef, state = new_state(narrow_net(), (), optimizer)
        state, batch = sharding.place_state(state, mesh), sharding.place_batch(next(batches(1)), mesh)
        with jax.set_mesh(mesh):
            update = jax.jit(make_train_step(graphdef, loss, optimizer, seed=0))
            return update.lower(state, batch, jnp.float32(1)).compile().cost_analysis()["flops"]

    assert flops(2, 4) < 1.1 * flops(8, 1)


def test_the_gradient_is_that_of_the_mean_loss(tiny_net, one_device):
    """One step against central differences of the loss in float32 along a random direction."""
    net = tiny_net("A", dropout=0.0)
    batch = next(batches(1))
    optimizer = krizhevsky_momentum(0.9, 0.0)
    graphdef, state = new_state(net, (), optimizer)
    plain = lambda net, batch, keys: classification_loss(net(batch["image"], keys=keys), batch)
    update = make_train_step(graphdef, plain, optimizer, seed=0)
    after, metrics = jax.jit(update)(state, batch, jnp.float32(1.0))
    gradient = jax.tree.map(lambda new, old: old - new, after.trainable, state.trainable)

    @jax.jit
    def mean_loss(params):
        scores = nnx.merge(graphdef, params, state.rest)(batch["image"])[:, 0, 0].astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(scores, batch["label"]).mean()

    norm = optax.tree.norm(gradient)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-3)
    step = 1e-3 / norm
    ahead, behind = (
        np.float64(mean_loss(jax.tree.map(lambda p, g, s=sign: p + s * step * g, state.trainable, gradient)))
        for sign in (1, -1)
    )
    np.testing.assert_allclose((ahead - behind) / (2 * step), norm**2, rtol=2e-2)


def test_a_masked_image_counts_for_nothing(tiny_net, one_device):
    full = next(batches(1))
    masked = {name: array.copy() for name, array in full.items()}
    masked["mask"][5:] = 0
    spoilt = {name: array.copy() for name, array in masked.items()}
    spoilt["image"][5:], spoilt["label"][5:] = 0, 3
    one, one_losses, metrics = train(tiny_net("A"), one_device, given=[masked])
    two, two_losses, _ = train(tiny_net("A"), one_device, given=[spoilt])
    assert one_losses == two_losses and difference(one.trainable, two.trainable) == 0
    assert float(metrics["top5"]) * 5 == pytest.approx(round(float(metrics["top5"]) * 5))  # a mean over five images
    whole, whole_losses, _ = train(tiny_net("A"), one_device, given=[full])
    assert whole_losses != one_losses


def test_frozen_layers_stay_and_cost_no_velocity(tiny_net, one_device):
    net = tiny_net("A", batch_norm=True)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(net)))
    state, *_ = train(net, one_device, 3, freeze=("conv1", "conv2", "fc6"))
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.merge_state(state.trainable, state.rest)))
    frozen = {"conv1_1", "conv2_1", "fc6"}
    for layer in before:
        if layer.startswith(("conv", "fc")):
            assert np.array_equal(before[layer]["kernel"], after[layer]["kernel"]) == (layer in frozen), layer
    assert np.array_equal(before["bn1_1"]["scale"], after["bn1_1"]["scale"])
    velocities = nnx.to_pure_dict(optax.tree.get(state.optimizer, "trace"))
    assert set(velocities) == set(before) - frozen - {"bn1_1", "bn2_1", "mean_rgb"}


def test_frozen_stages_at_the_bottom_cost_no_backward_pass(tiny_net):
    def convolutions(freeze):
        optimizer = krizhevsky_momentum()
        graphdef, state = new_state(tiny_net("A"), freeze, optimizer)
        update = make_train_step(graphdef, loss, optimizer, seed=0)
        compiled = jax.jit(update).lower(state, next(batches(1)), jnp.float32(1)).compile()
        return compiled.cost_analysis()["flops"]

    forward_share = convolutions(("conv1", "conv2", "conv3", "conv4", "conv5")) / convolutions(())
    assert forward_share < 0.5  # a step is about three forward passes, the head is small


def test_an_images_key_depends_on_seed_step_and_place_alone():
    keys = [jax.random.key_data(image_keys(*arguments)) for arguments in [(0, 5, 8), (0, 5, 16), (0, 6, 8), (1, 5, 8)]]
    np.testing.assert_array_equal(keys[0], keys[1][:8])
    for other in keys[2:]:
        assert not (keys[0] == other).all(1).any()
    assert len(np.unique(keys[0], axis=0)) == 8


def test_hits_against_a_sort(rng):
    scores = rng.normal(size=(200, 12)).astype(np.float32)
    labels = rng.integers(0, 12, 200).astype(np.int32)
    mask = (rng.random(200) < 0.8).astype(np.float32)
    order = np.argsort(-scores, axis=1)
    place = (order == labels[:, None]).argmax(1)
    counted = hits(jnp.asarray(scores), jnp.asarray(labels), jnp.asarray(mask))
    assert counted["top1"] == ((place < 1) * mask).sum() and counted["top5"] == ((place < 5) * mask).sum()


def test_hits_with_ties_and_with_scores_that_are_no_numbers():
    tied = jnp.zeros((3, 6))
    assert hits(tied, jnp.array([0, 4, 5]), jnp.ones(3)) == {"top1": 1, "top5": 2}
    broken = jnp.full((2, 6), jnp.nan)
    assert hits(broken, jnp.array([0, 1]), jnp.ones(2)) == {"top1": 0, "top5": 0}
