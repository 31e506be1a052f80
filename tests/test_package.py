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
from pathlib import Path

folder, *absent = sys.argv[1:]
sys.modules.update(dict.fromkeys(absent))  # importing one of them fails from here on
import jax
import numpy as np
import optax
from flax import nnx

import vgg_jax
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.state import arrays_of, new_state
from vgg_jax.train.step import make_train_step
from vgg_jax.transfer.svm import fit_svm

new = lambda: vgg_jax.VGG("A", num_classes=10, crop=32, width=0.0625, rngs=nnx.Rngs(0))
images = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
tree = nnx.to_pure_dict(nnx.state(new()))
mean = tree.pop("mean_rgb")
weights = {f"{layer}/{name}": array for layer, arrays in tree.items() for name, array in arrays.items()}
np.savez(f"{folder}/net.npz", mean_rgb=mean, **weights)
net = vgg_jax.load(f"{folder}/net.npz")
posteriors = vgg_jax.Scorer(net, scales=(40,))(list(images))
assert (posteriors == vgg_jax.Scorer(new(), scales=(40,))(list(images))).all()
assert vgg_jax.class_score_map(net, images[0], 40).shape == (1, 1, 10)
assert vgg_jax.features(net, list(images), ["relu7"], (40,))["relu7"].shape == (2, 256)
linear = {"relu1_1": np.ones(4, np.float32)}
distances = vgg_jax.content_distance, vgg_jax.style_distance, lambda net, a, b: vgg_jax.lpips(net, linear, a, b)
of_pair = jax.jit(lambda a, b: [distance(net, a, b) for distance in distances])
assert np.min(of_pair(images[:1], images[1:])) > 0

def loss(net, batch, keys):
    labeled = optax.softmax_cross_entropy_with_integer_labels(net(batch["image"])[:, 0, 0], batch["label"])
    return labeled.sum(), {"loss": labeled.sum()}

optimizer = krizhevsky_momentum()
graphdef, state = new_state(net, ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"), optimizer)
update = jax.jit(make_train_step(graphdef, loss, optimizer, seed=0))
batch = {"image": images[:, :32, :32], "label": np.array([0, 1]), "mask": np.ones(2, np.float32)}
state, metrics = update(state, batch, 0.01)
assert metrics["loss"] > 0 and metrics["gradient_norm"] > 0

descriptors = np.eye(6, dtype=np.float32)
svm = fit_svm(descriptors, np.arange(6) % 2, metric=None, grid=[1], solver="device")
assert (svm.decide(descriptors).argmax(1) == np.arange(6) % 2).all() and vgg_jax.LinearProbe

def refused(function, *arguments):
    try:
        function(*arguments)
    except vgg_jax.UserError as error:
        print(error)

refused(vgg_jax.Scorer(net, scales=(64,)), list(images))
Path(f"{folder}/net.safetensors").write_bytes(b"\\2" + bytes(7) + b"{}")
refused(vgg_jax.load, f"{folder}/net.safetensors")
refused(vgg_jax.save_torchvision, net, f"{folder}/other.safetensors")
refused(vgg_jax.features, net, [f"{folder}/image.jpg"], ["relu7"], (40,))
refused(vgg_jax.load, folder)

del sys.modules["ml_collections"]  # of the packages that are absent the one that reads a run's config
from vgg_jax.checkpoint import Checkpoints
from vgg_jax.config import default_config

config = default_config()
config.model.update(net="A", width=0.0625)
config.data.crop = 32
checkpoints = Checkpoints(Path(folder), keep=1)
meta = {"step": 1, "config": config.to_dict(), "classes": list("0123456789"), "outputs": 10}
checkpoints.save(1, arrays_of(state), meta)
checkpoints.wait()
checkpoints.close()
trained = nnx.to_pure_dict(nnx.state(vgg_jax.load(folder)))
assert (trained["fc8"]["kernel"] == arrays_of(state)["net"]["fc8"]["kernel"]).all()
"""


def test_the_core_needs_jax_flax_optax_orbax_and_numpy_and_names_what_else_is_missing(tmp_path):
    absent = ["tensorflow", "tensorflow_datasets", "clu", "tensorboard", "ml_collections", "PIL", "safetensors"]
    absent += ["jaxtyping", "h5py", "matplotlib", "psutil", "filelock", "joblib", "sklearn"]
    absent += ["torch", "huggingface_hub", "mlxtend"]
    command = [sys.executable, "-c", CORE, str(tmp_path), *absent]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    named = ["install pillow", "install safetensors", "install safetensors", "TensorFlow", "install ml_collections"]
    lines = result.stdout.splitlines()
    assert [name in line for name, line in zip(named, lines, strict=True)] == [True] * 5, lines
