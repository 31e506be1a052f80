"""Reads that are tried again when they fail, as those of a disk behind a network do now and then (Sec. 3.1)."""

from __future__ import annotations

import logging
import time

from vgg_jax.data.source import Source

log = logging.getLogger(__name__)

WAITS = (0.1, 1.0)
"""Seconds before each of the further attempts."""

_FOR_GOOD = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


class Retrying:
    """The examples of a source by index; every attempt that failed is counted and named in the log."""

    def __init__(self, source: Source):
        self._source, self._failed = source, 0

    def __getitem__(self, index: int) -> dict:
        """As `Source.__getitem__`.

        Raises:
          OSError: the last attempt failed too, or there is nothing to be read.
        """
        for wait in WAITS:
            try:
                return self._source[index]
            except _FOR_GOOD:
                raise
            except OSError as error:
                self._failed += 1
                name, why = self._source.name_of(index), error.strerror or error
                log.warning("%s: %s; it is read again (failed attempts so far: %d)", name, why, self._failed)
                time.sleep(wait)
        return self._source[index]
