"""How long a program waits for its collectives, by the order in which its compiler put the instructions (Sec. 3.3)."""

from __future__ import annotations

from vgg_jax.ahead.chips import Chip
from vgg_jax.ahead.collectives import collectives_by_place
from vgg_jax.ahead.hlo import Module
from vgg_jax.ahead.roofline import seconds
from vgg_jax.ahead.traffic import moved


def waiting(module: Module, chip: Chip, chips: int) -> float:
    """Seconds of a step in which nothing runs beside a collective.

    Each instruction takes the time that its bytes take, which is the least; between the start and the end of a
    collective others run beside it. The links take one collective after the other. One without start and end, or inside
    of a loop or of a fusion, is waited for.

    Args:
      module: the parsed text, which is that of one chip.
      chip: the data sheet.
      chips: all of them.
    """
    now = links_free = waited = 0.0
    busy, ends = {}, {}
    for computation, instruction, collective in collectives_by_place(module, chips):
        if computation == module.entry:
            busy[instruction.name] = seconds(chip, collective)
        else:
            waited += seconds(chip, collective)
    for name, instruction in module.computations[module.entry].items():
        if name in busy:
            links_free = ends[name] = max(links_free, now) + busy[name]
        else:
            now += moved(module, module.entry, instruction) / chip.bandwidth
        awaited = instruction.operands[0] if instruction.kind.endswith("-done") else name
        if awaited in ends and not instruction.kind.endswith("-start"):
            wait = max(0.0, ends[awaited] - now)
            now, waited = now + wait, waited + wait
    return waited
