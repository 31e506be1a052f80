"""The notebooks run from top to bottom in a kernel of their own, on weights made here."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from vgg_jax import save_torchvision

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"

CHECKS = {
    "cell-05": 'np.testing.assert_allclose(net.conv1_1.kernel[...], np.load(os.environ["KERNEL"]), rtol=1e-5)',
    "cell-08": "np.testing.assert_allclose(posteriors.sum(1), 1, rtol=1e-5)",
    "cell-12": """
for ax, photograph in zip(axes, photographs):
    image, heat = ax.images
    assert image.get_array().shape == rescale(photograph, 2 * Q).shape
    assert tuple(heat.get_extent()) == map_extent(net, heat.get_array().shape) != tuple(image.get_extent())
""",
    "cell-14": 'assert features["relu7"].shape == (2, 256)',
    "cell-probe-code": """
assert result.score.values["accuracy"][0] > 0.75 and result.decisions.shape == (48, 2)
assert vgg_jax.LinearProbe.load(folder / "probe.npz").classes == ("china", "flower")
""",
    "cell-16": "assert distances[-1] < distances[0]",
}
"""What is checked in the kernel after a cell."""


@pytest.fixture
def environment(tiny_net, tmp_path, monkeypatch):
    net = tiny_net("D", crop=64)
    save_torchvision(net, tmp_path / "weights.safetensors")
    np.save(tmp_path / "kernel.npy", net.conv1_1.kernel[...])
    for name, place in (("VGG_JAX_WEIGHTS", "weights.safetensors"), ("KERNEL", "kernel.npy")):
        monkeypatch.setenv(name, str(tmp_path / place))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))


def test_the_notebook_runs(environment):
    notebook = nbformat.read(NOTEBOOKS / "vgg.ipynb", as_version=4)
    assert set(CHECKS) <= {cell.id for cell in notebook.cells}
    for number, cell in reversed(list(enumerate(notebook.cells))):
        if cell.id in CHECKS:
            notebook.cells.insert(number + 1, nbformat.v4.new_code_cell(CHECKS[cell.id]))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    reported = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "138.4 M parameters" in reported and "D 10 classes, crop 64" in reported
    assert sum(output.output_type == "display_data" for output in outputs) == 3
