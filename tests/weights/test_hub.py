"""Names of the hub, without a network: its cache is laid out as its client does, or a server on this machine is it."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

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


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub answers to a client that wants a file of a repository."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self):
        name = self.path.removeprefix(f"/{NAME}/resolve/main/")
        self.asked.append(f"{self.command} {name}")
        data = self.files.get(name)
        self.send_response(200 if data is not None else 404)
        if data is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(data or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        return data

    def do_GET(self):
        self.wfile.write(self.do_HEAD() or b"")

    def log_message(self, *_):
        pass


def test_a_name_is_downloaded_once(tmp_path, images):
    write_timm(tmp_path / "file", "A", original("A"))
    np.save(tmp_path / "images.npy", images)
    handler = type("", (Hub,), {"files": {"model.safetensors": (tmp_path / "file").read_bytes()}, "asked": []})
    program = "import sys, numpy as np, vgg_jax; print(vgg_jax.load(sys.argv[1])(np.load(sys.argv[2])).tolist())"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        loaded = lambda **more: subprocess.run(
            [sys.executable, "-c", program, NAME, tmp_path / "images.npy"],
            cwd=Path(__file__).parents[2], env=kept | settings | more, capture_output=True, text=True, check=False,
        )  # fmt: skip
        first = loaded()
        assert first.returncode == 0, first.stderr
        assert handler.asked.count("GET model.safetensors") == 1
        server.shutdown()
    again = loaded(HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout, again.stderr
    expected = answer("A", original("A"), FED["torchvision"](np.float64(images)))
    np.testing.assert_allclose(np.array(json.loads(first.stdout)), expected, atol=1e-5 * np.abs(expected).max())


def test_a_damaged_file_in_the_cache_is_found_by_its_checksum(cache):
    blob = put(cache)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(CheckpointError, match="has the SHA-256 .*: damaged; delete it"):
        load(NAME)


def test_without_the_hubs_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"takes its client: pip install 'vgg_jax\[hub\]'"):
        load(NAME)


def test_without_a_network_the_error_says_which_file_to_put_where(cache):
    with pytest.raises(CheckpointError) as error:
        load(NAME)
    assert "download https://huggingface.co/timm/vgg11.tv_in1k/resolve/main/model.safetensors" in str(error.value)
    assert "give its path in place of the name" in str(error.value)
