"""The features mode: images in, a file that NumPy reads out, and every mistake as a message."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.oracles import reference
from tests.photographs import image_of, rescaled, with_spread_scores
from vgg_jax.weights import save_torchvision

ROOT = Path(__file__).parents[2]


@pytest.fixture
def net(tiny_net):
    return with_spread_scores(tiny_net("A"))


@pytest.fixture
def folder(tmp_path):
    """Photographs, one of which cannot be read."""
    for number, size in enumerate([(40, 40), (33, 57), (75, 41), (64, 150), (20, 31)]):
        Image.fromarray(image_of(size, number)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").unlink()
    (tmp_path / "2é.png").write_bytes(b"no image")
    return tmp_path


@pytest.fixture
def weights(net, tmp_path):
    path = tmp_path / "weights" / "net.safetensors"
    path.parent.mkdir()
    save_torchvision(net, path)
    return path


def command(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONIOENCODING": "ascii"}
    script = [sys.executable, "-m", "vgg_jax.main", "--mode=features", *map(str, arguments)]
    return subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_the_command_writes_a_file_and_prints_what_is_in_it(weights, folder, net):
    out = folder / "f.npz"
    flags = [f"--weights={weights}", "--layers=relu3_1,pool5", f"--out={out}", "--config.evaluate.scales=(32,48)"]
    result = command(*flags, "--stack", folder)
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr  # one cannot be read
    assert result.stdout.splitlines() == [
        f"{out}: 4 images, net A at Q = 32, 48 (stack), mean over the places, with mirror images",
        "",
        "layer     shape",
        "relu3_1   (4, 32)",
        "pool5     (4, 64)",
        "",
        "1 images could not be read and are left out:",
        f"  {folder}/2\\xe9.png: not an image in a known format",  # the terminal knows ASCII alone
    ]
    with np.load(out) as file:
        assert [Path(name).name for name in file["images"]] == ["0.png", "1.png", "3.png", "4.png"]
        pixels = np.asarray(Image.open(folder / "3.png"))
        views = [rescaled(pixels, scale)[None] for scale in (32, 48)]
        both = [[reference(net, view)["pool5"][0] for view in (view, view[:, :, ::-1])] for view in views]
        expected = np.concatenate([np.mean([x.mean((0, 1)) for x in pair], axis=0) for pair in both])
        np.testing.assert_allclose(file["pool5"][2], expected, rtol=0, atol=1e-5 * expected.max())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=f.npz", "{image}"], "which network? Give --workdir=RUN, --checkpoint=RUN or --weights=SOURCE"),
        (["--weights={weights}", "{image}"], "--mode=features needs --out=FILE.npz"),
        (["--weights={weights}", "--out=f.npz"], "--mode=features takes images, folders or patterns"),
        (
            ["--weights={weights}", "--out={image}/f.npz", "{image}"],
            "0.png/f.npz: cannot be written: File exists",
        ),
        (["--weights={weights}", "--out=f.npz", "--layers=pool6", "{image}"], "no activation 'pool6' in net A"),
        (["--weights={weights}", "--out=f.npz", "--pool=sum", "{image}"], "one of <mean|max|none>"),
    ],
)
def test_a_mistake_is_a_message_and_no_traceback(flags, message, weights, folder):
    result = command(*(flag.format(weights=weights, image=folder / "0.png") for flag in flags))
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr + result.stdout
