"""Images per second from JPEG files to training crops: ours, the usual tf.data pipeline, torch's DataLoader.

    python -m benchmarks.input                     photo-like 500 x 375 JPEGs, made from scikit-learn's two photographs
    python -m benchmarks.input --folder=PATH       the JPEG files below a folder

Every contestant reads the same files, draws S uniformly from [256, 512], cuts a random 224 crop of the rescaled image
and yields batches of 64 uint8 or float images. They take turns in one run, so that a machine's moods hit all of them;
the ratios of the medians are what to look at. Images per core are images per second of processor time, of all threads
and processes together: neighbours on the machine hardly change that. Ours leaves the flip to the device; theirs flip
on the host, which is a small part of the work.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vgg_jax.data.open import open_source
from vgg_jax.data.train_stream import TrainStream

BATCH, CROP, SCALE = 64, 224, (256, 512)


def ours(folder: Path, threads: int) -> Iterator:
    source = open_source(f"folder:{folder}", "train")
    return TrainStream(source, batch_size=BATCH, crop=CROP, scale=SCALE, seed=0, threads=threads)


def tf_data(folder: Path, threads: int, antialias: bool) -> Iterator:
    """The pipeline of most TensorFlow and JAX examples: decode everything, resize everything, crop."""
    from vgg_jax.data._tensorflow import tf

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        smaller_side = tf.random.uniform([], SCALE[0], SCALE[1] + 1, tf.int32)
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        size = tf.round(shape * tf.cast(smaller_side, tf.float32) / tf.reduce_min(shape))
        image = tf.image.resize(image, tf.cast(size, tf.int32), antialias=antialias)
        return tf.image.random_flip_left_right(tf.image.random_crop(image, (CROP, CROP, 3)))

    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    paths = [str(path) for path in jpegs(folder)]
    dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    return iter(dataset.with_options(options).as_numpy_iterator())


def torch_loader(folder: Path, threads: int) -> Iterator:
    """torch's DataLoader with one process per core, and torchvision's Pillow transforms written out."""
    import torch

    class Photographs(torch.utils.data.Dataset):
        paths = jpegs(folder)

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, index):
            draw = np.random.default_rng()
            image = Image.open(self.paths[index]).convert("RGB")
            factor = draw.integers(SCALE[0], SCALE[1], endpoint=True) / min(image.size)
            width, height = (max(round(side * factor), CROP) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            left, top = draw.integers(width - CROP + 1), draw.integers(height - CROP + 1)
            image = image.crop((left, top, left + CROP, top + CROP))
            if draw.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)

    torch.set_num_threads(1)
    dataset = Photographs()
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**9)
    return iter(torch.utils.data.DataLoader(dataset, BATCH, sampler=sampler, num_workers=threads))


Contestant = Callable[[Path, int], Iterator]
CONTESTANTS: dict[str, Contestant] = {
    "ours": ours,
    "tf.data, antialiased": lambda folder, threads: tf_data(folder, threads, antialias=True),
    "tf.data, aliased": lambda folder, threads: tf_data(folder, threads, antialias=False),
    "torch DataLoader": torch_loader,
}


def jpegs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


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


def rates(contestant: Contestant, folder: Path, threads: int, seconds: float) -> tuple[float, float]:
    """Images per second and per second of processor time."""
    processor = sum(os.times()[:4])  # user and system, of this process and of children that have ended
    batches = contestant(folder, threads)
    ahead = 6  # until what was prepared in advance is used up
    for _ in range(ahead):
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        next(batches)
        count += BATCH
    per_second = count / (time.perf_counter() - start)
    if isinstance(batches, TrainStream):
        batches.close()
    del batches  # stops the others' threads or processes
    return per_second, (count + ahead * BATCH) / (sum(os.times()[:4]) - processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a folder of class folders, or with train/ below it")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made)
        if arguments.folder is None:
            make_photographs(folder)
        folder = folder / "train" if (folder / "train").is_dir() else folder
        files = jpegs(folder)
        print(
            f"{len(files)} JPEG files, {sum(path.stat().st_size for path in files) / len(files) / 1e3:.0f} kB each, "
            f"{cores} cores",
            flush=True,
        )
        for contestant in CONTESTANTS.values():
            rates(contestant, folder, cores, seconds=0)  # imports and caches
        measured = {name: [] for name in CONTESTANTS}
        for _ in range(arguments.repetitions):
            for name, contestant in CONTESTANTS.items():
                measured[name].append(rates(contestant, folder, cores, arguments.seconds))
    print("| pipeline | images/s | ours is faster by | images per core | ours is cheaper by |\n|---|---|---|---|---|")
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in measured.items()
    }
    for name, row in medians.items():
        (speed, faster), (per_core, cheaper) = (
            (value, best / value) for value, best in zip(row, medians["ours"], strict=True)
        )
        print(f"| {name} | {speed:.0f} | {faster:.2f} | {per_core:.0f} | {cheaper:.2f} |")


if __name__ == "__main__":
    main()
