"""Bytes that a GPU's program moves between its memory and its cores: an estimate from its compiled text.

XLA's cost analysis counts them for a TPU. For a GPU each instruction of the schedule is a kernel, which reads its
operands and writes its result: their bytes are added up. Of an array that a kernel updates in place, only what is
written counts; what the cache holds between two kernels counts twice.
"""

from __future__ import annotations

from vgg_jax.ahead.hlo import Instruction, Module

NO_KERNELS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id"}
"""Kinds of instructions that move nothing."""

SCHEDULES = {"while", "call", "conditional"}
"""Kinds whose computations are schedules themselves."""

UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""Kinds that update their first operand in place, and which operand they write into it."""


def traffic(module: Module) -> int:
    """Bytes that one run of a program moves, given its parsed text."""
    runs, schedules, total = module.runs(), [module.entry], 0
    while schedules:
        name = schedules.pop()
        instructions = module.computations[name]
        for instruction in instructions.values():
            if instruction.kind in SCHEDULES:
                schedules += module.called(instruction)
            else:
                total += runs[name] * moved(module, name, instruction)
    return total


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
