"""Every benchmark command starts, so all its imports resolve."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(file.relative_to(ROOT).with_suffix("") for file in (ROOT / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_benchmark_imports(module: Path) -> None:
    importlib.import_module(".".join(module.parts))
