"""Bytes that a GPU's program moves between its memory and its cores: an estimate from its compiled text.

XLA's cost analysis counts them for a TPU. For a GPU each instruction of the schedule is a kernel, which reads its
operands and writes its result: their bytes are added up. Of an array that a kernel updates in place, only what is
written counts; what the cache holds between two kernels counts twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vgg_jax.ahead.collectives import SHARES
from vgg_jax.ahead.hlo import Instruction, Module

NO_KERNELS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id"}
"""Kinds of instructions that move nothing."""

SCHEDULES = {"while", "call", "conditional"}
"""Kinds whose computations are schedules themselves."""

UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""Kinds that update their first operand in place, and which operand they write into it."""

PRODUCTS = {"dot", "convolution"}
"""Kinds of products, alone or in a fusion."""

LIBRARIES = ("__cudnn$conv", "__cublas")
"""What custom calls of matrix products and convolutions begin their targets with."""


def traffic(module: Module) -> int:
    """Bytes that one run of a program moves, given its parsed text."""
    return sum(runs * moved(module, name, kernel) for runs, name, kernel in _kernels(module))


def traffic_without_products(module: Module) -> int:
    """Of these the bytes of kernels without products: on a GPU nothing but collectives runs beside them."""
    return sum(
        runs * moved(module, name, kernel)
        for runs, name, kernel in _kernels(module)
        if kernel.kind.removesuffix("-start") not in SHARES and not _multiplies(module, kernel)
    )


def _kernels(module: Module) -> Iterator[tuple[int, str, Instruction]]:
    """How often it runs, its computation, and each instruction of the schedules."""
    runs, schedules = module.runs(), [module.entry]
    while schedules:
        name = schedules.pop()
        for instruction in module.computations[name].values():
            if instruction.kind in SCHEDULES:
                schedules += module.called(instruction)
            else:
                yield runs[name], name, instruction


def _multiplies(module: Module, kernel: Instruction) -> bool:
    inside = (each.kind for name in module.called(kernel) for each in module.computations[name].values())
    library = re.search(r'custom_call_target="([^"]*)"', kernel.attributes)
    return not PRODUCTS.isdisjoint((kernel.kind, *inside)) or bool(library and library[1].startswith(LIBRARIES))


def moved(module: Module, computation: str, instruction: Instruction) -> int:
    """Bytes that an instruction of a schedule reads and writes."""
    if instruction.kind in NO_KERNELS or instruction.kind in SCHEDULES or instruction.kind.endswith("-done"):
        return 0
    instructions = module.computations[computation]
    operands = sum(instructions[name].size for name in instruction.operands if name in instructions)
    whole = operands + (0 if instruction.kind.endswith("-start") else instruction.size)
    if instruction.kind == "fusion":
        instructions = module.computations[module.called(instruction)[0]]
        instruction = next(reversed(instructions.values()))  # its result
        if instruction.kind in UPDATES and instructions[instruction.operands[0]].kind != "parameter":
            return whole  # an array that begins here
    if instruction.kind not in UPDATES:
        return whole
    written = instructions[instruction.operands[UPDATES[instruction.kind]]]
    return whole - 2 * instruction.size + written.size
