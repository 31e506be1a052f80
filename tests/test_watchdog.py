import math
import threading
from types import SimpleNamespace

import jax
import pytest

from vgg_jax import processes, progress, watchdog
from vgg_jax.progress import Progress
from vgg_jax.watchdog import Watchdog


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


def test_what_shows_its_progress_moves(monkeypatch):
    now, looked, ended = {"watchdog": 0.0, "progress": 1.0}, threading.Semaphore(0), threading.Event()
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: looked.release() or now["watchdog"]))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now["progress"]))
    monkeypatch.setattr(progress, "_last_report", -math.inf)
    monkeypatch.setattr(processes, "give_up", lambda reason: (ended.set(), watched.close()))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    Progress("validation")(1, 2)
    watched = Watchdog(0.05, str)
    now["watchdog"] = 1.04  # 0.04 after the report, 1.04 after the beginning
    assert all(looked.acquire(timeout=10) for _ in range(5)) and not ended.is_set()
    now["watchdog"] = 1.06
    assert ended.wait(10)
