"""Public names stay importable from the same place, wherever their code moves."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import pytest

PUBLIC = {
    "zoo": [
        "DataError",
        "DataSplits",
        "ImageSet",
        "ModelError",
        "OptionError",
        "Preprocessing",
        "RefusedError",
        "UserError",
        "check",
        "create_model",
        "embed",
        "load_data",
        "load_model",
        "measure",
        "measure_by_labels",
        "pretrained_available",
        "save_model",
        "train",
    ],
    "compressor": [
        "ArrayTeacher",
        "FunctionTeacher",
        "OnnxTeacher",
        "Teacher",
        "TorchTeacher",
        "distill",
        "finish_quantized",
        "open_teacher",
        "run",
        "ship",
    ],
    "export": [
        "Embedder",
        "Exported",
        "Report",
        "bench",
        "build_index",
        "demo_web",
        "embed_data",
        "export_index",
        "export_model",
        "inspect",
        "publish",
        "search_index",
        "to_onnx",
        "validate",
        "write_hub",
        "write_parity",
    ],
    "zoo.data": [
        "READERS",
        "DataSplits",
        "ImageSet",
        "Source",
        "divide",
        "from_images",
        "load_data",
        "load_images",
    ],
}
# Named in documents, though in no __all__.
NAMED = {
    "export.runtime": ["Embedder"],
    "zoo.data.continuous": ["FunctionLabels", "MatrixLabels", "VectorLabels"],
    "zoo.errors": ["DataError", "UserError"],
    "zoo.losses": ["LOSSES", "create_loss", "find_loss"],
    "compressor.losses": ["LOSSES"],
    "compressor.cli": ["main"],
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package: str) -> None:
    assert sorted(import_module(package).__all__) == sorted(PUBLIC[package])


@pytest.mark.parametrize(("package", "name"), [(p, n) for p, names in (PUBLIC | NAMED).items() for n in names])
def test_names_are_where_they_were(package: str, name: str) -> None:
    found = getattr(import_module(package), name)
    assert name in ("LOSSES", "READERS") or callable(found), f"{package}.{name} is {found!r}"
    # Twice: a module of the same name, imported for the first, would hide what is asked for.
    assert getattr(import_module(package), name) is found


@pytest.mark.parametrize("package", ["zoo", "compressor", "export"])
def test_rooms_hide_no_name(package: str) -> None:
    rooms = {module.name for module in iter_modules(import_module(package).__path__)}
    assert not rooms & set(PUBLIC[package])


@pytest.mark.parametrize("registry", ["zoo.losses:LOSSES", "compressor.losses:LOSSES", "zoo.data:READERS"])
def test_registries_name_what_there_is(registry: str) -> None:
    module, name = registry.split(":")
    for target in getattr(import_module(module), name).values():
        home, attribute = target.split(":")
        assert callable(getattr(import_module(home), attribute)), target
