"""The real torchvision beside a CPU-only torch.

torchvision's wheel is built for CUDA; with a CPU-only torch its compiled operators are absent and importing it fails.
The networks need none of them: it is enough that their names exist.
"""

import importlib.util
import re
from pathlib import Path

import torch


def _declare_operators() -> torch.library.Library:
    folder = Path(importlib.util.find_spec("torchvision").submodule_search_locations[0])
    text = (folder / "_meta_registrations.py").read_text()
    names = set(re.findall(r'register_meta\("(\w+)"', text)) | set(re.findall(r'"torchvision::(\w+)"', text))
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(names):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor x) -> Tensor")
    return library


_library = _declare_operators()  # the operators live as long as this object
