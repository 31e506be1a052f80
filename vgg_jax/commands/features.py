"""--mode=features: images in, activations as an .npz out (App. B)."""

from __future__ import annotations

from pathlib import Path

from vgg_jax.commands.paths import images_of, unreadable
from vgg_jax.commands.target import find_target
from vgg_jax.errors import ConfigError
from vgg_jax.inference.feature_file import table
from vgg_jax.inference.features import features
from vgg_jax.progress import Progress


def run(arguments: list[str], *, out: str | None, layers: list[str], pool: str, stack: bool, **network) -> int:
    """The command: writes a file, prints what is in it and which images could not be read and are left out.

    Returns:
      1 if an image could not be read, else 0.
    """
    if not out:
        raise ConfigError("--mode=features needs --out=FILE.npz, where the features go")
    paths = images_of(arguments)
    target = find_target(**network, partial=True)
    problems: dict[str, str] = {}
    progress = Progress("features", first=None)
    features(
        target.net,
        paths,
        layers,
        target.scales,
        None if pool == "none" else pool,
        flip=target.config.data.flip if pool != "none" else None,
        combine="stack" if stack else "average",
        into=out,
        problems=problems,
        batch_size=target.config.evaluate.batch_size or None,
        threads=target.config.data.threads,
        progress=lambda done: progress(done, len(paths) - len(problems)),
    )
    progress.clear()
    print("\n".join([table(Path(out)), *unreadable(problems, "are left out")]))
    return 1 if problems else 0
