"""Which precision a device computes fastest in, where the result may be rounded."""

from __future__ import annotations

import torch

from zoo.versions import machine


def bfloat16_is_fast(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware; where it does not, float32 is two to three times faster.

    On CPUs that is AMX (``amx_bf16``) or AVX-512's ``avx512_bf16``.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not {"amx_bf16", "avx512_bf16"}.isdisjoint(machine()["instruction_sets"])
