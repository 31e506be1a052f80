"""What several tests hold the code against: the paper's definitions in float64 NumPy."""

import jax
import numpy as np
from flax import nnx


def lrn_loop(a, size=5, k=2.0, alpha=1e-4, beta=0.75):
    """Krizhevsky et al. 2012, Sec. 3.3, literally, in float64."""
    b, channels = np.empty(a.shape), a.shape[-1]
    for index in np.ndindex(a.shape[:-1]):
        for i in range(channels):
            total = sum(a[index][j] ** 2 for j in range(max(0, i - size // 2), min(channels - 1, i + size // 2) + 1))
            b[index][i] = a[index][i] / (k + alpha * total) ** beta
    return b


def convolved(x, kernel, bias, padding):
    """A convolution in float64, by its definition."""
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    y = np.zeros((x.shape[0], height, width, kernel.shape[3])) + bias
    for i in range(size):
        for j in range(size):
            y += x[:, i : i + height, j : j + width] @ kernel[i, j]
    return y


def reference(net, images):
    """Every activation of a net, in float64 NumPy, from Table 1 as the paper prints it."""
    table = {
        "A": "64 M 128 M 256 256 M 512 512 M 512 512 M",
        "A-LRN": "64 LRN M 128 M 256 256 M 512 512 M 512 512 M",
        "B": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
        "B-5x5": "64 M 128 M 256 M 512 M 512 M",
        "C": "64 64 M 128 128 M 256 256 1x M 512 512 1x M 512 512 1x M",
        "D": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
        "E": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
    }
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(net)))
    seen, x, stage, number = {}, images - params["mean_rgb"], 1, 1
    for entry in table[net.spec.name].split():
        if entry == "M":
            height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
            x = np.maximum.reduce([x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)])
            seen[f"pool{stage}"] = x
            stage, number = stage + 1, 1
        elif entry == "LRN":
            seen["norm1"] = x = lrn_loop(x)
        else:
            name = f"{stage}_{number}"
            kernel = params[f"conv{name}"]["kernel"]
            assert kernel.shape[0] == (1 if entry == "1x" else 5 if net.spec.name == "B-5x5" else 3)
            seen[f"conv{name}"] = convolved(x, kernel, params[f"conv{name}"]["bias"], kernel.shape[0] // 2)
            seen[f"relu{name}"] = x = np.maximum(seen[f"conv{name}"], 0)
            number += 1
    for name in ("fc6", "fc7", "fc8"):
        seen[name] = convolved(x, params[name]["kernel"], params[name]["bias"], 0)
        x = np.maximum(seen[name], 0)
        if name != "fc8":
            seen[name.replace("fc", "relu")] = x
    return seen
