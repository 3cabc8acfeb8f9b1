"""Teachers of any kind, as one: a model folder, a torch module, an ONNX file, or ready embeddings keyed by image id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from zoo.arguments import TeacherLike
from zoo.errors import ModelError
from zoo.models.folder import load_model
from zoo.paths import given_path
from zoo.teachers.base import Teacher
from zoo.teachers.cache import CachedTeacher
from zoo.teachers.onnx_file import OnnxTeacher
from zoo.teachers.ready import ArrayTeacher
from zoo.teachers.torch_module import TorchTeacher


def open_teacher(teacher: TeacherLike, precision: str = "fp32", cache: str | Path | None = None) -> Teacher:
    """Make a teacher of whatever is given: a model folder, an ``.onnx`` or ``.npz`` file, a module or a mapping.

    A module may be wrapped, quantised, scripted or exported (``torch.export``), and a plain function will do; see
    TorchTeacher.

    Args:
        teacher: what is given.
        precision: of a torch module's forward pass on views, see TorchTeacher.
        cache: folder to keep its embeddings of views in, see CachedTeacher; None for none. Ready embeddings need none.

    Raises:
        ModelError: nothing is there, or it is not a teacher.
        DataError: ready embeddings that are missing, broken or not one for each id.
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
    path = given_path(teacher)
    if path.suffix == ".onnx":
        return OnnxTeacher(path)
    if path.suffix == ".npz":
        return ArrayTeacher(path)
    if not path.exists():
        raise ModelError(f"Teacher {path} does not exist. Give a model folder, an .onnx file or an .npz file.")
    if not path.is_dir():
        raise ModelError(f"Teacher {path} is neither a model folder nor an .onnx or .npz file.")
    return TorchTeacher(load_model(path), name=path.name, precision=precision)
