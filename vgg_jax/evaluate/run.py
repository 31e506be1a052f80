"""The evaluation mode: a checkpoint, a source, a table (Sec. 4)."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from vgg_jax.config import test_scale, validate
from vgg_jax.errors import DataError
from vgg_jax.evaluate.report import table
from vgg_jax.parallel import device_mesh, replicated
from vgg_jax.train.checkpoint import find, load_network
from vgg_jax.train.state import split_network


def evaluate(path: str | Path, config: ConfigDict | None = None) -> str:
    """Evaluates a checkpoint on the centre crops of `config.evaluate.split`.

    Args:
      path: a run's workdir or one checkpoint's folder.
      config: where the data come from; by default as in training, from the checkpoint.

    Returns:
      The table.

    Raises:
      UserError: there is no checkpoint, or the data are missing or of other classes.
    """
    import jax

    from vgg_jax.data.sources import open_source
    from vgg_jax.evaluate.centre import CentreCropEvaluation

    folder = find(path)
    net, meta = load_network(folder)
    config = config or ConfigDict(meta["config"])
    validate(config)
    source = open_source(config.data.source, config.evaluate.split)
    if list(source.classes) != meta["classes"]:
        raise DataError(_differing(source, meta["classes"], folder))
    mesh = device_mesh()
    graphdef, trainable, rest = split_network(net, ())
    scale = max(test_scale(config), net.crop)
    evaluation = CentreCropEvaluation(
        graphdef,
        source,
        mesh,
        crop=net.crop,
        scale=scale,
        batch_size=config.evaluate.batch_size,
        threads=config.data.threads,
        on_error=config.data.on_error,
    )
    metrics = evaluation(*jax.device_put((trainable, rest), replicated(mesh)))
    smallest, largest = meta["config"]["data"]["scale"]
    row = {
        "network": net.spec.name,
        "step": f"{meta['step']:,}",
        "S": f"[{smallest};{largest}]" if smallest < largest else str(smallest),
        "Q": str(scale),
        "protocol": "centre crop",
        "images": f"{metrics['images']:,.0f}",
        "top-1 error, %": f"{100 * (1 - metrics['top1']):.2f}",
        "top-5 error, %": f"{100 * (1 - metrics['top5']):.2f}",
        "top-1 accuracy, %": f"{100 * metrics['top1']:.2f}",
    }
    lines = [f"{folder} on {source.describe()}", "", table([row])]
    if evaluation.problems:
        lines += ["", f"{len(evaluation.problems)} images could not be read and are not counted:"]
        lines += [f"  {where}: {reason}" for where, reason in evaluation.problems.items()]
    return "\n".join(lines)


def _differing(source, classes: list[str], folder: Path) -> str:
    if len(source.classes) != len(classes):
        return (
            f"{folder} knows {len(classes)} classes, {source.name} has {len(source.classes)}: evaluate on the same ones"
        )
    first = next(number for number, pair in enumerate(zip(source.classes, classes, strict=True)) if len(set(pair)) == 2)
    return (
        f"{folder} and {source.describe()} name their classes differently: "
        f"class {first} is {classes[first]!r} there and {source.classes[first]!r} here"
    )
