"""The short form of the kills: one of each signal and one more, in the phases where most is at stake."""

import signal

from tests.torture.kills import Kill, torture


def test_a_run_that_is_killed_ends_with_the_bits_of_one_that_was_left_alone(tmp_path):
    kills = [
        Kill(signal.SIGTERM, "cached features", 0.5),
        Kill(signal.SIGKILL, "saving", 0.5),
        Kill(signal.SIGINT, "steps", 0.8),
        Kill(signal.SIGTERM, "evaluation", 0.5),
    ]
    assert torture(kills, tmp_path).total() == len(kills)
