"""The verbs that write, on data so small that each takes seconds, as processes that can be killed.

A process is forked from one that has imported everything, so that a trial costs no more than the verb. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.robustness.outcomes import HANG, LIMIT, OVER, TRACEBACK, resident, table, write

_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"})
_PATIENCE = 600  # seconds
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NETWORK = ["--arch=test_resnet", "--image_size=32", "--epochs=3", "--batch_size=8", "--workers=0"]
_PARTS = {"teacher.": ["--teacher.dim=8"], "student.": ["--student.dim=4", "--student.images_per_class=2"]}


_IMPORTED = (
    *("faiss", "onnx", "onnxruntime.quantization", "onnxscript", "torch.onnx", "torchvision.transforms.v2", "jinja2"),
    *("matplotlib.figure", "compressor.cli.command", "compressor.transfer", "zoo.training.fitting"),
    *("compressor.int8_finish.quantization_aware", "export.index.verbs", "export.int8.selection"),
    *("export.onnx.tracing", "export.report.page", "export.report.validation", "export.report.baselines"),
    *("export.hub.card", "export.web.demo", "zoo.data.checking.check", "pyarrow.parquet"),
)


@dataclass(frozen=True)
class Verb:
    """A command: its words, and the path it writes to."""

    words: list[str]
    out: Path


@dataclass(frozen=True)
class Ended:
    """How a trial ended.

    Attributes:
        code: exit code; negative for a signal, None if it took too long and was killed.
        said: its output.
        seconds: its duration.
        grown: bytes of memory that it took besides the imported modules.
    """

    code: int | None
    said: str
    seconds: float
    grown: int

    @property
    def has_traceback(self) -> bool:
        """Whether it printed a traceback, or its exit code is not one of the command line's."""
        return "Traceback (most recent call last)" in self.said or self.code not in (0, 1, 2, 3, 130)

    @property
    def is_large(self) -> bool:
        """Whether it took more memory than it may."""
        return self.grown > LIMIT

    @property
    def fault(self) -> tuple[str, str] | None:
        """An unwanted outcome, whatever was expected, and a message about it; None if there is none."""
        if self.code is None:
            return HANG, ""
        if self.has_traceback:
            return TRACEBACK, self.said[-1500:]
        return (OVER, f"{self.grown / 2**30:.1f} GiB") if self.is_large else None


def import_all() -> None:
    """Import what the verbs import, so that forked processes need not."""
    for name in _IMPORTED:
        import_module(name)


def verbs_in(folder: Path) -> dict[str, Verb]:
    """Return the verbs that write, and check, by name; each needs the results of those before it."""
    data, teacher, student = f"folder:{folder / 'photos'}", folder / "teacher", folder / "student"
    model, out = folder / "export" / "model.onnx", folder / "out"
    to, untimed = f"--out={out}", "--latency_runs=0"
    pairs = ["--images_per_class=2"]
    of_run = [
        *(f"--{part}{word.removeprefix('--')}" for part in _PARTS for word in _NETWORK),
        *(word for words in _PARTS.values() for word in words),
        *("--export.precision=fp32,int8", "--export.max_drop=1", "--export.latency_runs=0", "--report.latency_runs=0"),
    ]
    drop = ["--precision=int8", "--max_drop=0", "--budget_by=interval", f"--teacher={teacher}", "--qat_epochs=2"]
    commands = {
        "train": ["train", data, to, "--dim=8", *_NETWORK],
        "distill": ["distill", f"{teacher}", f"--data={data}", to, "--dim=4", *pairs, *_NETWORK],
        "export": ["export", f"{student}", f"{out}", f"--data={data}", "--precision=fp32,fp16,auto", "--max_drop=1"],
        "export, with a finish": ["export", f"{student}", f"{out}", f"--data={data}", *drop],
        "validate": ["validate", f"{student}", f"{model}", f"--teacher={teacher}", f"--data={data}", to, untimed],
        "run": ["run", f"--data={data}", to, *of_run],
        "index build": ["index", "build", f"{model}", f"{folder / 'photos'}", f"{out}", "--kind=hnsw"],
        "index export": ["index", "export", f"{folder / 'index'}", f"{out}", "--rows_per_part=7"],
        "embed": ["embed", f"{model}", data, f"{out}", "--rows_per_part=7"],
        "check": ["check", data, "--json"],
        "demo-web": ["demo-web", f"{model}", data, f"{out}", f"--runtime={folder / 'runtime'}", "--webgpu=false"],
        "export, for hubs": ["export", f"{student}", f"{out}", "--layout=hub", "--license=mit", "--parity=true"],
    }
    stored = ["--teacher_views=2", f"--teacher_cache={out / 'views'}"]
    commands["distill, stored views"] = [*commands["distill"], *stored]
    for name in ("export", "export, with a finish"):
        commands[name].append(untimed)
    return {name: Verb(words, out) for name, words in commands.items()}


def prepare(folder: Path, log: Path) -> dict[str, Verb]:
    """Make photographs, a teacher, a student and an ONNX file; return the verbs that use them."""
    random = np.random.default_rng(0)
    for label in range(12):
        (folder / "photos" / f"class{label:02}").mkdir(parents=True, exist_ok=True)
        for index in range(6):
            pixels = random.normal([20 * label, 128, 250 - 20 * label], 25, (36, 40, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / f"class{label:02}" / f"{index}.png")
    verbs = verbs_in(folder)
    (folder / "runtime").mkdir()
    (folder / "runtime" / "ort.wasm.bundle.min.mjs").write_text('"ort-wasm-simd-threaded.wasm"')
    (folder / "runtime" / "ort-wasm-simd-threaded.wasm").write_bytes(random.bytes(10_000))
    needed = {"train": "teacher", "distill": "student", "export": "export", "index build": "index"}
    for name, made in needed.items():
        ended = carried_out(verbs[name].words, log)
        if ended.code:
            raise SystemExit(f"{name} ended with {ended.code}: {ended.said[-2000:]}")
        verbs[name].out.rename(folder / made)
    return verbs


def carried_out(
    words: Sequence[str], log: Path, before: Callable[[], None] | None = None, kill_after: float | None = None
) -> Ended:
    """Run the command line in a forked process and wait for it, ten minutes at most.

    Args:
        words: words of the command line, without the program's name.
        log: file for its output.
        before: called in the process, before the command.
        kill_after: seconds after which it is killed; None for never.
    """
    begun, size = time.monotonic(), resident()
    process = os.fork()
    if process == 0:
        _child(words, log, before)
    while True:
        ended, status, used = os.wait4(process, os.WNOHANG)
        if ended:
            break
        passed = time.monotonic() - begun
        if passed > _PATIENCE or (kill_after is not None and passed > kill_after):
            os.kill(process, signal.SIGKILL)
            os.wait4(process, 0)
            code = -signal.SIGKILL if passed <= _PATIENCE else None
            return Ended(code, log.read_text(errors="replace"), passed, 0)
        time.sleep(0.01)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, log.read_text(errors="replace"), time.monotonic() - begun, 1024 * used.ru_maxrss - size)


def _child(words: Sequence[str], log: Path, before: Callable[[], None] | None) -> None:
    """Run a command in the forked process; never returns."""
    code = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        from compressor.cli import main

        if before is not None:
            before()
        code = main(list(words))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def killed_at(event: int) -> Callable[[], None]:
    """Return a function that makes a process kill itself just before its n-th change to a file or folder.

    Args:
        event: number of the change, from 1, such as opening a file to write, or renaming one.
    """

    def watch() -> None:
        left = [event]

        def hook(name: str, arguments: tuple[object, ...]) -> None:
            if _is_change(name, arguments):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return watch


def counting(file: Path) -> Callable[[], None]:
    """Return a function that makes a process write its number of such changes to a file, at each change."""

    def watch() -> None:
        found = [0]
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def hook(name: str, arguments: tuple[object, ...]) -> None:
            if _is_change(name, arguments):
                found[0] += 1
                os.pwrite(handle, b"%d" % found[0], 0)

        sys.addaudithook(hook)

    return watch


def _is_change(name: str, arguments: tuple[object, ...]) -> bool:
    if name not in _EVENTS:
        return False
    return name != "open" or (isinstance(arguments[2], int) and bool(arguments[2] & _WRITES))


def tree_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder, by name, except training logs, which show a resume."""
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith("log") for part in file.relative_to(folder).parts[:-1])
        for name in [file.relative_to(folder).as_posix()]
    }


def differing(found: dict[str, str], expected: dict[str, str]) -> str:
    """Return the names of files that differ between two trees, eight at most."""
    names = (name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return ", ".join(sorted(names)[:8])


def tried(
    name: str, about: str, points: int, what: str, run: Callable[[Path, int, list[str]], dict[str, Counter[str]]]
) -> dict[str, Counter[str]]:
    """Run the command of a benchmark: try the verbs, print and store the table.

    Args:
        name: name of the benchmark, "kills" or "disk".
        about: its description.
        points: default number of points.
        what: what the points are, for the help.
        run: tries the verbs in a folder at a number of points; a non-empty list limits it to these verbs.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=points, help=what)
    parser.add_argument("--only", nargs="+", default=[], help="these verbs; nothing is kept then")
    options = parser.parse_args()
    import_all()
    with tempfile.TemporaryDirectory(prefix=f"{name}.") as folder:
        found = run(Path(folder), options.points, options.only)
    print(table(found, list(found), "verb"))
    if not options.only:
        write(name, f"python -m benchmarks.robustness.{name} --points {options.points}", found, "verb")
    return found
