"""Thousands of broken, damaged and hostile files of every format: each must work as before or be refused in one line.

    python -m benchmarks.robustness.fuzz --cases 10000 --seed 0

Each case changes one file of a specimen, in bytes or in values, and uses it as a verb would. A case is identified by
its number and the seed, so ``--only`` can repeat it alone. Cases run in a separate process, which is watched for time
and memory and restarted if it hangs or dies. Linux only, because of the memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.robustness.mutations import bytes_changed, document_changed, metadata_changed, text_changed
from benchmarks.robustness.outcomes import LIMIT, OUTCOMES, failed, resident, table, write
from benchmarks.robustness.specimens import USES, make_specimens
from zoo.errors import UserError

_LONGEST_LINE = 700

Change = Callable[[Path, np.random.Generator], None]


@dataclass(frozen=True)
class Kind:
    """A file of a specimen, how it is changed, and whether its use must still give the same result.

    The file may be a pattern; then the largest file that matches is meant.
    """

    specimen: str
    file: str
    change: Change
    same: bool = True


KINDS = {
    "config.json, values": Kind("model", "config.json", document_changed),
    "config.json, values, no digests": Kind("model-old", "config.json", document_changed, same=False),
    "config.json, bytes": Kind("model", "config.json", bytes_changed),
    "model.safetensors": Kind("model", "model.safetensors", bytes_changed),
    "ONNX, bytes": Kind("onnx", "model.onnx", bytes_changed),
    "ONNX, metadata": Kind("onnx", "model.onnx", metadata_changed),
    "ONNX, metadata, no digest": Kind("onnx-old", "model.onnx", metadata_changed, same=False),
    "ONNX, weights beside it": Kind("onnx-beside", "model.onnx.data", bytes_changed),
    "ONNX as teacher, no digest": Kind("teacher", "model.onnx", metadata_changed, same=False),
    "last.ckpt": Kind("checkpoint", "last.ckpt", bytes_changed),
    "best.safetensors": Kind("best", "best.safetensors", bytes_changed),
    "teacher's cache": Kind("cache", "entry.npy", bytes_changed),
    "embeddings.npz": Kind("npz", "embeddings.npz", bytes_changed),
    "index.json, values": Kind("index", "index.json", document_changed),
    "index.json, values, no digests": Kind("index-old", "index.json", document_changed, same=False),
    "ids.json": Kind("index", "ids.json", document_changed),
    "index.faiss": Kind("index", "index.faiss", bytes_changed),
    "options.json": Kind("stage", "options.json", document_changed, same=False),
    "inputs.json": Kind("record", "inputs.json", document_changed, same=False),
    "YAML of run": Kind("yaml", "run.yaml", text_changed, same=False),
    "table of images": Kind("table", "images.csv", text_changed, same=False),
    "image": Kind("image", "a.png", bytes_changed, same=False),
    "image, checked": Kind("checked", "3.png", bytes_changed, same=False),
    "table of images, checked": Kind("checked", "images.csv", text_changed, same=False),
    "table, TSV": Kind("tsv", "images.tsv", text_changed, same=False),
    "table, JSON Lines": Kind("jsonl", "images.jsonl", text_changed, same=False),
    "table, Parquet": Kind("parquet", "images.parquet", bytes_changed, same=False),
    "shard": Kind("shards", "images.tar", bytes_changed, same=False),
    "continuous labels": Kind("labels", "places.csv", text_changed, same=False),
    "split list": Kind("lists", "split.yaml", text_changed, same=False),
    "embedding parts, facts": Kind("parts", "_embeddings.json", document_changed),
    "embedding parts, facts, no digest": Kind("parts-old", "_embeddings.json", document_changed, same=False),
    "embedding parts, Parquet": Kind("parts", "part-00001.parquet", bytes_changed),
    "stored views": Kind("views", "views-*.npy", bytes_changed),
    "stored views, checksums": Kind("views", "views-*.crc.npy", bytes_changed),
    "kept embeddings": Kind("reuse", "*.npy", bytes_changed),
    "index.json, exported": Kind("vectors", "index.json", document_changed),
    "index.faiss, exported": Kind("vectors", "index.faiss", bytes_changed),
    "hub folder, config.json": Kind("hub", "config.json", document_changed, same=False),
    "hub folder, README.md": Kind("hub", "README.md", text_changed, same=False),
    "preprocessor_config.json": Kind("processor", "preprocessor_config.json", document_changed, same=False),
    "report.json": Kind("report", "report/report.json", document_changed, same=False),
    "parity pack, manifest.json": Kind("parity", "pack/manifest.json", document_changed, same=False),
    "parity pack, vectors": Kind("parity", "pack/expected-fp32.f32", bytes_changed, same=False),
}


def outcome_of(number: int, seed: int, specimens: Path, expected: dict[str, str]) -> tuple[str, str, str]:
    """Run one case.

    Args:
        number: number of the case.
        seed: seed of all cases.
        specimens: folder of ``make_specimens``.
        expected: result of each unchanged specimen; filled on first use.

    Returns:
        The kind, the outcome, and the message.
    """
    name = list(KINDS)[number % len(KINDS)]
    kind = KINDS[name]
    use = USES[kind.specimen]
    with tempfile.TemporaryDirectory(prefix="fuzz.") as folder:
        if kind.specimen not in expected:
            whole = shutil.copytree(specimens / kind.specimen, Path(folder) / "whole" / kind.specimen)
            expected[kind.specimen] = use(Path(whole))
        copy = Path(shutil.copytree(specimens / kind.specimen, Path(folder) / kind.specimen))
        random = np.random.default_rng([seed, number])
        kind.change(max(copy.glob(kind.file), key=lambda file: file.stat().st_size), random)
        try:
            with _peak() as peak:
                found = use(copy)
        except UserError as error:
            found, said = "", str(error)
            outcome = "refused in one line" if "\n" not in said and len(said) < _LONGEST_LINE else "traceback"
        except SystemExit as stop:  # the command line exits on bad usage
            found, said, outcome = "", f"exit {stop.code}", "refused in one line"
        except BaseException as error:
            found, said, outcome = "", "".join(traceback.format_exception(error)[-3:]), "traceback"
        else:
            said, outcome = "", "worked"
            if kind.same and found != expected[kind.specimen]:
                outcome = "silently different"
        if peak[0] > LIMIT:
            outcome, said = "over 1 GB", f"{peak[0] / 2**30:.1f} GiB; {outcome}: {said}"
        return name, outcome, said.replace(folder, "")


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Yield a list with the peak growth of this process's memory in bytes, set when the block ends."""
    found = [0]
    reset = Path("/proc/self/clear_refs")
    known = reset.exists()
    if known:
        reset.write_text("5")
    before = resident() if known else 0
    try:
        yield found
    finally:
        found[0] = resident("VmHWM") - before if known else 0


def _serve(pipe: Connection, seed: int, specimens: Path) -> None:
    expected: dict[str, str] = {}
    while (number := pipe.recv()) is not None:
        pipe.send(outcome_of(number, seed, specimens, expected))


def run(numbers: list[int], seed: int, specimens: Path, seconds: float) -> dict[str, Counter[str]]:
    """Run cases in a watched process; return the outcomes by kind, and print unwanted ones.

    Args:
        numbers: numbers of the cases.
        seed: seed of all cases.
        specimens: folder of ``make_specimens``.
        seconds: time limit of a case; ten times as much for the first in a process, which imports everything.
    """
    context = multiprocessing.get_context("spawn")
    found: dict[str, Counter[str]] = defaultdict(Counter)
    waiting = list(reversed(numbers))
    while waiting:
        pipe, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, seed, specimens), daemon=True)
        process.start()
        other.close()
        first = True
        while waiting:
            number = waiting.pop()
            pipe.send(number)
            name, outcome, said = list(KINDS)[number % len(KINDS)], "hang", f"no answer in {seconds:g} s"
            try:
                if pipe.poll(10 * seconds if first else seconds):
                    name, outcome, said = pipe.recv()
            except EOFError:
                process.join(5)
                outcome, said = "traceback", f"the process ended with {process.exitcode}"
            first = False
            found[name][outcome] += 1
            if outcome not in OUTCOMES[:2]:
                print(f"case {number} ({name}): {outcome}: {said.strip()}", flush=True)
            if said.startswith(("no answer", "the process")):
                break
        else:
            pipe.send(None)
        process.join(5)
        process.kill()
    return found


def main() -> int:
    """Run the cases, print and store the table; return 1 if one neither worked nor was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60, help="that a case may take before it counts as a hang")
    parser.add_argument("--only", type=int, help="one case, by its number")
    parser.add_argument("--specimens", type=Path, help="folder to keep the specimens in; else a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="specimens.") as temporary:
        specimens = options.specimens or Path(temporary)
        make_specimens(specimens)
        numbers = [options.only] if options.only is not None else list(range(options.cases))
        found = run(numbers, options.seed, specimens, options.seconds)
    rows = {name: found[name] for name in KINDS if name in found}
    print(table(rows, list(rows), "format"))
    if options.only is None:
        command = f"python -m benchmarks.robustness.fuzz --cases {options.cases} --seed {options.seed}"
        write("fuzz", command, rows, "format")
    return int(failed(rows))


if __name__ == "__main__":
    sys.exit(main())
