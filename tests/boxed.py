"""Images with boxes, made in memory: rectangles, one of each class and color, on a dark ground."""

import io

import numpy as np
from PIL import Image

from vgg_jax.data.source import Objects, Source

COLORS = {"red": (230, 40, 40), "green": (40, 230, 40), "blue": (40, 40, 230)}


class Rectangles(Source):
    """Images of rectangles that do not overlap, in lossless files.

    Args:
      split: decides, with the number of an image, what is in it.
      count: how many images there are.
      objects: the most that are in one image: 1, 2, ... of them in turn.
      difficult: whether the last object of every other image is.
    """

    def __init__(self, split: str, count: int = 12, objects: int = 3, difficult: bool = False):
        super().__init__("rectangles", split, tuple(COLORS))
        self.jpegs = False
        self._images, rows = [], []
        for number in range(count):
            rng = np.random.default_rng([sum(split.encode()), number])
            height, width = rng.integers(40, 60, 2)
            pixels = rng.integers(0, 25, (height, width, 3)).astype(np.uint8)
            here = 1 + number % objects
            for place in range(here):  # side by side
                label, room = int(rng.integers(len(COLORS))), width // here
                left, top = place * room + rng.integers(0, room // 3), rng.integers(0, height // 3)
                right, bottom = place * room + rng.integers(2 * room // 3, room), rng.integers(2 * height // 3, height)
                pixels[top:bottom, left:right] = list(COLORS.values())[label]
                hard = difficult and number % 2 and place == here - 1
                rows.append((number, label, (left, top, right, bottom), hard))
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "PNG")
            self._images.append(encoded.getvalue())
        image, label, corners, difficult = zip(*rows, strict=True)
        self.objects = Objects(
            np.array(image), np.array(label, np.int32), np.array(corners, np.float32), np.array(difficult, bool)
        )

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return {"image": self._images[index], "label": int(self.objects.label[self.objects.image == index][0])}

    def name_of(self, index):
        return f"{self.split}/{index}"
