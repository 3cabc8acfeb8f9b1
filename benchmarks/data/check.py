"""Speed of ``check`` compared with decoding alone, its memory, and which of the planted copies it finds.

    python -m benchmarks.data.check PHOTOS --images 100000 --work runs/check

Images of 160 pixels are cut at random from the photographs in a folder, 100 per class. Planted among them are broken
files and copies of training images: byte for byte, in JPEG quality 40, at half size, brighter, and with 1 % cut off
each side. Decoding alone, which training does with each image, and ``check`` then take turns, both in one process per
core. CPU time is more reliable than wall-clock time if the machine has other work. Memory is that of all processes,
with shared memory counted once. Results go to ``results.jsonl``.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageEnhance

from zoo.data import ImageSet, load_images
from zoo.data.checking.check import check
from zoo.errors import DataError
from zoo.versions import available_cores

RESULTS = Path(__file__).with_name("results.jsonl")
_PER_CLASS = 100
_SPAN = 256


def cut(photos: list[Path], out: Path, seed: int, number: int) -> None:
    """Write an image: a random crop of a photograph, perhaps mirrored, with a shorter side of 160 pixels."""
    random = np.random.default_rng([seed, number])
    with Image.open(photos[int(random.integers(len(photos)))]) as opened:
        image = opened.convert("RGB")
    side = random.uniform(0.5, 0.85)
    width, height = (max(int(length * side), 8) for length in image.size)
    left, top = (int(random.integers(0, room + 1)) for room in (image.width - width, image.height - height))
    image = image.crop((left, top, left + width, top + height))
    scale = 160 / min(image.size)
    image = image.resize([max(round(length * scale), 160) for length in image.size], Image.Resampling.BICUBIC)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    path = name_of(out, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)


def name_of(out: Path, number: int) -> Path:
    """Return the path of an image."""
    return out / f"class{number // _PER_CLASS:05}" / f"{number:07}.jpg"


def changed(image: Image.Image, how: str) -> Image.Image:
    """Return an image with one kind of change."""
    width, height = image.size
    if how == "half size":
        return image.resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    if how == "brighter":
        return ImageEnhance.Brightness(image).enhance(1.2)
    if how == "cut":
        return image.crop((width // 100, height // 100, width - width // 100, height - height // 100))
    return image


KINDS = ("bytes", "quality 40", "half size", "brighter", "cut")


def plant(out: Path, count: int, of_each: int) -> dict[str, dict[str, str]]:
    """Replace test images by copies of training images, and training images by broken files.

    Returns:
        The id of each copy and of its original, by kind.
    """
    random = np.random.default_rng(0)
    trained = random.permutation(count // 2)
    tested = count // 2 + random.permutation(count // 2)
    planted: dict[str, dict[str, str]] = {}
    for at, kind in enumerate(KINDS):
        planted[kind] = {}
        for number in range(at * of_each, (at + 1) * of_each):
            source, target = name_of(out, int(trained[number])), name_of(out, int(tested[number]))
            if kind == "bytes":
                shutil.copyfile(source, target)
            else:
                with Image.open(source) as image:
                    changed(image, kind).save(target, quality=40 if kind == "quality 40" else 90)
            planted[kind][target.relative_to(out).as_posix()] = source.relative_to(out).as_posix()
    for number in range(of_each):
        name_of(out, int(trained[-1 - number])).write_bytes(b"broken" * 1000)
    return planted


_images: list[ImageSet] = []


def _begin(images: ImageSet) -> None:
    _images[:] = [images]


def _decode(start: int) -> int:
    images, sizes = _images[0], 0
    for index in range(start, min(start + _SPAN, len(images))):
        try:
            sizes += images.pixels(index).size
        except DataError:
            continue
    return sizes


def decoding(images: ImageSet, workers: int) -> None:
    """Decode all images, as training does."""
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=(images,)) as pool:
        sum(pool.map(_decode, range(0, len(images), _SPAN)))


def spent() -> np.ndarray:
    """Return the time, and the CPU time of this process and its children so far, in seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used)])


class Memory:
    """Peak memory of this process and its children while a block runs, in bytes."""

    def __enter__(self) -> Memory:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            self.peak = max(self.peak, sum(map(proportional, [os.getpid(), *children(os.getpid())])))


def children(process: int) -> list[int]:
    """Return the child processes of a process."""
    found: list[int] = []
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(word) for word in tasks.read_text().split()]
        except OSError:
            continue
    return found


def proportional(process: int) -> int:
    """Return a process's memory in bytes, with shared memory divided among those that share it."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/check"))
    options = parser.parse_args()
    folder, workers = options.work / str(options.images), available_cores()
    shutil.rmtree(folder, ignore_errors=True)
    photos = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    print(f"{len(photos)} photographs, {options.images} images, {workers} processes", flush=True)
    with ProcessPoolExecutor(workers) as pool:
        for _ in pool.map(partial(cut, photos, folder, 0), range(options.images), chunksize=_SPAN):
            pass
    of_each = options.images // 500
    planted = plant(folder, options.images, of_each)
    images = load_images(folder)
    alone: list[np.ndarray] = []
    checked: list[np.ndarray] = []
    for _ in range(options.turns):
        before = spent()
        decoding(images, workers)
        alone.append(spent() - before)
        before = spent()
        found = check(folder, max_unreadable=of_each)
        checked.append(spent() - before)
        print("wall and CPU seconds: decoding", alone[-1].round(1), "check", checked[-1].round(1), flush=True)
    with Memory() as memory:  # not timed, because reading memory takes time
        check(folder, max_unreadable=of_each)
    every = {item["id"]: item["like"] for kind in ("near_across", "copies_across") for item in found[kind].items}
    copies = {copy for those in planted.values() for copy in those}
    shares = np.array(alone) / np.array(checked)
    result = {
        "images": options.images,
        "processes": workers,
        "decoding_s": [round(float(turn[0]), 1) for turn in alone],
        "check_s": [round(float(turn[0]), 1) for turn in checked],
        "decoding_cpu_s": [round(float(turn[1]), 1) for turn in alone],
        "check_cpu_s": [round(float(turn[1]), 1) for turn in checked],
        "share_of_decoding": round(float(median(shares[:, 0])), 3),
        "share_of_decoding_cpu": round(float(median(shares[:, 1])), 3),
        "peak_mib": round(memory.peak / 2**20),
        "planted_of_each": of_each,
        "found": {kind: sum(every.get(copy) == of for copy, of in those.items()) for kind, those in planted.items()},
        "broken_found": found["unreadable"].count,
        "found_besides": len(every.keys() - copies),
    }
    print(result)

    from benchmarks.results import Results  # imports torch, which would have counted as memory

    Results(RESULTS).add(result)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
