import threading

import jax
import pytest

from vgg_jax import processes
from vgg_jax.train import watchdog
from vgg_jax.train.watchdog import Watchdog


@pytest.mark.parametrize(
    ("report", "ending"), [(lambda: "step 4 is saved", "again: step 4 is saved"), (threading.Event().wait, "again")]
)
def test_a_process_that_waits_too_long_ends_even_where_the_disk_is_stuck(report, ending, monkeypatch):
    reasons, ended = [], threading.Event()
    monkeypatch.setattr(processes, "give_up", lambda reason: (reasons.append(reason), ended.set(), watched.close()))
    monkeypatch.setattr(watchdog, "MOMENT", 0.05)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    watched = Watchdog(0.05, report)
    assert ended.wait(10)
    assert reasons[0].startswith("no progress for 0.05 seconds (config.mesh.patience)") and reasons[0].endswith(ending)
