"""Random weights made and saved by the real torchvision, timm and Keras, loaded here: the same answers on photos."""

import gc
import os

import h5py
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from sklearn.datasets import load_sample_images

import vgg_jax
from vgg_jax.weights import load, read, save_torchvision

ARCHITECTURES = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def photographs():
    """A Chinese temple and a dahlia, 427 x 640 pixels."""
    return np.stack(load_sample_images().images)


@pytest.fixture(scope="module")
def crops(photographs):
    return photographs[:, 100:324, 200:424]


@pytest.fixture(autouse=True)
def little_memory():
    yield
    gc.collect()


def standardized(images, mean=MEAN, std=STD):
    """torchvision's ToTensor and Normalize."""
    pixels = torch.tensor(images).permute(0, 3, 1, 2) / 255
    return (pixels - torch.as_tensor(mean)[:, None, None]) / torch.as_tensor(std)[:, None, None]


def randomized(model):
    """A model whose biases and averages are not those of a new one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
            if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Conv2d, torch.nn.Linear)):
                module.bias.uniform_(-0.1, 0.1)
    return model.eval()


def agree(scores, expected):
    """To 1e-4 of the largest; and the image, not the biases, decides: first and last place have other scores."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(scores, expected, atol=1e-4 * scale, rtol=0)
    places = expected.reshape(-1, expected.shape[-1])
    assert np.abs(places[0] - places[-1]).max() > 0.02 * scale


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_torchvisions_files(architecture, tmp_path, crops):
    model = randomized(getattr(torchvision.models, architecture)())
    path = tmp_path / "weights"
    # torchvision's oldest files have torch's oldest format.
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=architecture != "vgg11")
    net = load(path)
    path.unlink()
    with torch.no_grad():
        expected = model(standardized(crops)).numpy()
    agree(np.asarray(net(crops))[:, 0, 0], expected)
    assert net.classes == vgg_jax.weights.imagenet() and net.num_classes == 1000
    if architecture == "vgg11_bn":
        save_torchvision(net, path)
        randomized(model.apply(lambda module: getattr(module, "reset_parameters", lambda: None)()))
        tensors = safetensors.torch.load_file(path)
        lacking = model.load_state_dict(tensors, strict=False)
        assert not lacking.unexpected_keys and all("num_batches" in name for name in lacking.missing_keys)
        with torch.no_grad():
            agree(model(standardized(crops)).numpy(), expected)
        path.unlink()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_timms_files(architecture, tmp_path, crops, photographs):
    model = randomized(timm.create_model(architecture))
    path = tmp_path / "weights"
    safetensors.torch.save_file(model.state_dict(), path)
    net = load(path)
    path.unlink()
    with torch.no_grad():
        agree(np.asarray(net(crops))[:, 0, 0], model(standardized(crops)).numpy())
    if architecture == "vgg16":
        for height, width in ((384, 384), (256, 320)):
            images = photographs[:1, 20 : 20 + height, 100 : 100 + width]
            with torch.no_grad():
                units = model.pre_logits(model.features(standardized(images))).permute(0, 2, 3, 1)
                expected = model.head.fc(units).numpy()
                pooled = model(standardized(images)).numpy()
            scores = np.asarray(net(images))
            assert scores.shape == (1, height // 32 - 6, width // 32 - 6, 1000)
            agree(scores, expected)
            np.testing.assert_allclose(scores.mean((1, 2)), pooled, atol=1e-4 * np.abs(pooled).max())


def test_torchvisions_features_only_file(tmp_path, crops):
    model = randomized(torchvision.models.vgg16())
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.fill_(float("nan"))
        expected = model.features(standardized(crops, (0.48235, 0.45882, 0.40784), (1 / 255,) * 3)).numpy()
    torch.save(model.state_dict(), tmp_path / "weights")
    with pytest.raises(vgg_jax.CheckpointError, match="missing classifier.0.weight.*partial=True"):
        load(tmp_path / "weights")
    net = load(tmp_path / "weights", partial=True, hidden=8, num_classes=2)
    (tmp_path / "weights").unlink()
    _, tapped = net(crops, taps=("pool5",))
    agree(np.asarray(tapped["pool5"]), expected.transpose(0, 2, 3, 1))


KERAS = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
"""TensorFlow's variables and NumPy 2."""


@pytest.fixture(scope="module")
def applications():
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    return keras.applications


def save_legacy_weights(model, path):
    """As the published files are: Keras 3 reads them and has the writer still."""
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


KERAS_FILES = {
    "a.weights.h5": lambda model, path: model.save_weights(path),
    "a.keras": lambda model, path: model.save(path),
    "model.h5": lambda model, path: model.save(path),
    "legacy.h5": save_legacy_weights,
}


@KERAS
@pytest.mark.parametrize(
    ("architecture", "side", "name"),
    [
        ("VGG16", 224, "legacy.h5"),
        ("VGG19", 224, "a.weights.h5"),
        ("VGG16", 64, "a.keras"),
        ("VGG16", 64, "model.h5"),
        ("VGG19", 64, "legacy.h5"),
    ],
)
def test_kerass_files(architecture, side, name, tmp_path, crops, applications):
    module = getattr(applications, architecture.lower())
    classes = 1000 if side == 224 else 10
    shape = (side, side, 3)
    model = getattr(module, architecture)(weights=None, input_shape=shape, classes=classes, classifier_activation=None)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([1.3 * kernel, rng.uniform(-0.1, 0.1, bias.shape)])
    images = crops[:, :side, :side]
    expected = model.predict(module.preprocess_input(images.astype(np.float32)), verbose=0)
    KERAS_FILES[name](model, tmp_path / name)
    net = load(tmp_path / name)
    (tmp_path / name).unlink()
    agree(np.asarray(net(images))[:, 0, 0], expected)
    assert net.classes == (vgg_jax.weights.imagenet() if side == 224 else ())
    if (architecture, side) == ("VGG16", 224):
        caffes_mean_goes_to_torchvision(net, tmp_path / "weights", images, expected)


def caffes_mean_goes_to_torchvision(net, path, crops, expected):
    """The mean of such a net is not torchvision's: it is stated, and torchvision's Normalize takes it."""
    fed = save_torchvision(net, path)
    np.testing.assert_allclose(fed["mean"], np.array([123.68, 116.779, 103.939]) / 255, rtol=1e-6)
    model = torchvision.models.vgg16(init_weights=False).eval()
    model.load_state_dict(safetensors.torch.load_file(path))
    with torch.no_grad():
        agree(model(standardized(crops, fed["mean"], fed["std"])).numpy(), expected)


@KERAS
def test_kerass_convolutions_alone(tmp_path, crops, applications):
    model = applications.vgg16.VGG16(weights=None, include_top=False)
    expected = model.predict(applications.vgg16.preprocess_input(crops.astype(np.float32)), verbose=0)
    model.save_weights(tmp_path / "a.weights.h5")
    weights = read(tmp_path / "a.weights.h5", partial=True, num_classes=2, hidden=8)
    assert weights.absent == ("fc6", "fc7", "fc8")
    _, tapped = weights.network()(crops, taps=("pool5",))
    agree(np.asarray(tapped["pool5"]), expected)
