"""Our LPIPS against the package `lpips`, with its linear weights and seeded convolutions (make parity installs it)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import lpips as package
import numpy as np
import pytest
import torch
from flax import nnx
from sklearn.datasets import load_sample_images

import vgg_jax
from vgg_jax.model.perceptual import lpips, read_lpips_linear

LINEAR = Path(package.__file__).parent / "weights" / "v0.1" / "vgg.pth"

MEAN, STD = np.float64([0.485, 0.456, 0.406]), np.float64([0.229, 0.224, 0.225])
"""torchvision's, of images in 0..1; LPIPS's scaling of [-1, 1] is the same."""


def he_convolutions() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernels (HWIO) and biases of net D for standardized images."""
    rng, channels, arrays = np.random.default_rng(0), 3, {}
    for name, row in vgg_jax.SPECS["D"].convolutions.items():
        kernel = rng.normal(0, np.sqrt(2 / (9 * channels)), (3, 3, channels, row.channels))
        arrays[name] = np.float32(kernel), np.float32(rng.normal(0, 0.1, row.channels))
        channels = row.channels
    return arrays


def ours(convolutions) -> vgg_jax.VGG:
    """The net of images in 0..255 that answers as one of standardized images: (x - 255 mean) / (255 std)."""
    net = vgg_jax.VGG("D", crop=32, hidden=1, num_classes=1, mean_rgb=255 * MEAN, rngs=nnx.Rngs(0))
    for name, (kernel, bias) in convolutions.items():
        scaled = kernel / (255 * STD)[:, None] if name == "conv1_1" else kernel
        getattr(net, name).kernel[...], getattr(net, name).bias[...] = jnp.float32(scaled), jnp.asarray(bias)
    return net


@pytest.fixture(scope="module")
def theirs():
    with pytest.warns(UserWarning):  # torchvision deprecates the arguments that lpips gives it
        peer = package.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    return peer.eval()


def loaded(peer, convolutions):
    layers = [module for module in peer.net.modules() if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        for layer, (kernel, bias) in zip(layers, convolutions.values(), strict=True):
            layer.weight.copy_(torch.tensor(kernel).permute(3, 2, 0, 1))
            layer.bias.copy_(torch.tensor(bias))
    return peer


def theirs_of(peer, a, b):
    """Its distances and their gradient with respect to `a`, for images in 0..255."""
    a, b = (torch.tensor(x.transpose(0, 3, 1, 2).copy()) for x in (a, b))
    a.requires_grad_()
    distances = peer(a / 127.5 - 1, b / 127.5 - 1).reshape(-1)
    distances.sum().backward()
    return distances.detach().numpy(), a.grad.numpy().transpose(0, 2, 3, 1)


def assert_alike(peer, net, a, b):
    linear = read_lpips_linear(LINEAR)

    def loss(a, net, linear, b):
        distances = lpips(net, linear, a, b)
        return distances.sum(), distances

    (_, found), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(a, net, linear, b)
    expected, slope = theirs_of(peer, a, b)
    assert expected.shape == (2,) and (expected > 0.01).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # Some units lie within rounding of a ReLU's or a pool's kink: what is beneath them differs, the rest does not.
    assert np.median(np.abs(gradient - slope)) < 1e-5 * np.abs(slope).max()
    assert np.linalg.norm(gradient - slope) < 0.02 * np.linalg.norm(slope)


def photographs(height, width):
    """Two parts of two photographs, paired with one that is noisy and with one that is another."""
    china, flower = (np.float32(image[100 : 100 + height, 200 : 200 + width]) for image in load_sample_images().images)
    noisy = np.clip(china + np.random.default_rng(1).normal(0, 20, china.shape), 0, 255).astype(np.float32)
    return np.stack([china, flower]), np.stack([noisy, china])


@pytest.mark.parametrize("size", [(128, 128), (75, 101)])
def test_lpips_is_the_packages(size, theirs):
    convolutions = he_convolutions()
    assert_alike(loaded(theirs, convolutions), ours(convolutions), *photographs(*size))


def test_a_malicious_file_is_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (tmp_path / "harmed").touch, ()

    torch.save({"lin0.model.1.weight": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(vgg_jax.CheckpointError, match="bad.pth: not a readable file"):
        read_lpips_linear(tmp_path / "bad.pth")
    assert not (tmp_path / "harmed").exists()
    whole = LINEAR.read_bytes()
    for content in (b"", b"noise", whole[:500], whole[:-100]):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(vgg_jax.CheckpointError, match="bad.pth: not a readable file"):
            read_lpips_linear(tmp_path / "bad.pth")
