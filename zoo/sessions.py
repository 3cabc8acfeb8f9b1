"""How files are run: onnxruntime's options, the same wherever one is measured or shipped. Needs onnxruntime only."""

from __future__ import annotations

from pathlib import Path

import onnxruntime


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """Return the options that a file is opened with.

    Args:
        threads: of one inference; None for all cores.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that go on spinning after an inference take the cores from whatever comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # On x86 without VNNI, sums of products of 8 bits would saturate at 16; with VNNI this changes nothing.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


def cpu_session(source: str | Path | bytes, threads: int | None) -> onnxruntime.InferenceSession:
    """Open a file, or a serialised graph, on the CPU with these options.

    Args:
        source: the path of a file, or a graph's bytes.
        threads: of one inference; None for all cores.
    """
    opened = str(source) if isinstance(source, Path) else source
    return onnxruntime.InferenceSession(opened, session_options(threads), providers=["CPUExecutionProvider"])
