"""The package's extras, and the error for a missing one."""

from __future__ import annotations

from importlib.util import find_spec

from zoo.errors import MissingExtraError

# extra -> the modules it installs that this project imports
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
    """Raise an error if an extra is missing, before any work is done.

    Args:
        extra: a key of ``EXTRAS``.
        what: what needs it, as the start of a sentence: "train", "An index of kind sq8".

    Raises:
        MissingExtraError: a module of the extra is not installed; names the module and the command to install it.
    """
    for module in EXTRAS[extra]:
        if not is_installed(module):
            raise missing(what, module)


def missing(what: str, module: str) -> MissingExtraError:
    """Return the error for a module that is not installed.

    Args:
        what: as in :func:`require_extra`.
        module: its import name.
    """
    top = module.partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if top in modules), "all")
    return MissingExtraError(
        f"{what} needs {top}, which is not installed. Install it: pip install 'embedding-compressor[{extra}]'"
    )


def is_of_an_extra(module: str | None) -> bool:
    """Return whether a module that could not be imported belongs to an extra."""
    top = (module or "").partition(".")[0]
    return any(top in modules for modules in EXTRAS.values())


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    return find_spec(module) is not None
