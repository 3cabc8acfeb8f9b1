from __future__ import annotations

import csv
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from compressor import pipeline
from compressor.cli.command import main
from compressor.cli.parsing import parser_of
from compressor.cli.verbs import VERBS
from compressor.cli.words import with_leading
from compressor.pipeline import run
from export.report.validation import Report
from zoo import OptionError, load_data
from zoo.errors import RefusedError, UserError
from zoo.files import alone_in, write_json

ROOT = Path(__file__).parents[3]
TEACHER = {
    "arch": "test_resnet",
    "dim": 16,
    "image_size": 32,
    "crop_pct": 1.0,
    "epochs": 2,
    "batch_size": 16,
    "lr": 0.002,
    "workers": 0,
}
STUDENT = TEACHER | {"arch": "test_efficientnet", "dim": 8}
REPORT = {"latency_runs": 2, "bootstrap": 50}


def configured(path: Path, **sections: Any) -> str:
    path.write_text(yaml.safe_dump(sections))
    return str(path)


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run made through the command line."""
    folder = tmp_path_factory.mktemp("run")
    config = configured(
        folder / "in.yaml", data=f"folder:{photos}", validation=0.34, teacher=TEACHER, student=STUDENT, report=REPORT
    )
    assert main(["run", config, "--out", str(folder / "out")]) == 0
    return folder


def test_run_leaves_what_the_contract_says(finished: Path, photos: Path) -> None:
    out = finished / "out"
    for name in ("config.yaml", "teacher/model.safetensors", "student/config.json", "export/model.onnx"):
        assert (out / name).is_file(), name
    content = json.loads((out / "report" / "report.json").read_text())
    names = [stage["stage"] for stage in content["stages"]]
    assert names == ["teacher", "teacher, PCA to 8", "student", "onnx-fp32"]
    student, onnx = content["stages"][2:]
    assert student["recall"] == onnx["recall"]
    assert onnx["dim"] == 8
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["data"] == f"folder:{photos}"
    assert config["teacher"]["arch"] == "test_resnet"
    assert config["student"]["loss"] == "relaxed_contrastive"  # a default, resolved
    assert config["seed"] == 0


def test_second_run_reuses_every_stage(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = finished / "out"
    files = [file for file in out.rglob("*") if file.is_file() and file.name != "config.yaml"]
    before = {file: file.stat().st_mtime_ns for file in files}
    caplog.set_level("INFO")
    assert main(["run", str(out / "config.yaml")]) == 0  # the resolved configuration is one that runs
    assert caplog.text.count("reused") == 4
    assert {file: file.stat().st_mtime_ns for file in files} == before


def test_a_report_is_made_anew_for_other_baselines_and_gates(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    def validate(models: Any, teacher: Any, data: Any, folder: Path, **options: Any) -> Report:
        made.append(options)
        write_json(folder / "report.json", {"gate": {"passed": True}, "stages": [], "data": {}})
        return Report(folder, {}, True)

    options = pipeline._resolved(pipeline.validate, "report", {}, also_skip={"models", "teacher"})
    monkeypatch.setattr(pipeline, "validate", validate)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"model")
    for changes in ({}, {}, {"baselines": False}, {"min_gain": 0.0}, {"min_gain": 0.0, "gain_by": "interval"}):
        pipeline._report([file], file, load_data(photos), tmp_path / "report", options | changes)
    assert [(o["baselines"], o["min_gain"], o["gain_by"]) for o in made] == [
        (True, None, "mean"),
        (False, None, "mean"),
        (True, 0.0, "mean"),
        (True, 0.0, "interval"),
    ]


def test_a_second_run_at_the_same_time_is_refused(finished: Path, capsys: Any) -> None:
    with alone_in(finished / "out"):
        assert main(["run", str(finished / "out" / "config.yaml")]) == 1
    assert "Another process is working" in capsys.readouterr().err


def test_embeddings_of_too_few_images_are_told_before_distillation(photos: Path, tmp_path: Path) -> None:
    splits = load_data(f"folder:{photos}", validation=0.34)
    ids = [name for part in (splits.train, splits.validation) for name in part.ids]
    np.savez(tmp_path / "t.npz", ids=ids, embeddings=np.eye(len(ids), 8))
    with pytest.raises(UserError, match=rf"has no embedding for image .*{len(splits.test)} of {len(splits.test)} miss"):
        run(f"folder:{photos}", tmp_path / "out", given_teacher=tmp_path / "t.npz", student=STUDENT, validation=0.34)
    assert not (tmp_path / "out").exists()


def test_a_refused_run_leaves_its_folder_as_it_was(finished: Path, capsys: Any) -> None:
    config = finished / "out" / "config.yaml"
    before = config.read_text()
    assert main(["run", str(config), "--seed", "5"]) == 1
    assert "was started with seed 0 (now 5)" in capsys.readouterr().err
    assert config.read_text() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": STUDENT | {"loss": "relaxd"}}, "Unknown loss 'relaxd'"),
        ({"student": STUDENT | {"arch": "resnt18"}}, "Unknown architecture 'resnt18'"),
        ({"student": STUDENT | {"lr": -1.0}}, r"lr is -1\.0"),
        ({"student": STUDENT | {"augment": "foto"}}, r"Unknown augment 'foto'.*Did you mean photo"),
        ({"student": STUDENT | {"schedule": "cosin"}}, "Unknown schedule 'cosin'"),
        ({"student": STUDENT | {"precision": "bf16-true"}}, "Unknown precision 'bf16-true'"),
        ({"student": STUDENT | {"teacher_precision": "half"}}, "Unknown teacher_precision 'half'"),
        ({"student": STUDENT | {"min_crop": 0.0}}, r"min_crop is 0\.0"),
        ({"student": STUDENT | {"batch_size": 1}}, "batch_size is 1; it must be at least 2"),
        ({"student": STUDENT | {"images_per_class": 17}}, r"images_per_class is 17; it must lie in 0\.\.batch_size"),
        ({"student": STUDENT | {"loss_options": {"sigm": 1}}}, "has no option 'sigm'. Did you mean sigma"),
        ({"student": STUDENT | {"batch_size": None}}, "batch_size has no value"),
        ({"teacher": [1]}, r"teacher is \[1\]; it must hold options"),
        ({"export": {"qat_epochs": 3}}, "qat_epochs 3 fine-tunes a student for int8"),
        ({"export": {"calibration_images": 0}}, "calibration_images is 0"),
        ({"export": {"precision": "int7"}}, "Unknown precision 'int7'"),
        ({"export": {"target": "x87"}}, "Unknown target 'x87'"),
        ({"report": {"ks": [2]}}, r"ks is \[2\]"),
        ({"report": {"index": "sq9"}}, "Unknown kind of index 'sq9'"),
        ({"split": "all-train"}, "no test images"),
    ],
)
def test_mistakes_in_later_stages_are_told_before_the_first(
    changes: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"teacher": TEACHER, "student": STUDENT, "report": REPORT} | changes
    with pytest.raises(UserError, match=message):
        run(photos, tmp_path / "out", validation=0.34, **options)
    assert not (tmp_path / "out").exists()


def test_a_run_on_continuous_labels(spots: Path, tmp_path: Path, capsys: Any) -> None:
    teacher = TEACHER | {"loss": "log_ratio", "augment": "none", "neighbours": 4, "epochs": 4}
    config = configured(
        tmp_path / "in.yaml",
        data=f"csv:{spots / 'images.csv'}",
        continuous_labels=str(spots / "positions.csv"),
        teacher=teacher,
        student=STUDENT | {"augment": "none", "epochs": 4},
        report=REPORT | {"min_retention": 1.9},
    )
    out = tmp_path / "out"
    assert main(["run", config, "--out", str(out)]) == 3
    captured = capsys.readouterr()
    assert "Gate failed: 190\u00a0% of the teacher's nDCG@10 was asked for; student keeps" in captured.err
    assert "distance@10" in captured.out and "Recall" not in captured.out
    stages = json.loads((out / "report" / "report.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["teacher", "teacher, PCA to 8", "student", "onnx-fp32"]
    assert all(set(stage["ndcg"]) == {str(k) for k in range(1, 11)} for stage in stages)
    for folder in ("teacher", "student"):
        options = json.loads((out / folder / "options.json").read_text())
        assert options["continuous_labels"] == str(spots / "positions.csv") and options["label_metric"] == "euclidean"
    page = (out / "report" / "report.html").read_text()
    assert "By label distance" in page and "Recall@1" not in page
    before = (out / "report" / "report.json").stat().st_mtime_ns
    assert main(["run", str(out / "config.yaml")]) == 3  # reused, and still below
    assert (out / "report" / "report.json").stat().st_mtime_ns == before


def test_train_on_continuous_labels_from_the_shell(spots: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["train", f"csv:{spots / 'images.csv'}", "--loss", "dense_triplet", "--loss_options.margin", "0.1"]
    words += ["--continuous-labels", str(spots / "positions.csv"), "--label-metric", "cosine", "--epochs", "1"]
    words += ["--arch", "test_resnet", "--dim", "8", "--image-size", "32", "--batch-size", "16", "--workers", "0"]
    assert main([*words, "--out", str(tmp_path / "t")]) == 0
    facts = json.loads((tmp_path / "t" / "config.json").read_text())["embedding_compressor"]
    assert facts["data"]["label_distance"] == "cosine distance of 2 numbers"
    assert facts["options"]["loss_options"] == {"margin": 0.1}
    assert main([*words, "--label-metric", "cosin", "--out", str(tmp_path / "u")]) == 1
    assert "Did you mean cosine?" in capsys.readouterr().err


def test_gate_decides_the_exit_code(finished: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    out = finished / "out"
    words = ["validate", str(out / "export" / "model.onnx"), "--teacher", str(out / "teacher")]
    words += ["--data", f"folder:{photos}", "--latency-runs", "0", "--bootstrap", "10"]
    assert main([*words, "--out", str(tmp_path / "a"), "--min-retention", "0.01"]) == 0
    assert main([*words, "--out", str(tmp_path / "b"), "--min-retention", "1.9"]) == 3
    assert "Gate failed" in capsys.readouterr().err
    assert json.loads((tmp_path / "b" / "report.json").read_text())["gate"]["passed"] is False


def test_export_takes_plain_words(finished: Path, tmp_path: Path) -> None:
    assert main(["export", str(finished / "out" / "student"), str(tmp_path / "small.onnx")]) == 0
    assert (tmp_path / "small.onnx").is_file()


@pytest.mark.parametrize(
    "given", [["--threads", "1", "2"], ["--threads", "1,2"], ["--threads", "[1,", "2]"], ["--threads=1,2"]]
)
def test_several_numbers_are_plain_words(given: list[str]) -> None:
    words = ["a.onnx", *given, "--batch-sizes", "4", "--runs", "3"]
    options = parser_of("bench").parse_args(with_leading("bench", words))
    assert (options.files, options.threads, options.batch_sizes, options.runs) == (["a.onnx"], [1, 2], [4], 3)
    nulls = parser_of("bench").parse_args(with_leading("bench", ["a.onnx", "--threads", "null"]))
    assert nulls.threads is None
    words = ["configs/quickstart.yaml", "--report.ks", "1", "4", "--out", "x"]
    assert parser_of("run").parse_args(with_leading("run", words)).report.ks == [1, 4]


@pytest.mark.parametrize("name", ["b\udcff.png", "\U0001f600.png", 'quo"te\\.png', "a: b.png", "~/c.png"])
def test_lists_take_any_name_of_a_file(name: str) -> None:
    """Names that are not UTF-8 reach Python as lone surrogates; those beyond 16 bits are written as two in JSON."""
    for words in (["index", "a.png", name], ["index", "--queries", "a.png", name]):
        assert parser_of("index search").parse_args(with_leading("index search", words)).queries == ["a.png", name]


def test_a_pair_is_validated_without_other_models() -> None:
    pair = ["--query-encoder", "a.onnx", "--gallery-encoder", "b.onnx"]
    assert "--models=[]" in with_leading("validate", pair)
    assert "--models=[]" not in with_leading("validate", ["c.onnx", *pair])
    assert "--models=[]" not in with_leading("validate", ["--models", "c.onnx", *pair])


def test_index_is_built_and_searched(finished: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    model, index = str(finished / "out" / "export" / "model.onnx"), str(tmp_path / "index")
    assert main(["index", "build", model, str(photos), index, "--kind", "hnsw", "--options.ef_search", "90"]) == 0
    facts = json.loads((tmp_path / "index" / "index.json").read_text())
    assert facts["parameters"] == {"m": 32, "ef_construction": 200, "ef_search": 90}
    queries = [str(photos / "class01" / "2.png"), str(photos / "class07" / "0.png")]
    capsys.readouterr()
    assert main(["index", "search", index, *queries, "--k", "2"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [[query, rank] for query in queries for rank in ("1", "2")]
    assert [lines[0][2], lines[2][2]] == ["class01/2.png", "class07/0.png"]
    assert main(["index", "search", index, *queries, "--k", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [entry["query"] for entry in printed] == queries
    hits = [hit for entry in printed for hit in entry["hits"]]
    assert [[hit["id"], f"{hit['score']:.6f}"] for hit in hits] == [line[2:] for line in lines]
    student = str(finished / "out" / "student")
    words = ["index", "search", index, queries[0], "--model", student]
    assert main(words) == 1
    refusal = capsys.readouterr().err
    assert model in refusal and student in refusal and "Both were made from the same student" in refusal
    assert main([*words, "--allow-other-encoder", "true"]) == 0


def test_validate_takes_kinds_of_index_and_a_pair(finished: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    student, model = (str(finished / "out" / name) for name in ("student", "export/model.onnx"))
    words = ["validate", student, model, "--teacher", str(finished / "out" / "teacher"), "--data", f"folder:{photos}"]
    words += ["--latency-runs", "0", "--bootstrap", "10", "--out", str(tmp_path)]
    pair = ["--query-encoder", model, "--gallery-encoder", student]
    for kinds in ("sq8,binary", "[sq8,binary]"):
        assert main([*words, "--index", kinds, *pair]) == 0
        stages = json.loads((tmp_path / "report.json").read_text())["stages"]
        added = [stage["stage"] for stage in stages[-3:]]
        assert added == ["onnx-fp32 → student", "onnx-fp32 + sq8", "onnx-fp32 + binary"]
        out = capsys.readouterr().out
        assert "bytes/vector" in out and "Recall@1 of onnx-fp32 → student (" in out


def test_own_teacher_is_not_trained(finished: Path, photos: Path, tmp_path: Path) -> None:
    report = run(
        f"folder:{photos}",
        tmp_path / "out",
        given_teacher=finished / "out" / "teacher",
        student=STUDENT | {"loss_options": {"sigma": 1.0}},
        report=REPORT,
        validation=0.34,
    )
    assert not (tmp_path / "out" / "teacher").exists()
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert config["given_teacher"] == str(finished / "out" / "teacher")
    assert config["student"]["loss_options"] == {"sigma": 1.0}
    first = json.loads((finished / "out" / "report" / "report.json").read_text())
    assert report.content["stages"][0]["recall"] == first["stages"][0]["recall"]


@pytest.mark.parametrize("verb", ["", "index", *VERBS])
def test_help_answers_at_once(verb: str) -> None:
    command = [sys.executable, "-m", "compressor", *verb.split(), "--help"]
    taken = []  # seconds of the processor, which others on the machine do not lengthen
    for _ in range(3):
        before = os.times()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        after = os.times()
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert "usage: compressor" in done.stdout
    assert min(taken) < 0.6, taken  # about 0.2 on an idle machine


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from compressor.cli import main\n"
        "from compressor.cli.parsing import parser_of; from compressor.cli.verbs import VERBS\n"
        "for verb in VERBS: main(['help', *verb.split()])\n"
        "for verb in VERBS: parser_of(verb)\n"
        "heavy = {'torch', 'timm', 'lightning', 'onnx', 'onnxruntime', 'faiss', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_print_config_is_a_config(tmp_path: Path, capsys: Any) -> None:
    assert main(["train", "--data", "glyphs", "--out", "x", "--epochs", "7", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["epochs"] == 7
    assert printed["loss"] == "proxy_anchor"
    config = configured(tmp_path / "c.yaml", **printed)
    assert main(["train", "--config", config, "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == printed


def test_a_broken_configuration_is_named(tmp_path: Path, capsys: Any) -> None:
    for content, words in (
        ("data: [a\nb: {", ["is not valid YAML", "line 2"]),
        ("", ["holds no options"]),
        ("- a", ["holds no options"]),
    ):
        (tmp_path / "c.yaml").write_text(content)
        assert main(["run", str(tmp_path / "c.yaml")]) == 1
        err = capsys.readouterr().err
        assert f"{tmp_path / 'c.yaml'}" in err and all(word in err for word in words) and err.count("\n") == 1
    for content, words in (
        ("data: 2024-13-45", "is not valid YAML"),
        ("data: x\nout: y\nteacher: t.npz\n", "To use an existing teacher, set given_teacher"),
        ("data: x\nout: y\nexport: fp16\n", "such as export.precision"),
    ):
        (tmp_path / "c.yaml").write_text(content)
        assert main(["run", str(tmp_path / "c.yaml")]) == 1
        assert words in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text("data: x\nout: y\nstudent:\n  epoch: 3\n")
    assert main(["run", str(tmp_path / "c.yaml")]) == 2
    assert "Did you mean student.epochs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["batch_size", "seed", "split", "loss", "use_labels"])
def test_what_is_left_blank_in_a_configuration_is_named(name: str, photos: Path, tmp_path: Path, capsys: Any) -> None:
    options = STUDENT | {"teacher": "t", "data": str(photos), "out": str(tmp_path / "out"), name: None}
    assert main(["distill", "--config", configured(tmp_path / "c.yaml", **options)]) == 1
    assert f"{name} has no value" in capsys.readouterr().err


def test_a_section_left_blank_has_the_defaults(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "c.yaml").write_text(
        f"data: {tmp_path}/none\nout: {tmp_path}/out\nteacher:\nstudent:\nexport:\nreport:\n"
    )
    assert main(["run", str(tmp_path / "c.yaml")]) == 1
    assert "none does not exist" in capsys.readouterr().err  # the options passed; the data is looked at after them


def test_options_go_over_a_configuration_wherever_they_stand(tmp_path: Path, capsys: Any) -> None:
    config = configured(tmp_path / "c.yaml", data="glyphs", out="x", seed=3)
    for words in (
        ["--seed", "7", "--config", config],
        ["--seed=7", f"--config={config}"],
        ["--config", config, "--seed=7"],
    ):
        assert main(["train", *words, "--print_config"]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["seed"] == 7


def test_a_system_that_refuses_gets_a_line(
    photos: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device", "out/x")

    monkeypatch.setattr("compressor.cli.command._call", full)
    assert main(["bench", "a.onnx"]) == 1
    err = capsys.readouterr().err
    assert err == "error: out/x: No space left on device. Check the path, its permissions and the free space.\n"


MISTAKES: list[tuple[list[str], int, list[str]]] = [
    (["trian"], 2, ["trian", "Did you mean train"]),
    (["train", "--data", "glyphs", "--out", "OUT", "--epoch", "3x"], 2, ["epoch"]),
    (["train", "--data", "glyphs", "--out", "OUT", "--no-such-option", "3"], 2, ["no_such_option"]),
    (["train", "--data", "folder:/nowhere", "--out", "OUT"], 1, ["/nowhere", "does not exist"]),
    (["train", "--data", "flder:x", "--out", "OUT"], 1, ["flder", "Did you mean folder"]),
    (["train", "--data", "PHOTOS", "--out", "OUT", "--arch", "resnet81"], 1, ["resnet81", "Did you mean"]),
    (["train", "--data", "PHOTOS", "--out", "OUT", "--split", "evenodd"], 1, ["evenodd", "even-odd"]),
    (["train", "--data", "PHOTOS", "--out", "OUT", "--pretrained", "w.safetensors"], 1, ["w.safetensors"]),
    (["run", "nowhere.yaml"], 1, ["nowhere.yaml", "does not exist"]),
    (["run", "--teacher", "PHOTOS", "--data", "PHOTOS", "--out", "OUT"], 1, ["given_teacher"]),
    (["train", "PHOTOS", "--out", "OUT", "--loss", ":Foo"], 1, [":Foo", "cannot be imported"]),
    (["train", "PHOTOS", "--out", "OUT", "--loss", ".foo:Bar"], 1, [".foo:Bar", "cannot be imported"]),
    (["export", "nowhere", "OUT/model.onnx"], 1, ["nowhere"]),
    (
        ["distill", "nowhere", "--arch", "test_resnet", "--dim", "8", "--data", "PHOTOS", "--out", "OUT"],
        1,
        ["nowhere", "does not exist"],
    ),
    (["bench", "nowhere.onnx"], 1, ["nowhere.onnx does not exist"]),
    (["inspect", "nowhere.onnx"], 1, ["nowhere.onnx does not exist"]),
    (
        ["train", "PHOTOS", "OUT", "--epochs", "many"],
        2,
        ["error: epochs is 'many'; it must be a whole number or null.\n"],
    ),
    (["train", "PHOTOS", "OUT", "--dim", "1.5"], 2, ["error: dim is '1.5'; it must be a whole number.\n"]),
    (["train", "PHOTOS", "OUT", "--rotate_classes", "no way"], 2, ["is 'no way'; it must be true or false.\n"]),
    (["run", "--data", "x", "--out", "y", "--student.loss_options", "5"], 2, ["student.loss_options is '5'; it must"]),
    (["index", "serch"], 2, ["unknown command 'index serch'", "Did you mean index search"]),
    (["help", "trian"], 2, ["Did you mean train"]),
    (["train", "PHOTOS", "--out", "OUT", "--epoch", "3"], 2, ["--epoch", "Did you mean epochs"]),
    (["train", "PHOTOS", "--out", "OUT", "--device", "1"], 2, ["--device", "Did you mean devices"]),
    (["inspect", "a.onnx", "--quite"], 2, ["--quite", "Did you mean quiet"]),
    (["inspect", "a.onnx", "--quiet", "--verbose"], 2, ["opposites"]),
    (["inspect", "a.onnx", "--log_file"], 2, ["log_file has no name"]),
    (["inspect", "a.onnx", "--log-file=/proc/x/y"], 1, ["/proc/x"]),
    (["embed", "nowhere.onnx", "PHOTOS", "OUT/v.npz"], 1, ["nowhere.onnx does not exist"]),
    (["index", "build", "nowhere.onnx", "PHOTOS", "OUT"], 1, ["nowhere.onnx", "does not exist"]),
    (["index", "search", "OUT", "query.png"], 1, ["is not an index"]),
    (["index", "search", "OUT"], 2, ["queries"]),
    (["train", "PHOTOS", "--out", "OUT", "--epochz", "3"], 2, ["--epochz", "Did you mean epochs"]),
    (["train", "--out", "OUT", "PHOTOS"], 2, ["come right after the command"]),
    (["run", "--data", "x", "--out", "y", "--student.epochz", "3"], 2, ["Did you mean student.epochs"]),
    (["run", "--config", "nowhere.yaml"], 1, ["nowhere.yaml does not exist"]),
    (["bench", "😀.onnx", "--runs", "0"], 1, ["runs is 0"]),
    (["bench", "😀.onnx"], 1, ["😀.onnx does not exist"]),
    (["bench", "a.onnx", "--out", "/proc/b.json"], 1, ["/proc cannot be written to"]),
    (["train", "PHOTOS", "--out", "/proc/x"], 1, ["/proc/x cannot be written to"]),
    (["train", "PHOTOS", "--out", "OUT", "--seed", "-1"], 1, ["seed is -1"]),
    (["validate", "--models", "a", "b", "--teacher", "t", "--data", "nowhere", "--out", "OUT"], 1, ["nowhere"]),
    (["validate", "a", "--index", "flat", "sq9", "--teacher", "t", "--data", "x", "--out", "OUT"], 1, ["mean sq8"]),
    (["validate", "a.onnx", "--teacher", "b", "--data", "PHOTOS", "--out", "OUT"], 1, ["b does not exist"]),
]


@pytest.mark.parametrize(("words", "code", "named"), MISTAKES, ids=[" ".join(words[:4]) for words, _, _ in MISTAKES])
def test_mistakes_get_two_lines_and_no_traceback(
    words: list[str],
    code: int,
    named: list[str],
    photos: Path,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoo.data._tell", lambda splits: None)  # said once in a process, by whichever test is first
    words = [word.replace("PHOTOS", str(photos)).replace("OUT", str(tmp_path)) for word in words]
    assert main(words) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert all(name in err for name in named), err
    if code == 2:
        assert len(err.strip().splitlines()) <= 2
    if code == 1:
        assert len(err.strip().splitlines()) <= 2 and err.startswith("error: ")


def test_a_mistake_before_any_verb_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process of its own
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.count("error:") == 1


def test_one_unreadable_image_is_named_and_skipped(photos: Path, tmp_path: Path, capsys: Any) -> None:
    import shutil

    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    broken = copy / "class03" / "0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    words = ["train", "--data", str(copy), "--arch", "test_resnet", "--dim", "8", "--image_size", "32"]
    words += ["--epochs", "1", "--workers", "0", "--batch_size", "16"]
    done = subprocess.run(
        [sys.executable, "-m", "compressor", *words, "--out", str(tmp_path / "a")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(broken) in done.stderr
    assert main([*words, "--out", str(tmp_path / "b"), "--max-unreadable", "0"]) == 1
    err = capsys.readouterr().err
    assert "error: " in err and str(broken) in err and "max_unreadable" in err


def test_losses_of_ones_own_in_the_shell(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "losses_for_both.py").write_text(
        "import torch\n"
        "class ForTeachers(torch.nn.Module):\n"
        "    def __init__(self, num_classes, dim, level):\n"
        "        super().__init__()\n"
        "        self.level = level\n"
        "    def forward(self, embeddings, labels):\n"
        "        return embeddings.square().mean() * 0 + self.level\n"
        "class ForStudents(ForTeachers):\n"
        "    def __init__(self, teacher_dim, level):\n"
        "        super().__init__(None, None, level + teacher_dim)\n"
        "    def forward(self, student, teacher, image_ids):\n"
        "        return super().forward(student, None)\n"
    )
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)  # where the modules of one's own are found
    shared = ["--data", f"folder:{photos}", "--arch", "test_resnet", "--image_size", "32", "--epochs", "1"]
    shared += ["--validation", "0", "--workers", "0", "--loss_options.level", "3"]
    verbs = [
        (["train", "--dim", "16", "--loss", "losses_for_both:ForTeachers"], "teacher", 3),
        (["distill", "teacher", "--dim", "8", "--loss", "losses_for_both:ForStudents"], "student", 19),
    ]
    for words, folder, expected in verbs:
        assert main([*words, *shared, "--out", folder]) == 0
        rows = list(csv.DictReader(Path(folder, "log", "metrics.csv").read_text().splitlines()))
        assert {float(row["train/loss"]) for row in rows if row["train/loss"]} == {expected}


def test_unknown_options_in_python_are_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"student has no option 'epoch'.*Did you mean epochs"):
        run(f"folder:{photos}", tmp_path, student=STUDENT | {"epoch": 3})
    with pytest.raises(OptionError, match="set seed once, for all stages"):
        run(f"folder:{photos}", tmp_path, teacher={"seed": 1}, student=STUDENT)


CONFIGS = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "transfer").glob("*.yaml")])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configs_fit_the_options(config: Path, capsys: Any) -> None:
    assert main(["run", str(config), "--data", "glyphs", "--out", "x", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for section, values in yaml.safe_load(config.read_text()).items():
        if isinstance(values, dict):
            for name, value in values.items():
                assert printed[section][name] == value, (section, name)


def test_an_interruption_says_how_to_go_on(
    photos: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.training.learner import Learner

    def stop(self: Learner) -> None:
        raise KeyboardInterrupt

    words = ["train", str(photos), "--out", str(tmp_path / "t"), "--validation", "0.34"]
    words += [f"--{name}={value}" for name, value in TEACHER.items()]
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "on_train_epoch_start", stop)
        assert main(words) == 130
    assert "Run the same command again" in capsys.readouterr().err
    assert main(words) == 0


SHADOWS = ("json", "onnx", "rich", "timm", "yaml", "inspect", "jsonargparse", "torch")


@pytest.mark.parametrize("start", [["-m", "compressor"], ["-c", "import sys; from compressor.cli import main; main()"]])
def test_modules_of_the_working_directory_are_not_run(start: list[str], photos: Path, tmp_path: Path) -> None:
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"print('{name} of the working directory was run')\n")
    (tmp_path / "mine.py").write_text("raise ImportError('mine was found')\n")
    if start[0] == "-c":  # as the installed script does, whose own folder comes first
        start = ["-P", *start]
    for words, found in ((["inspect", "none.onnx"], "none.onnx does not exist"), (["train"], "mine was found")):
        if words == ["train"]:
            words = ["train", str(photos), "--out", "out", "--loss", "mine:Loss"]
        done = subprocess.run(
            [sys.executable, *start, *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert found in done.stderr and "was run" not in done.stdout, (done.stdout, done.stderr)


@pytest.mark.parametrize("verb", ["train", "distill", "run"])
def test_the_working_directory_is_last_and_only_for_losses_of_ones_own(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(
        "compressor.cli.command.function_of", lambda home: lambda **options: seen.append(list(sys.path))
    )
    monkeypatch.chdir(tmp_path)
    words = {"train": ["train", "x"], "distill": ["distill", "t", "--arch=a", "--dim=8", "--data=x"]}
    section = {"run": "student."}.get(verb, "")
    given = words.get(verb, ["run", "--data=x", "--student.arch=a", "--student.dim=8"])
    for loss in ("rkd", "mine:Loss"):
        monkeypatch.setattr(sys, "path", list(sys.path))
        assert main([*given, "--out=o", f"--{section}loss={loss}"]) == 0
    without, with_own = seen
    assert str(tmp_path) not in without
    assert with_own == [*without, str(tmp_path)]


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 3)])
def test_a_report_that_nobody_reads_decides_the_exit_code_all_the_same(
    passed: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def gone(content: dict[str, Any]) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    gate = {"min_retention": 0.9, "min_gain": None, "passed": passed, "narrow": [], "reasons": ["student is worse."]}
    content = {"gate": gate, "stages": [{"recall": {"1": 1.0}}]}
    monkeypatch.setattr("compressor.cli.command._call", lambda *given: Report(tmp_path, content, passed))
    monkeypatch.setattr("export.report.tables.print_table", gone)
    monkeypatch.setattr("compressor.cli.command.silence", lambda: None)
    assert main(["bench", "a.onnx"]) == code
    assert capsys.readouterr().err == ("" if passed else "Gate failed: student is worse.\n")


def test_tables_that_nobody_reads_do_not_decide_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    def refused(*given: object) -> None:
        raise RefusedError("Every scheme loses too much.", "Raise max_drop.", {"candidates": []}, None)

    for label in ("ant", "bee"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / label / "a.png")
    monkeypatch.setattr("compressor.cli.command.silence", lambda: None)
    monkeypatch.setattr(sys, "stdout", Gone())
    assert main(["check", str(tmp_path), "--workers=1", "--quiet"]) == 3  # one image in two classes
    monkeypatch.setattr("compressor.cli.command._call", refused)
    monkeypatch.setattr("export.report.tables.print_candidates", lambda content: print("a table"))
    assert main(["bench", "a.onnx"]) == 3
    assert "Refused: Every scheme loses too much." in capsys.readouterr().err


def test_a_value_called_like_a_section_is_a_value() -> None:
    """A teacher's folder may be called teacher, where a space comes before its name too."""
    assert with_leading("run", ["--given_teacher", "teacher", "--out", "report"])
    with pytest.raises(UserError, match="teacher has options of its own"):
        with_leading("run", ["--teacher", "x"])
