"""The runner's contract, on functions that need no trained network: each image as if alone, in its own shape."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.photographs import image_of
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.runner import Maps, Runner
from vgg_jax.inference.score_map import posterior_maps

SIZES = [(40, 57), (33, 33), (80, 41), (64, 64), (40, 57), (96, 32)]


@pytest.fixture
def net(tiny_net):
    return tiny_net("A")


def sums(net, images, sizes):
    """Of the pixels: what lies beyond an image is zero."""
    return {"sum": images.astype(jnp.float32).sum((1, 2, 3)), "size": sizes}


def pixels(net, images, sizes):
    return {"pixels": Maps(images, sizes)}


def scaled(functions=lambda key: ()):
    return [ScaledImage(key, image_of(size, key), functions(key)) for key, size in enumerate(SIZES)]


def test_vectors_and_maps_are_each_images_own(net, eight_devices, one_device):
    for mesh in (one_device, eight_devices):
        runner = Runner(net, {"sums": sums, "pixels": pixels}, smallest=1, batch_size=3, mesh=mesh)
        found = dict(runner(scaled()))
        assert set(found) == set(range(len(SIZES)))
        for key, image, _ in scaled():
            assert found[key]["sum"] == image.sum(dtype=np.float64) and found[key]["size"].tolist() == [*SIZES[key]]
            np.testing.assert_array_equal(found[key]["pixels"], image)
            assert all(output.base is None for output in found[key].values())  # no view that keeps a batch


def test_an_image_is_for_the_functions_that_it_names(net, one_device):
    runner = Runner(net, {"sums": sums, "pixels": pixels}, smallest=1, mesh=one_device)
    functions = lambda key: [(), ("sums",), ("pixels",)][key % 3]
    outputs = {key: set(found) for key, found in runner(scaled(functions))}
    expected = [{"sum", "size", "pixels"}, {"sum", "size"}, {"pixels"}]
    assert outputs == {key: expected[key % 3] for key in range(len(SIZES))}


def test_one_function_needs_no_name(net, one_device):
    runner = Runner(net, sums, smallest=1, mesh=one_device)
    assert all(set(found) == {"sum", "size"} for _, found in runner(scaled()))


def test_the_runners_net_is_the_network_without_its_parameters(net, one_device):
    runner = Runner(net, sums, smallest=1, mesh=one_device)
    assert (runner.net.crop, runner.net.num_classes, runner.net.spec) == (32, 10, net.spec)
    assert runner.net.map_sizes(np.array([[64, 96]])).tolist() == [[2, 3]]


def test_runners_of_one_function_and_kind_of_network_share_their_programs(net, tiny_net, one_device):
    traced = []

    def counted(net, images, sizes):
        traced.append(images.shape)
        return {"bias": jnp.broadcast_to(net.fc8.bias[...].sum(), len(images))}

    other = nnx.clone(net)
    other.fc8.bias[...] += 1
    image = [ScaledImage("a", image_of((32, 32), 0))]
    for one, bias in ((net, 0), (other, 10)):
        ((_, found),) = Runner(one, counted, smallest=32, mesh=one_device)(image)
        assert found["bias"] == bias
    assert len(traced) == 1
    list(Runner(tiny_net("B"), counted, smallest=32, mesh=one_device)(image))
    assert len(traced) == 2


def test_an_error_of_the_images_is_raised_where_they_are_asked_for(net, one_device):
    def broken():
        yield from scaled()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(Runner(net, posterior_maps, smallest=32, mesh=one_device)(broken()))


def test_floats_are_not_cut_off_to_whole_numbers(net, one_device):
    image = [ScaledImage("a", np.full((32, 32, 3), 0.5, np.float32))]
    with pytest.raises(TypeError, match="Cannot cast array data from .*float32.* to .*uint8"):
        list(Runner(net, posterior_maps, smallest=32, mesh=one_device)(image))
