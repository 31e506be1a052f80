"""What is installed: configs, data and the command in the wheel; a core that needs few packages."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_wheel_has_the_configs_the_data_and_the_command(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("vgg_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    result = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(tmp_path / result.stdout.split()[-1]) as wheel:
        names = set(wheel.namelist())
        (entry_points,) = (name for name in names if name.endswith("/entry_points.txt"))
        assert "vgg_jax = vgg_jax.main:run" in wheel.read(entry_points).decode()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "vgg_jax").rglob("*.py")}
    configs = {f"vgg_jax/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    assert modules | configs | {"vgg_jax/weights/imagenet_classes.json"} <= names
    assert {name.partition("/")[0] for name in names} == {"vgg_jax", entry_points.partition("/")[0]}


CORE = """
import sys

sys.modules.update(dict.fromkeys(sys.argv[2:]))  # importing one of them fails from here on
import numpy as np
from flax import nnx
import vgg_jax

net = vgg_jax.VGG("A", num_classes=10, crop=32, width=0.0625, rngs=nnx.Rngs(0))
vgg_jax.save_torchvision(net, sys.argv[1])
net = vgg_jax.load(sys.argv[1])
images = [np.zeros((40, 50, 3), np.uint8)]
print(vgg_jax.Scorer(net, scales=(32,))(images).shape, vgg_jax.features(net, images, ["relu7"], (32,))["relu7"].shape)
from vgg_jax.transfer.svm import fit_svm
descriptors = np.eye(6, dtype=np.float32)
svm = fit_svm(descriptors, np.arange(6) % 2, metric=None, grid=[1], solver="device")
print(svm.decide(descriptors).argmax(1), vgg_jax.LinearProbe)
"""


def test_networks_scores_and_weights_need_neither_tensorflow_nor_any_extra(tmp_path):
    absent = ["tensorflow", "tensorflow_datasets", "clu", "tensorboard", "h5py", "matplotlib", "psutil", "filelock"]
    absent += ["torch", "huggingface_hub", "mlxtend", "sklearn"]
    command = [sys.executable, "-c", CORE, str(tmp_path / "net.safetensors"), *absent]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.splitlines()[-2:-1] == ["(1, 10) (1, 256)"], result.stderr
    assert result.stdout.splitlines()[-1].startswith("[0 1 0 1 0 1] <class")
