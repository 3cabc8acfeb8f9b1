"""A stage: new, begun, finished, or in somebody else's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from zoo.errors import OptionError
from zoo.stage import Stage


def verb(
    data: Any, out: Any, arch: str = "a", *, lr: float = 0.1, sizes: tuple[int, ...] = (1,), workers: int = 0
) -> None:
    """Take options as ``train`` does."""


def open_stage(folder: Path, digest: str = "d1", **changes: Any) -> Stage:
    arguments = {"data": "folder:x", "out": folder, "arch": "a", "lr": 0.1, "sizes": (1, 2), "workers": 0, "stray": 9}
    return Stage.open(folder, verb, arguments | changes, data_digest=digest)


def test_a_new_stage_records_its_options(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    stage = open_stage(folder, data=Path("x") / "y")
    expected = {"data": "x/y", "arch": "a", "lr": 0.1, "sizes": [1, 2], "data_digest": "d1"}
    assert stage.options == expected
    assert json.loads((folder / "options.json").read_text()) == expected
    assert (stage.folder, stage.finished) == (folder, False)


def test_objects_are_recorded_by_name(tmp_path: Path) -> None:
    class Named:
        name = "my data"

    assert open_stage(tmp_path / "a", data=Named()).options["data"] == "my data"
    assert open_stage(tmp_path / "b", data=nn.Identity()).options["data"] == "Identity"
    assert open_stage(tmp_path / "c", data={1: (2, None)}).options["data"] == {"1": [2, None]}


def test_the_same_options_go_on_and_a_finished_stage_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    open_stage(tmp_path)
    assert not open_stage(tmp_path).finished
    assert "reused" not in caplog.text
    (tmp_path / "config.json").write_text("{}")
    assert open_stage(tmp_path).finished
    assert f"{tmp_path} is finished already: reused" in caplog.text


def test_options_of_a_later_version_were_at_their_defaults(tmp_path: Path) -> None:
    open_stage(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    recorded = json.loads((tmp_path / "options.json").read_text())
    del recorded["lr"]
    (tmp_path / "options.json").write_text(json.dumps(recorded))
    open_stage(tmp_path)
    with pytest.raises(OptionError, match=r"lr 0\.1 \(now 0\.2\)"):
        open_stage(tmp_path, lr=0.2)


def test_where_and_how_fast_may_change(tmp_path: Path) -> None:
    open_stage(tmp_path)
    assert open_stage(tmp_path, workers=8, out=tmp_path.parent / tmp_path.name).options == open_stage(tmp_path).options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.2}, r"was begun with lr 0\.1 \(now 0\.2\)\. Choose another out"),
        ({"arch": "b", "lr": 0.2}, r"arch 'a' \(now 'b'\), lr 0\.1 \(now 0\.2\)"),
        ({"digest": "d2"}, r"data_digest 'd1' \(now 'd2'\)"),
        ({"sizes": (1, 3)}, r"sizes \[1, 2\] \(now \[1, 3\]\)"),
    ],
)
def test_other_options_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    open_stage(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    before = (tmp_path / "options.json").read_text()
    with pytest.raises(OptionError, match=message):
        open_stage(tmp_path, **changes)
    assert (tmp_path / "options.json").read_text() == before


def test_before_the_first_checkpoint_a_mistake_can_be_mended(tmp_path: Path) -> None:
    open_stage(tmp_path, arch="b")
    open_stage(tmp_path, arch="a")
    assert json.loads((tmp_path / "options.json").read_text())["arch"] == "a"


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OptionError, match="not made here"):
        open_stage(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    with pytest.raises(OptionError, match=r"config\.json is a file; out must be a folder"):
        open_stage(tmp_path / "config.json")
    assert (tmp_path / "config.json").read_text() == "{}"


def test_data_may_lie_elsewhere_while_it_is_the_same(tmp_path: Path) -> None:
    open_stage(tmp_path, data="folder:/home/me/photos")
    (tmp_path / "checkpoints").mkdir()
    open_stage(tmp_path, data="photos")
    with pytest.raises(OptionError, match="was begun with data"):
        open_stage(tmp_path, data="folder:/home/me/pictures")
    with pytest.raises(OptionError, match="data_digest"):
        open_stage(tmp_path, data="photos", digest="d2")


def test_weights_are_known_by_their_content_wherever_they_lie(tmp_path: Path) -> None:
    def train(pretrained: Any, out: Any) -> None:
        """Take weights as ``train`` does."""

    def begin(weights: Path) -> Stage:
        return Stage.open(tmp_path / "out", train, {"pretrained": weights, "out": tmp_path / "out"})

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.safetensors").write_bytes(b"weights")
    begin(tmp_path / "one/w.safetensors")
    (tmp_path / "out/checkpoints").mkdir()
    begin(tmp_path / "two/w.safetensors")
    (tmp_path / "two/w.safetensors").write_bytes(b"others")
    with pytest.raises(OptionError, match="was begun with pretrained_digest"):
        begin(tmp_path / "two/w.safetensors")


def test_a_student_to_finish_may_be_moved(tmp_path: Path) -> None:
    def finish(student: Any, out: Any) -> None:
        """Take a student as ``finish_quantized`` does."""

    def begin(student: str) -> Stage:
        return Stage.open(tmp_path, finish, {"student": student, "out": tmp_path}, student_digest="d")

    begin("/home/me/run/student")
    (tmp_path / "checkpoints").mkdir()
    begin("/mnt/run/student")
    with pytest.raises(OptionError, match="was begun with student"):
        begin("/mnt/run/other")


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    open_stage(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "options.json").write_text("")
    with pytest.raises(OptionError, match=r"options\.json is not valid JSON .*Remove its folder"):
        open_stage(tmp_path)


def test_numbers_of_numpy_are_recorded_as_numbers(tmp_path: Path) -> None:
    options = open_stage(tmp_path, lr=np.float64(0.5), sizes=(np.int64(3),)).options
    assert options["lr"] == 0.5 and options["sizes"] == [3]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="file is a file; out must be a folder"):
        open_stage(tmp_path / "file" / "deeper")
