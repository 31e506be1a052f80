"""An import never climbs: the packages stand in floors, and there is no circle among the modules."""

import ast
import graphlib
from pathlib import Path

import vgg_jax

ROOT = Path(vgg_jax.__file__).parent

FLOORS = (
    ("main",),
    ("commands",),
    ("ahead",),
    ("tasks", "transfer"),
    ("train", "evaluate"),
    ("inference",),
    ("weights",),
    ("checkpoint",),
    ("saved_arrays",),
    ("model", "data"),
    ("sharding",),
    ("locks",),
    ("config", "files", "npz_file", "progress", "prefetch", "compiler", "processes"),
    ("errors", "stopping"),
)
"""From the roof to the ground; a package imports from floors below its own. `vgg_jax` itself is the public face."""


def imports() -> dict[str, set[str]]:
    """{module: the modules of vgg_jax that it imports}, local imports and those for type checking included."""
    modules = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    found = {}
    for module, path in modules.items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}:{node.lineno}: a relative import"
                both = [f"{node.module}.{alias.name}" for alias in node.names]
                named |= {name if name in modules else node.module for name in both}
        found[module] = {name for name in named if name in modules and name != module}
    return found


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_no_import_climbs():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    climbing = []
    for module, imported in imports().items():
        here = package(module)
        assert here in floor or not here, f"{module} stands on no floor of {__file__}"
        for other in imported:
            there = package(other)
            if here and here != there and (not there or floor[there] <= floor[here]):
                climbing.append(f"{module} -> {other}")
    assert not climbing, "imports that climb: " + ", ".join(sorted(climbing))


def test_no_circle_of_modules():
    graph = {module: {name for name in imported if package(name)} for module, imported in imports().items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, with the path
    assert len(order) > 50
