"""Caffe's `.caffemodel`, the form of the paper's own release: BGR, minus a mean color that is not in the file.

It is one protocol-buffer message. Of its public schema (BVLC/caffe, caffe.proto) four messages and ten fields matter;
they are read off the wire, where a length can be checked before it is trusted and floats are not copied.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.model.specs import FULLY_CONNECTED
from vgg_jax.weights.layouts import Layout, our_names
from vgg_jax.weights.preprocessing import PREPROCESSING
from vgg_jax.weights.raw_checkpoint import RawCheckpoint

# Field numbers. NetParameter: layers in the first version's form, and in today's.
V1_LAYERS, LAYERS = 2, 100
# V1LayerParameter and LayerParameter: {list: (name, blobs)}.
LAYER_FIELDS = {V1_LAYERS: (4, 6), LAYERS: (1, 7)}
# BlobProto: four sizes before there was a shape; float data, doubles.
NUM, CHANNELS, HEIGHT, WIDTH, DATA, SHAPE, DOUBLE_DATA = 1, 2, 3, 4, 5, 7, 8
# BlobShape.
DIM = 1

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types of protocol buffers."""

MOST_FIELDS = 100_000
"""Fields of one message. VGG-19's largest has 50."""

CAFFE = Layout(our_names, convolution="oihw", dense=("o(ihw)", "oihw"), batch_norm=False)


def read(path: Path) -> RawCheckpoint:
    """A `.caffemodel`; its layers are named as the paper names them.

    The order of the classes is not in the file: the VGG team's is not the sorted one (give `class_order`).
    """
    with path.open("rb") as file:
        message = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    tensors: dict[str, np.ndarray] = {}
    for field, wire, value in _fields(message):
        if field not in LAYER_FIELDS or wire != LENGTH:
            continue
        name_field, blobs_field = LAYER_FIELDS[field]
        layer = [item for item in _fields(value) if item[1] == LENGTH]
        name = next((str(text, "utf-8") for number, _, text in layer if number == name_field), "a layer without a name")
        for place, blob in enumerate(blob for number, _, blob in layer if number == blobs_field):
            tensor = f"{name}/{('kernel', 'bias')[place] if place < 2 else f'blob {place}'}"
            if tensor in tensors:
                raise CheckpointError(f"{path}: {tensor} is there twice; give a file of one network")
            tensors[tensor] = _blob(blob, f"{path}: {tensor}", name in FULLY_CONNECTED, place)
    return RawCheckpoint("Caffe model", tensors, CAFFE, PREPROCESSING["caffe"])


def _blob(message: memoryview, label: str, dense: bool, place: int) -> np.ndarray:
    """One blob's numbers in its shape; a dense kernel as a matrix, a bias as a vector."""
    old, shape, chunks = {}, None, []
    for field, wire, value in _fields(message):
        if field in (NUM, CHANNELS, HEIGHT, WIDTH) and wire == VARINT:
            old[field] = value
        elif field == SHAPE and wire == LENGTH:
            shape = []
            for dim, dim_wire, sides in _fields(value):
                if dim == DIM:
                    shape += [sides] if dim_wire == VARINT else list(_varints(sides))
        elif field in (DATA, DOUBLE_DATA):
            if wire != LENGTH:
                raise CheckpointError(f"{label} is not packed: save it again with a Caffe of 2014 or newer")
            chunks.append(np.frombuffer(value, "<f4" if field == DATA else "<f8"))
    if shape is None:
        shape = [old.get(field, 1) for field in (NUM, CHANNELS, HEIGHT, WIDTH)]
        if dense and shape[:2] == [1, 1]:
            shape = shape[2:]
    data = chunks[0] if len(chunks) == 1 else np.concatenate(chunks or [np.zeros(0, np.float32)])
    if data.size != math.prod(shape):
        raise CheckpointError(
            f"{label} declares the shape {tuple(shape)} and has {data.size} numbers: damaged or hostile"
        )
    return data if place == 1 else data.reshape(shape)


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field number, wire type, value) of a message, in order; strings, messages and packed numbers as bytes.

    Raises:
      ValueError: it is no message.
    """
    at, count = 0, 0
    while at < len(message):
        count += 1
        if count > MOST_FIELDS:
            raise ValueError(f"a message of over {MOST_FIELDS} fields")
        key, at = _varint(message, at)
        wire = key & 7
        if wire == VARINT:
            value, at = _varint(message, at)
        elif wire in (FIXED64, FIXED32, LENGTH):
            length, at = _varint(message, at) if wire == LENGTH else ({FIXED64: 8, FIXED32: 4}[wire], at)
            if length > len(message) - at:
                raise ValueError(f"a field of {length} bytes where {len(message) - at} are left")
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"a field of wire type {wire}")
        yield key >> 3, wire, value


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte, at = message[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")
