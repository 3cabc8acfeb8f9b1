"""The Ray engine on a cluster of two processes: the same rows as the local engine, even if a process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from export import embed_data
from zoo.data.image_set import ImageSet
from zoo.errors import UserError
from zoo.formats.embedding_parts import read_embeddings

ray = pytest.importorskip("ray", reason="extra ray is not installed")
ROOT = Path(__file__).resolve().parents[3]
SLOW = 0.3  # seconds for an image, so that a run is still at work when it is killed

# Embeds images that take their time.
DRIVER = """
import sys, time
from pathlib import Path
from export import embed_data
from zoo.data.image_set import ImageSet

def slow(file):
    def read():
        time.sleep(float(seconds))
        return file
    return read

model, photos, out, seconds = sys.argv[1:]
files = sorted(Path(photos).rglob("*.png"))[:24]
images = ImageSet([file.name + file.parent.name for file in files], [slow(file) for file in files])
embed_data(model, images, out, rows_per_part=2, engine="ray", processes=2)
"""


@pytest.fixture
def model(tiny_onnx: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_onnx(tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two cores: that of RAY_ADDRESS, or one for these tests."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS") or "local"
    ray.init(address, num_cpus=2 if address == "local" else None, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def named_by(files: list[Path], of_each: Callable[[Path], Callable[[], Path]]) -> ImageSet:
    return ImageSet([file.name + file.parent.name for file in files], [of_each(file) for file in files])


def require_same_parts(one: Path, other: Path) -> None:
    names = sorted(file.name for file in one.glob("*.parquet"))
    assert names == sorted(file.name for file in other.glob("*.parquet"))
    for name in (*names, "_unreadable.tsv", "_embeddings.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_killed_process_and_an_unreadable_image_change_no_row(
    cluster: str, model: Path, photos: Path, tmp_path: Path
) -> None:
    files = sorted(photos.rglob("*.png"))[:30]
    (tmp_path / "broken.png").write_bytes(b"broken")
    files.insert(11, tmp_path / "broken.png")
    killed, victim = tmp_path / "killed", files[17]

    def killing(file: Path) -> Callable[[], Path]:
        def read() -> Path:
            if file == victim and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return file

        return read

    images = named_by(files, killing)
    by_ray = embed_data(model, images, tmp_path / "ray", rows_per_part=4, engine="ray", processes=2)
    assert killed.exists()
    local = embed_data(model, images, tmp_path / "local", rows_per_part=4)
    require_same_parts(local, by_ray)
    assert len(read_embeddings(by_ray)[1].ids) == 30
    assert (by_ray / "_unreadable.tsv").read_text().startswith(f"broken.png{tmp_path.name}\t")
    with pytest.raises(UserError, match=r"^1 images cannot be read; the limit is 0 \(max_unreadable\)"):
        embed_data(model, images, tmp_path / "none", rows_per_part=4, engine="ray", max_unreadable=0)
    assert not (tmp_path / "none" / "part-00002.parquet").exists()


def test_a_killed_driver_leaves_whole_parts_to_go_on_from(
    cluster: str, model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ray"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(model), str(photos), str(out), str(SLOW)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    while not list(out.glob("*.parquet")):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    written = {file: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    assert len(written) < 12

    files = sorted(photos.rglob("*.png"))[:24]
    images = named_by(files, lambda file: lambda: file)
    embed_data(model, images, out, rows_per_part=2, engine="ray", processes=2)
    assert all(file.stat().st_mtime_ns == time_of for file, time_of in written.items())
    require_same_parts(embed_data(model, images, tmp_path / "local", rows_per_part=2), out)
