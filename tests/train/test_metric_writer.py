import json

from vgg_jax.train.metric_writer import FILE, MetricWriter, read


def test_rows_of_steps_that_are_taken_again_are_dropped(tmp_path):
    rows = [{"step": step, "train_loss": 1.0 / step} for step in (10, 20, 30)]
    (tmp_path / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 40, "trai')  # killed
    assert read(tmp_path) == rows
    writer = MetricWriter(tmp_path, 20, write=True)
    writer(30, "train", {"loss": 0.25, "overlap": 0.5})
    writer(30, "validation", {"overlap": 0.75})
    writer.close()
    assert read(tmp_path) == [
        *rows[:2],
        {"step": 30, "train_loss": 0.25, "train_overlap": 0.5},
        {"step": 30, "validation_overlap": 0.75},
    ]
    assert not list(tmp_path.glob("*.partial")) and list((tmp_path / "tensorboard").glob("events*"))


def test_columns_of_older_runs_are_read_by_todays_names(tmp_path):
    (tmp_path / FILE).write_text('{"step": 10, "train_rate": 0.01, "train_top1": 0.5}\n')
    assert read(tmp_path) == [{"step": 10, "train_learning_rate": 0.01, "train_top1": 0.5}]


def test_other_processes_write_nothing(tmp_path):
    writer = MetricWriter(tmp_path, 0, write=False)
    writer(10, "train", {"loss": 1.0})
    writer.close()
    assert not list(tmp_path.iterdir())
