"""Weights by name from the Hugging Face hub: `timm/vgg16.tv_in1k`.

The hub's client keeps a cache (HF_HOME or HF_HUB_CACHE) and stays off the network with HF_HUB_OFFLINE=1. A file in the
cache is named by its SHA-256, which is checked at every load.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path

from vgg_jax.errors import CheckpointError

FILE = "model.safetensors"


def is_name(source: str) -> bool:
    """Whether a source has the form OWNER/NAME of the hub and is nothing on this disk.

    >>> is_name("timm/vgg16.tv_in1k"), is_name("/weights/vgg16.pth")
    (True, False)
    """
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source)) and not os.path.exists(source)


def fetch(name: str) -> Path:
    """The file of a repository, from the cache or the network, its checksum checked.

    Raises:
      CheckpointError: it is in neither; the message says which file to put where. Or it is damaged.
    """
    try:
        import huggingface_hub

        path = Path(huggingface_hub.hf_hub_download(name, FILE))
    except ImportError as error:
        raise CheckpointError(
            f"{name}: no such file or folder here, and a name on the Hugging Face hub takes its client: "
            "pip install 'vgg_jax[hub]'"
        ) from error
    except Exception as error:  # the client, its HTTP library and its transfer library have their own each
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise CheckpointError(
            f"{name}: no such file or folder here, and not to be had from the Hugging Face hub: {reason}. Where there "
            f"is a network, download https://huggingface.co/{name}/resolve/main/{FILE}, put it anywhere on this "
            "machine and give its path in place of the name"
        ) from error
    _check(name, path)
    with contextlib.suppress(Exception):  # not every repository has one
        huggingface_hub.hf_hub_download(name, "config.json")  # where timm states the preprocessing
    return path


def _check(name: str, path: Path) -> None:
    blob = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return  # not kept by checksum, as in caches without links
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.name:
        raise CheckpointError(f"{name}: {blob} has the SHA-256 {found}: damaged; delete it, and it is downloaded again")
