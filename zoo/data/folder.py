"""``folder:PATH``: one folder per class, nested as deep as one likes; or unlabelled images in one flat folder."""

from __future__ import annotations

import logging
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from zoo.data.image_set import ImageSet, ImageSource, ZipMember
from zoo.data.splits import SPLIT_NAMES, Source
from zoo.errors import DataError
from zoo.images import IMAGE_SUFFIXES

log = logging.getLogger(__name__)


def read_folder(path: str) -> Source:
    """Read a folder of images, a zip archive of one, or a folder of zip archives.

    The class of an image is the folder it lies in, relative to the root (``alphabet/character`` where folders are
    nested). Images lying all in the root itself are unlabelled. Folders called train, validation (or val, valid) and
    test, two of them at least, in the root or in the one folder there is, are the data's own split, and classes are
    the folders in them.

    Raises:
        DataError: the folder is missing, is not one, or holds no image; or only some images lie in class folders, or
            in those of a split.
    """
    root = Path(path)
    members = list_images(root)
    if not members:
        raise DataError(f"{root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    ids = [str(name) for name, _ in members]
    sources = [source for _, source in members]
    names, split = _without_split(root, [name for name, _ in members])
    folders = [str(name.parent) for name in names]
    if set(folders) == {"."}:
        return Source(ImageSet(ids, sources), split)
    if "." in folders:
        stray = ids[folders.index(".")]
        raise DataError(f"{root}: {stray} lies outside the class folders. Move it into one, or remove it.")
    class_names = sorted(set(folders))
    index = {name: i for i, name in enumerate(class_names)}
    labels = np.array([index[folder] for folder in folders], dtype=np.int64)
    return Source(ImageSet(ids, sources, labels, class_names), split)


def _without_split(root: Path, names: list[PurePosixPath]) -> tuple[list[PurePosixPath], np.ndarray | None]:
    """Take the folders of a split off the images' names, and return the split; None where there are no such folders.

    An archive of a folder mostly holds that folder, with the split one level down.
    """
    above = 0
    while len({name.parts[above] for name in names}) == 1 and all(len(name.parts) > above + 2 for name in names):
        above += 1
    tops = [name.parts[above].lower() if len(name.parts) > above + 1 else "" for name in names]
    parts = {SPLIT_NAMES[top] for top in tops if top in SPLIT_NAMES}
    if len(parts) < 2:
        return names, None
    beside = next((name for name, top in zip(names, tops, strict=True) if top not in SPLIT_NAMES), None)
    if beside is not None:
        raise DataError(
            f"{root} has folders called {' and '.join(sorted(parts))}, and beside them {beside}, which is in none. "
            "Move it into one, or remove it."
        )
    split = np.array([SPLIT_NAMES[top] for top in tops], dtype=object)
    return [PurePosixPath(*name.parts[above + 1 :]) for name in names], split


def list_images(root: Path) -> list[tuple[PurePosixPath, ImageSource]]:
    """Return the images below a folder or in a zip archive: name relative to the root, and source; sorted by name.

    Zip archives lying directly in a folder are read as if they had been unpacked there; one with images in its root,
    into a folder of its own name. Links are followed. Hidden files and folders are passed over, and files of other
    suffixes, which are counted in the log.

    Raises:
        DataError: the root is missing, a folder in it cannot be read, an archive is broken, or holds what is beside it
            unpacked.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist. Check the path given as data.")
    found: list[tuple[PurePosixPath, ImageSource]] = []
    if root.is_dir():
        passed_over: Counter[str] = Counter()
        for file in _files_below(root):
            name = PurePosixPath(file.relative_to(root).as_posix())
            if _is_image(name) and (file.is_file() or file.is_symlink()):  # a link to nothing is told when it is read
                found.append((name, file))
            elif not _is_hidden(name) and name.suffix.lower() != ".zip":
                passed_over[name.suffix.lower() or name.name] += 1
        if passed_over:
            listed = ", ".join(f"{count} {suffix}" for suffix, count in passed_over.most_common(5))
            log.info("%s: passed over files that are not images by their suffix: %s", root, listed)
        archives = [file for file in sorted(root.iterdir()) if file.suffix.lower() == ".zip" and file.name[0] != "."]
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
    found.sort(key=lambda entry: entry[0].parts)
    for (name, one), (after, other) in pairwise(found):
        if name == after:
            where = next(source.archive for source in (one, other) if isinstance(source, ZipMember))
            raise DataError(
                f"{root} holds {name} twice, once in {where}. Remove the archive, or what it was unpacked to."
            )
    return found


def _files_below(root: Path) -> Iterator[Path]:
    """Yield the files in a folder and below, through links too, each folder once, of hidden folders none."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). Allow it, or move it out.") from error

    seen = {os.path.realpath(root)}
    for folder, below, files in os.walk(root, followlinks=True, onerror=refuse):
        names = sorted((name for name in below if not name.startswith(".")), reverse=True)
        found = {os.path.realpath(Path(folder) / name): name for name in names}  # the first by name of several
        below[:] = sorted(name for place, name in found.items() if place not in seen)
        seen |= found.keys()
        yield from (Path(folder) / name for name in files)


def _is_image(name: PurePosixPath) -> bool:
    return name.suffix.lower() in IMAGE_SUFFIXES and not _is_hidden(name)


def _is_hidden(name: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
