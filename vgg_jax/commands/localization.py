"""--mode=evaluate of runs that localize: Tables 8 and 9 (App. A).

RUN/evaluation/STEP/SOURCE/localization.png        accuracy over the IoU that a right box must have
RUN/evaluation/STEP/SOURCE/gallery.jpg             images from the best to the worst, by protocol 1
RUN/evaluation/STEP/SOURCE/tables.md, .csv, .json

The top-5 labels are those of `config.localization.posteriors`; without it the label is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vgg_jax.commands.labels import classifier_of, posteriors_of
from vgg_jax.commands.paths import unreadable
from vgg_jax.commands.target import EvalTarget, check_task
from vgg_jax.commands.workdir import WAY_OUT, claim_results, slug
from vgg_jax.config import eval_scale, eval_scales
from vgg_jax.data.source import Source
from vgg_jax.errors import ConfigError
from vgg_jax.evaluate.classes import eval_classes, is_ilsvrc_validation
from vgg_jax.evaluate.gallery import save_gallery
from vgg_jax.evaluate.localization import save_curves
from vgg_jax.evaluate.localization_dataset import DatasetBoxes, LocalizationDataset
from vgg_jax.evaluate.localization_tables import BoxRow, box_row, box_tables, save_box_tables, settings_text
from vgg_jax.evaluate.paper import BoxSetting
from vgg_jax.files import drawing, printable, writing
from vgg_jax.inference.dense_boxes import Classifier
from vgg_jax.model.specs import CONVOLUTIONAL_STAGES
from vgg_jax.tasks.localization import boxed_source


def evaluate(targets: Iterable[EvalTarget], out: Path | None = None) -> str:
    """Evaluates networks that localize on `config.evaluate.split`; the boxes of several are merged together as well.

    Args:
      targets: the networks, one after another in memory.
      out: where the tables go, and what belongs to a network that has no run's folder; by default the first run's.

    Returns:
      The tables, and what could not be read.

    Raises:
      UserError: the data are missing, have no boxes or are of other classes, or a file cannot be written.
    """
    done: list[_Network] = []
    folders = []
    for target in targets:
        check_task(target, "localization")
        out, home = claim_results(target.name, target.home, out)
        source = boxed_source(target.config, target.config.evaluate.split)
        if not done:
            dataset = LocalizationDataset(source, *posteriors_of(target.config, source))
            classifier = classifier_of(target.config, source.classes)
        else:
            _check_alike(target, source, done[0].target, dataset.source)
        done.append(_boxes_of(target, dataset, classifier))
        folders.append(home / "-".join(map(slug, (source.name, source.split))))
    curves: dict[str, np.ndarray] = {}
    rows = [row for network in done for row in _rows(network, dataset, curves)]
    if len(done) > 1:
        rows.append(_dense_row([(network, network.scales) for network in done], dataset, curves))
    note = "" if dataset.posteriors is not None else "; no config.localization.posteriors: the label is given"
    on = f"{dataset.source.describe()}{note}"
    heading = "\n".join(printable(f"{network.target.name} on {on}") for network in done)
    folder = folders[0] if len(folders) == 1 and out in folders[0].parents else out / folders[0].name
    if jax.process_index() == 0:
        with writing(folder, WAY_OUT):
            save_box_tables(folder, rows, heading)
            with drawing(folder / "localization.png") as path:
                save_curves(path, curves)
            with drawing(folder / "gallery.jpg") as path:
                save_gallery(path, dataset.gallery(done[0].boxes))
    lines = [heading, "", box_tables(rows), "", f"Tables, curves and a gallery: {folder}"]
    return "\n".join([*lines, *unreadable(dataset.problems, "are not counted")])


class _Network(NamedTuple):
    """A network that was evaluated."""

    target: EvalTarget
    """Its network has no parameters any more."""
    boxes: DatasetBoxes

    @property
    def scale(self) -> int:
        return eval_scale(self.target.config)

    @property
    def scales(self) -> tuple[int, ...]:
        return eval_scales(self.target.config)

    def setting(self, scales: Sequence[int]) -> BoxSetting:
        """What its boxes at some Q are of, as in Tables 8 and 9."""
        frozen = set(self.target.frozen)
        layers = "all layers" if not frozen else f"all but {', '.join(sorted(frozen))}"
        if frozen == set(CONVOLUTIONAL_STAGES):
            layers = "fc6 and fc7"
        boxes = "PCR" if self.target.config.localization.per_class else "SCR"
        return BoxSetting(boxes, layers, self.target.S, tuple(scales))


def _check_alike(target: EvalTarget, source: Source, first: EvalTarget, first_source: Source) -> None:
    """Refuses a network whose boxes cannot be compared and merged with those of the first one; raises ConfigError."""
    if (source.name, source.split) != (first_source.name, first_source.split):
        raise ConfigError(f"{target.name} is evaluated on other images than {first.name}: name one source")
    for key in ("posteriors", "classifier", "match", "threshold"):
        if target.config.localization[key] != first.config.localization[key]:
            raise ConfigError(f"config.localization.{key}: name one for all networks")


def _boxes_of(target: EvalTarget, dataset: LocalizationDataset, classifier: Classifier | None) -> _Network:
    """Computes a network's boxes, and lets its parameters go."""
    outputs = np.arange(len(dataset.source.classes))
    if target.net.num_classes > 4:
        outputs = eval_classes(target.classes, dataset.source, "source", target.name).outputs
    boxes = dataset.boxes(target.net, target.config, outputs, classifier)
    return _Network(target._replace(net=boxes.net), boxes)


def _rows(network: _Network, dataset: LocalizationDataset, curves: dict[str, np.ndarray]) -> list[BoxRow]:
    """A network's line of Table 8, and those of Table 9 at one Q and at several."""
    given = dataset.central_overlaps(network.boxes)
    settings = [network.setting((network.scale,))]
    curves[f"central crop: {settings_text(settings)}"] = given
    central = box_row(8, settings, given, None, of_the_paper=_of_the_paper([network], dataset))
    several = dict.fromkeys([(network.scale,), network.scales])
    return [central, *(_dense_row([(network, scales)], dataset, curves) for scales in several)]


def _dense_row(
    parts: Sequence[tuple[_Network, tuple[int, ...]]], dataset: LocalizationDataset, curves: dict[str, np.ndarray]
) -> BoxRow:
    """A line of Table 9: the boxes of networks, each at its own Q, merged together."""
    networks, how = [network for network, _ in parts], parts[0][0].target.config.localization
    boxes = [network.boxes.dense[scale] for network, scales in parts for scale in scales]
    given, guessed = dataset.dense_overlaps(boxes, match=how.match, threshold=how.threshold)
    settings = [network.setting(scales) for network, scales in parts]
    curves[f"dense: {settings_text(settings)}"] = given
    return box_row(9, settings, given, guessed, of_the_paper=_of_the_paper(networks, dataset))


def _of_the_paper(networks: Sequence[_Network], dataset: LocalizationDataset) -> bool:
    """Whether networks and images are the paper's: net D, and all validation images of ILSVRC."""
    nets = [network.target.net for network in networks]
    papers_nets = all(net.spec.name == "D" and net.of_the_papers_size for net in nets)
    return papers_nets and not dataset.problems and is_ilsvrc_validation(dataset.source)
