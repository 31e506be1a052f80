import json

import pytest

from vgg_jax.config import default_config
from vgg_jax.train.schedule import Plateau, Schedule, make_schedule


def test_the_rate_falls_on_three_plateaus_and_the_fourth_ends_the_run():
    schedule = Plateau(rate=0.01, drops=3, patience=2, threshold=0.01)
    accuracies = [0.2, 0.3, 0.305, 0.309, 0.4, 0.4, 0.4, 0.405, 0.40, 0.40, 0.3]
    rates, decided = [], []
    for number, accuracy in enumerate(accuracies, start=1):
        assert not schedule.finished
        decided.append(schedule.observe(number * 100, accuracy))
        rates.append(schedule.rate_at(number * 100))
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-5])
    assert [number for number, decision in enumerate(decided, start=1) if decision] == [4, 7, 9, 11]
    assert "rate falls to 1.0e-03" in decided[3] and "30.00%" in decided[3] and "stopping after 3 drops" in decided[10]
    assert schedule.finished


def test_a_drop_acts_from_the_step_after_the_evaluation():
    schedule = Plateau(rate=1.0, patience=1, threshold=0.0)
    schedule.observe(10, 0.5)
    schedule.observe(20, 0.5)
    assert [schedule.rate_at(step) for step in (19, 20, 21)] == [1.0, 0.1, 0.1]


def test_small_improvements_add_up_to_one():
    schedule = Plateau(rate=1.0, patience=3, threshold=0.01)
    for number in range(20):  # 0.4 % an evaluation: above the threshold every third
        schedule.observe(number, 0.5 + 0.004 * number)
    assert schedule.rate_at(20) == 1.0


def test_a_drop_waits_for_the_minimum_interval():
    schedule = Plateau(rate=1.0, patience=1, threshold=0.0, min_interval=50)
    fell = [step for step in range(10, 200, 10) if schedule.observe(step, 0.5)]
    assert fell == [50, 100, 150]


def test_its_state_survives_json():
    first, second = (Plateau(rate=1.0, drops=2, patience=2) for _ in range(2))
    accuracies = [0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2]
    for step, accuracy in enumerate(accuracies[:4]):
        first.observe(step, accuracy)
    second.restore(json.loads(json.dumps(first.state)))
    for step, accuracy in enumerate(accuracies[4:], start=4):
        assert first.observe(step, accuracy) == second.observe(step, accuracy)
    assert first.state == second.state and first.finished == second.finished


def test_a_plateau_takes_over_from_a_schedule_of_another_kind():
    schedule = Plateau(rate=0.01)
    schedule.restore(Schedule(0.01).state)
    assert not schedule.finished and schedule.observe(1, 0.5) == "" and schedule.state["best"] == 0.5


def test_steps_and_warm_up():
    schedule = Schedule(rate=1.0, warmup_steps=4, boundaries=(10, 20))
    rates = [schedule.rate_at(step) for step in (0, 1, 3, 4, 9, 10, 19, 20, 99)]
    assert rates == pytest.approx([0.25, 0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert schedule.observe(5, 0.1) == "" and not schedule.finished


def test_the_config_chooses():
    config = default_config()
    assert isinstance(make_schedule(config), Plateau)
    config.schedule.kind = "fixed"
    assert [make_schedule(config).rate_at(step) for step in (0, 10**6)] == [0.01, 0.01]
    config.schedule.kind, config.schedule.boundaries = "step", (5,)
    assert [make_schedule(config).rate_at(step) for step in (4, 5)] == pytest.approx([0.01, 0.001])
