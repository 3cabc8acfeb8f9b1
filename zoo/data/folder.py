"""``folder:PATH``: one folder per class, nested as deep as one likes; or unlabelled images in one flat folder."""

from __future__ import annotations

import logging
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from zoo.data.image_set import ImageSet, ImageSource, ZipMember
from zoo.data.splits import SPLIT_NAMES, TEST, TRAIN, Source
from zoo.errors import DataError
from zoo.images import IMAGE_SUFFIXES

log = logging.getLogger(__name__)


def read_folder(path: str) -> Source:
    """Read a folder of images, a zip archive of one, or a folder of zip archives.

    The class of an image is the folder it lies in, relative to the root (``alphabet/character`` where folders are
    nested). Images lying all in the root itself are unlabelled. Where all folders in the root are called train,
    validation (or val, valid) and test, they are the data's own split, and classes are the folders in them.

    Raises:
        DataError: the folder is missing, is not one, or holds no image; or only some images lie in class folders.
    """
    root = Path(path)
    members = list_images(root)
    if not members:
        raise DataError(f"{root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    ids = [str(name) for name, _ in members]
    sources = [source for _, source in members]
    tops = [name.parts[0].lower() if len(name.parts) > 1 else "" for name, _ in members]
    split = None
    if {TRAIN, TEST} <= {SPLIT_NAMES.get(top, "") for top in tops} and all(top in SPLIT_NAMES for top in tops):
        split = np.array([SPLIT_NAMES[top] for top in tops], dtype=object)
        members = [(name.relative_to(name.parts[0]), source) for name, source in members]
    folders = [str(name.parent) for name, _ in members]
    if set(folders) == {"."}:
        return Source(ImageSet(ids, sources), split)
    if "." in folders:
        stray = ids[folders.index(".")]
        raise DataError(f"{root}: {stray} lies outside the class folders. Move it into one, or remove it.")
    class_names = sorted(set(folders))
    index = {name: i for i, name in enumerate(class_names)}
    labels = np.array([index[folder] for folder in folders], dtype=np.int64)
    return Source(ImageSet(ids, sources, labels, class_names), split)


def list_images(root: Path) -> list[tuple[PurePosixPath, ImageSource]]:
    """Return the images below a folder or in a zip archive: name relative to the root, and source; sorted by name.

    Zip archives lying directly in a folder are read as if they had been unpacked there; one with images in its root,
    into a folder of its own name. Links are followed. Hidden files and folders are passed over, and files of other
    suffixes, which are counted in the log.

    Raises:
        DataError: the root is missing, or an archive is broken.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist. Check the path given as data.")
    found: list[tuple[PurePosixPath, ImageSource]] = []
    if root.is_dir():
        passed_over: Counter[str] = Counter()
        for file in _files_below(root):
            name = PurePosixPath(file.relative_to(root).as_posix())
            if _is_image(name) and file.is_file():
                found.append((name, file))
            elif not _is_hidden(name) and name.suffix.lower() != ".zip":
                passed_over[name.suffix.lower() or name.name] += 1
        if passed_over:
            listed = ", ".join(f"{count} {suffix}" for suffix, count in passed_over.most_common(5))
            log.info("%s: passed over files that are not images by their suffix: %s", root, listed)
        archives = sorted(root.glob("*.zip"))
    else:
        archives = [root]
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as opened:
                names = [info.filename for info in opened.infolist() if not info.is_dir()]
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{archive} is neither a folder nor a readable zip archive ({error}).") from error
        images = [(PurePosixPath(name.replace("\\", "/")), name) for name in names]  # some tools on Windows write \
        images = [(name, member) for name, member in images if _is_image(name)]
        if archive != root and any(len(name.parts) == 1 for name, _ in images):
            images = [(PurePosixPath(archive.stem) / name, member) for name, member in images]
        found += [(name, ZipMember(archive, member)) for name, member in images]
    return sorted(found, key=lambda entry: entry[0].parts)


def _files_below(root: Path) -> Iterator[Path]:
    """Yield the files in a folder and below, through links too, each folder once."""
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        below[:] = [name for name in below if os.path.realpath(Path(folder) / name) not in seen]
        yield from (Path(folder) / name for name in files)


def _is_image(name: PurePosixPath) -> bool:
    return name.suffix.lower() in IMAGE_SUFFIXES and not _is_hidden(name)


def _is_hidden(name: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
