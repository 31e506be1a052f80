"""Descriptors against App. B as one would write it in torch: one unpadded photograph at a time."""

import os

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn.functional import conv2d, max_pool2d, normalize

import vgg_jax
from tests.parity.test_dense import photographs, tensor
from vgg_jax.transfer.descriptors import Descriptor, of_images


def activations(net, x):
    """pool5 and relu7 of images (1, 3, h, w), means over their places: (1, channels)."""
    arrays = jax.tree.map(lambda a: torch.tensor(np.array(a)), nnx.to_pure_dict(nnx.state(net)))

    def layer(name: str, x: torch.Tensor, padding: int = 0) -> torch.Tensor:
        return conv2d(x, arrays[name]["kernel"].permute(3, 2, 0, 1), arrays[name]["bias"], padding=padding)

    x = x - arrays["mean_rgb"][:, None, None]
    for number, stage in enumerate(net.spec.stages, start=1):
        for place, row in enumerate(stage, start=1):
            x = layer(f"conv{number}_{place}", x, row.size // 2).relu()
        x = max_pool2d(x, 2)
    head = layer("fc7", layer("fc6", x).relu()).relu()
    return {"pool5": x.mean((2, 3)), "relu7": head.mean((2, 3))}


def descriptor(activation, image, scales, combine):
    """(d,), of a function of images (1, 3, h, w) in 0..255 to an activation's means."""
    views = [tensor(image, scale) for scale in scales]
    parts = [(activation(view) + activation(view.flip(3))) / 2 for view in views]
    stacked = torch.stack(parts)
    together = {"average": stacked.mean(0), "max": stacked.max(0).values, "stack": torch.cat(parts, 1)}[combine]
    return normalize(together, dim=1)[0].numpy()


@pytest.mark.parametrize(("layer", "combine"), [("relu7", "stack"), ("pool5", "max")])
def test_descriptors_are_torchs(layer, combine, one_device):
    images, scales = photographs()[2:5], (224, 256)
    net = vgg_jax.VGG("D", width=0.125, init="he", num_classes=10, rngs=nnx.Rngs(0))
    found = of_images([net], images, Descriptor(layer, scales, combine), mesh=one_device)
    with torch.no_grad():
        of = lambda x: activations(net, x)[layer]
        expected = np.stack([descriptor(of, image, scales, combine) for image in images])
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.ptp(expected, 0).max() > 0.01  # they differ


@pytest.mark.skipif(
    "VGG16_CONV" not in os.environ, reason="VGG16_CONV=FILE.npz names torchvision's VGG-16 convolutions"
)
def test_of_published_convolutions():
    """As torchvision feeds them: in [0, 1], less its mean, by its deviation."""
    arrays = np.load(os.environ["VGG16_CONV"])
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def pool5(x):
        x = (x / 255 - mean) / std
        for stage, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
            for name in (f"conv{stage}_{place}" for place in range(1, convolutions + 1)):
                kernel, bias = (torch.tensor(arrays[f"{name}/{array}"]) for array in ("kernel", "bias"))
                x = conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1).relu()
            x = max_pool2d(x, 2)
        return x.mean((2, 3))

    net = vgg_jax.load(os.environ["VGG16_CONV"], preprocessing="torchvision", partial=True)
    images, scales = [photographs()[number] for number in (0, 2, 7)], (256, 384)
    for combine in ("average", "stack", "max"):
        found = of_images([net], images, Descriptor("pool5", scales, combine))
        with torch.no_grad():
            expected = np.stack([descriptor(pool5, image, scales, combine) for image in images])
        print(f"{combine}: differences up to {abs(found - expected).max():.1e}, values up to {expected.max():.2f}")
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
