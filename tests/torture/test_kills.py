"""The short form of the kills, where most is at stake; `test_stopping` and `test_loop` have stops in other phases."""

import signal

from tests.torture.kills import Kill, torture


def test_a_run_that_is_killed_ends_with_the_bits_of_one_that_was_left_alone(tmp_path):
    kills = [Kill(signal.SIGTERM, "cached features", 0.3), Kill(signal.SIGKILL, "saving", 0.0)]
    assert torture(kills, tmp_path).total() == len(kills)
