"""Peak memory of one file. Also a script: it runs in its own process, because the peak of a process never falls.

``python -P peak_memory.py FILE THREADS JSON_INPUTS JSON_OUTPUTS`` needs numpy, onnxruntime and ``zoo.sessions`` only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def peak_memory(
    file: str | Path, threads: int, inputs: Mapping[str, tuple[Sequence[int], str]], outputs: Sequence[str] = ()
) -> dict[str, int | None]:
    """Measure the resident memory of a fresh process that loads a file and runs it twice on a batch.

    Args:
        file: the ONNX file.
        threads: threads per inference.
        inputs: shape and numpy data type of each input.
        outputs: outputs to request; empty for all.

    Returns:
        The peak in bytes: ``"runtime"`` after the imports, ``"peak"`` at the end; None if the system does not report
        it.

    Raises:
        ModelError: the file fails on this batch.
    """
    from zoo.errors import ModelError

    command = [sys.executable, "-P", __file__, str(file), str(threads), json.dumps(inputs), json.dumps(list(outputs))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it was stopped, as for lack of memory"])[-1]
        shapes = ", ".join(str(tuple(shape)) for shape, _ in inputs.values())
        raise ModelError(f"{file} failed on a batch of shape {shapes} ({reason}). Try a smaller batch or image size.")
    found: dict[str, int | None] = json.loads(done.stdout)
    return found


def own_peak() -> int | None:
    """Return the peak resident memory of this process in bytes, or None if the system does not report it."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux it starts at the memory of the parent process.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _main(file: str, threads: str, inputs: str, outputs: str) -> None:
    """Load a file, run a batch twice, and print both peaks as JSON."""
    sys.path.append(str(Path(__file__).parents[2]))  # for a checkout that is not installed
    from zoo.sessions import cpu_session

    before = own_peak()
    session = cpu_session(file, int(threads))
    given = {name: np.ones(shape, dtype) for name, (shape, dtype) in json.loads(inputs).items()}
    for _ in range(2):  # the second run uses the memory arena that the first allocated
        session.run(json.loads(outputs) or None, given)
    print(json.dumps({"runtime": before, "peak": own_peak()}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
