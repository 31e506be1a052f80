"""Imports that take seconds, without Python's garbage collector."""

from __future__ import annotations

import gc
import importlib
from types import ModuleType


def imported(name: str) -> ModuleType:
    """A module by its name, imported if it is not yet.

    What an import makes stays, 200,000 objects of TensorFlow's. The collector looks through them for garbage again and
    again, which takes a quarter of that import.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        if collecting:
            gc.enable()
