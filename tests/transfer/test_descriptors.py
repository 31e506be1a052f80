"""Descriptors in the paper's order: mean over the map, over the two mirror images, over the scales; then length 1."""

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import vgg_jax
from tests.oracles import reference
from tests.photographs import image_of, rescaled, with_spread_scores
from vgg_jax.data.open import open_source
from vgg_jax.inference.activations import COMBINE
from vgg_jax.transfer.descriptors import Descriptor, candidates, kept_for, normalized, of_images, of_kept

SIZES, SCALES = [(33, 57), (60, 41)], (48, 32)


@pytest.fixture(scope="module")
def nets():
    make = lambda **given: vgg_jax.VGG("A", num_classes=5, crop=32, width=1 / 16, init="he", **given)
    return [with_spread_scores(net) for net in (make(hidden=16, rngs=nnx.Rngs(0)), make(hidden=24, rngs=nnx.Rngs(1)))]


@pytest.fixture(scope="module")
def images():
    return [image_of(size, seed) for seed, size in enumerate(SIZES)]


def by_definition(nets, image, layer, scales, combine):
    """App. B in float64, one image and one network at a time."""
    descriptors = []
    for net in nets:
        of_scales = []
        for scale in scales:
            view = rescaled(image, scale)[None]
            straight, mirrored = (reference(net, v)[layer][0].mean((0, 1)) for v in (view, view[:, :, ::-1]))
            of_scales.append((straight + mirrored) / 2)
        together = {"average": sum(of_scales) / len(scales), "stack": np.concatenate(of_scales)}
        together["max"] = np.maximum.reduce(of_scales)
        descriptors.append(together[combine] / np.sqrt((together[combine] ** 2).sum()))
    return np.concatenate(descriptors)


@pytest.mark.parametrize("combine", ["average", "stack", "max"])
def test_they_are_the_papers(combine, nets, images, one_device):
    found = of_images(nets, iter(images), Descriptor("relu7", SCALES, combine), mesh=one_device)
    for image, descriptor in zip(images, found, strict=True):
        wanted = by_definition(nets, image, "relu7", SCALES, combine)
        np.testing.assert_allclose(descriptor, wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose((descriptor**2).sum(), len(nets), rtol=1e-5)
        if combine == "stack":  # another order would show: each scale of length 1 by itself
            each = [by_definition([net], image, "relu7", [scale], combine) for net in nets for scale in SCALES]
            assert np.abs(np.concatenate(each) / np.sqrt(len(SCALES)) - wanted).max() > 1e-3
    assert np.ptp(found, 0).max() > 0.01


def test_one_pass_serves_all_kinds(nets, images, one_device, tmp_path):
    kinds = candidates(["pool5"], SCALES, ["single", *COMBINE])
    assert [(kind.scales, kind.combine) for kind in kinds] == [
        ((48,), "stack"), ((32,), "stack"), (SCALES, "average"), (SCALES, "stack"), (SCALES, "max"),
    ]  # fmt: skip
    assert candidates(["pool5"], [48], ["single", *COMBINE]) == [Descriptor("pool5", (48,), "stack")]
    for number, image in enumerate(images):
        (tmp_path / f"photographs/train/{number}").mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / f"photographs/train/{number}/image.png")
    source = open_source(f"folder:{tmp_path}/photographs", "train")
    kept = [kept_for(tmp_path / "store", nets[0], source, kinds, mesh=one_device)]
    rows = np.array([1, 0, 1])
    for kind in kinds:
        wanted = [by_definition(nets[:1], images[kept[0].labels[row]], *kind) for row in rows]
        np.testing.assert_allclose(of_kept(kept, kind, rows), wanted, rtol=0, atol=1e-5)


def test_what_is_all_zero_stays():
    np.testing.assert_array_equal(normalized(np.float32([[0, 0], [0, 2]])), [[0, 0], [0, 1]])
