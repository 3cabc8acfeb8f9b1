"""What files cost where they run: :func:`bench`."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ModelError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from export.runtime import Embedder

log = logging.getLogger(__name__)

SCHEMA = 1


def bench(
    files: Sequence[str | Path],
    *,
    batch_sizes: Sequence[int] = (1, 8, 32),
    threads: Sequence[int] | None = None,
    runs: int = 30,
    image_size: int | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Time ONNX files and measure their memory, by batch and threads.

    All files are timed in turn, in one process, after runs that warm up. A time is that of ``Embedder`` on a whole
    batch of random pixels; for a file that takes pixels it includes the resize, so that image size matters, and for one
    that takes tensors no preprocessing at all. Peak memory is the resident memory of a fresh process that has only
    numpy and onnxruntime, at the largest number of threads; it includes those libraries, whose part is given too.

    Args:
        files: .onnx files made by ``export``; times are compared with those of the first.
        batch_sizes: images in one inference.
        threads: of one inference; null for 1, 2 and all cores.
        runs: timed runs of each file, for each batch size and number of threads.
        image_size: height and width of the images, pixels; null for twice the largest input size of the networks.
        out: JSON file to write the result to; null for none.

    Returns:
        What the file holds; see docs/formats.md.

    Raises:
        ModelError: a file is missing, or was not made by ``export``.
        OptionError: no file, or a batch, number of threads or runs or image size that cannot be.
    """
    files = [files] if isinstance(files, str | Path) else list(files)
    if not files:
        raise OptionError("No file to time. Name at least one .onnx file.")

    import numpy as np

    from export.runtime import Embedder
    from export.timing import median_and_p95, thread_counts, timed_in_turn
    from zoo.files import write_json
    from zoo.versions import machine, versions

    counts = thread_counts() if threads is None else list(dict.fromkeys(threads))
    batches = list(dict.fromkeys(batch_sizes))
    for option, values in (("batch_sizes", batches), ("threads", counts), ("runs", [runs])):
        if not values or min(values) < 1:
            raise OptionError(f"{option} is {values if option != 'runs' else runs}; it must be 1 or more.")
    if image_size is not None and image_size < 1:
        raise OptionError(f"image_size is {image_size}; it must be 1 or more, in pixels.")

    opened = [Embedder(file, threads=1) for file in files]
    side = image_size or 2 * max(max(embedder.input_size) for embedder in opened)
    samples = [_sample(embedder, side) for embedder in opened]
    described = [_described(embedder) for embedder in opened]
    del opened
    memory = {}
    for index, file in enumerate(files):
        log.info("measuring the memory of %s", file)
        for batch in batches:
            memory[index, batch] = _peak_memory(Path(file), max(counts), (batch, *samples[index].shape))
    rows = []
    for count in counts:
        embedders = [Embedder(file, threads=count) for file in files]
        for batch in batches:
            log.info("timing at batch %d, threads %d", batch, count)
            calls = {i: _on(embedder, np.stack([samples[i]] * batch)) for i, embedder in enumerate(embedders)}
            times = {i: median_and_p95(taken) for i, taken in timed_in_turn(calls, runs).items()}
            for i, file in enumerate(files):
                median = times[i]["median"]
                rows.append(
                    {
                        "file": str(file),
                        "batch": batch,
                        "threads": count,
                        "latency_ms": times[i],
                        "images_per_second": round(1000 * batch / median, 2),
                        "speed_to_first": round(times[0]["median"] / median, 3),
                        "peak_memory_bytes": memory[i, batch]["peak"],
                    }
                )
    content = {
        "schema": SCHEMA,
        "files": described,
        "image_size": side,
        "runs": runs,
        "runtime_memory_bytes": memory[0, batches[0]]["runtime"],
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }
    if out is not None:
        write_json(out, content)
    return content


def print_bench(content: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`bench` found as a table.

    Args:
        content: what it returned.
        console: where to print; standard output if None, widened where that is a file or pipe, so that nothing is cut.
    """
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    from export.report import DASH, wide_console

    console = console or wide_console()
    of_file = {entry["file"]: entry for entry in content["files"]}
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("file", "input", "precision"):
        table.add_column(heading, overflow="fold")
    for heading in ("threads", "batch", "median ms", "p95 ms", "images/s", "× first", "peak MB"):
        table.add_column(heading, justify="right", overflow="fold")
    for number, row in enumerate(content["rows"], start=1):
        entry = of_file[row["file"]]
        peak = row["peak_memory_bytes"]
        cells = [
            row["file"],
            entry["input"],
            entry["precision"],
            str(row["threads"]),
            str(row["batch"]),
            f"{row['latency_ms']['median']:.2f}",
            f"{row['latency_ms']['p95']:.2f}",
            f"{row['images_per_second']:.1f}",
            f"{row['speed_to_first']:.2f}",
            DASH if peak is None else f"{peak / 1e6:.0f}",
        ]
        table.add_row(*(Text(cell) for cell in cells), end_section=number % len(content["files"]) == 0)
    console.print(table)
    console.print(Text("\n".join(_notes(content))))


def _notes(content: dict[str, Any]) -> list[str]:
    inputs = {entry["input"] for entry in content["files"]}
    side, runtime = content["image_size"], content["runtime_memory_bytes"]
    notes = [f"{content['machine']['processor']}, {content['runs']} runs, all files in turn; × first: images/s over"]
    notes[0] += " the first file's."
    if "pixels" in inputs:
        notes.append(f"pixels: random images of {side} x {side}, resized inside the file and inside the time.")
    if "tensor" in inputs:
        notes.append("tensor: prepared arrays; resize and normalisation are the caller's and are not in the time.")
    if runtime is not None:
        notes.append(f"peak MB: of a process of its own, {runtime / 1e6:.0f} of them Python, numpy and onnxruntime.")
    return notes


def _described(embedder: Embedder) -> dict[str, Any]:
    from zoo.files import digest

    return {
        "file": str(embedder.path),
        "bytes": embedder.path.stat().st_size,
        "digest": digest(embedder.path),
        "architecture": embedder.metadata["architecture"],
        "precision": embedder.precision,
        "input": embedder.input,
        "input_size": list(embedder.input_size),
        "dim": embedder.dim,
    }


def _sample(embedder: Embedder, side: int) -> np.ndarray:
    """Return a random image as the file takes it: uint8 ``(side, side, 3)``, or float32 ``(3, H, W)``."""
    import numpy as np

    generator = np.random.default_rng(0)
    if embedder.input == "pixels":
        return generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return generator.standard_normal((3, *embedder.input_size), dtype=np.float32)


def _on(embedder: Embedder, images: np.ndarray) -> Callable[[int], object]:
    return lambda run: embedder(images, batch_size=len(images))


def _peak_memory(file: Path, threads: int, shape: tuple[int, ...]) -> dict[str, int | None]:
    """Return the peak of a fresh process in bytes: ``{"runtime", "peak"}``, after its imports and at its end."""
    script = Path(__file__).with_name("peak_memory.py")
    command = [sys.executable, "-P", str(script), str(file), str(threads), json.dumps(shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it was stopped, which is how a lack of memory ends"])[-1]
        raise ModelError(f"{file} failed on a batch of shape {shape} ({reason}). Try a smaller batch or image size.")
    found: dict[str, int | None] = json.loads(done.stdout)
    return found
