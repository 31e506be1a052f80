"""Small published networks: their weights, what they answer in float64, and their files by independent writers.

Nothing here imports `vgg_jax.weights`: names and layouts are typed from the formats' own descriptions.
"""

import json
import os
import zipfile

import h5py
import numpy as np
import scipy.io
from safetensors.numpy import save_file

from tests.oracles import convolved

WIDTH, CROP, HIDDEN, CLASSES = 1 / 16, 64, 24, 7
TABLE = {
    "A": "1_1 M 2_1 M 3_1 3_2 M 4_1 4_2 M 5_1 5_2 M",
    "B": "1_1 1_2 M 2_1 2_2 M 3_1 3_2 M 4_1 4_2 M 5_1 5_2 M",
    "D": "1_1 1_2 M 2_1 2_2 M 3_1 3_2 3_3 M 4_1 4_2 4_3 M 5_1 5_2 5_3 M",
    "E": "1_1 1_2 M 2_1 2_2 M 3_1 3_2 3_3 3_4 M 4_1 4_2 4_3 4_4 M 5_1 5_2 5_3 5_4 M",
}
CHANNELS = {"1": 4, "2": 8, "3": 16, "4": 32, "5": 32}

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
BGR_MEAN = np.array([103.939, 116.779, 123.68])

FED = {
    "torchvision": lambda rgb: (rgb / 255 - MEAN) / STD,
    "caffe": lambda rgb: rgb[..., ::-1] - BGR_MEAN,
    "rgb": lambda rgb: rgb - BGR_MEAN[::-1],
}
"""What the original is fed, as its documentation has it."""


def convolutions(net):
    return [entry for entry in TABLE[net].split() if entry != "M"]


def original(net="A", batch_norm=False, seed=0, window=CROP // 32):
    """A trained network's weights: {name: array}, kernels (h, w, i, o)."""
    rng = np.random.default_rng(seed)
    weights, channels = {}, 3

    def layer(name, shape):
        fan_in = np.prod(shape[:-1])
        # Pixels have a deviation of some 60: scores near 1 need a small first layer.
        gain = 0.02 if name == "conv1_1" else 1.4
        weights[f"{name}/kernel"] = (gain * rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        weights[f"{name}/bias"] = (0.1 * rng.standard_normal(shape[-1])).astype(np.float32)

    for name in convolutions(net):
        layer(f"conv{name}", (3, 3, channels, CHANNELS[name[0]]))
        channels = CHANNELS[name[0]]
        if batch_norm:
            weights[f"bn{name}/scale"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
            weights[f"bn{name}/bias"] = rng.uniform(-0.5, 0.5, channels).astype(np.float32)
            weights[f"bn{name}/mean"] = rng.uniform(-0.5, 0.5, channels).astype(np.float32)
            weights[f"bn{name}/var"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
    layer("fc6", (window, window, channels, HIDDEN))
    layer("fc7", (1, 1, HIDDEN, HIDDEN))
    layer("fc8", (1, 1, HIDDEN, CLASSES))
    return weights


def answer(net, weights, fed):
    """The original's score map, in float64, from what it is fed."""
    w = {name: np.float64(array) for name, array in weights.items()}
    x = fed
    for entry in TABLE[net].split():
        if entry == "M":
            height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
            x = np.maximum.reduce([x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)])
            continue
        x = convolved(x, w[f"conv{entry}/kernel"], w[f"conv{entry}/bias"], 1)
        if f"bn{entry}/scale" in w:
            x = (x - w[f"bn{entry}/mean"]) / np.sqrt(w[f"bn{entry}/var"] + 1e-5)
            x = x * w[f"bn{entry}/scale"] + w[f"bn{entry}/bias"]
        x = np.maximum(x, 0)
    for name in ("fc6", "fc7", "fc8"):
        x = convolved(x, w[f"{name}/kernel"], w[f"{name}/bias"], 0)
        x = np.maximum(x, 0) if name != "fc8" else x
    return x


# torchvision and timm: the indices of `features`, as printed by the real ones.
FEATURES = {
    ("A", False): [0, 3, 6, 8, 11, 13, 16, 18],
    ("A", True): [0, 4, 8, 11, 15, 18, 22, 25],
    ("B", False): [0, 2, 5, 7, 10, 12, 15, 17, 20, 22],
    ("D", False): [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    ("D", True): [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40],
    ("E", False): [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
}


def oihw(kernel):
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def state_dict(net, weights, timm=False):
    """torchvision's or timm's."""
    norm = any(name.startswith("bn") for name in weights)
    tensors = {}
    for index, name in zip(FEATURES[net, norm], convolutions(net), strict=True):
        tensors[f"features.{index}.weight"] = oihw(weights[f"conv{name}/kernel"])
        tensors[f"features.{index}.bias"] = weights[f"conv{name}/bias"]
        if norm:
            tensors[f"features.{index + 1}.weight"] = weights[f"bn{name}/scale"]
            tensors[f"features.{index + 1}.bias"] = weights[f"bn{name}/bias"]
            tensors[f"features.{index + 1}.running_mean"] = weights[f"bn{name}/mean"]
            tensors[f"features.{index + 1}.running_var"] = weights[f"bn{name}/var"]
            tensors[f"features.{index + 1}.num_batches_tracked"] = np.array(100, np.int64)
    head = ("pre_logits.fc1", "pre_logits.fc2", "head.fc") if timm else ("classifier.0", "classifier.3", "classifier.6")
    for ours, theirs in zip(("fc6", "fc7", "fc8"), head):
        kernel = oihw(weights[f"{ours}/kernel"])
        tensors[f"{theirs}.weight"] = kernel if "pre_logits" in theirs else kernel.reshape(len(kernel), -1)
        tensors[f"{theirs}.bias"] = weights[f"{ours}/bias"]
    return tensors


def write_torchvision(path, net, weights):
    save_file(state_dict(net, weights), path)


def write_timm(path, net, weights):
    save_file(state_dict(net, weights, timm=True), path, metadata={"format": "pt"})


def keras_layers(net, weights):
    """[(Keras's name, kernel, bias)]."""
    layers = [
        (f"block{n[0]}_conv{n[2:]}", weights[f"conv{n}/kernel"], weights[f"conv{n}/bias"]) for n in convolutions(net)
    ]
    for ours, theirs in (("fc6", "fc1"), ("fc7", "fc2"), ("fc8", "predictions")):
        if f"{ours}/kernel" in weights:
            kernel = weights[f"{ours}/kernel"]
            layers.append((theirs, kernel.reshape(-1, kernel.shape[-1]), weights[f"{ours}/bias"]))
    return layers


def write_keras_legacy(path, net, weights):
    """As Keras 1 wrote the published vgg16_weights_tf_dim_ordering_tf_kernels.h5."""
    with h5py.File(path, "w") as file:
        layers = keras_layers(net, weights)
        file.attrs["layer_names"] = [b"input_1", *(name.encode() for name, _, _ in layers), b"flatten"]
        for empty in ("input_1", "flatten"):
            file.create_group(empty).attrs["weight_names"] = []
        for name, kernel, bias in layers:
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
            group[f"{name}_W_1:0"], group[f"{name}_b_1:0"] = kernel, bias


def write_keras_model(path, net, weights):
    """A whole model in a legacy file, as Keras 2 saved it."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional"})
        group = file.create_group("model_weights")
        for name, kernel, bias in keras_layers(net, weights):
            group[f"{name}/{name}/kernel:0"], group[f"{name}/{name}/bias:0"] = kernel, bias
        file["optimizer_weights/SGD/momentum:0"] = np.zeros(3, np.float32)


def write_keras_3(path, net, weights):
    with h5py.File(path, "w") as file:
        count = {"conv2d": 0, "dense": 0}
        for name, kernel, bias in keras_layers(net, weights):
            kind = "conv2d" if name.startswith("block") else "dense"
            group = file.create_group(f"layers/{kind}{f'_{count[kind]}' if count[kind] else ''}/vars")
            group.attrs["name"] = name
            group["0"], group["1"] = kernel, bias
            count[kind] += 1
        file.create_group("layers/flatten/vars")
        file["optimizer/vars/0"] = np.zeros(3, np.float32)


def write_keras_archive(path, net, weights):
    inner = path.with_suffix(".inner")
    write_keras_3(inner, net, weights)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps({"class_name": "Functional"}))
        archive.write(inner, "model.weights.h5")
    inner.unlink()


def varint(number):
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def field(number, value):
    """A protocol-buffer field: an int as a varint, bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(array, old):
    data = field(5, array.astype("<f4").tobytes())
    if old:  # num, channels, height, width, on the left filled with ones
        shape = (1,) * (4 - array.ndim) + array.shape
        return b"".join(field(number, side) for number, side in enumerate(shape, start=1)) + data
    return data + field(7, field(1, b"".join(varint(side) for side in array.shape)))


def caffemodel(net, weights, old):
    """The bytes of a NetParameter: with V1 `layers` and four sizes, or with `layer` and shapes."""
    message = field(1, b"VGG") + field(3, b"data")
    for name in [*(f"conv{n}" for n in convolutions(net)), "fc6", "fc7", "fc8"]:
        kernel = oihw(weights[f"{name}/kernel"])
        kernel = kernel.reshape(len(kernel), -1) if name.startswith("fc") else kernel
        blobs = [blob(kernel, old), blob(weights[f"{name}/bias"], old)]
        if old:
            layer = field(2, b"in") + field(3, b"out") + field(4, name.encode()) + field(5, 4)
            message += field(2, layer + b"".join(field(6, b) for b in blobs))
            message += field(2, field(4, f"relu{name}".encode()) + field(5, 18))
        else:
            layer = field(1, name.encode()) + field(2, b"Convolution") + field(3, b"in") + field(4, b"out")
            message += field(100, layer + b"".join(field(7, b) for b in blobs))
    return message


def write_caffe_v1(path, net, weights):
    path.write_bytes(caffemodel(net, weights, old=True))


def write_caffe(path, net, weights):
    path.write_bytes(caffemodel(net, weights, old=False))


def matlab_layers(net, weights, old):
    layers = []
    for name in [*(f"conv{n}" for n in convolutions(net)), "fc6", "fc7", "fc8"]:
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"][None]
        if old:
            layers.append({"type": "conv", "name": name, "filters": kernel, "biases": bias, "pad": 1.0})
        else:
            cell = np.empty((1, 2), object)
            cell[0] = [kernel, bias.T]
            layers.append({"type": "conv", "name": name, "weights": cell, "stride": np.array([[1, 1]])})
        layers.append({"type": "relu", "name": name.replace("conv", "relu")})
    cells = np.empty((1, len(layers)), object)
    cells[0] = layers
    return cells


SYNSETS = ["n02123045", "n01440764", "n07745940", "n01443537", "n15075141", "n02119789", "n03445777"]


def names_cell():
    cell = np.empty((1, CLASSES), object)
    cell[0] = SYNSETS
    return cell


def write_matconvnet(path, net, weights):
    """As of 2015: below `meta`, one mean color, deflated."""
    meta = {
        "classes": {"name": names_cell(), "description": names_cell()},
        "normalization": {"averageImage": BGR_MEAN[::-1].reshape(1, 1, 3), "imageSize": np.array([[224, 224, 3]])},
    }
    scipy.io.savemat(path, {"layers": matlab_layers(net, weights, False), "meta": meta}, do_compression=True)


def write_matconvnet_old(path, net, weights):
    """As of 2014: at the top level, a mean image."""
    image = np.broadcast_to(BGR_MEAN[::-1].astype(np.float32), (16, 16, 3))
    variables = {"classes": {"name": names_cell()}, "normalization": {"averageImage": image}}
    scipy.io.savemat(path, {"layers": matlab_layers(net, weights, True), **variables})


def write_npz(path, net, weights):
    with path.open("wb") as file:
        np.savez(file, mean_rgb=255 * MEAN, std_rgb=255 * STD, **weights)


WRITERS = {
    "torchvision": (write_torchvision, "torchvision", ("A", "B", "D", "E")),
    "timm": (write_timm, "torchvision", ("A", "D")),
    "keras legacy": (write_keras_legacy, "caffe", ("D", "E")),
    "keras model": (write_keras_model, "caffe", ("D",)),
    "keras 3": (write_keras_3, "caffe", ("D", "E")),
    "keras archive": (write_keras_archive, "caffe", ("D",)),
    "caffe v1": (write_caffe_v1, "caffe", ("A", "D", "E")),
    "caffe": (write_caffe, "caffe", ("D",)),
    "matconvnet": (write_matconvnet, "rgb", ("D", "E")),
    "matconvnet old": (write_matconvnet_old, "rgb", ("D",)),
    "npz": (write_npz, "torchvision", ("A", "D")),
}
"""{format: (writer, what its originals are fed, the nets published in it)}."""


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def mutated(data, random):
    """One damage to a file: cut, overwritten, a byte or a block of its own elsewhere, mostly where its structure is."""
    data = bytearray(data)
    kind = random.randrange(5)
    size = len(data)
    place = random.choice(
        (random.randrange(min(size, 3000)), random.randrange(size), size - 1 - random.randrange(min(size, 2000)))
    )
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        data[place : place + random.randrange(1, 9)] = random.randbytes(random.randrange(1, 9))
    elif kind == 2:
        data[place : place + 4] = random.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", b"\xff\xff\xff\x7f"))
    elif kind == 3:
        for _ in range(random.randrange(1, 30)):
            data[random.randrange(min(size, 3000))] ^= 1 << random.randrange(8)
    else:
        other = random.randrange(size)
        data[place : place + 64] = data[other : other + 64]
    return bytes(data)
