"""The notebooks run from top to bottom, on weights made here."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from vgg_jax import save_torchvision

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.fixture
def weights(tiny_net, tmp_path, monkeypatch):
    net = tiny_net("D", crop=64)
    save_torchvision(net, tmp_path / "weights.safetensors")
    monkeypatch.setenv("VGG_JAX_WEIGHTS", str(tmp_path / "weights.safetensors"))
    return net


def test_the_notebook_runs(weights, capsys):
    matplotlib.use("Agg")
    cells = json.loads((NOTEBOOKS / "vgg.ipynb").read_text())["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    pyplot.close("all")
    reported = capsys.readouterr().out
    assert "138.4 M parameters" in reported and "D 10 classes, crop 64" in reported
    np.testing.assert_allclose(names["posteriors"].sum(1), 1, rtol=1e-5)
    assert names["features"]["relu7"].shape == (2, 256)
    assert names["distances"][-1] < names["distances"][0]
    # The network of the notebook is the one that was saved.
    np.testing.assert_allclose(names["net"].conv1_1.kernel[...], weights.conv1_1.kernel[...], rtol=1e-5)
