"""How much faster networks and first layers are in int8; used for advice before training, and when quantising."""

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
"""Speed-up of int8 over fp32 (ratio of latencies) by architecture, measured on one image of 224 pixels with one thread
of an x86 processor with VNNI.

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
"""A convolution of the image stays in float if each output sums fewer products than this; 3×3 on three colours has 27.

Int8 kernels need many: on x86, MobileNetV4's first layer takes 1.2 ms in int8 and 0.5 ms in float. But a ResNet-18 with
its first layer, of 147 products, in float takes 20 ms instead of 14.
"""


def int8_speed(arch: str) -> float | None:
    """Return how many times faster an architecture, or a measured one of its family, is in int8; None if unknown."""
    name = arch.partition(".")[0].partition("/")[2] or arch.partition(".")[0]
    if name in INT8_SPEED:
        return INT8_SPEED[name]
    for pattern, relative in _FAMILIES.items():
        if fnmatch.fnmatch(name, pattern):
            return INT8_SPEED.get(relative)
    return None


def advice(arch: str) -> str | None:
    """Return a warning if int8 makes an architecture smaller but not faster, else None."""
    speed = int8_speed(arch)
    if speed is None or speed >= LEAST_GAIN:
        return None
    gaining = sorted((known for known, gain in INT8_SPEED.items() if gain >= 1.3), key=lambda known: -INT8_SPEED[known])
    return (
        f"{arch} gains nothing in speed from int8 ({speed:.2f} times fp32 on x86 with VNNI), only in size. "
        f"Networks that gain: {', '.join(gaining)}."
    )
