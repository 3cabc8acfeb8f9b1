"""One hub folder in timm, transformers, sentence-transformers, fastembed, transformers.js and onnxruntime.

    NODE_MODULES=PATH python -m benchmarks.ecosystem.run --model runs/x/student --data grocery:PATH --photos PATH

A trained student and networks of other kinds are exported with ``export --layout hub`` and opened by each library.
Three things are compared with ``Embedder``: embeddings of the same preprocessed tensors; embeddings of photographs that
the library decodes and preprocesses itself; and for the student the nearest images in int8, calibrated on ``--data``.
The other networks have random weights, seed 0, and the BatchNorm statistics of 64 photographs; they are more sensitive
to single pixels than trained ones. Writes results.json and results.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ecosystem import tools
from export.hub.folder import write_hub
from export.onnx.fp32 import to_onnx
from export.runtime import Embedder
from zoo.files import digest, write_json, write_text
from zoo.images import require_pixels
from zoo.models.facts import names_only
from zoo.models.folder import load_model, save_model
from zoo.models.making import create_model
from zoo.models.network import preprocessing_of, summary_of
from zoo.models.preprocessing import Preprocess
from zoo.versions import machine

HERE = Path(__file__).resolve().parent
PHOTOS, NEIGHBOURS = 200, 10
TRAINED = "trained student"
# Architecture, dimensions, input side in pixels, metric, pooling.
KINDS: tuple[tuple[str, int, int, str, str | None], ...] = (
    ("mobilenetv4_conv_small", 64, 96, "cosine", None),
    ("resnet18", 32, 64, "euclidean", "avgmax"),
    ("vit_tiny_patch16_224", 48, 96, "cosine", None),
)
LIBRARIES = ("timm", "torch", "transformers", "sentence-transformers", "fastembed", "onnxruntime", "Pillow")


def photographs(folder: Path, count: int) -> list[Path]:
    """Return evenly spaced images of the sorted folder, so that all classes are included."""
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [found[index] for index in np.unique(np.linspace(0, len(found) - 1, count).astype(int)) if found]


def untrained(folder: Path, kind: tuple[str, int, int, str, str | None], photos: list[Path]) -> Path:
    """Make a model folder of a kind, with random weights."""
    arch, dim, side, metric, pool = kind
    torch.manual_seed(0)
    model = create_model(arch, dim, image_size=side, metric=metric, pool=pool).train()
    pixels = torch.from_numpy(prepared(model, photos[:64]))
    with torch.no_grad():
        for _ in range(20):
            model(pixels)
    save_model(model.eval(), folder)
    return folder


def prepared(model: torch.nn.Module, photos: list[Path]) -> np.ndarray:
    """Return photographs preprocessed for the network, float32 ``(N, 3, H, W)``."""
    preprocess = Preprocess(preprocessing_of(model))
    return torch.cat([preprocess(torch.from_numpy(require_pixels(file)[None].copy())) for file in photos]).numpy()


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the cosine between each row and the expected one."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    values: np.ndarray = (found * expected).sum(axis=1) / lengths
    return values


def normalised(rows: np.ndarray, metric: str) -> np.ndarray:
    """Return rows, normalised to unit length if the metric is cosine."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows


def overlap(found: np.ndarray, expected: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Return the mean share of each image's k nearest neighbours that two sets of embeddings have in common."""

    def nearest(rows: np.ndarray) -> np.ndarray:
        distances = ((rows[:, None].astype(np.float64) - rows[None]) ** 2).sum(axis=2)
        np.fill_diagonal(distances, np.inf)
        return np.argsort(distances, axis=1, kind="stable")[:, :k]

    pairs = zip(nearest(found), nearest(expected), strict=True)
    return float(np.mean([len(set(one) & set(other)) / k for one, other in pairs]))


def measure(folder: Path, photos: list[Path]) -> dict[str, Any]:
    """Compare every library's embeddings from a hub folder with those of ``Embedder``.

    Returns:
        "tensors": the largest difference of an element by library, relative to the largest element if that is above 1;
        "photographs": the lowest and mean cosine by library.
    """
    embed = Embedder(folder / "pixels" / "model.onnx")
    of_photos = embed(photos)
    with tempfile.TemporaryDirectory() as temporary:
        by_tensor = Embedder(to_onnx(folder, Path(temporary) / "model.onnx", input="tensor"))
        tensors = prepared(load_model(folder), photos[:16])
        of_tensors = by_tensor(tensors)
    scale = max(1.0, float(np.abs(of_tensors).max()))
    by_library = {name: tool(folder, tensors) for name, tool in tools.of_tensors(embed.metric).items()}
    of_files = {name: tool(folder, photos) for name, tool in tools.of_files(embed.metric).items()}
    if tools.has_node():
        rows = tools.transformers_js(folder, photos, tensors)
        by_library["transformers.js"] = rows["tensors"]
        of_files |= {"transformers.js, pixels": rows["pixels"], "transformers.js, pipeline": rows["pipeline"]}
    summary = summary_of(load_model(folder))
    return {
        "architecture": summary["architecture"],
        "dim": embed.dim,
        "side": embed.input_size[0],
        "metric": embed.metric,
        "tensors": {
            name: float(np.abs(normalised(found, embed.metric) - of_tensors).max()) / scale
            for name, found in by_library.items()
        },
        "photographs": {
            name: {"lowest": float(values.min()), "mean": float(values.mean())}
            for name, found in of_files.items()
            for values in [cosines(found, of_photos)]
        },
    }


def measure_int8(folder: Path, photos: list[Path]) -> dict[str, float]:
    """Return the share of nearest images that int8 in each library has in common with ``Embedder`` in fp32."""
    metric = Embedder(folder / "pixels" / "model.onnx").metric
    expected = Embedder(folder / "pixels" / "model.onnx")(photos)
    found = {"Embedder, int8": Embedder(folder / "pixels" / "model-int8.onnx")(photos)}
    found["fastembed, model_quantized"] = tools.fastembed_files(folder, photos, "onnx/model_quantized.onnx")
    if tools.has_node():
        rows = tools.transformers_js(folder, photos, dtype="q8")
        found |= {"transformers.js, q8, pixels": rows["pixels"], "transformers.js, q8, pipeline": rows["pipeline"]}
        found["transformers.js, fp32, pipeline"] = tools.transformers_js(folder, photos)["pipeline"]
    return {name: overlap(normalised(rows, metric), expected) for name, rows in found.items()}


def main() -> None:
    """Export, open, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained student")
    parser.add_argument("--data", required=True, help="what it was trained on, such as grocery:PATH, for int8")
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photographs")
    given = parser.parse_args()
    tools.quiet()
    photos = photographs(given.photos, PHOTOS)
    content: dict[str, Any] = {
        "photographs": {"set": given.photos.name, "images": len(photos)},
        "model": {"data": names_only(given.data), "digest": digest(given.model / "model.safetensors")[:16]},
        "versions": {name: version(name) for name in LIBRARIES} | _node_versions(),
        "machine": machine(),
        "kinds": {},
    }
    int8: dict[str, Any] = {"precision": "fp32,int8", "data": given.data, "latency_runs": 0, "judged_images": 600}
    with tempfile.TemporaryDirectory() as temporary:
        for kind in (None, *KINDS):
            name = TRAINED if kind is None else kind[0]
            place = Path(temporary) / name.replace(" ", "-")
            model = given.model if kind is None else untrained(place / "student", kind, photos)
            write_hub(model, place / "hub", license="other", **(int8 if kind is None else {}))
            content["kinds"][name] = measure(place / "hub", photos)
            if kind is None:
                content["int8"] = measure_int8(place / "hub", photos)
            print(name, content["kinds"][name], flush=True)
    write_json(HERE / "results.json", content)
    write_text(HERE / "results.md", table(content))


def _node_versions() -> dict[str, str]:
    if not tools.has_node():
        return {}
    found = {}
    for name in ("@huggingface/transformers", "onnxruntime-node", "sharp"):
        file = Path(tools.NODE_MODULES) / name / "package.json"
        if file.is_file():
            found[f"{name} (npm)"] = json.loads(file.read_text(encoding="utf-8"))["version"]
    return found


def table(content: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    about, model = content["photographs"], content["model"]
    lines = [
        "# One folder in every library",
        "",
        f"`export --layout hub`, opened by each library and compared with `Embedder`; {about['images']} photographs of "
        f"{about['set']} (shorter side 160 pixels). The trained student is of {model['data']} ({model['digest']}); the "
        "other networks have random weights and amplify differences of single pixels. Made by "
        "`python -m benchmarks.ecosystem.run`.",
        "",
        "The largest difference of an element, the same prepared tensors given (at most 1e-4 is asked for):",
        "",
        *_rows(content, "tensors", lambda value: f"{value:.1e}"),
        "",
        "Cosine with `Embedder`, lowest and mean, where the library decodes and prepares the photographs itself:",
        "",
        *_rows(content, "photographs", lambda value: f"{_down(value['lowest'])} / {_down(value['mean'])}"),
        "",
        f"int8 of the trained student: share of the {NEIGHBOURS} nearest images in common with `Embedder` in fp32:",
        "",
        "| | in common, % |",
        "|---|---|",
        *(f"| {name} | {100 * value:.1f} |" for name, value in content["int8"].items()),
        "",
        f"Versions: {', '.join(f'{name} {number}' for name, number in content['versions'].items())}.",
    ]
    return "\n".join(lines) + "\n"


def _rows(content: dict[str, Any], part: str, shown: Any) -> list[str]:
    kinds = content["kinds"]
    heads = []
    for name, kind in kinds.items():
        weights = name if name == TRAINED else "random"
        heads.append(f"{weights}: {kind['architecture']}, {kind['dim']}-d, {kind['side']} px, {kind['metric']}")
    names = list(dict.fromkeys(name for kind in kinds.values() for name in kind[part]))
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name in names:
        values = [shown(kind[part][name]) if name in kind[part] else "refused" for kind in kinds.values()]
        lines.append(f"| {name} | {' | '.join(values)} |")
    return lines


def _down(value: float) -> str:
    return f"{int(value * 1e4) / 1e4:.4f}"


if __name__ == "__main__":
    main()
