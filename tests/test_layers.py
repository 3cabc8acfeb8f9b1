"""Imports point one way: compressor and export import zoo, zoo imports neither, export does not import compressor."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("zoo", "compressor", "export")
# Of compressor: what knows all three.
ON_TOP = ("compressor.__main__", "compressor.cli", "compressor.pipeline", "compressor.int8_finish.shipping")


# Of zoo: what goes on the device with export.runtime.
ON_DEVICE = {"zoo.errors", "zoo.images", "zoo.notebook", "zoo.paths", "zoo.sessions"} | {
    f"zoo.formats.{name}" for name in ("documents", "onnx_content", "onnx_metadata", "preprocessing")
}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}


def imported(tree: ast.AST, modules: set[str]) -> set[str]:
    """Return the modules that code imports, wherever in it, but for type checking.

    Args:
        tree: the code.
        modules: names to tell a module from what is in one: ``from zoo import data`` imports ``zoo.data``.
    """
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for branch in node.orelse:
                found |= imported(ast.Module([branch], []), modules)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "imports are absolute"
            within = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (within & modules) or {node.module}
        else:
            found |= imported(node, modules)
    return found


def arrows_of(sources: dict[str, str]) -> dict[str, set[str]]:
    return {name: imported(ast.parse(source), set(sources)) for name, source in sources.items()}


def circle_in(arrows: dict[str, set[str]]) -> list[str]:
    """Return modules that import one another in turn, the first again at the end; none where there is no circle."""
    done: set[str] = set()
    path: list[str] = []

    def follow(module: str) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        path.append(module)
        for target in sorted(arrows[module] & arrows.keys()):
            if circle := follow(target):
                return circle
        done.add(path.pop())
        return []

    for module in sorted(arrows):
        if circle := follow(module):
            return circle
    return []


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    assert len(MODULES) > 100
    return arrows_of({name: file.read_text(encoding="utf-8") for name, file in MODULES.items()})


def is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    ("package", "unknown"),
    [("zoo", ("compressor", "export")), ("export", ("compressor",)), ("compressor", ("export",))],
)
def test_imports_point_one_way(package: str, unknown: tuple[str, ...], arrows: dict[str, set[str]]) -> None:
    below = [module for module in arrows if is_in(module, (package,)) and not is_in(module, ON_TOP)]
    assert len(below) > 10
    for module in below:
        assert not {target for target in arrows[module] if is_in(target, unknown)}, module


def test_no_module_imports_itself_in_the_end(arrows: dict[str, set[str]]) -> None:
    assert circle_in(arrows) == []


def test_circles_are_found_wherever_the_import_is() -> None:
    sources = {
        "a": "from a import b",
        "a.b": "def later():\n    import c",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import d\nelse:\n    from a.b import x",
        "d": "import c",
    }
    assert circle_in(arrows_of(sources)) == ["a.b", "c", "a.b"]
    assert circle_in(arrows_of(sources | {"c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING: import d"})) == []


def test_runtime_imports_light_files_of_zoo(arrows: dict[str, set[str]]) -> None:
    reached, waiting = set(), {"export.runtime"}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= (arrows[module] & arrows.keys()) - reached
    assert reached == {"export.runtime"} | ON_DEVICE


def test_runtime_loads_nothing_else() -> None:
    code = "import sys, export.runtime; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = {module for module in loaded if is_in(module, PACKAGES)}
    assert ours == {"export", "export.runtime", "zoo", "zoo.formats"} | ON_DEVICE
    assert not {"torch", "timm", "lightning", "onnx", "faiss", "jsonargparse"} & loaded


def test_rooms_are_small_and_tell_what_they_hold() -> None:
    rooms = {file.parent for file in MODULES.values()}
    for room in rooms:
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))), room
        assert len(list(room.glob("*.py"))) <= 12, f"{room} is two rooms"
