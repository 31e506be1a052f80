"""The SVM of Caltech-101's size: scikit-learn's liblinear beside Newton's method on the device, C chosen (App. B).

    python -m benchmarks.transfer [--classes 102] [--shots 30] [--dimensions 4096] [--repeats 2]

Synthetic descriptors, seeded: rectified clusters of unit length that overlap as hard photographs do. A fit is that of
every class for five values of C on four fifths of the images, and of the best C on all. The solvers take turns. Each
fit of liblinear starts its processes; the device's first one compiles, and is what a command waits for. Seconds on the
clock, and of processor time, which a machine's other work hardly changes.
"""

from __future__ import annotations

import argparse
import os
import time

import jax
import numpy as np
from joblib.externals.loky import get_reusable_executor

from vgg_jax.transfer.metrics import mean_class_recall
from vgg_jax.transfer.svm import fit_svm

SOLVERS = ("liblinear", "device")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--classes", type=int, default=102)
    parser.add_argument("--shots", type=int, default=30, help="training images of a class")
    parser.add_argument("--dimensions", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--solvers", nargs="+", default=SOLVERS, choices=SOLVERS)
    arguments = parser.parse_args()
    rows, labels = descriptors(arguments.classes, 2 * arguments.shots, arguments.dimensions)
    (train, test), labels = np.split(rows, 2), labels[: len(labels) // 2]
    print(
        f"{len(train):,} images of {arguments.classes} classes, {train.shape[1]:,}-D; {os.cpu_count()} cores, ", end=""
    )
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; load {os.getloadavg()[0]:.1f}")
    fits = {}
    for number in range(arguments.repeats):
        for solver in arguments.solvers:
            begin = seconds()
            fits[solver] = fit_svm(train, labels, mean_class_recall, solver=solver)
            clock, processor = seconds() - begin
            print(f"{number + 1}  {solver:10} {clock:6.1f} s, processor {processor:6.1f} s", flush=True)
    decisions = {solver: fit.decide(test) for solver, fit in fits.items()}
    for solver, fit in fits.items():
        recall = 100 * mean_class_recall(decisions[solver], labels)
        print(f"{solver:10} C = {fit.C:g}, mean class recall of others {recall:.2f} %")
    if len(fits) < 2:
        return
    one, other = decisions.values()
    print(
        f"decisions differ by {abs(one - other).max():.1e} at most, {(one.argmax(1) != other.argmax(1)).sum()} answers"
    )


def seconds() -> np.ndarray:
    """On the clock, and of processor time, that of the processes of a fit included: they are ended."""
    get_reusable_executor().shutdown(wait=True)
    return np.array([time.perf_counter(), sum(os.times()[:4])])


def descriptors(classes: int, each: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Float32 rows of unit length, every class in both halves alike, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(classes), each)
    centers = np.maximum(rng.normal(size=(classes, dimensions)) - 1, 0).astype("f4")
    rows = 0.15 * centers[labels] + np.maximum(rng.normal(size=(len(labels), dimensions)) - 0.5, 0).astype("f4")
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4"), labels


if __name__ == "__main__":
    main()
