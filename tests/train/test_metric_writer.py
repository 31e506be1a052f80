import json

from vgg_jax.train.metric_writer import FILE, MetricWriter, read


def test_rows_of_steps_that_are_taken_again_are_dropped(tmp_path):
    rows = [{"step": step, "train_loss": 1.0 / step} for step in (10, 20, 30)]
    (tmp_path / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 40, "trai')  # killed
    assert read(tmp_path) == rows
    writer = MetricWriter(tmp_path, {"train": 20, "validation": 20}, write=True)
    writer(30, "train", {"loss": 0.25, "overlap": 0.5})
    writer.flush()
    (summaries,) = (tmp_path / "tensorboard").glob("events*")
    assert b"train/overlap" in summaries.read_bytes()
    writer(30, "validation", {"overlap": 0.75})
    writer.close()
    assert b"validation/overlap" in summaries.read_bytes()
    assert read(tmp_path) == [
        *rows[:2],
        {"step": 30, "train_loss": 0.25, "train_overlap": 0.5},
        {"step": 30, "validation_overlap": 0.75},
    ]
    assert not list(tmp_path.glob("*.partial"))


def test_columns_of_older_runs_are_read_by_todays_names(tmp_path):
    (tmp_path / FILE).write_text('{"step": 10, "train_rate": 0.01, "train_top1": 0.5}\n')
    assert read(tmp_path) == [{"step": 10, "train_learning_rate": 0.01, "train_top1": 0.5}]


def test_other_processes_write_nothing(tmp_path):
    writer = MetricWriter(tmp_path, {"train": 0, "validation": 0}, write=False)
    writer(10, "train", {"loss": 1.0})
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_validation_that_is_made_again_is_written_once(tmp_path):
    kept = [{"step": 10, "validation_top1": 0.5}, {"step": 20, "train_loss": 1.0}]
    rows = [*kept, {"step": 20, "validation_top1": 0.75}]  # killed before the checkpoint had it
    (tmp_path / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    MetricWriter(tmp_path, {"train": 20, "validation": 10}, write=True)
    assert read(tmp_path) == kept


def test_rows_among_junk_are_found_and_nothing_is_lost(tmp_path, caplog):
    rows = [b'{"step": 1, "train_loss": 2.0}', b'{"step": 2, "train_loss": NaN}', b'{"step": 3, "train_loss": 0.5}']
    junk = [
        b"\xff\x00",
        b"[1]",
        b'{"step": "four"}',
        b'{"train_loss": 1.0}',
        b'{"step": 3, "train_loss": "low"}',
        b"[" * 9999,
    ]
    before = b"\n".join([*junk[:4], rows[0], *junk[4:], *rows[1:]]) + b"\n"
    (tmp_path / FILE).write_bytes(before)
    MetricWriter(tmp_path, {"train": 3, "validation": 3}, write=True)
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3]
    (line,) = caplog.messages
    assert "no metrics in 6 of its lines, the first is line 1: left out" in line
    assert line.endswith(f"the file as it was is now {FILE}.damaged1")
    assert (tmp_path / f"{FILE}.damaged1").read_bytes() == before
