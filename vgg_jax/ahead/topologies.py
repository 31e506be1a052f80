"""Accelerators by name, of which only the compiler is here: `v5e:4x4`, `h100:8`.

Their compilers come with libtpu and with JAX's CUDA plugin, which need neither a TPU nor a GPU nor CUDA's libraries.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental.topologies import get_topology_desc

from vgg_jax.ahead.chips import CHIPS, Chip
from vgg_jax.errors import ConfigError, did_you_mean

EXAMPLES = {
    "v5e": "v5e:1x1, v5e:2x2, v5e:2x4 to v5e:16x16",
    "v6e": "v6e:1x1, v6e:2x2, v6e:2x4 to v6e:16x16",
    "v5p": "v5p:1x1x1, v5p:2x2x1, v5p:2x2x2, v5p:4x4x4 to v5p:16x16x24",
    "h100": "h100:1, h100:2, h100:4, h100:8 and multiples of 8",
}
"""What there is, of each chip."""

COMPILERS = {"tpu": ("libtpu", "tpu-compiler"), "cuda": ("jax_plugins.xla_cuda12", "gpu-compiler")}
"""The module that has a platform's compiler, and the extra that installs it."""

TARGETS = {
    "h100": """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
}
"""XLA's `GpuTargetConfig` of each GPU, of its data sheet's numbers."""


class Topology(NamedTuple):
    """Accelerators that a program can be compiled for."""

    name: str
    chip: Chip
    devices: Sequence[jax.Device]
    platform: str
    """tpu or cuda."""


def topology(name: str) -> Topology:
    """The topology of a name, CHIP:SIDES for TPUs and CHIP:COUNT for GPUs.

    JAX is kept from looking for accelerators that are here: call this before anything is computed.

    Raises:
      ConfigError: there is none of this name, or its compiler is not installed.
    """
    kind, _, extent = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", extent):
        _refuse(name, kind)
    platform = "cuda" if kind in TARGETS else "tpu"
    module, extra = COMPILERS[platform]
    if not installed(module):
        raise ConfigError(f"--topology={name}: its compiler is not installed; pip install 'vgg_jax[{extra}]'")
    jax.config.update("jax_platforms", "cpu")
    try:
        devices = (_gpus if platform == "cuda" else _tpus)(kind, extent)
    except Exception as error:  # XLA's are of several types
        _refuse(name, kind, str(error).splitlines()[0])
    return Topology(name, CHIPS[kind], devices, platform)


def _tpus(kind: str, extent: str) -> Sequence[jax.Device]:
    # What libtpu asks the machine it is on otherwise, and this is none.
    here = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    here |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # its lock is for the chips of a machine
    for variable, value in here.items():
        os.environ.setdefault(variable, value)
    alone = {} if math.prod(map(int, extent.split("x"))) > 1 else {"chips_per_host_bounds": (1, 1, 1)}
    return get_topology_desc(f"{kind}:{extent}", platform="tpu", **alone).devices


def _gpus(kind: str, extent: str) -> Sequence[jax.Device]:
    hosts, rest = divmod(int(extent), CHIPS[kind].host)
    shape = f"1x{hosts}x{CHIPS[kind].host}" if hosts else f"1x1x{rest}"
    if (hosts and rest) or int(extent) == 0:
        raise ValueError(f"{extent} GPUs do not fill hosts of {CHIPS[kind].host}")
    return get_topology_desc(kind, platform="cuda", target_config=TARGETS[kind], topology=shape).devices


def installed(module: str) -> bool:
    """Whether a module, which is not imported, is here."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def _refuse(name: str, kind: str, reason: str = "") -> None:
    known = EXAMPLES[kind] if kind in EXAMPLES else "; ".join(EXAMPLES.values())
    because = f" ({reason})" if reason else ""
    nearest = "" if kind in CHIPS else did_you_mean(kind, CHIPS)
    raise ConfigError(f"--topology={name!r}: no such topology{because}; there are {known}{nearest}")
