"""What all tests share: eight virtual devices on the CPU, and nothing but the CPU."""

import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# The same small programs are compiled by many tests; in one worker of a run, and in the processes that it starts, they
# are compiled once. Workers do not share them: JAX locks a folder of programs only if it is bounded, and then reads
# every file of it for each program that it adds. The user's own cache is not touched.
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", os.getpid())
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "alone")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"vgg_jax_tests_{_RUN}_{_WORKER}")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import jax
import numpy as np
import pytest
from flax import nnx
from jax.experimental import multihost_utils

import vgg_jax


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def one_device() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))


@pytest.fixture(scope="session")
def eight_devices() -> jax.sharding.Mesh:
    assert jax.device_count() == 8
    return jax.sharding.Mesh(np.array(jax.devices()), ("data",))


@pytest.fixture
def tiny_net():
    """A function that makes a small net of a kind; width 1/16, crops of 32 pixels, 10 classes."""

    def make(net: str = "A", **arguments):
        options = {"num_classes": 10, "crop": 32, "width": 0.0625, "init": "he"} | arguments
        return vgg_jax.VGG(net, rngs=nnx.Rngs(0), **options)

    return make


@pytest.fixture
def two_processes(monkeypatch):
    """A function that calls another one in two processes, which are threads here; what it returned or raised in each.

    They hear of each other as those of a run do, in JAX's 32 bits.
    """
    own, given, meeting = threading.local(), {}, threading.Barrier(2, timeout=60)

    def allgather(array):
        given[own.number] = np.asarray(jax.numpy.asarray(array))
        meeting.wait()
        rows = np.stack([given[0], given[1]])
        meeting.wait()
        return rows

    def call(function):
        def process(number):
            own.number = number
            try:
                return function()
            except Exception as error:
                return error

        with ThreadPoolExecutor(2) as both, monkeypatch.context() as patched:
            patched.setattr(jax, "process_count", lambda: 2)
            patched.setattr(jax, "process_index", lambda: own.number)
            patched.setattr(multihost_utils, "process_allgather", allgather)
            patched.setattr(multihost_utils, "sync_global_devices", lambda name: meeting.wait())
            return list(both.map(process, range(2)))

    return call
