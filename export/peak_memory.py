"""How much memory one file takes: a script for a process of its own, since a process's peak never falls.

Needs numpy and onnxruntime only. ``python peak_memory.py FILE THREADS JSON_SHAPE`` prints as JSON the peak of resident
memory in bytes after the imports and after two inferences on a batch of that shape.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def peak() -> int | None:
    """Return the peak of this process's resident memory in bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux that starts at the memory of the process that started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(file: str, threads: str, shape: str) -> None:
    """Load a file, embed a batch twice, and print both peaks."""
    before = peak()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    batch = np.ones(json.loads(shape), np.uint8 if entry.type == "tensor(uint8)" else np.float32)
    for _ in range(2):  # the second uses what the first has set aside
        session.run(None, {entry.name: batch})
    print(json.dumps({"runtime": before, "peak": peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
