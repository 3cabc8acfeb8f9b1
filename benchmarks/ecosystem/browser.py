"""The page of demo-web in headless Chromium: start-up time, ms per image, memory, and agreement with ``Embedder``.

    NODE_MODULES=PATH python -m benchmarks.ecosystem.browser --models model.onnx model-int8.onnx --photos PATH

NODE_MODULES has onnxruntime-web and playwright-core. 200 evenly spaced photographs of the folder are the gallery; 24
others are queries, three times each, and the first round is not timed. The page is served on this machine, so start-up
times include no network. Writes browser.json and browser.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ecosystem import pages
from benchmarks.ecosystem.run import photographs
from export.runtime import Embedder
from export.web.demo import demo_web
from zoo.files import digest, write_json, write_text
from zoo.versions import machine

HERE = Path(__file__).resolve().parent
GALLERY, QUERIES, ROUNDS, SHOWN = 200, 24, 3, 12


def measure(model: Path, gallery: list[Path], queries: list[Path], isolated: bool) -> dict[str, Any]:
    """Return a page's times and memory, and how its results agree with those of ``Embedder``."""
    with tempfile.TemporaryDirectory() as temporary:
        runtime = Path(pages.NODE_MODULES) / "onnxruntime-web"
        folder = demo_web(model, gallery, Path(temporary) / "page", runtime=runtime)
        header = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
        rows = np.fromfile(folder / "vectors.bin", "<f4").reshape(header["count"], header["dim"])
        seen = pages.look_at(folder, queries, isolated=isolated, rounds=ROUNDS)
        embed = Embedder(model)
        scores = {str(file): rows @ embed(file) for file in queries}
    if seen["error"]:
        raise RuntimeError(seen["error"])
    timed = seen["searches"][len(queries) :]
    common, apart = [], []
    for search in timed:
        ours = scores[search["file"]]
        by_id = dict(zip(header["ids"], ours.tolist(), strict=True))
        nearest = {header["ids"][row] for row in np.argsort(-ours)[:SHOWN]}
        common.append(len(nearest & set(search["ids"])) / SHOWN)
        apart.append(max(abs(by_id[name] - shown) for name, shown in zip(search["ids"], search["scores"], strict=True)))
    times = {
        part: {"median": round(float(np.median(of)), 1), "p95": round(float(np.percentile(of, 95)), 1)}
        for part in ("decode", "embed", "search")
        for of in [[search[f"{part}_ms"] for search in timed]]
    }
    return {
        "precision": header["encoder"]["precision"],
        "digest": digest(model),
        "bytes": header["encoder"]["bytes"],
        "backend": seen["facts"]["Backend"],
        "self_test": seen["facts"]["Self-test"],
        "ready_ms": int(seen["facts"]["Ready after"].split()[0]),
        "ready_again_ms": int(seen["again"]["Ready after"].split()[0]),
        "milliseconds": times,
        "blank_mb": round(seen["blank_kb"] / 1024),
        "peak_mb": round(seen["peak_kb"] / 1024),
        "in_common": float(np.mean(common)),
        "largest_difference": float(max(apart)),
        "messages": seen["messages"],
        "versions": {"onnxruntime-web": header["runtime"]["version"], "chromium": seen["version"]},
    }


def page_of(content: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# The page of demo-web in a browser",
        "",
        f"Headless Chromium {content['versions']['chromium']}, onnxruntime-web "
        f"{content['versions']['onnxruntime-web']}, "
        f"{content['machine']['processor']}, {content['machine']['cores']} cores, with other work on them.",
        f"{GALLERY} photographs in the gallery, {QUERIES} others searched for. Made by",
        "`python -m benchmarks.ecosystem.browser`.",
        "",
        "| | " + " | ".join(f"{each['precision']}, {each['backend']}" for each in content["results"]) + " |",
        "|---|" + "---|" * len(content["results"]),
    ]
    of = {
        "model file, MB": lambda each: f"{each['bytes'] / 1e6:.1f}",
        "ready after, ms: first visit / again": lambda each: f"{each['ready_ms']} / {each['ready_again_ms']}",
        **{
            f"{part}, ms: median / p95": lambda each, part=part: (
                f"{each['milliseconds'][part]['median']} / {each['milliseconds'][part]['p95']}"
            )
            for part in ("decode", "embed", "search")
        },
        "peak memory of the page's process, MB": lambda each: str(each["peak_mb"]),
        "of an empty page, MB": lambda each: str(each["blank_mb"]),
        f"of the {SHOWN} nearest in common with Embedder, %": lambda each: f"{100 * each['in_common']:.1f}",
        "largest difference of a score": lambda each: f"{each['largest_difference']:.4f}",
    }
    lines += [f"| {name} | {' | '.join(value(each) for each in content['results'])} |" for name, value in of.items()]
    return "\n".join(
        [
            *lines,
            "",
            "Scores are shown with three digits, which makes 0.0005 of the differences. Files are loaded from this",
            "machine: over a network, add the time for the model and 14 MB of runtime.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    given = parser.parse_args()
    if reason := pages.obstacle():
        raise SystemExit(reason)
    found = photographs(given.photos, GALLERY + QUERIES)
    if len(found) <= QUERIES:
        raise SystemExit(f"{given.photos} holds {len(found)} photos; at least {QUERIES + 1} are needed.")
    queries = found[:: len(found) // QUERIES][:QUERIES]
    gallery = [file for file in found if file not in queries]
    results = [measure(model, gallery, queries, isolated) for model in given.models for isolated in (False, True)]
    content = {
        "machine": machine(),
        "versions": results[0]["versions"],
        "photos": given.photos.name,
        "results": results,
    }
    write_json(HERE / "browser.json", content)
    write_text(HERE / "browser.md", page_of(content))


if __name__ == "__main__":
    main()
