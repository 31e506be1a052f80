"""--mode=evaluate of runs that localize: Tables 8 and 9 (App. A).

RUN/evaluation/STEP/SOURCE/localization.png        accuracy over the IoU that a right box must have
RUN/evaluation/STEP/SOURCE/gallery.jpg             images from the best to the worst, by protocol 1
RUN/evaluation/STEP/SOURCE/tables.md, .csv, .json

The top-5 labels are those of `config.localization.posteriors`; without it the label is given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.experimental import multihost_utils

from vgg_jax.commands.labels import TOP, classifier_of, posteriors_of
from vgg_jax.commands.paths import unreadable
from vgg_jax.commands.target import EvalTarget, check_task
from vgg_jax.commands.workdir import WAY_OUT, claim_results, slug
from vgg_jax.config import eval_scale, eval_scales
from vgg_jax.data.decode import decode
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.rescaling import ScaledExample
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.evaluate.classes import eval_classes, is_ilsvrc_validation
from vgg_jax.evaluate.gallery import Shown, save_gallery, spread
from vgg_jax.evaluate.localization import Question, by_image, overlaps, questions, save_curves
from vgg_jax.evaluate.localization_tables import BoxRow, box_row, box_tables, save_box_tables, settings_text
from vgg_jax.evaluate.paper import BoxSetting
from vgg_jax.files import drawing, printable, writing
from vgg_jax.inference.central_boxes import CentralBoxes
from vgg_jax.inference.localization import (
    Asked,
    PredictedBoxes,
    best_boxes,
    box_runner,
    dense_boxes,
    dense_rates,
    rating_runner,
)
from vgg_jax.inference.runner import Runner
from vgg_jax.model.specs import CONVOLUTIONAL_STAGES
from vgg_jax.progress import Progress
from vgg_jax.tasks.localization import boxed_source

if TYPE_CHECKING:
    from jaxtyping import Float


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
    out = out and out.absolute()
    done: list[_Evaluation] = []
    folders = []
    for target in targets:
        check_task(target, "localization")
        out, home = claim_results(target.name, target.home, out)
        done.append(_Evaluation(target))
        folders.append(home / "-".join(map(slug, (done[-1].source.name, done[-1].source.split))))
        if done[-1].source.name != done[0].source.name or done[-1].source.split != done[0].source.split:
            raise ConfigError(f"{target.name} is evaluated on other images than {done[0].target.name}: name one source")
        for key in ("posteriors", "classifier"):
            if target.config.localization[key] != done[0].target.config.localization[key]:
                raise ConfigError(f"config.localization.{key}: name one for all networks")
    rows, curves = [], {}
    for evaluation in done:
        rows += evaluation.rows(curves)
    if len(done) > 1:
        rows.append(_dense_row(done, [evaluation.scales for evaluation in done], curves))
    first = done[0]
    note = "" if first.posteriors is not None else "; no config.localization.posteriors: the label is given"
    heading = "\n".join(printable(f"{e.target.name} on {e.source.describe()}{note}") for e in done)
    folder = folders[0] if len(folders) == 1 and out in folders[0].parents else out / folders[0].name
    if jax.process_index() == 0:
        with writing(folder, WAY_OUT):
            save_box_tables(folder, rows, heading)
            with drawing(folder / "localization.png") as path:
                save_curves(path, curves)
            with drawing(folder / "gallery.jpg") as path:
                save_gallery(path, first.gallery())
    lines = [heading, "", box_tables(rows), "", f"Tables, curves and a gallery: {folder}"]
    problems = {name: why for evaluation in done for name, why in evaluation.problems.items()}
    return "\n".join([*lines, *unreadable(problems, "are not counted")])


class _Evaluation:
    """A network's boxes in the images of a source, by both protocols."""

    def __init__(self, target: EvalTarget):
        config, net = target.config, target.net
        self.source = boxed_source(config, config.evaluate.split)
        self._per_class = net.num_classes > 4
        self._of_class = np.arange(len(self.source.classes))  # which of the network's boxes is a class's
        if self._per_class:
            self._of_class = eval_classes(target.classes, self.source, "source", target.name).outputs
        self.questions = questions(self.source.objects)
        of_image = by_image(self.questions)
        self.posteriors, self.problems = posteriors_of(config, self.source)
        self.scale, self.scales = eval_scale(config), eval_scales(config)
        images = [image for image in of_image if self.source.name_of(image) not in self.problems]
        self._images = images[jax.process_index() :: jax.process_count()]
        self.asked = {
            index: self._classes_asked(index, [self.questions[number].label for number in of_image[index]])
            for index in self._images
        }
        self.sizes: dict[int, tuple[int, int]] = {}
        self._reading = {"threads": config.data.threads, "on_error": config.data.on_error}
        size = config.evaluate.batch_size or None
        central, problems = CentralBoxes(net, self.scale, config.data.flip, batch_size=size), {}
        self.target = target._replace(net=central.runner.net)  # its parameters are let go
        self._central = dict(central(self.source, self._images, problems, **self._reading))
        self.problems |= problems
        self.dense: dict[int, dict[int, np.ndarray]] = {}  # by Q and image
        self.rates: dict[int, dict[int, np.ndarray]] = {}
        judge = classifier_of(config, self.source.classes)
        for scale in dict.fromkeys((self.scale, *self.scales)):
            runner = box_runner(net, (scale,), config.data.flip, batch_size=size)
            of_index = lambda index: self._of_class[self.asked[index].classes]
            self.dense[scale] = self._at_places(f"boxes, Q={scale}", dense_boxes, runner, scale, of_index)
            if judge:
                runner = rating_runner(judge.net, [net], (scale,), config.data.flip, batch_size=size)
                of_index = lambda index: judge.outputs[self.asked[index].classes]
                self.rates[scale] = self._at_places(f"ratings, Q={scale}", dense_rates, runner, scale, of_index)

    def _at_places(self, what: str, function: Callable, runner: Runner, scale: int, classes: Callable) -> dict:
        """What `dense_boxes` or `dense_rates` gives of this process's images at a scale, by image."""
        found, progress, problems = {}, Progress(what), {}

        def noted(examples: Iterator[ScaledExample]) -> Iterator[ScaledExample]:
            for example in examples:
                if example.problem:
                    problems[self.source.name_of(example.index)] = example.problem
                self.sizes[example.index] = example.size
                yield example

        with scaled_images(self.source, self._images, (scale,), **self._reading) as examples:
            for (index, _), values in function(runner, noted(examples), classes):
                found[index] = values
                progress(len(found), len(self._images) - len(problems))
        progress.clear()
        self.problems |= problems
        return found

    def _classes_asked(self, index: int, inside: Sequence[int]) -> Asked:
        """The five most probable classes of an image, and behind them those that are in it."""
        if self.posteriors is None:
            return Asked(np.array(inside), np.ones(len(inside)))
        row = self.posteriors[index]
        best = np.argsort(-row, kind="stable")[:TOP]
        classes = np.array([*best, *(label for label in inside if label not in best)])
        return Asked(classes, row[classes])

    def setting(self, scales: Sequence[int]) -> BoxSetting:
        """What this network's boxes at some Q are of, as in Tables 8 and 9."""
        frozen = set(self.target.frozen)
        layers = "all layers" if not frozen else f"all but {', '.join(sorted(frozen))}"
        if frozen == set(CONVOLUTIONAL_STAGES):
            layers = "fc6 and fc7"
        boxes = "PCR" if self.target.config.localization.per_class else "SCR"
        return BoxSetting(boxes, layers, self.target.S, tuple(scales))

    @property
    def of_the_paper(self) -> bool:
        """Whether network and images are the paper's: net D, and all validation images of ILSVRC."""
        net, source = self.target.net, self.source
        of_net = net.spec.name == "D" and net.of_the_papers_size
        return of_net and not self.problems and is_ilsvrc_validation(source)

    def rows(self, curves: dict[str, np.ndarray]) -> list[BoxRow]:
        """A line of Table 8, and those of Table 9 at one Q and at several."""
        given = np.full((len(self.questions), 1), -1.0)
        for number, question in enumerate(self.questions):
            if question.image in self._central:
                given[number] = overlaps(question, self._own_box(question)[None])[0]
        given = self.known(given)[:, 0]
        settings = [self.setting((self.scale,))]
        curves[f"central crop: {settings_text(settings)}"] = given
        rows = [box_row(8, settings, given, None, of_the_paper=self.of_the_paper)]
        for scales in dict.fromkeys([(self.scale,), self.scales]):
            rows.append(_dense_row([self], [scales], curves))
        return rows

    def gallery(self) -> list[Shown]:
        """The true class's boxes in the central crops of some of this process's images, from the best to the worst."""
        here = [question for question in self.questions if question.image in self._central]
        best = np.array([overlaps(question, self._own_box(question)[None])[0] for question in here])
        pixels = lambda question: decode(self.source[question.image]["image"])
        chosen = [(here[place], best[place]) for place in spread(best)]
        return [Shown(pixels(of), of.corners, self._own_box(of), float(overlap)) for of, overlap in chosen]

    def _own_box(self, question: Question) -> Float[np.ndarray, 4]:
        """The box of the true class in the central crop."""
        return self._central[question.image][self._of_class[question.label] if self._per_class else 0]

    def known(self, found: Float[np.ndarray, "questions k"]) -> Float[np.ndarray, "known k"]:
        """What all processes found out, each about its images: -1 where it does not know.

        Raises:
          DataError: nothing is known.
        """
        found = np.reshape(multihost_utils.process_allgather(found), (-1, *found.shape)).max(0)
        known = found[:, 0] >= 0
        for question in itertools.compress(self.questions, ~known):  # why is known to the process that read it
            self.problems.setdefault(self.source.name_of(question.image), "could not be read")
        if not known.any():
            raise DataError(f"{self.source.describe()}: no image could be read, there is nothing to evaluate on")
        return found[known]


def _dense_row(done: Sequence[_Evaluation], scales: Sequence[Sequence[int]], curves: dict[str, np.ndarray]) -> BoxRow:
    """A line of Table 9: the boxes of networks, each at its own Q, merged together."""
    first, config = done[0], done[0].target.config
    merging = {"match": config.localization.match, "threshold": config.localization.threshold}
    passes = [(e, q) for e, some in zip(done, scales, strict=True) for q in some]
    found = np.full((len(first.questions), 1 + TOP), -1.0)  # with the label given; of the most probable classes
    answers: dict[int, PredictedBoxes] = {}
    for number, question in enumerate(first.questions):
        index = question.image
        if not all(index in e.dense[q] for e, q in passes):
            continue
        if index not in answers:
            every = [e.dense[q][index] for e, q in passes]
            if len({corners.shape[1] for corners in every}) > 1:  # SCR beside PCR: its box is every class's
                most = len(first.asked[index].classes)
                every = [np.broadcast_to(corners, (len(corners), most, 4)) for corners in every]
            rates = np.concatenate([e.rates[q][index] for e, q in passes]) if first.rates else None
            corners, size = np.concatenate(every), first.sizes[index]
            answers[index] = best_boxes(corners, first.asked[index], size, rates, **merging)
        answer = answers[index]
        (own,) = np.flatnonzero(answer.classes == question.label)
        guessed = overlaps(question, answer.corners[:TOP], answer.classes[:TOP])
        found[number] = 0
        found[number, 0] = overlaps(question, answer.corners[own : own + 1])[0]
        found[number, 1 : 1 + len(guessed)] = guessed
    given, guessed = np.split(first.known(found), [1], axis=1)
    given = given[:, 0]
    settings = [e.setting(some) for e, some in zip(done, scales, strict=True)]
    curves[f"dense: {settings_text(settings)}"] = given
    ours = all(evaluation.of_the_paper for evaluation in done)
    return box_row(9, settings, given, None if first.posteriors is None else guessed, of_the_paper=ours)
