"""The files of onnxruntime-web that a page needs, as npm installs them."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import OptionError
from zoo.formats.documents import read_document

_PACKAGE = "onnxruntime-web"
_WASM, _WEBGPU = "ort.wasm.bundle.min.mjs", "ort.webgpu.bundle.min.mjs"
_BINARY = re.compile(r"ort-wasm-simd-threaded[.a-z]*\.wasm")


@dataclass(frozen=True)
class RuntimeFiles:
    """The files of onnxruntime-web that a page loads.

    Attributes:
        modules: the module and the binary that it loads, by backend: "wasm" and perhaps "webgpu".
        version: version of the package; "unknown" without its package.json.
    """

    modules: dict[str, tuple[Path, Path]]
    version: str


def find_runtime(folder: Path, webgpu: bool) -> RuntimeFiles:
    """Find the files.

    Args:
        folder: the package's folder, or its dist.
        webgpu: whether to find those for WebGPU too.

    Raises:
        OptionError: files are missing; the message says how to get them.
    """
    dist = folder / "dist" if (folder / "dist").is_dir() else folder
    wanted = {"wasm": _WASM} | ({"webgpu": _WEBGPU} if webgpu else {})
    return RuntimeFiles(
        {backend: _with_binary(folder, dist / module) for backend, module in wanted.items()}, _version(dist)
    )


def _with_binary(folder: Path, module: Path) -> tuple[Path, Path]:
    """Return a module and the binary that it names."""
    try:
        named = _BINARY.search(module.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        named = None
    binary = None if named is None else module.with_name(named[0])
    if binary is None or not binary.is_file():
        lacking = module.name if binary is None else binary.name
        raise OptionError(
            f"runtime is {folder}, which lacks {lacking} of onnxruntime-web. Get it with: npm install {_PACKAGE}; then "
            f"pass --runtime node_modules/{_PACKAGE}."
        )
    return module, binary


def _version(dist: Path) -> str:
    try:
        return str(read_document(dist.parent / "package.json").get("version", "unknown"))
    except (OSError, ValueError):
        return "unknown"


def copy_runtime(found: RuntimeFiles, folder: Path) -> dict[str, Any]:
    """Copy the files, and return the page header's entry for them."""
    folder.mkdir()
    for pair in found.modules.values():
        for file in pair:
            shutil.copyfile(file, folder / file.name)
    modules = {backend: f"{folder.name}/{module.name}" for backend, (module, _) in found.modules.items()}
    return {"name": _PACKAGE, "version": found.version, "modules": modules}
