"""Our networks and our update against torchvision's networks and torch's SGD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx

import vgg_jax
from vgg_jax.model.layers import rectified_max_pool
from vgg_jax.tasks.classification import classification_loss
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.state import new_state
from vgg_jax.train.step import make_train_step

PEERS = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}


def peer_of(net: str, ours: vgg_jax.VGG, batch_norm: bool) -> torch.nn.Module:
    """torchvision's network with our weights; fc6 from (7, 7, 512, 4096) to its flattened channels-first form."""
    peer = getattr(torchvision.models, PEERS[net] + ("_bn" if batch_norm else ""))(dropout=0.0, init_weights=False)
    arrays = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(ours)))
    convolutions = [layer for layer in peer.features if isinstance(layer, torch.nn.Conv2d)]
    norms = [layer for layer in peer.features if isinstance(layer, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for name, layer in zip(ours.spec.convolutions, convolutions, strict=True):
            layer.weight.copy_(torch.tensor(arrays[name]["kernel"]).permute(3, 2, 0, 1))
            layer.bias.copy_(torch.tensor(arrays[name]["bias"]))
        for name, layer in zip(ours.spec.convolutions, norms, strict=batch_norm):
            norm = arrays[name.replace("conv", "bn")]
            for theirs, own in (
                ("weight", "scale"),
                ("bias", "bias"),
                ("running_mean", "mean"),
                ("running_var", "var"),
            ):
                getattr(layer, theirs).copy_(torch.tensor(norm[own]))
        linear = [layer for layer in peer.classifier if isinstance(layer, torch.nn.Linear)]
        for name, layer in zip(("fc6", "fc7", "fc8"), linear, strict=True):
            kernel = torch.tensor(arrays[name]["kernel"])
            layer.weight.copy_(kernel.permute(3, 2, 0, 1).reshape(kernel.shape[3], -1))
            layer.bias.copy_(torch.tensor(arrays[name]["bias"]))
    return peer


def torch_input(images: np.ndarray, mean) -> torch.Tensor:
    return torch.tensor((images - np.asarray(mean, np.float32)).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("net", PEERS)
def test_the_networks_score_alike(net, batch_norm):
    rng = np.random.default_rng(1)
    ours = vgg_jax.VGG(net, init="he", batch_norm=batch_norm, rngs=nnx.Rngs(0))
    state = nnx.state(ours)
    noisy = jax.tree.map(lambda a: a + 0.05 * rng.random(a.shape, np.float32) * (a.ndim == 1), state)
    nnx.update(ours, noisy)
    images = rng.integers(0, 256, (2, 224, 224, 3), np.uint8).astype(np.float32)
    peer = peer_of(net, ours, batch_norm).eval()
    with torch.no_grad():
        expected = peer(torch_input(images, ours.mean_rgb[...])).numpy()
    np.testing.assert_allclose(ours(images)[:, 0, 0], expected, atol=1e-4 * np.abs(expected).max())
    assert expected.std() > 1e-3


@pytest.mark.parametrize("values", [2, 4, 1000], ids=["many ties", "some ties", "few ties"])
def test_max_pooling_with_its_relu_and_their_gradient_are_torchs(values):
    rng = np.random.default_rng(values)
    x = rng.integers(-values // 2, values, (2, 9, 12, 5)).astype(np.float32)
    y, pullback = jax.vjp(rectified_max_pool, jnp.asarray(x))
    dy = rng.normal(size=y.shape).astype(np.float32)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    expected = torch.relu(torch.nn.functional.max_pool2d(theirs, 2))
    expected.backward(torch.tensor(dy.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_array_equal(y, expected.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(pullback(dy)[0], theirs.grad.numpy().transpose(0, 2, 3, 1))


def test_three_updates_are_torchs():
    """Loss, gradients and Krizhevsky's update at a constant rate, where it is torch's SGD; net A at full width."""
    rng = np.random.default_rng(2)
    ours = vgg_jax.VGG("A", num_classes=1000, dropout=0.0, init="he", rngs=nnx.Rngs(0))
    peer = peer_of("A", ours, False).train()
    kernels = [p for p in peer.parameters() if p.ndim > 1]
    biases = [p for p in peer.parameters() if p.ndim == 1]
    sgd = torch.optim.SGD([{"params": kernels, "weight_decay": 5e-4}, {"params": biases}], lr=1e-5, momentum=0.9)
    optimizer = krizhevsky_momentum(0.9, 5e-4)
    graphdef, state = new_state(ours, (), optimizer)
    mean = np.asarray(ours.mean_rgb[...])
    loss_of = lambda net, batch, keys: classification_loss(net(batch["image"], keys=keys), batch)
    update = jax.jit(make_train_step(graphdef, loss_of, optimizer, seed=0))
    before = np.asarray(state.trainable["fc8"]["kernel"][...])
    for _ in range(3):
        images = rng.integers(0, 256, (4, 224, 224, 3), np.uint8)
        labels = rng.integers(0, 1000, 4).astype(np.int32)
        batch = {"image": images, "label": labels, "mask": np.ones(4, np.float32)}
        state, metrics = update(state, batch, jnp.float32(1e-5))
        sgd.zero_grad()
        scores = peer(torch_input(images.astype(np.float32), mean))
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(labels).long())
        loss.backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in peer.parameters()))
        sgd.step()
        np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-5)
        np.testing.assert_allclose(metrics["gradient_norm"], norm.item(), rtol=1e-4)
    after = np.asarray(state.trainable["fc8"]["kernel"][...])[0, 0]
    expected = peer.classifier[-1].weight.detach().numpy().T
    moved = np.abs(expected - before[0, 0]).max()
    assert moved > 1e-7
    np.testing.assert_allclose(after, expected, atol=1e-3 * moved)
    first = np.asarray(state.trainable["conv1_1"]["kernel"][...]).transpose(3, 2, 0, 1)
    np.testing.assert_allclose(first, peer.features[0].weight.detach().numpy(), atol=1e-5)
