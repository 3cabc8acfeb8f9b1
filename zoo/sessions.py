"""Open ONNX files with the same onnxruntime options wherever they are measured or shipped. Needs onnxruntime only."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from zoo.errors import ModelError, OptionError, first_line, shown

log = logging.getLogger(__name__)

Provider = str | tuple[str, Mapping[str, Any]]
CPU = "CPUExecutionProvider"
# What onnxruntime says about a file of a later version than it knows.
_NEWER = re.compile(r"model IR version: \d+, max supported IR version: \d+|Opset \d+ is under development")


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """Return the options that a file is opened with.

    Args:
        threads: threads for one inference; None for all cores.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that keep spinning after an inference would take cores from whatever runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # On x86 without VNNI, sums of 8-bit products would saturate at 16 bits; with VNNI this changes nothing.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


def cpu_session(source: str | Path | bytes, threads: int | None) -> onnxruntime.InferenceSession:
    """Open a file, or a serialised graph, on the CPU with these options.

    Args:
        source: the path of a file, or a graph's bytes.
        threads: threads for one inference; None for all cores.
    """
    opened = str(source) if isinstance(source, Path) else source
    return onnxruntime.InferenceSession(opened, session_options(threads), providers=[CPU])


def open_session(
    path: Path, threads: int | None, providers: Sequence[Provider], what: str = ""
) -> onnxruntime.InferenceSession:
    """Open a user's file with these options.

    Args:
        path: the file.
        threads: threads for one inference; None for all cores.
        providers: as ``known_providers`` returns them.
        what: the file's role, put before its path in messages, such as "Teacher ".

    Raises:
        ModelError: it cannot be loaded, or was made for a newer onnxruntime.
        OptionError: a provider does not start, and the CPU is not among the providers.
    """
    try:
        session = onnxruntime.InferenceSession(str(path), session_options(threads), providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions share no base class
        newer = _NEWER.search(str(error))
        if newer:
            raise ModelError(
                f"{what}{path} was made for a newer onnxruntime than this {onnxruntime.__version__} "
                f"({newer[0].removesuffix(' is under development')}). Upgrade onnxruntime."
            ) from error
        with_options = [provider for provider in providers if not isinstance(provider, str)]
        remedy = "Export it again."
        if with_options:
            remedy = f"Export it again, or check the options of {with_options[0][0]}."
        raise ModelError(
            f"{what}{path} is not an ONNX file that onnxruntime loads ({first_line(error)}). {remedy}"
        ) from error
    named = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    failed = [name for name in named if name not in session.get_providers()]
    if failed and CPU not in named:
        raise OptionError(
            f"Provider {failed[0]} does not start here; onnxruntime prints the reason. Fix that, or add {CPU} "
            "after it to fall back to the CPU."
        )
    if failed:
        log.warning("%s%s: provider %s does not start here; using another.", what, path, failed[0])
    return session


def known_providers(providers: Provider | Sequence[Provider]) -> list[Provider]:
    """Return onnxruntime's names of execution providers, with their options.

    Args:
        providers: one or several, best first: ``"CUDAExecutionProvider"``, or ``"cuda"`` for short; or a pair of such
            a name and a mapping of the provider's options, as onnxruntime takes them.

    Raises:
        OptionError: no provider is given, one is not in this onnxruntime, or one has another form.
    """
    is_single = isinstance(providers, str) or (
        isinstance(providers, tuple) and len(providers) == 2 and isinstance(providers[1], Mapping)
    )
    available = {name.lower(): name for name in onnxruntime.get_available_providers()}
    available |= {name.removesuffix("executionprovider"): known for name, known in available.items()}
    found: list[Provider] = []
    if not is_single and not isinstance(providers, Iterable):
        raise OptionError(f"providers is {shown(providers)}; it must be a name or several.")
    for given in [providers] if is_single else list(providers):
        name, options = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
        if not isinstance(name, str) or not (options is None or isinstance(options, Mapping)):
            raise OptionError(f"Provider {given!r} is neither a name nor a pair of a name and its options.")
        if name.lower() not in available:
            listed = ", ".join(onnxruntime.get_available_providers())
            raise OptionError(f"Provider {name!r} is not in this onnxruntime; it has {listed}.")
        known = available[name.lower()]
        found.append(known if options is None else (known, dict(options)))
    if not found:
        raise OptionError("No provider is given. Name one, such as CPUExecutionProvider.")
    return found
