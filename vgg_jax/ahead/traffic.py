"""Bytes that a GPU's program moves between its memory and its cores: an estimate from its compiled text.

XLA's cost analysis counts them for a TPU. For a GPU each instruction of the schedule is a kernel, which reads its
operands and writes its result: their bytes are added up. What a kernel updates in place counts as if it were read and
written whole, and what the cache holds between two kernels counts twice.
"""

from __future__ import annotations

from vgg_jax.ahead.hlo import Module

NO_KERNELS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id"}
"""Kinds of instructions that move nothing."""

SCHEDULES = {"while", "call", "conditional"}
"""Kinds whose computations are schedules themselves."""


def traffic(module: Module, computation: str | None = None) -> int:
    """Bytes that one run moves.

    Args:
      module: the parsed text.
      computation: the schedule to begin from, by default the whole program's.
    """
    runs, schedules, total = module.runs(), [computation or module.entry], 0
    while schedules:
        name = schedules.pop()
        instructions = module.computations[name]
        for instruction in instructions.values():
            if instruction.kind in SCHEDULES:
                schedules += module.called(instruction)
            elif instruction.kind not in NO_KERNELS and not instruction.kind.endswith("-done"):
                operands = sum(instructions[name].size for name in instruction.operands if name in instructions)
                result = 0 if instruction.kind.endswith("-start") else instruction.size
                total += runs[name] * (operands + result)
    return total
