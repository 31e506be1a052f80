"""What is said of images that cannot be read, and whether they stop a run (config.data.on_error)."""

from __future__ import annotations

from vgg_jax.data.source import Source
from vgg_jax.errors import DataError


def check_on_error(on_error: str) -> None:
    """Raises DataError unless it is "raise" or "skip"."""
    if on_error not in ("raise", "skip"):
        raise DataError(f"config.data.on_error={on_error!r}: it is 'raise' or 'skip'")


def reason_of(error: OSError | DataError) -> str:
    """Why an image cannot be read, without where it lies."""
    return getattr(error, "strerror", None) or str(error)


def unreadable(where: str, reason: str) -> DataError:
    """The error for a run that such an image stops."""
    return DataError(f"{where}: {reason}\nTo leave such images out: --config.data.on_error=skip")


def none_readable(source: Source, count: int, name: str, reason: str) -> DataError:
    """The error for a run of which even config.data.on_error=skip leaves nothing."""
    count = min(count, len(source))
    return DataError(f"{source.describe()}: none of {count:,} images can be read; the last of them is {name}: {reason}")
