"""Time and memory of ONNX files on this machine: :func:`bench`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import product
from numbers import Integral
from pathlib import Path
from typing import Any

from zoo.arguments import require_at_least, require_valid
from zoo.errors import OptionError, shown
from zoo.paths import given_path

log = logging.getLogger(__name__)

SCHEMA = 1
_LARGEST_BATCH, _MOST_THREADS = 1024, 1024
_LARGEST_INPUT = 2**28  # bytes of a batch of images


def bench(
    files: Sequence[str | Path],
    *,
    batch_sizes: Sequence[int] = (1, 8, 32),
    threads: Sequence[int] | None = None,
    runs: int = 30,
    image_size: int | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Time ONNX files and measure their memory, by batch size and threads.

    All files are timed in turns, in one process, after a warm-up. Each time is one call of ``Embedder`` on a whole
    batch of random pixels. For a file that takes pixels it includes the resize, so image size matters; for one that
    takes tensors it includes no preprocessing. Peak memory is the resident memory of a fresh process with only numpy
    and onnxruntime; the share of these libraries is reported too.

    Args:
        files: .onnx files; times are compared with those of the first. A file that export did not make can be followed
            by an output and options, as in clip.onnx#image_embeds,size=224; see docs/how-to/own-teacher.md. It is timed
            without preprocessing.
        batch_sizes: images in one inference.
        threads: threads per inference; null for 1, 2 and all cores.
        runs: timed runs per file, batch size and number of threads.
        image_size: height and width of the images, pixels; null for twice the largest input size of the networks.
        out: JSON file to write the result to; null for none.

    Returns:
        The contents of that file; see docs/formats.md.

    Raises:
        ModelError: a file is missing or broken, or is not an ONNX file that takes images.
        OptionError: no file is given, or a batch size, number of threads, number of runs or image size is out of range.
    """
    files = [files] if isinstance(files, str | Path) else list(files)
    if not files:
        raise OptionError("No file to time. Name at least one .onnx file.")

    from export.benchmark.foreign_file import inputs_and_outputs, open_file
    from export.benchmark.peak_memory import peak_memory
    from export.benchmark.timing import embedding_of, median_and_p95, sample_image, thread_counts, timed_in_turn
    from zoo.files import require_writable, write_json
    from zoo.formats.onnx_content import digest_of, size_of
    from zoo.versions import machine, versions

    require_valid({"runs": runs, "image_size": image_size})
    require_at_least(1, runs=runs)
    counts = thread_counts() if threads is None else _distinct("threads", threads, _MOST_THREADS)
    batches = _distinct("batch_sizes", batch_sizes, _LARGEST_BATCH)
    if image_size is not None and image_size < 1:
        raise OptionError(f"image_size is {image_size}; it must be 1 or more, in pixels.")
    if out is not None:
        out = given_path(out)
        require_writable(out.parent)

    opened = [open_file(file, 1) for file in files]
    side = image_size or 2 * max(max(embedder.input_size) for embedder in opened)
    if 3 * side**2 * max(batches) > _LARGEST_INPUT:
        raise OptionError(
            f"A batch of {max(batches)} images of {side} pixels has more than {_LARGEST_INPUT >> 20} MiB. Give a "
            "smaller image_size, or smaller batch_sizes."
        )
    samples = [sample_image(embedder, side) for embedder in opened]
    described = [
        {
            "file": str(file),
            "bytes": size_of(embedder.path),
            "digest": digest_of(embedder.path),
            "architecture": embedder.metadata.get("architecture", ""),
            "precision": embedder.precision,
            "input": embedder.input,
            "input_size": list(embedder.input_size),
            "dim": embedder.dim,
            "one_by_one": embedder.one_by_one,
        }
        for file, embedder in zip(files, opened, strict=True)
    ]
    asked = {
        (index, batch): (embedder.path, *inputs_and_outputs(embedder, samples[index], batch))
        for (index, embedder), batch in product(enumerate(opened), batches)
    }
    del opened
    memory = {}
    for index, file in enumerate(files):
        log.info("measuring the memory of %s", file)
        for count, batch in product(counts, batches):
            path, inputs, outputs = asked[index, batch]
            memory[index, count, batch] = peak_memory(path, count, inputs, outputs)
    rows = []
    for count in counts:
        embedders = [open_file(file, count) for file in files]
        for batch in batches:
            log.info("timing at batch %d, threads %d", batch, count)
            calls = {i: embedding_of(embedder, samples[i], batch) for i, embedder in enumerate(embedders)}
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
                        "peak_memory_bytes": memory[i, count, batch]["peak"],
                    }
                )
    content = {
        "schema": SCHEMA,
        "files": described,
        "image_size": side,
        "runs": runs,
        "runtime_memory_bytes": memory[0, counts[0], batches[0]]["runtime"],
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }
    if out is not None:
        write_json(out, content)
    return content


def _distinct(option: str, given: object, most: int) -> list[int]:
    """Return the values of an option, each once.

    Raises:
        OptionError: there are none, or one is not a whole number in 1..most.
    """
    values: list[Any] = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if any(isinstance(value, bool) or not isinstance(value, Integral) for value in values):
        raise OptionError(f"{option} is {shown(given)}; it must be a list of whole numbers, such as [1, 8].")
    if not values or not 1 <= min(values) <= max(values) <= most:
        raise OptionError(
            f"{option} is {shown(values)}; each must be a whole number in 1..{most}, and there must be one."
        )
    return list(dict.fromkeys(values))
