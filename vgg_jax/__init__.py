"""VGG, whole: the networks of Simonyan and Zisserman (arXiv 1409.1556) in JAX and Flax.

>>> from flax import nnx
>>> import vgg_jax
>>> net = vgg_jax.VGG("A", num_classes=10, crop=32, width=0.125, rngs=nnx.Rngs(0))
>>> vgg_jax.SPECS["D"].parameter_count()
138357544
"""

import importlib

_MODULES = {
    "errors": ("CheckpointError", "ConfigError", "DataError", "UserError"),
    "inference.export": ("export_scorer",),
    "inference.features": ("features",),
    "inference.score_map": ("class_score_map",),
    "inference.localization": ("localize",),
    "inference.scorer": ("Scorer",),
    "model.perceptual": ("content_distance", "gram", "lpips", "read_lpips_linear", "style_distance"),
    "model.specs": ("ALIASES", "SPECS", "Spec"),
    "model.vgg": ("VGG",),
    "transfer.experiment": ("fit_probe",),
    "transfer.probe": ("LinearProbe",),
    "transfer.settings": ("TransferSettings",),
    "weights": ("load", "save_torchvision"),
}
"""Where the public names are, to be imported when they are used: JAX takes a second, and a command begins before it."""

__all__ = [name for names in _MODULES.values() for name in names]


def __getattr__(name: str):
    for module, names in _MODULES.items():
        if name in names:
            return globals().setdefault(name, getattr(importlib.import_module(f"{__name__}.{module}"), name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
