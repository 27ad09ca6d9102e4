"""The house: imports go downward only, nothing below the command line prints or exits, start-up stays light."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "faultcli"

# From the bottom to the top; a module may import from its own layer and from those before it.
LAYERS = [
    "version",
    "errors",
    "files",
    "foreign",
    "formats",
    "checkpoint",
    "faults",
    "protect",
    "live",
    "modules",
    "memory",
    "activations",
    "injection",
    "difference",
    "scaling",
    "hardened",
    "quantised",
    "seal",
    "conversion",
    "prediction",
    "survey",
    "workload",
    "recover",
    "campaign",
    "where",
    "report",
    "api",
    "extend",
    "cli",
]
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "faultcli" and len(parts) > 1 else None


def imported(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_go_downward() -> None:
    upward = []
    for path, tree in TREES.items():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module in imported(tree) if own in LAYERS else ():
            other = layer_of(module)
            if other in LAYERS and LAYERS.index(other) > LAYERS.index(own):
                upward.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert upward == []


def named(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {named(path): path for path in FILES}


def uses(path: Path) -> set[str]:
    """The modules that one imports, in functions and for types only, too. What a package's `__init__` hands on is
    imported from the package; that every module of a package runs its `__init__` first does not count."""
    found: set[str] = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in whole}
    return found & MODULES.keys() - {named(path)}


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


@pytest.fixture(scope="module")
def graph_of_modules() -> dict[str, set[str]]:
    return {module: uses(path) for module, path in MODULES.items()}


def test_no_circle_of_modules(graph_of_modules: dict[str, set[str]]) -> None:
    assert circle(graph_of_modules) is None


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda folder: folder.name)
def test_no_circle_among_neighbours(folder: Path, graph_of_modules: dict[str, set[str]]) -> None:
    """The modules and folders of one folder, a folder seen as a whole."""

    def member(module: str) -> str | None:
        path = MODULES[module]
        return path.relative_to(folder).parts[0] if path.is_relative_to(folder) else None

    graph: dict[str, set[str]] = {}
    for module, used in graph_of_modules.items():
        if (own := member(module)) is not None:
            graph.setdefault(own, set()).update({member(other) for other in used} - {own, None})
    assert circle(graph) is None


def test_no_two_classes_of_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_every_module_has_its_layer() -> None:
    found = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert found - {"__init__", "__main__"} == set(LAYERS)


def test_only_the_command_line_prints_or_exits() -> None:
    ends = ("print", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write")
    found = [
        f"{path.relative_to(PACKAGE)}: {ast.unparse(node.func)}"
        for path, tree in TREES.items()
        if path.relative_to(PACKAGE).parts[0] != "cli"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ends
    ]
    assert found == []


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from faultcli.cli import run; run(['--help']); run(['campaign', '--help']);"
        "sys.exit([m for m in ('torch', 'numpy', 'scipy', 'matplotlib') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "package", sorted({path.parent for path in FILES}), ids=lambda folder: str(folder.relative_to(PACKAGE.parent))
)
def test_a_package_says_what_is_in_it(package: Path) -> None:
    """Every module and package in it, one line each: `name    what it is for`."""
    text = ast.get_docstring(TREES[package / "__init__.py"]) or ""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    listed = re.findall(r"^ *(\w+) {2,}\S", text, re.MULTILINE)
    assert sorted(listed) == sorted(modules | packages)


def test_functions_take_few_arguments() -> None:
    """What belongs together is one value, options on the command line too."""
    many = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                count = len([one for one in given if one.arg not in ("self", "cls")])
                if count + bool(node.args.vararg) + bool(node.args.kwarg) > 8:
                    many.append(f"{path.relative_to(PACKAGE)}: {node.name}")
    assert many == []
