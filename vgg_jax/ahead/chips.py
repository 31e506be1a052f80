"""Data sheets of accelerators.

TPUs: https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e, "System architecture"; the interconnect is given for both
directions together there, here for one. GPU: NVIDIA H100 Tensor Core GPU data sheet, SXM5: bfloat16 without sparsity,
NVLink 4 in one direction, and a 400 Gb/s network card for each GPU as in a DGX H100.
"""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
    """One accelerator."""

    peak: float
    """bfloat16 operations per second, additions and multiplications."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Of the memory, bytes per second."""
    link: float
    """Of the interconnect, bytes per second that a chip sends."""
    lanes: int = 1
    """Channels are stored in multiples of these."""
    host: int = 0
    """Chips that the interconnect joins; 0 for all."""
    network: float = 0.0
    """Beyond these, bytes per second that a chip sends."""


CHIPS = {
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9, lanes=128),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9, lanes=128),
    "v6e": Chip(918e12, 32 * 2**30, 1640e9, 400e9, lanes=128),
    "h100": Chip(989e12, 84_942_979_072, 3352e9, 450e9, host=8, network=50e9),
}
