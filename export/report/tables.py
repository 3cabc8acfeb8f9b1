"""Results of the verbs as tables on the terminal."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from export.report.content import indexes_of, kept_of, ks_of, label_of, sentences_of
from export.report.formats import DASH, count, decimals, megabytes, percent, readable, significant
from export.runtime import preprocessing_in_words
from zoo.errors import for_terminal
from zoo.retrieval.label_measures import NDCG_K

_TABLE_WIDTH, _INDEX_WIDTH = 120, 40
_CANDIDATES_WIDTH = 150
_SHOWN_NODES = 5


def plain_text(text: object) -> Text:
    """Return text as tables show it: nothing in it is markup, or a command to the terminal."""
    return Text(for_terminal(text))


def wide_console(width: int = _TABLE_WIDTH) -> Console:
    """Return a console on standard output, widened if that is a file or pipe, so that no table is cut."""
    console = _Console()
    return console if console.is_terminal else _Console(width=max(console.width, width))


class _Console(Console):
    """Raises BrokenPipeError when the reader is gone; rich would end the process with its own exit code."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def print_table(content: dict[str, Any], console: Console | None = None) -> None:
    """Print the stages as a table: measures and retention in percent, size in MB, median latency on one thread in ms.

    The verdict on the last model against the baselines comes first. For indexes the table also has the bytes per vector
    and the search time without embedding. Findings on mixed pairs follow it. Label distances are in the labels' unit.

    Args:
        content: content of ``report.json``.
        console: where to print; None for standard output, widened if that is a file or pipe.
    """
    names = max(len(label_of(stage)) for stage in content["stages"])
    console = console or wide_console(_TABLE_WIDTH + names + (_INDEX_WIDTH if indexes_of(content) else 0))
    for sentence in sentences_of(content):
        console.print(plain_text(sentence), soft_wrap=True)
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("stage", overflow="fold")
    columns = _measure_columns(content)
    for heading in (*columns, "retention", "parameters", "dim", "MB", "ms"):
        table.add_column(heading, justify="right", overflow="fold")
    indexed = bool(indexes_of(content))
    for heading in ("bytes/vector", "ms/query") if indexed else ():
        table.add_column(heading, justify="right", overflow="fold")
    for stage, following in zip(content["stages"], [*content["stages"][1:], {}], strict=True):
        cells = [
            label_of(stage),
            *(cell(stage) for cell in columns.values()),
            kept_of(stage),
            count(stage["parameters"]),
            count(stage["dim"]),
            megabytes(stage["bytes"]),
            decimals((stage["latency_ms"] or {}).get("median")),
        ]
        if indexed:
            index = stage.get("index", {})
            cells += [decimals(index.get("bytes_per_vector"), 1), decimals(index.get("ms_per_query"), 3)]
        last_baseline = "baseline" in stage and "baseline" not in following
        table.add_row(*(plain_text(cell) for cell in cells), end_section=last_baseline)
    console.print(table)
    for stage in content["stages"]:
        if "pair" in stage:
            console.print(plain_text(stage["pair"]["finding"]), soft_wrap=True)


def _measure_columns(content: dict[str, Any]) -> dict[str, Callable[[dict[str, Any]], str]]:
    """Return the columns of measures: heading, and a function from a stage to its cell."""

    def cell(measure: str, k: str, text: Callable[[float], str] = percent) -> Callable[[dict[str, Any]], str]:
        return lambda stage: text(stage[measure][k])

    columns: dict[str, Callable[[dict[str, Any]], str]] = {}
    ks = ks_of(content)[:4]
    for k in ks:
        columns[f"Recall@{k}" if k == ks[0] else f"@{k}"] = cell("recall", k)
    if ks:
        columns["MAP@R"] = lambda stage: percent(stage["map_at_r"])
    if "ndcg" in content["stages"][0]:
        for k in (str(NDCG_K),) if ks else ("1", str(NDCG_K)):
            columns[f"nDCG@{k}"] = cell("ndcg", k)
            columns[f"distance@{k}"] = cell("mean_label_distance", k, significant)
    return columns


def print_bench(content: dict[str, Any], console: Console | None = None) -> None:
    """Print the result of :func:`export.bench` as a table.

    Args:
        content: what it returned.
        console: where to print; None for standard output, widened if that is a file or pipe.
    """
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
        table.add_row(*(plain_text(cell) for cell in cells), end_section=number % len(content["files"]) == 0)
    console = console or wide_console()
    console.print(table)
    console.print(plain_text("\n".join(_notes(content))))


def _notes(content: dict[str, Any]) -> list[str]:
    inputs = {entry["input"] for entry in content["files"]}
    side, runtime = content["image_size"], content["runtime_memory_bytes"]
    machine = content["machine"]["processor"]
    notes = [f"{machine}; {content['runs']} runs, all files in turn; × first: images/s over those of the first file."]
    if "pixels" in inputs:
        notes.append(f"pixels: random images of {side} x {side}, resized inside the file and inside the time.")
    if "tensor" in inputs:
        notes.append("tensor: prepared arrays; resize and normalisation are the caller's and are not in the time.")
    alone = [entry["file"] for entry in content["files"] if entry["one_by_one"]]
    if alone:
        notes.append(f"{', '.join(alone)}: finds ranges at each run, so a batch is run one image at a time.")
    if runtime is not None:
        notes.append(f"peak MB: of a separate process; Python, numpy and onnxruntime take {runtime / 1e6:.0f}.")
    return notes


def print_candidates(content: dict[str, Any], console: Console | None = None) -> None:
    """Print the candidates: measure in percent, drop in points, size in MB, median latency of one image in ms.

    Args:
        content: content of ``candidates.json``.
        console: where to print; None for standard output, widened if that is a file or pipe.
    """
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("candidate", overflow="fold")
    headings = (f"{content['measure']}, %", "drop, points", "overlap@10, %", "MB", "ms, pixels", "ms, tensor")
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("budget", overflow="fold")
    for entry in content["candidates"]:
        table.add_row(*(plain_text(cell) for cell in _candidate_cells(entry, content)))
    console = console or wide_console(_CANDIDATES_WIDTH)
    console.print(table)
    for line in _candidate_notes(content):
        console.print(plain_text(line))


def _candidate_notes(content: dict[str, Any]) -> list[str]:
    judged, calibration = content["judged_on"], content["calibration"]
    max_drop, by = content["budget"]["max_drop"], content["budget"]["by"]
    parts = " and ".join(f"{part['images']:,} images of {part['of']}" for part in judged["parts"])
    budget = "no budget." if max_drop is None else f"budget: a drop of {100 * max_drop:g} points ({by})."
    notes = [f"Judged on {parts}, calibrated on {calibration['images']:,}; {budget}"]
    chosen = next((entry for entry in content["candidates"] if entry["name"] == content["chosen"]), None)
    if chosen is None:
        return notes
    of_each = ", ".join(f"{100 * part['drop']:.2f} of {part['of']}" for part in chosen["parts"])
    notes.append(f"Chosen: drop in points {of_each}; known to ±{196 * chosen['standard_error']:.2f}.")
    gain = content["gain"]
    speed = "" if gain["speedup"] is None else f", {gain['speedup']:.2f} times as fast from pixels to vector"
    return [*notes, f"It is {gain['is']}: {100 * gain['size']:.0f} % of fp32's size{speed}."]


def _candidate_cells(entry: dict[str, Any], content: dict[str, Any]) -> list[str]:
    name = entry["name"] + (" (chosen)" if entry["name"] == content["chosen"] else "")
    verdict = entry["error"] or ("inside" if entry["inside_budget"] else "outside")
    measured = [DASH] * 3
    if entry["score"] is not None:
        low, high = entry["drop_interval"]
        measured = [
            f"{100 * entry['score']:.2f}",
            f"{100 * entry['drop']:.2f} [{100 * low:.2f}, {100 * high:.2f}]",
            f"{100 * entry['neighbour_overlap']:.1f}",
        ]
    times = entry["latency_ms"] or {}
    return [
        name,
        *measured,
        DASH if entry["bytes"] is None else f"{entry['bytes'] / 1e6:.2f}",
        *(f"{times[takes]['median']:.2f}" if takes in times else DASH for takes in ("pixels", "tensor")),
        verdict if entry["precision"] == "int8" else "",
    ]


def print_inspection(content: dict[str, Any], nodes: bool = False, console: Console | None = None) -> None:
    """Print the result of :func:`export.inspect`.

    Args:
        content: what it returned.
        nodes: name all nodes that compute in float, not only the first few.
        console: where to print; None for standard output, widened if that is a file or pipe.
    """
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, text in _lines(content, nodes):
        table.add_row(plain_text(key), plain_text(text))
    (console or wide_console()).print(table)


def _lines(content: dict[str, Any], nodes: bool) -> Iterator[tuple[str, str]]:
    """Yield the lines to print: a key and its text."""
    yield "file", content["file"]
    yield "bytes", f"{content['bytes']:,}"
    yield "digest", f"sha256:{content['digest']}"
    if not content["made_by_export"]:
        yield "made by", f"{content['producer'] or 'unknown'}; not by compressor export, so less is known"
    for key in ("inputs", "outputs"):
        for port in content[key]:
            shape = " x ".join(map(str, port["shape"])) if port["shape"] is not None else "any shape"
            yield key[:-1], f"{port['name']}: {port['type']}, {shape}"
    if content["preprocessing"] is not None:
        yield "preprocessing", _preprocessing(content["preprocessing"])
    for key in ("architecture", "dim", "metric", "parameters", "precision"):
        if content[key] is not None:
            yield key, f"{int(content[key]):,}" if key == "parameters" and content[key].isdecimal() else content[key]
    if content["quantization"] is not None:
        yield "quantization", readable(content["quantization"])
    yield "weights", _weights(content["weights"])
    if content["antialiased_resize"]:
        yield (
            "accelerators",
            f"{content['antialiased_resize'][0]} resizes with antialiasing, which some do not compute: they refuse the "
            "file, or leave this node to the CPU. For these, export with --input tensor.",
        )
    total = Counter(entry["precision"] for entry in content["computing"])
    yield "computing", f"Conv, Gemm and MatMul: {_counts(total)}; {content['nodes']} nodes in all"
    for operator, counts in content["operators"].items():
        yield f"  {operator}", _counts(counts)
    if "int8" in total or nodes:
        floats = [entry for entry in content["computing"] if entry["precision"] != "int8"]
        shown = floats if nodes else floats[:_SHOWN_NODES]
        for entry in shown:
            yield "  in float", f"{entry['operator']} {entry['name']} ({entry['weight'] or 'no constant weight'})"
        if len(shown) < len(floats):
            yield "", f"and {len(floats) - len(shown)} more; --nodes names them"
    yield "opset", ", ".join(f"{domain} {version}" for domain, version in content["opset"].items())
    for key in ("loss", "data", "teacher", "source_digest", "versions"):
        if content[key]:
            yield key.replace("_", " "), readable(content[key])
    for key, value in content["other_metadata"].items():
        yield key, value


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {precision}" for precision, count in sorted(counts.items())) or "none"


def _weights(weights: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{kind} {entry['count']:,} ({entry['share']:.1%})" for kind, entry in weights.items()) or "none"


def _preprocessing(preprocessing: Any) -> str:
    try:
        where = "inside the file" if preprocessing["inside"] else "left to the caller"
        return f"{where}: {preprocessing_in_words(preprocessing)}"
    except (KeyError, TypeError, ValueError, ArithmeticError):  # written by another tool
        return json.dumps(preprocessing)
