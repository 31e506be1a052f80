"""--mode=fuse: files of posteriors in, the errors of each and of their average out; no network is needed (Sec. 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vgg_jax.errors import ConfigError
from vgg_jax.evaluate import tables
from vgg_jax.evaluate.paper import Setting
from vgg_jax.evaluate.posteriors import check_alike, fused, read


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
    labels, rows = parts[0].labels, []
    for part in parts:
        about = part.about
        setting = Setting(about["network"], tuple(about["S"]), part.scales, about["protocol"])
        rows.append(tables.row(setting, part.mean(), labels, table=6))
    everything = Setting(
        " + ".join(part.about["network"] for part in parts),
        (0, 0),
        tuple(sorted({scale for part in parts for scale in part.scales})),
        " + ".join(dict.fromkeys(part.about["protocol"] for part in parts)),
    )
    return tables.markdown([*rows, tables.row(everything, fused(parts), labels, table=6)])
