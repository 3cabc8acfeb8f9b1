"""Open teachers of any kind: a model folder, a torch module, an ONNX file, ready embeddings by image id, and so on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from zoo.arguments import TeacherLike
from zoo.errors import ModelError, OptionError
from zoo.formats.documents import read_document
from zoo.formats.embedding_parts import is_embedding_folder
from zoo.models.network import preprocessing_of
from zoo.paths import expanded, given_path, is_there
from zoo.teachers.address import COMMAND, FAMILIES, OPENVINO, Address, parse_address
from zoo.teachers.base import Teacher
from zoo.teachers.cache import CachedTeacher
from zoo.teachers.families.tower import Tower
from zoo.teachers.onnx_file import OnnxTeacher
from zoo.teachers.ready import ArrayTeacher
from zoo.teachers.runtimes.command import CommandTeacher
from zoo.teachers.runtimes.litert_file import LiteRtTeacher
from zoo.teachers.runtimes.openvino_file import OpenVinoTeacher
from zoo.teachers.torch_module import TorchTeacher


def open_teacher(teacher: TeacherLike, precision: str = "fp32", cache: str | Path | None = None) -> Teacher:
    """Make a teacher from a model folder, an ``.onnx`` or ``.npz`` file, a name, a module, a function or a mapping.

    A module may be wrapped, quantised, scripted or exported (``torch.export``), or a plain function; see TorchTeacher.

    Args:
        teacher: the teacher, in any of these forms.
        precision: precision of a torch module's forward pass on views, see TorchTeacher.
        cache: folder to keep its embeddings of views in, see CachedTeacher; None for none. Ready embeddings need none.

    Raises:
        ModelError: the teacher does not exist, or is not a teacher.
        DataError: ready embeddings are missing, broken or not one for each id.
        OptionError: the cache cannot be written to.
    """
    opened = _open(teacher, precision)
    if cache is None or isinstance(opened, ArrayTeacher):
        return opened
    return CachedTeacher(opened, cache)


def _open(teacher: TeacherLike, precision: str) -> Teacher:
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, nn.Module | ExportedProgram) or (callable(teacher) and not isinstance(teacher, Mapping)):
        return TorchTeacher(teacher, precision=precision)
    if isinstance(teacher, Mapping):
        return ArrayTeacher(teacher)
    address = parse_address(str(teacher))
    if address.family == COMMAND:
        return CommandTeacher(address.name, address.options)
    if address.family == OPENVINO:
        path = given_path(address.name)
        return OpenVinoTeacher(path, output=address.output, pooling=address.pooling, options=address.options)
    if address.family is not None:
        return _of_family(address, precision)
    path, options = given_path(address.name), address.options
    if path.suffix == ".tflite":
        _require_no_output(address)
        return LiteRtTeacher(path, options)
    if path.suffix == ".onnx":
        return OnnxTeacher(path, output=address.output, pooling=address.pooling, options=options)
    if path.suffix == ".npz" or is_embedding_folder(path):
        _require_no_output(address)
        return ArrayTeacher(path, options.metric)
    if not path.exists():
        raise ModelError(
            f"Teacher {path} does not exist. Give a model folder, an .onnx or .npz file, or a name such as "
            f"{', '.join(f'{family}:NAME' for family in FAMILIES)}."
        )
    if not path.is_dir():
        raise ModelError(f"Teacher {path} is neither a model folder nor an .onnx or .npz file.")
    if (family := family_of(path)) is not None:
        return _of_family(replace(address, family=family), precision)
    _require_no_output(address)

    from zoo.models.folder import load_model  # which imports timm, and that takes longer than an ONNX file does

    return _torch(load_model(path, modes=options.modes), address, path.name, precision)


def _of_family(address: Address, precision: str) -> Teacher:
    notes: Sequence[str] = ()
    network: nn.Module
    if address.family in ("timm", "hf-hub"):
        from zoo.teachers.families.timm_hub import open_timm

        network, notes = open_timm(address)
    elif address.family == "hf":
        from zoo.teachers.families.hugging_face import open_hugging_face

        network = open_hugging_face(address)
    elif address.family == "open_clip":
        from zoo.teachers.families.open_clip import open_open_clip

        network = open_open_clip(address)
    elif address.family == "st":
        from zoo.teachers.families.sentence_transformers import open_sentence_transformers

        network = open_sentence_transformers(address)
    else:
        from zoo.teachers.families.torchvision import open_torchvision

        network = open_torchvision(address)
    if isinstance(network, Tower):
        notes = network.notes
    return _torch(network, address, _short(address), precision, notes)


def _require_no_output(address: Address) -> None:
    if address.output is not None:
        raise OptionError(f"Teacher {address.name} has no outputs to choose among; leave #{address.output} out.")


def _torch(network: nn.Module, address: Address, name: str, precision: str, notes: Sequence[str] = ()) -> TorchTeacher:
    options = address.options
    preprocessing = options.over(preprocessing_of(network)) if options.says_preprocessing else None
    size = {} if options.batch_size is None else {"batch_size": options.batch_size}
    return TorchTeacher(network, preprocessing, options.metric, name, precision, notes, **size)


def _short(address: Address) -> str:
    """Return an address for reports, with the path of a folder or file reduced to its name."""
    arch, slash, file = address.name.partition("/")
    if is_there(expanded(address.name)):
        name = Path(address.name).name
    elif slash and is_there(expanded(file)):  # ARCH/FILE
        name = f"{arch}/{Path(file).name}"
    else:
        name = address.name
    _, mark, fragment = address.text.rpartition("#")
    return f"{address.family}:{name}{mark}{fragment if mark else ''}"


def family_of(folder: Path) -> str | None:
    """Return the family of a folder by its files, or None if it may be a timm model folder."""
    if (folder / "modules.json").is_file():
        return "st"
    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    config = folder / "config.json"
    try:
        return "hf" if config.is_file() and "model_type" in read_document(config) else None
    except ValueError:
        return None  # reported when it is loaded
