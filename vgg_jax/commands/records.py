"""What --mode=predict prints of an image: a record as a line of JSON, or as text."""

from __future__ import annotations

import json

from vgg_jax.files import printable

AT_ONCE = 256
"""Images in work at once: as many are predicted before the first is printed."""


def show(record: dict, *, as_json: bool) -> None:
    """Prints a record: an `image`, a `box` of it where that alone is meant, and `classes`, `boxes` or the `problem`."""
    print(json.dumps(record) if as_json else _as_text(record), flush=True)


def _as_text(record: dict) -> str:
    image = printable(record["image"])
    image += f"  box {', '.join(f'{edge:g}' for edge in record['box'])}" if "box" in record else ""
    if "problem" in record:
        return f"{image}\n  no prediction: {record['problem']}"
    lines = map(_class_as_text, record["classes"]) if "classes" in record else map(_box_as_text, record["boxes"])
    return "\n".join([image, *lines])


def _class_as_text(entry: dict) -> str:
    sure = f"{entry['probability']:6.1%}" if "probability" in entry else f"{entry['decision']:+6.2f}"
    return f"  {sure}  {printable(entry['name'])}"


def _box_as_text(entry: dict) -> str:
    name = f"  {printable(entry['name'])}" if entry["name"] else ""
    return "  {score:7.2f}  {left:.0f}, {top:.0f} to {right:.0f}, {bottom:.0f}".format(**entry) + name
