"""The extras of the package, and what is said where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from zoo.errors import MissingExtraError

# extra -> the modules that it brings and that are imported by name
EXTRAS = {
    "train": ("torch", "torchvision", "timm", "lightning", "onnxscript", "safetensors", "jinja2", "matplotlib"),
    "index": ("faiss",),
    "data": ("pyarrow", "fsspec"),
    "ray": ("ray",),
    "hub": ("huggingface_hub",),
    "litert": ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
    "openvino": ("openvino",),
    "hf": ("transformers",),
    "open-clip": ("open_clip",),
    "sentence-transformers": ("sentence_transformers",),
}


def require_extra(extra: str, what: str) -> None:
    """Refuse work for which an extra is missing, before any of it is done.

    Args:
        extra: a key of ``EXTRAS``.
        what: what needs it, as the beginning of a sentence: "train", "An index of kind sq8".

    Raises:
        MissingExtraError: a module of the extra is not installed; names it and the command that installs it.
    """
    for module in EXTRAS[extra]:
        if not is_installed(module):
            raise missing(what, module)


def missing(what: str, module: str) -> MissingExtraError:
    """Return the error for a module that is not installed.

    Args:
        what: as in :func:`require_extra`.
        module: the name that is imported.
    """
    top = module.partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if top in modules), "all")
    return MissingExtraError(
        f"{what} needs {top}, which is not installed. Install it: pip install 'embedding-compressor[{extra}]'"
    )


def is_of_an_extra(module: str | None) -> bool:
    """Return whether a module belongs to an extra, by the name of what could not be imported."""
    top = (module or "").partition(".")[0]
    return any(top in modules for modules in EXTRAS.values())


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    return find_spec(module) is not None
