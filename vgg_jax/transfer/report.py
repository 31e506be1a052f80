"""The report of a transfer: the row of Table 11 or 12, the learning curve, what went wrong (App. B)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vgg_jax.data.decode import decode
from vgg_jax.evaluate.mistakes import save_mistakes
from vgg_jax.evaluate.posteriors import image_names
from vgg_jax.evaluate.tables import save_csv, table, write_tables
from vgg_jax.files import drawing
from vgg_jax.transfer.experiment import Score, TransferResult, percent
from vgg_jax.transfer.metrics import average_precisions


def markdown(result: TransferResult, networks: str, paper: str = "") -> str:
    """The table of a result.

    Args:
      networks: the networks' names, D + E.
      paper: the paper's figure, with its deviation, if there is one for this data set and these networks.
    """
    return table([_cells(score, networks, paper) for score in result.scores])


def _cells(score: Score, networks: str, paper: str) -> dict[str, str]:
    layer, scales, combine = score.descriptor or ("the best on held-out images", (), "")
    cells = {
        "network": networks,
        "layer": layer,
        "Q": ",".join(map(str, scales)),
        "scales": combine if len(scales) > 1 else "",
        "C": ", ".join(f"{C:g}" for C in dict.fromkeys(score.C)),
        "held out, %": percent(score.held_out) if score.held_out else "–",
    }
    cells |= {f"{metric.replace('_', ' ')}, %": percent(values) for metric, values in score.values.items()}
    return cells | ({"paper's": paper} if paper else {})


def save_report(folder: Path, result: TransferResult, heading: str, networks: str, paper: str = "") -> None:
    """Writes `tables.md`, `.csv` and `.json`, `per_class.csv`, the learning curve, and what went wrong.

    What went wrong is of the first split, like the saved classifier. Where an image has one class these are the files
    of `save_mistakes`; where it may have several, `per_class.csv` has the average precisions.
    """
    records = [_record(score, networks, paper) for score in result.scores]
    lines = [[_flat(value) for value in record.values()] for record in records]
    write_tables(folder, f"{heading}\n\n{markdown(result, networks, paper)}\n", records, list(records[0]), lines)
    if result.curve:
        points = [
            (score.shots, metric, np.mean(values), _flat(values))
            for score in result.curve
            for metric, values in score.values.items()
        ]
        save_csv(folder / "curve.csv", ("shots", "metric", "mean", "splits"), points)
        with drawing(folder / "curve.png") as path:
            _draw_curve(path, result.curve)
    source, classes = result.source, result.source.classes
    if result.truth.ndim == 1:
        names = image_names(source)
        images = [names[index] for index in result.test]
        read = lambda place: decode(source[int(result.test[place])]["image"])
        save_mistakes(folder, result.decisions, result.truth, classes, images, read, "decision")
    else:
        points = "11-point" if "mean_ap_11" in result.score.values else "all"
        each = average_precisions(result.decisions, result.truth, interpolation=points)
        counts = (result.truth == 1).sum(0)
        lines = [(n, c, f"{a:.4f}") for n, c, a in zip(classes, counts, each, strict=True)]
        save_csv(folder / "per_class.csv", ("class", "images", "average_precision"), lines)


def _record(score: Score, networks: str, paper: str) -> dict:
    layer, scales, combine = score.descriptor or ("", (), "")
    return {
        "network": networks,
        "layer": layer,
        "Q": list(scales),
        "combine": combine if len(scales) > 1 else "",
        "shots": score.shots,
        "C": list(score.C),
        "held_out": list(score.held_out),
        **{metric: list(values) for metric, values in score.values.items()},
        "paper": paper,
    }


def _flat(value: object) -> object:
    return " ".join(f"{each:g}" for each in value) if isinstance(value, list | tuple) else value


def _draw_curve(path: Path, curve: Sequence[Score]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    shots = [score.shots for score in curve]
    for metric in curve[0].values:
        values = 100 * np.array([score.values[metric] for score in curve])
        spread = values.std(1, ddof=1) if values.shape[1] > 1 else np.zeros(len(curve))
        axes.errorbar(shots, values.mean(1), spread, marker="o", capsize=3, label=metric.replace("_", " "))
    axes.set(xlabel="training images of a class", ylabel="test images, %")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
