"""--mode=fuse: files of posteriors in, the errors of each and of their average out; no network is needed (Sec. 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vgg_jax.errors import ConfigError
from vgg_jax.evaluate import tables
from vgg_jax.evaluate.paper import Setting
from vgg_jax.evaluate.posteriors import check_alike, read, warn_of_repetition


def run(arguments: list[str]) -> int:
    print(fuse(arguments))
    return 0


def fuse(paths: Sequence[str | Path]) -> str:
    """The table of files of posteriors, each alone and all together.

    Raises:
      ConfigError: there are fewer than two.
      DataError: a file cannot be read, or its images or classes are not those of the first.
    """
    if len(paths) < 2:
        raise ConfigError("--mode=fuse takes two or more files of posteriors: runs/*/evaluation/*/*/dense.npz")
    parts = [read(Path(path)) for path in paths]
    for path, part in zip(paths[1:], parts[1:], strict=True):
        check_alike(parts[0], part, str(paths[0]), str(path))
    warn_of_repetition(parts, [str(path) for path in paths])
    scored = [
        (Setting(part.about["network"], tuple(part.about["S"]), part.scales, part.about["protocol"]), part.mean())
        for part in parts
    ]
    labels = parts[0].labels
    rows = [tables.row(*each, labels, table=6) for each in scored]
    return tables.markdown([*rows, tables.fused_row(scored, labels)])
