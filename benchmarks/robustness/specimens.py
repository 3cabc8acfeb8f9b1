"""Valid files of every format, and functions that use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.robustness.data_specimens import DATA_USES, make_data_specimens, said

SIDE = 32


def make_specimens(folder: Path, onnx_file: Path | None = None) -> None:
    """Write a folder for each entry of :data:`USES`.

    Args:
        folder: folder to write to; if it is complete already, nothing is done.
        onnx_file: an ONNX file made by export, to save the time of making one.
    """
    import onnx
    import torch
    from PIL import Image

    from export import build_index, to_onnx
    from zoo import create_model, save_model
    from zoo.files import write_json
    from zoo.formats.model_config import DIGESTS_KEY
    from zoo.formats.onnx_content import DIGEST_KEY
    from zoo.teachers.cache import write_entry
    from zoo.training.checkpoints import WholeCheckpoints, write_best

    if (folder / "done").exists():
        return
    for name in USES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    for name in ("model", "model-old"):
        model = create_model("test_resnet", 8, image_size=SIDE).eval()
        save_model(model, folder / name)
    config = json.loads((folder / "model-old" / "config.json").read_text())
    del config[DIGESTS_KEY]
    write_json(folder / "model-old" / "config.json", config)

    whole = onnx_file or to_onnx(folder / "model", folder / "onnx" / "model.onnx")
    (folder / "onnx" / "model.onnx").write_bytes(whole.read_bytes())
    proto = onnx.load(whole)
    entries = {entry.key: entry.value for entry in proto.metadata_props if entry.key != DIGEST_KEY}
    beside = folder / "onnx-beside" / "model.onnx"
    least = 64 if onnx_file else 1024  # bytes; shapes must stay in the file, or onnxruntime does not load it
    onnx.save(proto, beside, save_as_external_data=True, location="model.onnx.data", size_threshold=least)
    onnx.helper.set_model_props(proto := onnx.load(whole), entries)
    for name in ("onnx-old", "teacher"):
        onnx.save(proto, folder / name / "model.onnx")

    checkpoint = {
        "epoch": 3,
        "global_step": 40,
        "history": [{"epoch": 1, "map_at_r": 0.5}],
        "best": {"epoch": 1},
        "state_dict": model.state_dict(),
        "lr_schedulers": [],
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.rand(50)}}, "param_groups": [{"lr": 0.1}]}],
    }
    WholeCheckpoints().save_checkpoint(checkpoint, folder / "checkpoint" / "last.ckpt")
    write_best(model.state_dict(), folder / "best" / "best.safetensors")
    write_entry(random.normal(size=(6, 8)).astype(np.float32), folder / "cache" / "entry.npy")
    ids, vectors = np.array([f"{i}.png" for i in range(20)]), random.normal(size=(20, 8)).astype(np.float32)
    np.savez(folder / "npz" / "embeddings.npz", ids=ids, embeddings=vectors)

    images = folder / "table"
    for index in range(12):
        Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(images / f"{index}.png")
    rows = [f"{index}.png,class{index % 4},{'train' if index % 4 < 2 else 'test'}" for index in range(12)]
    (images / "images.csv").write_text("\n".join(["path,label,split", *rows]))
    Image.fromarray(random.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(folder / "image" / "a.png")
    for name in ("image", "index", "index-old"):
        (folder / name / "model.onnx").write_bytes(whole.read_bytes())
    build_index(folder / "index" / "model.onnx", str(images), folder / "index")
    for name in ("index.json", "ids.json", "index.faiss"):
        (folder / "index-old" / name).write_bytes((folder / "index" / name).read_bytes())
    for name in ("index", "index-old"):
        (folder / name / "query.png").write_bytes((images / "3.png").read_bytes())
    facts = json.loads((folder / "index" / "index.json").read_text())
    write_json(folder / "index-old" / "index.json", {k: v for k, v in facts.items() if k not in ("digests", "seal")})

    write_json(folder / "stage" / "options.json", {"data": "d", "epochs": 3, "data_digest": "0"})
    (folder / "stage" / "checkpoints").mkdir()
    made = {"options": {"precision": "fp32"}, "data": "0", "model": "1", "files": ["model.onnx"]}
    write_json(folder / "record" / "inputs.json", made | {"refused": {"found": "a", "remedy": "b"}})
    config_lines = ["data: glyphs", "out: run", "seed: 0", "split: auto", "teacher:", "  arch: resnet18", "  dim: 64"]
    config_lines += ["  loss_options: {margin: 0.1, alpha: 32}", "student:", "  arch: lcnet_050", "  dim: 64"]
    config_lines += ["  epochs: 3", "report:", "  ks: [1, 2, 4]", "  min_retention: 0.9", "  bootstrap: 100"]
    (folder / "yaml" / "run.yaml").write_text("\n".join(config_lines))
    make_data_specimens(folder, folder / "model", whole, folder / "index")
    (folder / "done").touch()


def _pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (SIDE + 9, SIDE + 5, 3), dtype=np.uint8)


def _use_model(folder: Path) -> str:
    import torch

    from zoo import load_model
    from zoo.models.facts import facts_of
    from zoo.models.network import preprocessing_of
    from zoo.models.preprocessing import Preprocess

    model = load_model(folder)
    preprocessing = preprocessing_of(model)
    with torch.no_grad():
        vector = model(Preprocess(preprocessing)(torch.from_numpy(_pixels())[None]))
    return said(vector.numpy(), facts_of(model).metric, preprocessing)


def _use_onnx(folder: Path) -> str:
    from export import Embedder, inspect

    embedder = Embedder(folder / "model.onnx", threads=1)
    inspect(folder / "model.onnx")
    return said(embedder(_pixels()), embedder.metric, embedder.dim, embedder.preprocessing)


def _use_teacher(folder: Path) -> str:
    import torch

    from zoo.data.image_set import ImageSet
    from zoo.teachers.onnx_file import OnnxTeacher

    teacher = OnnxTeacher(folder / "model.onnx")
    views = torch.from_numpy(_pixels()[:SIDE, :SIDE].transpose(2, 0, 1)[None].copy())
    return said(teacher.embed_views(views, torch.arange(1), ImageSet([], [])).numpy(), teacher.metric)


def _use_checkpoint(folder: Path) -> str:
    from zoo.training.checkpoints import WholeCheckpoints, digest_of

    return digest_of(WholeCheckpoints().load_checkpoint(folder / "last.ckpt", weights_only=True))


def _use_best(folder: Path) -> str:
    from zoo.training.checkpoints import digest_of, read_best

    return digest_of(read_best(folder / "best.safetensors"))


def _use_cache(folder: Path) -> str:
    from zoo.errors import DataError
    from zoo.teachers.cache import read_entry

    try:
        return said(read_entry(folder / "entry.npy", 6))
    except (OSError, ValueError) as error:  # the cached teacher logs these as warnings and asks the teacher
        raise DataError(str(error)) from error


def _use_npz(folder: Path) -> str:
    from zoo.teachers.ready import ArrayTeacher

    return ArrayTeacher(folder / "embeddings.npz").digest


def _use_index(folder: Path) -> str:
    from export import search_index

    (hits,) = search_index(folder, [folder / "query.png"], k=5, model=folder / "model.onnx", allow_other_encoder=True)
    return said(hits)


def _use_stage(folder: Path) -> str:
    from zoo.stage import Stage

    def verb(data: str, epochs: int) -> None: ...

    Stage.open(folder, verb, {"data": "d", "epochs": 3}, data_digest="0")
    return ""


def _use_record(folder: Path) -> str:
    from compressor.pipeline import read_record

    return said(read_record(folder / "inputs.json"))


def _use_yaml(folder: Path) -> str:
    from compressor.cli.parsing import parser_of
    from compressor.cli.words import with_leading
    from zoo.arguments import require_valid

    options = parser_of("run").parse_args(with_leading("run", [str(folder / "run.yaml")]))
    for section in ("teacher", "student", "report"):
        require_valid(options[section].as_dict() if options[section] else {})  # a section may be empty
    return ""


def _use_table(folder: Path) -> str:
    from zoo import load_data

    splits = load_data(f"csv:{folder / 'images.csv'}")
    for images in (splits.train, splits.test):
        images.checked(100)
    return ""


def _use_image(folder: Path) -> str:
    from export import Embedder

    return said(Embedder(folder / "model.onnx", threads=1)(folder / "a.png"))


USES: dict[str, Callable[[Path], str]] = {
    "model": _use_model,
    "model-old": _use_model,
    "onnx": _use_onnx,
    "onnx-old": _use_onnx,
    "onnx-beside": _use_onnx,
    "teacher": _use_teacher,
    "checkpoint": _use_checkpoint,
    "best": _use_best,
    "cache": _use_cache,
    "npz": _use_npz,
    "index": _use_index,
    "index-old": _use_index,
    "stage": _use_stage,
    "record": _use_record,
    "yaml": _use_yaml,
    "table": _use_table,
    "image": _use_image,
} | DATA_USES
"""Functions that use the files of each folder and return a digest of the result; "" if there is nothing to compare."""
