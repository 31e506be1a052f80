"""Descriptors against App. B as one would write it in torch: one unpadded photograph at a time."""

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


def descriptor(net, image, layer, scales, combine):
    """(d,)"""
    views = [tensor(image, scale) for scale in scales]
    parts = [(activations(net, view)[layer] + activations(net, view.flip(3))[layer]) / 2 for view in views]
    stacked = torch.stack(parts)
    together = {"average": stacked.mean(0), "max": stacked.max(0).values, "stack": torch.cat(parts, 1)}[combine]
    return normalize(together, dim=1)[0].numpy()


@pytest.mark.parametrize(("layer", "combine"), [("relu7", "stack"), ("pool5", "max")])
def test_descriptors_are_torchs(layer, combine, one_device):
    images, scales = photographs()[2:5], (224, 256)
    net = vgg_jax.VGG("D", width=0.125, init="he", num_classes=10, rngs=nnx.Rngs(0))
    found = of_images([net], images, Descriptor(layer, scales, combine), mesh=one_device)
    with torch.no_grad():
        expected = np.stack([descriptor(net, image, layer, scales, combine) for image in images])
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.ptp(expected, 0).max() > 0.01  # they differ
