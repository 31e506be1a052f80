"""What a person did that cannot work, said so that they can put it right.

Every mistake of a user (a key of the config, a file, a checkpoint) ends in one of these. The command line prints the
message alone, without a traceback; the message names the thing, its value and the way out.
"""


class UserError(Exception):
    """A mistake the user can mend; `str(error)` is the whole message."""


class ConfigError(UserError, ValueError):
    """A key of the config is unknown, of the wrong type or contradicts another."""


class DataError(UserError, ValueError):
    """A source, a split or an image cannot be read; the message names it."""


class CheckpointError(UserError, ValueError):
    """A checkpoint is missing, damaged or of another network."""
