"""The localization loss and its gradient against torch's."""

import jax
import numpy as np
import torch

from vgg_jax.model.box_outputs import outputs_of
from vgg_jax.tasks.localization import localization_loss


def test_the_loss_and_its_gradient_are_torchs(rng):
    outputs = rng.normal(size=(8, 1, 1, 20)).astype(np.float32)
    label = rng.integers(0, 5, 8).astype(np.int32)
    boxes = rng.uniform(0.3, 0.7, (8, 4)).astype(np.float32)  # all of them are seen
    batch = {"label": label, "boxes": boxes, "mask": np.ones(8, np.float32)}
    loss, gradient = jax.value_and_grad(lambda outputs: localization_loss(outputs, batch)[0])(outputs)

    theirs = torch.tensor(outputs, requires_grad=True)
    own = torch.stack([theirs[place, 0, 0].reshape(5, 4)[number] for place, number in enumerate(label)])
    target = torch.tensor(outputs_of(boxes[:, None]))
    expected = torch.nn.functional.mse_loss(own, target, reduction="sum") / 2
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-5, atol=1e-6)
