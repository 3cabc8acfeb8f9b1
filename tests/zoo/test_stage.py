"""A stage: new, started, finished, or in a folder with other content."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from zoo.errors import OptionError
from zoo.files import LOCK, alone_in
from zoo.stage import Stage, locking


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
    assert f"{tmp_path} is already finished: reused" in caplog.text


def test_what_a_process_killed_at_its_very_end_left_is_removed(tmp_path: Path) -> None:
    """Its configuration is in place, so the folder is finished, and its checkpoints and its lock are still there."""
    open_stage(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    for name in (LOCK, "checkpoints/best.safetensors", "checkpoints/last.ckpt", "checkpoints/.last.ckpt.abcd1234.part"):
        (tmp_path / name).touch()
    (tmp_path / ".saving.abcd1234").mkdir()
    assert open_stage(tmp_path).finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "options.json"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mine.txt").touch()
    assert open_stage(tmp_path).finished
    assert (tmp_path / "checkpoints" / "mine.txt").exists()


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
        ({"lr": 0.2}, r"was started with lr 0\.1 \(now 0\.2\)\. Choose another out"),
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
    with pytest.raises(OptionError, match="another model"):
        open_stage(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    with pytest.raises(OptionError, match=r"config\.json is a file; out must be a folder"):
        open_stage(tmp_path / "config.json")
    assert (tmp_path / "config.json").read_text() == "{}"


def test_data_may_lie_elsewhere_while_it_is_the_same(tmp_path: Path) -> None:
    open_stage(tmp_path, data="folder:/home/me/photos")
    (tmp_path / "checkpoints").mkdir()
    open_stage(tmp_path, data="photos")
    with pytest.raises(OptionError, match="was started with data"):
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
    with pytest.raises(OptionError, match="was started with pretrained_digest"):
        begin(tmp_path / "two/w.safetensors")


def test_a_student_to_finish_may_be_moved(tmp_path: Path) -> None:
    def finish(student: Any, out: Any) -> None:
        """Take a student as ``finish_quantized`` does."""

    def begin(student: str) -> Stage:
        return Stage.open(tmp_path, finish, {"student": student, "out": tmp_path}, student_digest="d")

    begin("/home/me/run/student")
    (tmp_path / "checkpoints").mkdir()
    begin("/mnt/run/student")
    with pytest.raises(OptionError, match="was started with student"):
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


def made_with(folder: Path, **options: Any) -> None:
    """Finish a stage as a model folder does, whose configuration says what the weights were made with."""
    (folder / "config.json").write_text(json.dumps({"embedding_compressor": {"options": options}}))


def test_a_finished_stage_is_compared_with_what_its_weights_were_made_with(tmp_path: Path) -> None:
    made = open_stage(tmp_path, lr=0.1).options
    made_with(tmp_path, **made)
    (tmp_path / "options.json").write_text(json.dumps(made | {"lr": 0.2}))  # as a refused second run once left it
    assert open_stage(tmp_path, lr=0.1).finished
    with pytest.raises(OptionError, match=r"lr 0\.1 \(now 0\.2\)"):
        open_stage(tmp_path, lr=0.2)


def test_a_finished_student_is_compared_with_the_options_of_its_finish(tmp_path: Path) -> None:
    made = open_stage(tmp_path, lr=0.1).options
    made_with(tmp_path, lr=0.7, arch="of the student", verb=made)
    assert open_stage(tmp_path, lr=0.1).finished
    with pytest.raises(OptionError, match=r"lr 0\.1 \(now 0\.7\)"):
        open_stage(tmp_path, lr=0.7)


def test_a_refused_second_run_leaves_nothing(tmp_path: Path) -> None:
    open_stage(tmp_path, lr=0.1)
    before = (tmp_path / "options.json").read_text()
    with alone_in(tmp_path), pytest.raises(OptionError, match="Another process is working"):
        open_stage(tmp_path, lr=0.2)
    assert (tmp_path / "options.json").read_text() == before


def test_a_stage_is_locked_until_its_verb_ends(tmp_path: Path) -> None:
    @locking
    def work(fails: bool) -> str:
        """Open a stage and try to open it again, as another process would."""
        open_stage(tmp_path)
        with pytest.raises(OptionError, match="Another process is working"):
            open_stage(tmp_path, lr=0.2)
        if fails:
            raise ValueError("stopped")
        return "done"

    assert work(fails=False) == "done"
    with pytest.raises(ValueError, match="stopped"):
        work(fails=True)
    assert not (tmp_path / LOCK).exists()
    assert open_stage(tmp_path).options["lr"] == 0.1  # what the inner one asked for was not written


def test_other_ranks_neither_lock_nor_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @locking
    def work() -> None:
        """Open a stage as the first of two processes, and then as the second."""
        open_stage(tmp_path)
        for name in ("LOCAL_RANK", "NODE_RANK", "RANK"):
            with monkeypatch.context() as patch:
                patch.setenv(name, "1")
                assert not open_stage(tmp_path, lr=0.3).finished

    work()
    assert json.loads((tmp_path / "options.json").read_text())["lr"] == 0.1


def test_a_finished_stage_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = open_stage(tmp_path).options
    made_with(tmp_path, **options)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("zoo.files.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("zoo.files.tempfile.mkstemp", refuse)
    monkeypatch.setattr("zoo.files.FileLock.acquire", refuse)
    assert open_stage(tmp_path).finished
    with pytest.raises(OptionError, match="Read-only file system"):
        open_stage(tmp_path / "other")


def test_a_folder_that_is_gone_at_the_end_is_an_error(tmp_path: Path) -> None:
    @locking
    def work(folder: Path, how: str) -> None:
        """Lose the folder while at work in it."""
        open_stage(folder)
        if how == "moved":
            folder.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(folder)
        if how == "replaced":
            folder.mkdir()
            (folder / LOCK).write_text("")  # another process is at work now
        if how == "noticed":
            raise FileNotFoundError(2, "No such file or directory", "metrics.csv")

    for how in ("removed", "moved", "replaced", "noticed"):
        with pytest.raises(OptionError, match=rf"{how}/out was removed or moved while it was in use"):
            work(tmp_path / how / "out", how)
    assert (tmp_path / "replaced/out" / LOCK).exists()


def test_a_full_disk_is_named_whatever_a_library_makes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @locking
    def work() -> None:
        """Fail as Lightning's logger or the torch of a data loader may."""
        open_stage(tmp_path)
        monkeypatch.setattr("zoo.files._obstacle_to_writing", lambda *where: errno.ENOSPC)
        raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(OSError, match="No space left on device") as error:
        work()
    assert error.value.filename == str(tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    open_stage(tmp_path)
    for name in ("checkpoints", ".saving.abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".last.ckpt.ab0_cdef.part.ckpt").write_bytes(b"half")
    (tmp_path / "checkpoints/mine.ckpt").write_bytes(b"kept")
    open_stage(tmp_path)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["checkpoints", "mine.ckpt", "options.json"]
