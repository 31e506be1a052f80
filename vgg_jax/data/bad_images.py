"""What becomes of an image that cannot be read: it stops the run, or is left out and accounted for."""

from vgg_jax.errors import DataError


def check_on_error(on_error: str) -> None:
    """Raises DataError unless it is "raise" or "skip"."""
    if on_error not in ("raise", "skip"):
        raise DataError(f"config.data.on_error={on_error!r}: it is 'raise' or 'skip'")


def error_reason(error: OSError | DataError) -> str:
    """Why an image cannot be read, without where it lies."""
    return getattr(error, "strerror", None) or str(error)


def unreadable(where: str, reason: str) -> DataError:
    """The error for a run that such an image stops."""
    return DataError(f"{where}: {reason}\nTo leave such images out: --config.data.on_error=skip")
