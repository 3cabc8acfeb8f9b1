"""The versions and the machine that a result was made with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "embedding-compressor",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "faiss-cpu",
    "numpy",
)

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return what timings depend on: processor, cores, system and the instruction sets for int8 and bfloat16."""
    processor = platform.processor() or platform.machine()
    flags: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                processor = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    instruction_sets = [flag for flag in INSTRUCTION_SETS if flag in flags]
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "instruction_sets": instruction_sets,
    }


def available_cores() -> int:
    """Return how many cores this process may use: its affinity where the system has one, or all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_vnni() -> bool:
    """Return whether this processor is an x86 with VNNI, which sums 8-bit products directly in 32 bits."""
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(machine()["instruction_sets"])


def has_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16, by AMX (``amx_bf16``) or AVX-512 (``avx512_bf16``)."""
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(machine()["instruction_sets"])
