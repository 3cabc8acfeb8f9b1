"""Valid files of data and results: tables, archives, stored embeddings, reports, hub folders."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.image_set import ImageSet
from zoo.errors import OptionError, UserError
from zoo.teachers.base import Teacher

_IMAGES, _DIM = 12, 8


def said(*values: Any) -> str:
    """Return a digest of values that are arrays or have a complete ``repr``."""
    hashed = hashlib.sha256()
    for value in values:
        hashed.update(np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return hashed.hexdigest()


class _Fixed(Teacher):
    """Returns row i of an array for image i."""

    name, metric, digest = "fixed", "cosine", "0"

    def __init__(self) -> None:
        self.rows = np.random.default_rng(2).normal(size=(_IMAGES, _DIM)).astype(np.float32)

    def embed_images(self, images: ImageSet) -> np.ndarray:
        return self.rows

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        return torch.from_numpy(self.rows[indices.numpy()])


def make_data_specimens(folder: Path, model: Path, onnx_file: Path, index: Path) -> None:
    """Fill the folder of each entry of :data:`DATA_USES`; the folders exist already.

    Args:
        folder: folder of all specimens.
        model: a model folder.
        onnx_file: its ONNX file, made by export.
        index: an index built with that file.
    """
    import pyarrow
    from pyarrow import parquet

    from export.hub.folder import write_hub
    from export.parity.pack import write_parity
    from export.report.validation import validate
    from zoo.files import write_json
    from zoo.formats.embedding_parts import EmbeddingFacts, write_facts, write_part

    random = np.random.default_rng(3)
    pixels = [random.integers(0, 256, (20, 20, 3), dtype=np.uint8) for _ in range(_IMAGES)]
    encoded = [_png(each) for each in pixels]
    labels = [f"class{row % 4}" for row in range(_IMAGES)]
    parts = ["train" if row % 4 < 2 else "test" for row in range(_IMAGES)]
    for name in ("tsv", "jsonl", "labels", "lists", "checked", "report"):
        for row in range(_IMAGES):
            (folder / name / f"{row}.png").write_bytes(encoded[row])
    rows = [f"{row}.png\t{labels[row]}\t{parts[row]}" for row in range(_IMAGES)]
    (folder / "tsv" / "images.tsv").write_text("\n".join(["path\tlabel\tsplit", *rows]))
    objects = [{"file_name": f"{row}.png", "label": labels[row], "split": parts[row]} for row in range(_IMAGES)]
    (folder / "jsonl" / "images.jsonl").write_text("\n".join(map(json.dumps, objects)))
    table = pyarrow.table({"image": encoded, "label": labels, "split": parts})
    parquet.write_table(table, folder / "parquet" / "images.parquet", row_group_size=5)
    with tarfile.open(folder / "shards" / "images.tar", "w") as shard:
        for row in range(_IMAGES):
            _add(shard, f"{row:03}.png", encoded[row])
            _add(shard, f"{row:03}.json", json.dumps(objects[row]).encode())
    for name in ("labels", "lists", "checked", "report"):
        lines = [f"{row}.png,{labels[row]},{parts[row]}" for row in range(_IMAGES)]
        (folder / name / "images.csv").write_text("\n".join(["path,label,split", *lines]))
    numbers = [f"{row}.png,{row % 4}.5,-{row}e-1" for row in range(_IMAGES)]
    (folder / "labels" / "places.csv").write_text("\n".join(["path,x,y", *numbers]))
    (folder / "lists" / "split.yaml").write_text("train:\n- class0\n- class1\ntest: ['class2', 'class[3]']\n")

    facts = EmbeddingFacts("m", "0" * 64, "cosine", _DIM, "float32", "1" * 64, _IMAGES, 5)
    vectors = random.normal(size=(_IMAGES, _DIM)).astype(np.float32)
    for part in range(facts.parts):
        mine = slice(5 * part, 5 * part + 5)
        ids = [f"{row}.png" for row in range(_IMAGES)][mine]
        broken = [("7.png", "cut off")] if part == 1 else []
        kept = [row for row, name in enumerate(ids) if name != "7.png"]
        of_kept = [labels[mine][row] for row in kept]
        write_part(folder / "parts", part, facts, [ids[row] for row in kept], vectors[mine][kept], of_kept, broken)
    write_facts(folder / "parts", facts)
    shutil.copytree(folder / "parts", folder / "parts-old", dirs_exist_ok=True)
    content = json.loads((folder / "parts" / "_embeddings.json").read_text())
    write_json(folder / "parts-old" / "_embeddings.json", {key: content[key] for key in content if key != "seal"})
    _use_views(folder / "views")
    _use_reuse(folder / "reuse")

    for name in ("index.json", "ids.json", "index.faiss"):
        (folder / "vectors" / name).write_bytes((index / name).read_bytes())
    shutil.copytree(model, folder / "report" / "student")
    shutil.copyfile(onnx_file, folder / "report" / "model.onnx")
    options: dict[str, Any] = {"baselines": False, "bootstrap": 20, "latency_runs": 0, "reuse": False}
    data = f"csv:{folder / 'report' / 'images.csv'}"
    validate([model], teacher=model, data=data, out=folder / "report" / "report", **options)
    write_hub(model, folder / "hub", license="mit")
    shutil.copyfile(folder / "hub" / "preprocessor_config.json", folder / "processor" / "preprocessor_config.json")
    with_preprocessing = folder / "hub" / "pixels" / "model.onnx"  # the pack needs a file with preprocessing
    shutil.copyfile(with_preprocessing, folder / "parity" / "model.onnx")
    write_parity({"fp32": with_preprocessing}, folder / "parity" / "pack")


def _png(pixels: np.ndarray) -> bytes:
    opened = io.BytesIO()
    Image.fromarray(pixels).save(opened, "PNG")
    return opened.getvalue()


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def _use_data(data: str, **options: Any) -> str:
    from zoo import load_data

    splits = load_data(data, **options)
    for images in (splits.train, splits.test):
        images.checked(100)
    return ""


def _use_labels(folder: Path) -> str:
    return _use_data(f"csv:{folder / 'images.csv'}", continuous_labels=folder / "places.csv")


def _use_lists(folder: Path) -> str:
    return _use_data(f"csv:{folder / 'images.csv'}", split=f"list:{folder / 'split.yaml'}")


def _use_checked(folder: Path) -> str:
    from zoo import check

    found = check(f"csv:{folder / 'images.csv'}", workers=1)
    repr(found)
    return ""


def _use_parts(folder: Path) -> str:
    from zoo.formats.embedding_parts import read_embeddings

    facts, part = read_embeddings(folder)
    return said(facts, part.ids, part.vectors, part.labels, part.unreadable)


def _use_views(folder: Path) -> str:
    """Embed views of all images, twice: whatever is not stored intact is embedded and stored again."""
    from zoo.teachers.stored_views import StoredViews

    images = ImageSet([str(row) for row in range(_IMAGES)], [np.zeros((8, 8, 3), np.uint8)] * _IMAGES)
    views, rows = torch.zeros(_IMAGES, 3, 8, 8, dtype=torch.uint8), torch.arange(_IMAGES)
    found = []
    for _ in range(2):
        stored = StoredViews(folder, _Fixed(), images, 2, _DIM, {})
        found += [stored.embed(views, rows, torch.full((_IMAGES,), number)).numpy() for number in range(2)]
    return said(*found)


def _use_reuse(folder: Path) -> str:
    from export.embedding.cache import EmbeddingCache

    images = ImageSet([str(row) for row in range(_IMAGES)], [np.zeros((8, 8, 3), np.uint8)] * _IMAGES)
    return said(EmbeddingCache(folder).through(_Fixed().embed_images, "0")(images))


def _use_vectors(folder: Path) -> str:
    from export import export_index
    from zoo.formats.embedding_parts import read_embeddings

    _, part = read_embeddings(export_index(folder, folder / "out"))
    return said(part.ids, part.vectors)


def _use_hub(folder: Path) -> str:
    """Publish the folder up to the confirmation, without a network."""
    from export import publish

    try:
        publish(folder, "somebody/something")
    except OptionError as error:
        if not str(error).startswith("Nothing was uploaded"):
            raise
    return ""


def _use_processor(folder: Path) -> str:
    from zoo.teachers.families.image_processor import preprocessing_beside

    return said(preprocessing_beside([folder]))


def _use_report(folder: Path) -> str:
    """Find the figures of a model, and write them into its card."""
    from export.hub.agreement import Agreement
    from export.hub.card import hub_card
    from export.hub.measured import find_report
    from export.shipping import Exported
    from zoo import load_model

    network = load_model(folder / "student")
    measured = find_report(folder / "report", folder / "student", network)
    hub_card(
        "name",
        network,
        folder,
        Exported({"fp32": folder / "model.onnx"}),
        measured,
        Agreement("images", 1.0, 1.0),
        "mit",
        False,
    )
    return ""


def _use_parity(folder: Path) -> str:
    """Check the file as a recipient of the pack would; a failed check counts as refused."""
    specification = importlib.util.spec_from_file_location("parity_check", folder / "pack" / "check.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    with mock.patch.object(sys, "argv", ["check.py", str(folder / "model.onnx")]):
        if module.main():
            raise UserError("it does not pass")
    return ""


DATA_USES: dict[str, Callable[[Path], str]] = {
    "tsv": lambda folder: _use_data(str(folder / "images.tsv")),
    "jsonl": lambda folder: _use_data(str(folder / "images.jsonl")),
    "parquet": lambda folder: _use_data(str(folder / "images.parquet")),
    "shards": lambda folder: _use_data(str(folder / "images.tar")),
    "labels": _use_labels,
    "lists": _use_lists,
    "checked": _use_checked,
    "parts": _use_parts,
    "parts-old": _use_parts,
    "views": _use_views,
    "reuse": _use_reuse,
    "vectors": _use_vectors,
    "hub": _use_hub,
    "processor": _use_processor,
    "report": _use_report,
    "parity": _use_parity,
}
"""Functions that use the files of each folder; see ``USES``."""
