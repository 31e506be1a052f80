"""Our Scorer against dense evaluation as one would write it in torch: one unpadded photograph at a time."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.nn.functional import conv2d, max_pool2d

import vgg_jax
from vgg_jax.inference.scorer import Scorer


def photographs():
    """Two photographs, 427 x 640 pixels, and parts of them: odd sizes, portrait, 1:4 and smaller than Q."""
    whole = load_sample_images().images
    rng, parts = np.random.default_rng(0), []
    for number, (height, width) in enumerate([(301, 225), (99, 401), (427, 107), (131, 97), (224, 224), (333, 500)]):
        top, left = rng.integers(0, 427 - height + 1), rng.integers(0, 640 - width + 1)
        parts.append(whole[number % 2][top : top + height, left : left + width])
    return [*whole, *parts]


def telling(net, images):
    """The net with biases, and with class scores that a soft-max spreads over the classes."""
    rng = np.random.default_rng(1)
    biased = lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32) * (a.ndim == 1)
    nnx.update(net, jax.tree.map(biased, nnx.state(net, nnx.Param)))
    with torch.no_grad():
        scores = np.stack([peer(net)(tensor(image, net.crop)).mean((0, 2, 3)) for image in images])
    net.fc8.kernel[...] /= scores.std(0).mean()
    net.fc8.bias[...] = (net.fc8.bias[...] - scores.mean(0)) / scores.std(0).mean()
    return net


def peer(net):
    """The net as torch's convolutions: images (1, 3, h, w) in 0..255 to the class-score map (1, classes, h', w')."""
    arrays = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(net)))
    weights = {
        name: (torch.tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous(), torch.tensor(layer["bias"]))
        for name, layer in arrays.items()
        if name != "mean_rgb"
    }

    def scores(x):
        x = x - torch.tensor(arrays["mean_rgb"])[:, None, None]
        for number, stage in enumerate(net.spec.stages, start=1):
            for place, row in enumerate(stage, start=1):
                x = conv2d(x, *weights[f"conv{number}_{place}"], padding=row.size // 2).relu()
            x = max_pool2d(x, 2)
        x = conv2d(conv2d(x, *weights["fc6"]).relu(), *weights["fc7"]).relu()
        return conv2d(x, *weights["fc8"])

    return scores


def tensor(image, scale):
    """An image rescaled by Pillow, (1, 3, h, w)."""
    sides = [int(side * scale / min(image.shape[:2]) + 0.5) for side in image.shape[:2]]
    rescaled = np.array(Image.fromarray(image).resize(sides[::-1], Image.Resampling.BILINEAR))
    return torch.tensor(rescaled).permute(2, 0, 1)[None].float()


def dense(net, images, scales):
    """Posteriors by torch: mean over the map, soft-max, mean over the image and its mirror image and the scales."""
    scores = peer(net)
    rows = []
    with torch.no_grad():
        for image in images:
            views = [view for scale in scales for view in (tensor(image, scale), tensor(image, scale).flip(3))]
            rows.append(torch.stack([scores(view).mean((2, 3)).softmax(1)[0] for view in views]).mean(0))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize(
    ("letter", "width", "scales", "parts"),
    [("A", 0.25, (224, 256, 321), 8), ("D", 0.25, (256, 300), 8), ("D", 1.0, (256,), 4)],
)
def test_dense_posteriors_are_torchs(letter, width, scales, parts, one_device):
    images = photographs()[:parts]
    net = telling(vgg_jax.VGG(letter, width=width, init="he", num_classes=100, rngs=nnx.Rngs(0)), images)
    expected = dense(net, images, scales)
    posteriors = Scorer(net, scales, mesh=one_device)(images)
    print("largest difference", np.abs(posteriors - expected).max())
    np.testing.assert_allclose(posteriors, expected, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(posteriors.argmax(1), expected.argmax(1))
    assert 0.02 < expected.max(1).mean() < 0.9 and np.ptp(expected, 0).max() > 0.05  # they tell something
