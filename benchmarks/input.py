"""Images per second from files to training crops: ours, its predecessor, the usual tf.data, torch's DataLoader.

    python -m benchmarks.input                     photo-like 500 x 375 JPEGs, made from scikit-learn's two photographs
    python -m benchmarks.input --folder=PATH       the JPEG files below a folder
    python -m benchmarks.input --digits            the embedded digits; ours and its predecessor only

Every contestant reads the same files, draws S uniformly from [256, 512], cuts a random 224 crop of the rescaled image
and yields batches of 64 (digits: S in [32, 40], crop 32). Each runs in a process of its own and they take turns in one
run, so that a machine's moods hit all of them; the ratios of the medians are what to look at. Images per core are
images per second of processor time, of all threads and processes together: neighbors on the machine hardly change
that. Ours leaves the flip to the device; theirs flip on the host, which is a small part of the work.

The predecessor, a pool of Python threads, is read from this repository's history (commit c96f597); without a history
it is left out. A spinning thread is a second Python thread in the same process that holds Python's lock whenever it
can: it takes a core, so one worker thread beside it is to be compared with one alone.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

BATCH = 64
PREDECESSOR = "c96f597"
AHEAD = 8  # batches until what was prepared in advance is used up


def ours(source: str, threads: int, crop: int, scale: tuple[int, int]) -> Iterator:
    from vgg_jax.data.open import open_source
    from vgg_jax.data.sampler import Sampler
    from vgg_jax.data.training_batches import TrainingBatches

    images = open_source(source, "train")
    sampler = Sampler(len(images), batch_size=BATCH, scale=scale, seed=0)
    return TrainingBatches(images, sampler, crop=crop, threads=threads)


def predecessor(source: str, threads: int, crop: int, scale: tuple[int, int]) -> Iterator:
    """The stream of an earlier commit, whose tree comes first on the path of this process."""
    from vgg_jax.data.sources import open_source
    from vgg_jax.data.train_stream import TrainStream

    images = open_source(source, "train")
    return TrainStream(images, batch_size=BATCH, crop=crop, scale=scale, seed=0, threads=threads)


def tf_data(source: str, threads: int, crop: int, scale: tuple[int, int], antialias: bool = True) -> Iterator:
    """The pipeline of most TensorFlow and JAX examples: decode everything, resize everything, crop."""
    import tensorflow as tf

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        smaller_side = tf.random.uniform([], scale[0], scale[1] + 1, tf.int32)
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        size = tf.round(shape * tf.cast(smaller_side, tf.float32) / tf.reduce_min(shape))
        image = tf.image.resize(image, tf.cast(size, tf.int32), antialias=antialias)
        return tf.image.random_flip_left_right(tf.image.random_crop(image, (crop, crop, 3)))

    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    paths = [str(path) for path in jpegs(source.removeprefix("folder:"))]
    dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    return iter(dataset.with_options(options).as_numpy_iterator())


def tf_data_aliased(*given) -> Iterator:
    return tf_data(*given, antialias=False)


def torch_loader(source: str, threads: int, crop: int, scale: tuple[int, int]) -> Iterator:
    """torch's DataLoader with one process per core, and torchvision's Pillow transforms written out."""
    import torch

    class Photographs(torch.utils.data.Dataset):
        paths = jpegs(source.removeprefix("folder:"))

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, index):
            draw = np.random.default_rng()
            image = Image.open(self.paths[index]).convert("RGB")
            factor = draw.integers(scale[0], scale[1], endpoint=True) / min(image.size)
            width, height = (max(round(side * factor), crop) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            left, top = draw.integers(width - crop + 1), draw.integers(height - crop + 1)
            image = image.crop((left, top, left + crop, top + crop))
            if draw.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)

    torch.set_num_threads(1)
    dataset = Photographs()
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**9)
    return iter(torch.utils.data.DataLoader(dataset, BATCH, sampler=sampler, num_workers=threads))


PIPELINES = {function.__name__: function for function in (ours, predecessor, tf_data, tf_data_aliased, torch_loader)}


def jpegs(folder: str | Path) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def work(arguments: argparse.Namespace) -> None:
    """One contestant in its process: a line of input asks for a measurement, a line of output answers."""
    from vgg_jax import __file__ as package

    # As the commands do: freed memory is kept.
    keeper = "compiler" if (Path(package).parent / "compiler.py").exists() else "cpu"
    __import__(f"vgg_jax.{keeper}", fromlist=["keep_memory"]).keep_memory()
    crop, scale = (32, (32, 40)) if arguments.digits else (224, (256, 512))
    batches = PIPELINES[arguments.work](arguments.source, arguments.threads, crop, scale)
    measuring = threading.Event()
    if arguments.spin:
        threading.Thread(target=_spin, args=(measuring,), daemon=True).start()
    print("ready", flush=True)
    for _ in sys.stdin:
        measuring.set()
        for _ in range(AHEAD):
            next(batches)
        processor, count, start = _processor_time(), 0, time.perf_counter()
        while time.perf_counter() < start + arguments.seconds:
            next(batches)
            count += BATCH
        passed = time.perf_counter() - start
        measuring.clear()
        print(count / passed, count / (_processor_time() - processor), flush=True)
    os._exit(0)


def _spin(measuring: threading.Event) -> None:
    """Holds Python's lock as long as it may, while this contestant is measured."""
    while measuring.wait():
        pass


def _processor_time() -> float:
    """Seconds of user and system time, of this process and of its children."""
    process = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


class Contestant:
    """A process that measures when it is asked to."""

    def __init__(self, name: str, pipeline: str, threads: int, given: list[str], tree: Path | None = None, spin=False):
        here = Path(__file__).resolve().parents[1]
        options = [f"--work={pipeline}", f"--threads={threads}", *["--spin"] * spin, *given]
        self.name, self.measured = name, []
        self.process = subprocess.Popen(
            [sys.executable, __file__, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": str(tree or here), "JAX_PLATFORMS": "cpu"},
        )
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit(f"{name} could not be started; see: PYTHONPATH={tree or here} {' '.join(options)}")

    def measure(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.measured.append(tuple(map(float, self.process.stdout.readline().split())))

    def medians(self) -> tuple[float, float]:
        return tuple(statistics.median(column) for column in zip(*self.measured, strict=True))


def earlier_tree(folder: Path) -> Path | None:
    """The package as it was at the predecessor's commit, if this repository has a history."""
    here = Path(__file__).resolve().parents[1]
    archive = subprocess.run(["git", "-C", here, "archive", PREDECESSOR, "vgg_jax"], capture_output=True, check=False)
    if archive.returncode:
        return None
    subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
    return folder


def make_photographs(folder: Path, count: int = 128) -> None:
    """Parts of two photographs at ImageNet's usual size and weight: 500 x 375, some 90 kB."""
    from sklearn.datasets import load_sample_image

    photographs = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    draw = np.random.default_rng(0)
    for number in range(count):
        width = int(draw.integers(400, 641))
        height = width * 3 // 4
        photograph = photographs[number % 2]
        left, top = draw.integers(photograph.width - width + 1), draw.integers(max(photograph.height - height, 0) + 1)
        part = photograph.crop((left, top, left + width, min(top + height, photograph.height)))
        file = io.BytesIO()
        part.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=97)
        path = folder / "train" / f"{number % 2}" / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a folder of class folders, or with train/ below it")
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--only", nargs="*", help="names of contestants; by default all")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--spin", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
    threads = arguments.threads
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as earlier:
        if arguments.digits:
            source = "mnist5k"
        else:
            folder = arguments.folder or Path(made)
            if arguments.folder is None:
                make_photographs(folder)
            folder = folder / "train" if (folder / "train").is_dir() else folder
            source, files = f"folder:{folder}", jpegs(folder)
            kilobytes = sum(path.stat().st_size for path in files) / len(files) / 1e3
            print(f"{len(files)} JPEG files, {kilobytes:.0f} kB each, {threads} threads or processes", flush=True)
        given = [f"--source={source}", f"--seconds={arguments.seconds}", *["--digits"] * arguments.digits]
        wanted = [("ours", "ours", threads, None, False)]
        if tree := earlier_tree(Path(earlier)):
            wanted += [(f"threads and Pillow, {PREDECESSOR}", "predecessor", threads, tree, False)]
        if not arguments.digits:
            wanted += [
                ("ours, one thread", "ours", 1, None, False),
                ("ours, one thread, beside a spinning one", "ours", 1, None, True),
                ("tf.data, antialiased", "tf_data", threads, None, False),
                ("tf.data, aliased", "tf_data_aliased", threads, None, False),
                ("torch DataLoader", "torch_loader", threads, None, False),
            ]
            if tree:
                wanted.insert(3, (f"{PREDECESSOR}, one thread", "predecessor", 1, tree, False))
        contestants = [
            Contestant(name, pipeline, count, given, tree, spin)
            for name, pipeline, count, tree, spin in wanted
            if not arguments.only or name in ("ours", *arguments.only)
        ]
        for _ in range(arguments.repetitions):
            for contestant in contestants:
                contestant.measure()
        for contestant in contestants:
            contestant.process.kill()
    print("| pipeline | images/s | ours is faster by | images per core | ours is cheaper by |\n|---|---|---|---|---|")
    best = contestants[0].medians()
    for contestant in contestants:
        speed, per_core = contestant.medians()
        print(
            f"| {contestant.name} | {speed:.0f} | {best[0] / speed:.2f} | {per_core:.0f} | {best[1] / per_core:.2f} |"
        )


if __name__ == "__main__":
    main()
