import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vgg_jax
from vgg_jax.model.match import shapes_of
from vgg_jax.model.specs import spec_of

# PAPER: torchvision's documentation for A, B, D, E and the _bn variants; A-LRN has A's layers; C is B's count plus its
# three 1x1 convolutions. The shallow net is counted by hand below.
PARAMETERS = {
    "A": 132_863_336,
    "A-LRN": 132_863_336,
    "B": 133_047_848,
    "C": 133_047_848 + 256 * 256 + 256 + 2 * (512 * 512 + 512),
    "D": 138_357_544,
    "E": 143_667_240,
}
BATCH_NORM_PARAMETERS = {"A": 132_868_840, "B": 133_053_736, "D": 138_365_992, "E": 143_678_248}
TABLE_2_MILLIONS = {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}


@pytest.mark.parametrize("net", PARAMETERS)
def test_parameter_counts_are_the_papers(net):
    spec = vgg_jax.SPECS[net]
    assert spec.parameter_count() == PARAMETERS[net]
    assert round(spec.parameter_count() / 1e6) == TABLE_2_MILLIONS[net]


@pytest.mark.parametrize("net", BATCH_NORM_PARAMETERS)
def test_batch_norm_parameter_counts_are_torchvisions(net):
    assert vgg_jax.SPECS[net].parameter_count(batch_norm=True) == BATCH_NORM_PARAMETERS[net]


def test_the_shallow_net_replaces_each_pair_by_one_5x5():
    channels = [3, 64, 128, 256, 512, 512]
    convolutions = sum(25 * a * b + b for a, b in zip(channels, channels[1:], strict=False))
    head = 7 * 7 * 512 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    shallow, b = vgg_jax.SPECS["B-5x5"], vgg_jax.SPECS["B"]
    assert shallow.parameter_count() == convolutions + head
    assert [shallow.receptive_field(f"pool{s}") for s in range(1, 6)] == [
        b.receptive_field(f"pool{s}") for s in range(1, 6)
    ]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("net", vgg_jax.SPECS)
def test_the_built_net_has_the_arrays_that_its_spec_says(net, batch_norm):
    sizes = {"num_classes": 7, "crop": 64, "width": 0.5, "batch_norm": batch_norm, "hidden": 5}
    built = nnx.eval_shape(lambda: vgg_jax.VGG(net, **sizes, rngs=nnx.Rngs(0)))
    spec, arrays = vgg_jax.SPECS[net], nnx.to_pure_dict(nnx.state(built))
    assert arrays.pop("mean_rgb").shape == (3,)
    assert shapes_of(arrays) == spec.parameter_shapes(**sizes)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(built, nnx.Param)))
    assert count == spec.parameter_count(**sizes)
    assert set(arrays) == set(spec.layers(batch_norm)) and len(spec.layers()) == spec.weight_layers


def test_multiply_adds_are_those_of_the_places_of_each_stage():
    table = [[(3, 64), (64, 64)], [(64, 128), (128, 128)]]
    table += [[(c, k), (k, k), (k, k)] for c, k in ((128, 256), (256, 512), (512, 512))]
    by_hand = sum(9 * c * k * (224 // 2**number) ** 2 for number, stage in enumerate(table) for c, k in stage)
    assert vgg_jax.SPECS["D"].multiply_adds() * 224**2 == by_hand


def test_weight_layers():
    layers = {name: spec.weight_layers for name, spec in vgg_jax.SPECS.items()}
    assert layers == {"A": 11, "A-LRN": 11, "B": 13, "B-5x5": 8, "C": 16, "D": 16, "E": 19}


@pytest.mark.parametrize(
    ("net", "layer"), [("A", "conv3_2"), ("C", "conv3_3"), ("D", "pool3"), ("B-5x5", "pool2"), ("E", "conv4_1")]
)
def test_receptive_field_is_what_the_gradient_reaches(net, layer):
    size = 192
    # Positive weights, biases and pixels: no path can cancel or be cut by a ReLU.
    built = vgg_jax.VGG(net, num_classes=2, crop=32, width=1e-3, mean_rgb=(0, 0, 0), rngs=nnx.Rngs(0))
    state = nnx.state(built, nnx.Param)
    nnx.update(built, jax.tree.map(lambda a: jnp.full_like(a, 0.5), state))

    def middle(image):
        activation = built(image, taps=(layer,))[1][layer]
        return activation[0, activation.shape[1] // 2, activation.shape[2] // 2].sum()

    image = np.random.default_rng(0).uniform(1, 2, (1, size, size, 3)).astype(np.float32)
    reached = np.abs(jax.grad(middle)(image)).sum((0, 3)) > 0
    rows = np.flatnonzero(reached.any(1))
    spec = vgg_jax.SPECS[net]
    # Max-pools pass the gradient of one of four places, so the reach is the field or up to a jump smaller at each end.
    extent = rows[-1] - rows[0] + 1
    assert spec.receptive_field(layer) * 0.6 < extent <= spec.receptive_field(layer)


def test_receptive_fields_of_the_literature():
    assert vgg_jax.SPECS["D"].receptive_field("conv5_3") == 196
    assert vgg_jax.SPECS["D"].receptive_field() == 212
    assert vgg_jax.SPECS["E"].receptive_field() == 268


def test_aliases():
    assert [spec_of(name).name for name in ("vgg11", "VGG13", "vgg16", "vgg19")] == ["A", "B", "D", "E"]


def test_an_unknown_net_is_refused_with_the_nearest():
    with pytest.raises(vgg_jax.ConfigError, match="no net 'vgg18'.*did you mean 'vgg1"):
        spec_of("vgg18")
    with pytest.raises(vgg_jax.ConfigError, match="no layer 'conv6_1'"):
        vgg_jax.SPECS["D"].receptive_field("conv6_1")
