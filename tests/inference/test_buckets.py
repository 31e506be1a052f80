from collections import Counter

import numpy as np
import pytest

from vgg_jax.data.rescaling import MAX_PIXELS, rescaled_size
from vgg_jax.inference import buckets as module
from vgg_jax.inference.buckets import Batcher, ScaledImage, rounded_up

CPU, ACCELERATOR = 2**18, 2**22
"""The Scorer's pixels a batch and device."""


def images(sizes):
    """Images of these sizes, each of one color, its number."""
    for key, (height, width) in enumerate(sizes):
        yield ScaledImage(key, np.broadcast_to(np.uint8(key % 255 + 1), (height, width, 3)))


def buckets(smaller_side, most_elongated):
    """All buckets of one test scale, for images whose longer side is up to `most_elongated` times the smaller one."""
    longer = {rounded_up(side) for side in range(smaller_side, round(smaller_side * most_elongated) + 1)}
    shorter = rounded_up(smaller_side)
    return {(shorter, side) for side in longer} | {(side, shorter) for side in longer}


def imagenet_sizes(rng, count, scale):
    """Heights and widths as ImageNet's are distributed, rescaled: three in four are of four sizes."""
    usual = [(375, 500), (500, 375), (333, 500), (500, 333)]
    for draw in rng.choice(5, count, p=[0.45, 0.12, 0.12, 0.05, 0.26]):
        smaller, aspect = rng.integers(60, 1500), np.exp(rng.normal(0.15, 0.35))
        broad = round(smaller * max(1 / aspect, 1)), round(smaller * max(aspect, 1))
        yield rescaled_size(*(usual[draw] if draw < 4 else broad), scale)


def shapes_of(batches):
    """Numbers of places of the batches on each bucket."""
    shapes = {}
    for batch in batches:
        shapes.setdefault(batch.bucket, set()).add(len(batch.images))
    return shapes


def test_a_side_is_rounded_up_to_an_eighth_of_the_power_of_two_below_it():
    for side in range(32, 9000):
        unit = max(8, 2 ** int(np.log2(side)) // 8)
        multiples = np.arange(unit, 20000, unit)
        assert rounded_up(side) == multiples[multiples >= side][0]
        assert rounded_up(side) - side < max(side / 8, 8)


@pytest.mark.parametrize(("most_elongated", "bound"), [(2, 17), (4, 33), (8, 49)])
@pytest.mark.parametrize("scale", [72, 96, 256, 257, 288, 300, 384, 511, 512, 513, 640, 1000])
def test_there_are_no_more_buckets_than_stated(scale, most_elongated, bound):
    assert len(buckets(scale, most_elongated)) <= bound


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("batch_pixels", [1, 5 * 64**2, CPU])
def test_every_image_comes_once_and_whole(batch_pixels, multiple, rng):
    sizes = rng.integers(32, 200, (300, 2))
    batcher = Batcher(batch_pixels, multiple, smallest=32)
    keys, shapes, pixels = Counter(), {}, 0
    mixed = [scaled._replace(functions=(("dense",), ("dense", "map"))[scaled.key % 2]) for scaled in images(sizes)]
    for batch in batcher.batches(mixed):
        places, height, width, _ = batch.images.shape
        assert (height, width) == batch.bucket[:2] and places % multiple == 0
        shapes.setdefault(batch.bucket, set()).add(places)
        pixels += places * height * width
        expected = np.zeros_like(batch.images)
        for place, key in enumerate(batch.keys):
            h, w = sizes[key]
            expected[place, :h, :w] = key % 255 + 1
            assert batch.sizes[place].tolist() == [h, w]
            assert batch.bucket.functions == mixed[key].functions
        np.testing.assert_array_equal(batch.images, expected)
        assert (batch.sizes[len(batch.keys) :] == 32).all()
        keys.update(batch.keys)
    assert keys == Counter(range(300))
    assert all(len(places) <= 2 for places in shapes.values())
    assert batcher.shapes == sum(map(len, shapes.values()))
    assert batcher.waste == pytest.approx(1 - sizes.prod(1).sum() / pixels)


@pytest.mark.parametrize("batch_pixels", [CPU, ACCELERATOR])
@pytest.mark.parametrize("scale", [256, 384])
def test_a_thousand_images_waste_less_than_a_tenth(scale, batch_pixels, rng):
    sizes = list(imagenet_sizes(rng, 1000, scale))
    elongation = max(max(size) / min(size) for size in sizes)
    batcher = Batcher(batch_pixels, 1, smallest=224)
    shapes = shapes_of(batcher.batches(images(sizes)))
    assert batcher.waste < 0.1
    assert {bucket[:2] for bucket in shapes} <= buckets(scale, elongation)
    assert all(len(places) <= 2 for places in shapes.values())
    assert batcher.shapes <= 2 * len(buckets(scale, elongation))


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("batch_pixels", [CPU, ACCELERATOR])
@pytest.mark.parametrize("count", [40, 100, 400])
def test_programs_are_saved_while_less_than_a_tenth_is_wasted(count, batch_pixels, multiple, rng, monkeypatch):
    sizes = list(imagenet_sizes(rng, count, 256))
    batchers = []
    for most_waste in (0.1, 0):
        monkeypatch.setattr(module, "MOST_WASTE", most_waste)
        batchers.append(Batcher(batch_pixels, multiple, smallest=224))
        keys = Counter(key for batch in batchers[-1].batches(images(sizes)) for key in batch.keys)
        assert keys == Counter(range(count))
    saving, thrifty = batchers
    assert saving.shapes < thrifty.shapes if multiple == 1 else saving.shapes <= thrifty.shapes
    assert saving.waste < max(0.1, thrifty.waste + 1e-9)


def test_no_batch_has_many_more_pixels_than_asked_for(rng):
    sizes = rng.integers(32, 700, (300, 2))
    for batch in Batcher(CPU, 1, smallest=32).batches(images(sizes)):
        assert batch.images[..., 0].size <= max(1.5 * CPU, batch.bucket.pixels)


def test_a_second_pass_meets_no_new_shape(rng):
    sizes = rng.integers(32, 200, (100, 2))
    batcher = Batcher(CPU, 1, smallest=32)
    first = shapes_of(batcher.batches(images(sizes)))
    assert shapes_of(batcher.batches(images(sizes))) == first


def test_the_largest_bucket_is_allowed():
    (batch,) = Batcher(CPU, 1, smallest=32).batches(images([(2048, 2048)]))
    assert batch.images.shape == (1, 2048, 2048, 3) and batch.bucket.pixels == MAX_PIXELS
