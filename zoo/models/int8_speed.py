"""How much faster networks, and first layers, are in int8: told before training, and heeded in quantising."""

from __future__ import annotations

import fnmatch

INT8_SPEED: dict[str, float] = {
    "mobilenetv4_conv_small": 1.54,
    "resnet18": 2.62,
    "mobilenetv3_small_100": 0.84,
    "efficientnet_lite0": 1.86,
    "repvgg_a0": 2.80,
    "convnext_atto": 1.04,
    "vit_tiny_patch16_224": 1.57,
    "fastvit_t8": 0.52,
    "resnet50": 2.83,
}
"""fp32's latency over int8's, one image of 224 pixels on one thread of an x86 processor with VNNI, by architecture.

From ``benchmarks/quantization/architectures.md``.
"""
_FAMILIES = {
    "resnet[0-9]*": "resnet18",
    "mobilenetv4_conv_*": "mobilenetv4_conv_small",
    "mobilenetv3_*": "mobilenetv3_small_100",
    "tf_mobilenetv3_*": "mobilenetv3_small_100",
    "efficientnet_lite*": "efficientnet_lite0",
    "tf_efficientnet_lite*": "efficientnet_lite0",
    "repvgg_*": "repvgg_a0",
    "convnext*": "convnext_atto",
    "vit_*": "vit_tiny_patch16_224",
    "fastvit_*": "fastvit_t8",
}
LEAST_GAIN = 1.1
FEWEST_TERMS = 32
"""Convolutions of the image stay in float where an output adds up fewer products than this, as 3×3 on three colours do.

Int8's kernels want many: on x86, MobileNetV4's first layer takes 1.2 ms in int8 and 0.5 ms in float. A ResNet-18 whose
first layer, of 147 products, is in float takes 20 ms in place of 14.
"""


def int8_speed(arch: str) -> float | None:
    """Return how many times faster an architecture is in int8, by itself or by a measured relative; None if unknown."""
    name = arch.partition(".")[0].partition("/")[2] or arch.partition(".")[0]
    if name in INT8_SPEED:
        return INT8_SPEED[name]
    for pattern, relative in _FAMILIES.items():
        if fnmatch.fnmatch(name, pattern):
            return INT8_SPEED.get(relative)
    return None


def advice(arch: str) -> str | None:
    """Return a warning where int8 makes an architecture smaller but not faster, or None."""
    speed = int8_speed(arch)
    if speed is None or speed >= LEAST_GAIN:
        return None
    gaining = sorted((known for known, gain in INT8_SPEED.items() if gain >= 1.3), key=lambda known: -INT8_SPEED[known])
    return (
        f"{arch} gains nothing in speed from int8 ({speed:.2f} times fp32 on x86 with VNNI), only in size. "
        f"Networks that gain: {', '.join(gaining)}."
    )
