from collections import Counter

import numpy as np
import pytest

import vgg_jax
from vgg_jax.data.image_ops import rescaled_size
from vgg_jax.evaluate import canvases as module
from vgg_jax.evaluate.canvases import MAX_PIXELS, Packer, View, canvases, check_size, rounded_up

CPU, ACCELERATOR = 2**18, 2**22
"""The Scorer's pixels a batch and device."""


def views(sizes, purpose="dense"):
    """Images of these sizes, each of one colour, its number."""
    for ticket, (height, width) in enumerate(sizes):
        yield View(ticket, np.broadcast_to(np.uint8(ticket % 255 + 1), (height, width, 3)), purpose)


def imagenet_sizes(rng, count, scale):
    """Heights and widths as ImageNet's are distributed, rescaled: three in four are of four sizes."""
    usual = [(375, 500), (500, 375), (333, 500), (500, 333)]
    for draw in rng.choice(5, count, p=[0.45, 0.12, 0.12, 0.05, 0.26]):
        smaller, aspect = rng.integers(60, 1500), np.exp(rng.normal(0.15, 0.35))
        broad = round(smaller * max(1 / aspect, 1)), round(smaller * max(aspect, 1))
        yield rescaled_size(*(usual[draw] if draw < 4 else broad), scale)


def shapes_of(batches):
    """Numbers of places of the batches on each canvas."""
    shapes = {}
    for packed in batches:
        shapes.setdefault(packed.canvas, set()).add(len(packed.images))
    return shapes


def test_a_side_is_rounded_up_to_an_eighth_of_the_power_of_two_below_it():
    for side in range(32, 9000):
        unit = max(8, 2 ** int(np.log2(side)) // 8)
        multiples = np.arange(unit, 20000, unit)
        assert rounded_up(side) == multiples[multiples >= side][0]
        assert rounded_up(side) - side < max(side / 8, 8)


@pytest.mark.parametrize(("most_elongated", "bound"), [(2, 17), (4, 33), (8, 49)])
@pytest.mark.parametrize("scale", [72, 96, 256, 257, 288, 300, 384, 511, 512, 513, 640, 1000])
def test_there_are_no_more_canvases_than_stated(scale, most_elongated, bound):
    listed = canvases(scale, most_elongated)
    assert len(listed) <= bound
    longer = range(scale, scale * most_elongated + 1)
    met = {(rounded_up(scale), rounded_up(side)) for side in longer}
    assert set(listed) == met | {(width, height) for height, width in met}


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("batch_pixels", [1, 5 * 64**2, CPU])
def test_every_image_comes_once_and_whole(batch_pixels, multiple, rng):
    sizes = rng.integers(32, 200, (300, 2))
    packer = Packer(batch_pixels, multiple, crop=32)
    tickets, shapes, pixels = Counter(), {}, 0
    mixed = [view._replace(purpose=("dense", "crops")[view.ticket % 2]) for view in views(sizes)]
    for packed in packer.pack(mixed):
        places, height, width, _ = packed.images.shape
        assert (height, width) == packed.canvas[:2] and places % multiple == 0
        shapes.setdefault(packed.canvas, set()).add(places)
        pixels += places * height * width
        expected = np.zeros_like(packed.images)
        for place, ticket in enumerate(packed.tickets):
            h, w = sizes[ticket]
            expected[place, :h, :w] = ticket % 255 + 1
            assert packed.sizes[place].tolist() == [h, w]
            assert packed.canvas.purpose == mixed[ticket].purpose
        np.testing.assert_array_equal(packed.images, expected)
        assert (packed.sizes[len(packed.tickets) :] == 32).all()
        tickets.update(packed.tickets)
    assert tickets == Counter(range(300))
    assert all(len(places) <= 2 for places in shapes.values())
    assert packer.shapes == sum(map(len, shapes.values()))
    assert packer.waste == pytest.approx(1 - sizes.prod(1).sum() / pixels)


@pytest.mark.parametrize("batch_pixels", [CPU, ACCELERATOR])
@pytest.mark.parametrize("scale", [256, 384])
def test_a_thousand_images_waste_less_than_a_tenth(scale, batch_pixels, rng):
    sizes = list(imagenet_sizes(rng, 1000, scale))
    elongation = max(max(size) / min(size) for size in sizes)
    packer = Packer(batch_pixels, 1, crop=224)
    shapes = shapes_of(packer.pack(views(sizes)))
    assert packer.waste < 0.1
    assert {canvas[:2] for canvas in shapes} <= set(canvases(scale, elongation))
    assert all(len(places) <= 2 for places in shapes.values())
    assert packer.shapes <= 2 * len(canvases(scale, elongation))


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("batch_pixels", [CPU, ACCELERATOR])
@pytest.mark.parametrize("count", [40, 100, 400])
def test_programs_are_saved_while_less_than_a_tenth_is_wasted(count, batch_pixels, multiple, rng, monkeypatch):
    sizes = list(imagenet_sizes(rng, count, 256))
    packers = []
    for most_waste in (0.1, 0):
        monkeypatch.setattr(module, "MOST_WASTE", most_waste)
        packers.append(Packer(batch_pixels, multiple, crop=224))
        tickets = Counter(ticket for packed in packers[-1].pack(views(sizes)) for ticket in packed.tickets)
        assert tickets == Counter(range(count))
    saving, thrifty = packers
    assert saving.shapes < thrifty.shapes if multiple == 1 else saving.shapes <= thrifty.shapes
    assert saving.waste < max(0.1, thrifty.waste + 1e-9)


def test_no_batch_has_many_more_pixels_than_asked_for(rng):
    sizes = rng.integers(32, 700, (300, 2))
    for packed in Packer(CPU, 1, crop=32).pack(views(sizes)):
        assert packed.images[..., 0].size <= max(1.5 * CPU, packed.canvas.pixels)


def test_a_second_pass_meets_no_new_shape(rng):
    sizes = rng.integers(32, 200, (100, 2))
    packer = Packer(CPU, 1, crop=32)
    first = shapes_of(packer.pack(views(sizes)))
    assert shapes_of(packer.pack(views(sizes))) == first


def test_an_image_that_is_too_elongated_is_refused():
    image = np.broadcast_to(np.uint8(0), (8_000, 100, 3))
    check_size(image, (32, 200))
    with pytest.raises(vgg_jax.DataError, match="8000 x 100 pixels .* Q = 256 they are 20480 x 256, and 4,194,304 is"):
        check_size(image, (32, 256))


def test_the_largest_canvas_is_allowed():
    (packed,) = Packer(CPU, 1, crop=32).pack(views([(2048, 2048)]))
    assert packed.images.shape == (1, 2048, 2048, 3) and packed.canvas.pixels == MAX_PIXELS
