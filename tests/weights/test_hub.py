"""Names of the hub, without a network: its cache is laid out as its client does."""

import hashlib

import huggingface_hub.constants
import numpy as np
import pytest

from tests.weights.originals import FED, answer, original, write_timm
from vgg_jax import CheckpointError
from vgg_jax.weights import load

NAME = "timm/vgg11.tv_in1k"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(cache):
    """A downloaded repository: blobs by their checksum, and links to them in a snapshot."""
    repository = cache / "models--timm--vgg11.tv_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    write_timm(repository / "file", "A", original("A"))
    blob = repository / "blobs" / hashlib.sha256((repository / "file").read_bytes()).hexdigest()
    (repository / "file").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    return blob


def test_a_name_in_the_cache_is_loaded_without_a_network(cache, images):
    put(cache)
    expected = answer("A", original("A"), FED["torchvision"](np.float64(images)))
    np.testing.assert_allclose(load(NAME)(images), expected, atol=1e-5 * np.abs(expected).max())


def test_a_damaged_file_in_the_cache_is_found_by_its_checksum(cache):
    blob = put(cache)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(CheckpointError, match="has the SHA-256 .*: damaged; delete it"):
        load(NAME)


def test_without_a_network_the_error_says_which_file_to_put_where(cache):
    with pytest.raises(CheckpointError) as error:
        load(NAME)
    assert "download https://huggingface.co/timm/vgg11.tv_in1k/resolve/main/model.safetensors" in str(error.value)
    assert "give its path in place of the name" in str(error.value)
