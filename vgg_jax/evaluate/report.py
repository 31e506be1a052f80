"""Results as a table, in the terminal and in Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table with aligned columns.

    >>> print(table([{"network": "D", "top-1": "27.0"}]))
    | network | top-1 |
    | ------- | ----- |
    | D       | 27.0  |
    """
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}

    def line(cells: dict[str, str]) -> str:
        return "| " + " | ".join(cells[name].ljust(widths[name]) for name in names) + " |"

    rule = {name: "-" * widths[name] for name in names}
    return "\n".join([line({name: name for name in names}), line(rule), *map(line, rows)])
