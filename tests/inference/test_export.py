import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vgg_jax import ConfigError
from vgg_jax.inference import export
from vgg_jax.inference.scorer import unpadded_posteriors

ELSEWHERE = """
import sys

sys.modules.update(dict.fromkeys(("vgg_jax", "flax", "optax")))  # importing one of them fails from here on

import jax
import jax.export
import numpy

arrays = dict(numpy.load(sys.argv[1]))
scorer = jax.export.deserialize(bytearray(arrays.pop("scorer")))
print(*arrays.pop("classes"))
score = jax.jit(scorer.call)
given = numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], **{name: score(jax.device_put(arrays), images) for name, images in given.items()})
try:
    score(arrays, given["large"][:, :31])
except ValueError as error:
    print(error.__cause__)
"""


def by_hand(net, images, flip=True):
    """Sec. 3.2, one image at a time, the rest in float64."""
    rows, scored = [], jax.jit(lambda image: net(image))
    for image in images:
        views = [image, image[:, ::-1]] if flip else [image]
        scores = [np.asarray(scored(view[None]), np.float64).mean((0, 1, 2)) for view in views]
        rows.append(np.mean([np.exp(s) / np.exp(s).sum() for s in scores], axis=0))
    return np.array(rows)


@pytest.mark.parametrize("options", [{"width": 0.25}, {"net": "A-LRN", "batch_norm": True}])
def test_a_scorer_runs_without_this_package(options, tiny_net, rng, tmp_path):
    net = tiny_net(**options, classes=tuple("abcdefghij"))
    if net.batch_norm:
        net.bn1_1.mean[...], net.bn1_1.var[...] = jnp.array([3.0, -4, 5, 6]), jnp.array([200.0, 300, 400, 500])
        net.fc8.kernel[...] *= 10  # its inputs are small
    images = {"small": rng.integers(0, 256, (3, 32, 33, 3)), "large": rng.integers(0, 256, (1, 70, 101, 3))}
    images = {name: given.astype(np.uint8) for name, given in images.items()}
    export.export_scorer(net, tmp_path / "scorer.npz")
    np.savez(tmp_path / "images.npz", **images)
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    files = [tmp_path / name for name in ("scorer.npz", "images.npz", "posteriors.npz")]
    printed = subprocess.run(
        [sys.executable, tmp_path / "elsewhere.py", *files], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert printed.startswith("a b c d e f g h i j\n") and "constraint h >= 32" in printed
    found = np.load(files[2])
    for name, given in images.items():
        expected = by_hand(net, given)
        assert found[name].shape == expected.shape and expected.std() > 1e-3
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)
        here = jax.jit(unpadded_posteriors, static_argnames="flip")(net, given, flip=True)
        np.testing.assert_allclose(here, expected, rtol=1e-5, atol=1e-7, err_msg=name)
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_the_mirror_image_counts_or_not(tiny_net, rng, tmp_path):
    net, images = tiny_net("A"), rng.integers(0, 256, (2, 40, 32, 3), np.uint8)
    for flip in (True, False):
        export.export_scorer(net, tmp_path / "scorer.npz", flip=flip)
    arrays = dict(np.load(tmp_path / "scorer.npz"))
    scorer = jax.export.deserialize(bytearray(arrays.pop("scorer")))
    assert arrays.pop("classes").size == 0
    found = scorer.call(arrays, images)
    np.testing.assert_allclose(found, by_hand(net, images, flip=False), rtol=1e-5, atol=1e-7)
    assert np.abs(found - by_hand(net, images)).max() > 1e-4
    np.testing.assert_allclose(arrays["conv2_1/kernel"], net.conv2_1.kernel[...])


def test_a_program_for_several_platforms_runs_here_too(tiny_net, rng, tmp_path):
    net, images = tiny_net("A"), rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    export.export_scorer(net, tmp_path / "scorer.npz", platforms=("cpu", "cuda", "tpu"))
    arrays = dict(np.load(tmp_path / "scorer.npz"))
    scorer = jax.export.deserialize(bytearray(arrays.pop("scorer")))
    arrays.pop("classes")
    assert scorer.platforms == ("cpu", "cuda", "tpu")
    np.testing.assert_allclose(scorer.call(arrays, images), by_hand(net, images), rtol=1e-5, atol=1e-7)


def test_what_cannot_be_written_is_said(tiny_net, tmp_path):
    net = tiny_net("A")
    (tmp_path / "file").write_text("something")
    for path in (tmp_path / "file" / "scorer.npz", tmp_path):
        with pytest.raises(ConfigError, match=f"{path}: (cannot be written|is a folder)"):
            export.export_scorer(net, path)
    np.savez(tmp_path / "arrays.npz", classes=["theirs"])
    for path in (tmp_path / "file", tmp_path / "arrays.npz"):
        before = path.read_bytes()
        with pytest.raises(ConfigError, match=f"{path}: is there already and would be replaced"):
            export.export_scorer(net, path)
        assert path.read_bytes() == before
    assert [path.name for path in tmp_path.parent.glob("*.partial")] == []
    with pytest.raises(ConfigError, match="'gpu' is none of cpu, cuda, rocm, tpu"):
        export.export_scorer(net, tmp_path / "scorer.npz", platforms=("cpu", "gpu"))
