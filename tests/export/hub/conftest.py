"""A fake export that takes no time: it returns the files of one network for any model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.shipping import Exported


@pytest.fixture
def quick_export(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Exported]:
    """Have ``write_hub`` export by copying files of a network of 8 dimensions at 32 pixels; returns that export."""

    def export(model: Path, out: Path, precision: str = "fp32", **options: Any) -> Exported:
        out.mkdir(parents=True, exist_ok=True)
        made = {}
        for kind in precision.split(","):
            made[kind] = Path(shutil.copy(files[kind], out / f"model{'' if kind == 'fp32' else f'-{kind}'}.onnx"))
        return Exported(made)

    monkeypatch.setattr("export.hub.folder.export_model", export)
    return export
