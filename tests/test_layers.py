"""Data flows one way: compressor and export know zoo, zoo knows neither, export does not know compressor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ON_TOP = {"cli.py", "pipeline.py", "shipping.py", "__main__.py"}  # of compressor: they know all three


def imported(file: Path) -> set[str]:
    """Return the packages that a file imports, wherever in it, but for type checking."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    ("package", "unknown"), [("zoo", {"compressor", "export"}), ("export", {"compressor"}), ("compressor", {"export"})]
)
def test_imports_point_one_way(package: str, unknown: set[str]) -> None:
    files = [file for file in (ROOT / package).rglob("*.py") if package != "compressor" or file.name not in ON_TOP]
    assert len(files) > 5
    for file in files:
        assert not imported(file) & unknown, file
