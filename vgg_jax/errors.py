"""Users' errors: each message says what is wrong and how to fix it.

Every mistake of a user (a key of the config, a file, a checkpoint) ends in one of these. The command line prints the
message alone, without a traceback; the message names the thing, its value and the way out.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend; `str(error)` is the whole message."""


class ConfigError(UserError, ValueError):
    """A key of the config is unknown, of the wrong type or contradicts another."""


class DataError(UserError, ValueError):
    """A source, a split or an image cannot be read; the message names it."""


class CheckpointError(UserError, ValueError):
    """A checkpoint is missing, damaged or of another network."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a sentence that suggests the nearest of the known names, or nothing.

    >>> did_you_mean("relu33", ["relu3_3", "pool5"]), did_you_mean("x", ["relu3_3", "pool5"])
    ("; did you mean 'relu3_3'?", '')
    """
    nearest = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
