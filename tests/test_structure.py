"""The house: what may import what, and how long a file and a function may be."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "resshift_jax"

# From the ground up: a module imports from its own floor and those below, never from above.
FLOORS = (
    ("settings", "pixels", "resize", "console", "platform", "flops"),
    ("files",),
    ("nn",),
    ("schedule",),
    ("chain",),
    ("config",),
    ("latent_model",),
    ("restore",),
    ("image_io", "weights", "degradation"),
    ("data", "inference", "evaluation"),
    ("training",),
    ("cli", "__init__", "__main__"),
)
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MOST_LINES, MOST_OF_A_FUNCTION = 350, 60


def room(module: str) -> str:
    """The first part of a module's name below the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor(module: str) -> int:
    (found,) = (i for i, rooms in enumerate(FLOORS) if room(module) in rooms)
    return found


def imports(module: str, *, at_once: bool = False) -> set[str]:
    """The modules of the package that one imports; at_once: without those inside functions."""
    tree = ast.parse(MODULES[module].read_text())
    nodes = tree.body if at_once else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                found.add(name)
    return found - {module}


def test_every_module_has_a_floor():
    assert {room(module) for module in MODULES} == {name for rooms in FLOORS for name in rooms}


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_upward(module):
    for other in imports(module):
        assert floor(other) <= floor(module), f"{module} imports {other} from above"


def test_no_import_runs_in_a_circle():
    graph = {module: imports(module) for module in MODULES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above[above.index(module) :], module])
        if module not in done:
            for other in graph[module]:
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_long(module):
    text = MODULES[module].read_text()
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MOST_OF_A_FUNCTION, f"{node.name}: {length} lines"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_goes_in_and_what_comes_out(module):
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))


def test_the_backbone_is_constructed_in_one_place():
    made = [module for module, path in MODULES.items() if "SwinUNet(" in path.read_text()]
    assert [module for module in made if room(module) != "nn"] == ["resshift_jax.config"]


def test_the_library_does_not_speak_of_flags():
    for module, path in MODULES.items():
        if room(module) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise):
                assert not any(
                    isinstance(part, ast.Constant) and isinstance(part.value, str)
                    and " --" in f" {part.value}"
                    for part in ast.walk(node)
                ), f"{module}:{node.lineno}"  # fmt: skip
