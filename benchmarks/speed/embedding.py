"""Cost of embedding into a folder: CPU time to decode, embed and write an image, and memory by number of images.

    taskset -c 0 python -m benchmarks.speed.embedding rate PHOTOS MODEL.onnx MODEL-int8.onnx
    python -m benchmarks.speed.embedding memory MODEL.onnx folder:10000 folder:100000 csv:100000

Costs are CPU seconds of all threads, which other work on the machine affects less than wall-clock time; on one core, no
thread busy-waits for others. Each part replaces its entry in embedding.json beside this file, the source of the figures
in docs/how-to/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from export import embed_data
from export.runtime import Embedder
from zoo.data import load_images
from zoo.files import write_json
from zoo.formats.embedding_parts import part_file, read_facts
from zoo.versions import machine, versions

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "embedding.json"
DISTINCT = 64  # images; the others are links to them


def main() -> None:
    """Run a part and store its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["rate", "memory", "once"])
    parser.add_argument("first", type=Path)
    parser.add_argument("rest", nargs="+")
    parser.add_argument("--images", type=int, default=1000, help="how many of PHOTOS")
    options = parser.parse_args()
    if options.part == "once":
        print(json.dumps(embedded_once(options.first, *map(Path, options.rest))))
        return
    if options.part == "rate":
        found = [rate(Path(model), options.first, options.images) for model in options.rest]
    else:
        found = [memory(options.first, int(each.split(":")[1]), each.split(":")[0]) for each in options.rest]
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    results[options.part] = {"machine": machine(), "versions": versions(), "found": found}
    write_json(RESULTS, results)
    print(json.dumps(found, indent=1))


def rate(model: Path, photos: Path, count: int) -> dict[str, Any]:
    """Return CPU milliseconds per image for decoding alone, the model alone, and the verb; and bytes per row."""
    images = load_images(photos)
    images = images.subset(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    embedder = Embedder(model)
    pixels: list[np.ndarray] = []
    decoding = cost_of(lambda: pixels.extend(images.pixels(row) for row in range(len(images))))
    network = cost_of(lambda: embedder(pixels))
    sizes = [file.stat().st_size for file in images.sources if isinstance(file, Path)]
    with tempfile.TemporaryDirectory() as folder:
        embed_data(model, images.subset([0]), Path(folder) / "first")  # so that imports are not timed
        whole = cost_of(lambda: embed_data(model, images, Path(folder) / "out", dtype="float16"))
        facts = read_facts(Path(folder) / "out")
        written = sum(part_file(Path(folder) / "out", part).stat().st_size for part in range(facts.parts))
    return {
        "images": len(images),
        "model": model.name,
        "input": list(embedder.input_size),
        "dim": embedder.dim,
        "mean_sides": [round(float(np.mean([array.shape[axis] for array in pixels]))) for axis in (0, 1)],
        "mean_file_bytes": round(float(np.mean(sizes))) if sizes else None,
        "decoding_ms": round(1e3 * decoding / len(images), 3),
        "model_ms": round(1e3 * network / len(images), 3),
        "embed_ms": round(1e3 * whole / len(images), 3),
        "row_bytes": round(written / len(images), 1),
    }


def cost_of(work: Callable[[], object]) -> float:
    """Return the CPU seconds that all threads of this process spend in a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def memory(model: Path, count: int, kind: str) -> dict[str, Any]:
    """Return the greatest memory of a process that embeds so many images of 32 x 32 pixels, and what else it took.

    Args:
        model: the encoder.
        count: how many images; DISTINCT of them are different, and the others hard links to these.
        kind: "folder", of a thousand images each; "csv", a table of their paths; or "parquet", with the images in it.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = [f"photos/class{number // 1000:05}/{number:08}.png" for number in range(count)]
        for number, name in enumerate(names if kind != "parquet" else names[:DISTINCT]):
            place = Path(folder) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if number < DISTINCT:
                noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(noise).save(place)
            else:
                os.link(Path(folder) / names[number % DISTINCT], place)
        source = f"{folder}/photos" if kind == "folder" else f"{folder}/images.{kind}"
        if kind == "csv":
            rows = [f"{name},{Path(name).parent.name}\n" for name in names]
            Path(source).write_text("path,label\n" + "".join(rows), encoding="utf-8")
        elif kind == "parquet":
            import pyarrow
            from pyarrow import parquet

            files = [(Path(folder) / name).read_bytes() for name in names[:DISTINCT]]
            schema = pyarrow.schema({"image": pyarrow.binary(), "label": pyarrow.string()})
            with parquet.ParquetWriter(source, schema) as writer:
                for first in range(0, count, 1000):
                    rows = names[first : first + 1000]
                    images = [files[(first + row) % DISTINCT] for row in range(len(rows))]
                    labels = [Path(name).parent.name for name in rows]
                    writer.write_table(pyarrow.table([images, labels], schema=schema))
        command = [sys.executable, "-m", "benchmarks.speed.embedding", "once", str(model), source, f"{folder}/out"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1], check=True)
    return {"kind": kind, "images": count, **json.loads(done.stdout.splitlines()[-1])}


def embedded_once(model: Path, photos: Path, out: Path) -> dict[str, Any]:
    """Embed in this process, and return its peak memory in MB, before and after, and CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = cost_of(lambda: embed_data(model, photos, out))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"mb_before": round(before), "mb": round(after), "seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
