"""A folder that belongs to this program: marked when it is made, and trained in by one run at a time."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from vgg_jax import processes
from vgg_jax.errors import ConfigError
from vgg_jax.files import writing
from vgg_jax.locks import lock

MARK = "vgg_jax.txt"

HEADING = "Made by vgg_jax, which replaces its files here. The last to train here, or who still does:\n"
"""Of the mark where runs were trained."""

WAY_OUT = "give --workdir=DIR for results"

RUN = frozenset(
    {
        *("checkpoints", "metrics.jsonl", "tensorboard", "log.txt", "batch.png", "curves.png"),
        *("unreadable.txt", "diverged.txt", "colors.json", "features", "evaluation"),
    }
)
"""What a run writes in its folder, beside the mark."""

_UNMARKED = {"colors.json": b'{\n "of": {\n  "source": ', "tables.json": b'[\n {\n  "table": '}
"""How files begin that show a run or an evaluation of before there were marks."""


def claim(folder: Path, names: frozenset[str] | None = None) -> None:
    """Marks a folder as this program's, unless it is already; it is made if need be.

    Args:
      folder: where files are to be written, and replaced by those of later calls.
      names: of these files; None for any.

    Raises:
      ConfigError: something else wrote files of these names there.
      OSError: it cannot be made, or not be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_ours(folder):
        return
    theirs = {entry.name for entry in folder.iterdir() if names is None or entry.name in names}
    if any(folder.glob("features/**/of.json")):  # copied from another run, as configs/finetune.py advises
        theirs.discard("features")
    if theirs:
        raise ConfigError(
            f"{folder}: {min(theirs)} is there already, not written by this program, and would be replaced; "
            "name a new folder"
        )
    (folder / MARK).write_text("Made by vgg_jax, which replaces its files here.\n")


def is_ours(folder: Path) -> bool:
    """Whether this program made a folder: it has the mark or, from before there was one, a file that shows it."""
    if (folder / MARK).is_file() or any(folder.glob("checkpoints/[0-9]*/net")):
        return True
    files = {folder / name: beginning for name, beginning in _UNMARKED.items()}
    return any(path.is_file() and path.read_bytes().startswith(beginning) for path, beginning in files.items())


def claim_results(name: str, home: Path | None, out: Path | None) -> tuple[Path, Path]:
    """Where results go, as absolute paths, claimed by the first process; what is in a run's folder is the run's.

    Args:
      name: of the network.
      home: where results of it alone belong, if a run's folder can be written to.
      out: where the user wants the tables.

    Returns:
      Where the tables go, `out` or else beside those of the network alone; and where the latter go.

    Raises:
      ConfigError: there is no such place, or it has somebody else's files.
    """
    out = out or (home and home.parent)
    if not out:
        raise ConfigError(f"{name}: it is in no run's folder that can be written to; {WAY_OUT}")
    out = out.absolute()
    home = home or out / slug(name)

    def claim_both() -> None:
        for folder in (out, home.parent):
            with writing(folder, WAY_OUT):
                if not is_ours(folder.parent):
                    claim(folder)

    processes.by_first(claim_both)
    return out, home


def slug(name: str) -> str:
    """A name for a folder: letters, digits and dashes, and a checksum where these do not say all."""
    slug = re.sub(r"[^\w.]+", "-", name).strip("-.")
    if slug == name.replace(":", "-", 1):
        return slug
    return f"{slug[-60:]}-{zlib.crc32(name.encode(errors='surrogateescape')):08x}"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """A run's folder, claimed, and locked for as long as the block or, if that is shorter, this process lives.

    Of several processes the first one holds it for all; if it may not, all of them raise.

    Raises:
      ConfigError: another run holds it, or something else wrote there what a run would replace.
      OSError: it cannot be written to.
    """
    with contextlib.ExitStack() as hold:

        def hold_it() -> None:
            claim(folder, RUN)
            lock(hold.enter_context((folder / MARK).open("a+")), folder, "training", HEADING)

        processes.by_first(hold_it)
        yield
