"""``folder:PATH``: one folder per class, nested as deep as one likes; or unlabelled images in one flat folder."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from zoo.data.image_set import ImageSet, ImageSource, ZipMember
from zoo.data.splits import Source
from zoo.errors import DataError
from zoo.images import IMAGE_SUFFIXES


def read_folder(path: str) -> Source:
    """Read a folder of images, a zip archive of one, or a folder of zip archives.

    The class of an image is the folder it lies in, relative to the root (``alphabet/character`` where folders are
    nested). Images lying all in the root itself are unlabelled.

    Raises:
        DataError: the folder is missing, is not one, or holds no image; or only some images lie in class folders.
    """
    root = Path(path)
    members = list_images(root)
    if not members:
        raise DataError(f"{root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    ids = [str(name) for name, _ in members]
    sources = [source for _, source in members]
    folders = [str(name.parent) for name, _ in members]
    if set(folders) == {"."}:
        return Source(ImageSet(ids, sources))
    if "." in folders:
        stray = ids[folders.index(".")]
        raise DataError(f"{root}: {stray} lies outside the class folders. Move it into one, or remove it.")
    class_names = sorted(set(folders))
    index = {name: i for i, name in enumerate(class_names)}
    labels = np.array([index[folder] for folder in folders], dtype=np.int64)
    return Source(ImageSet(ids, sources, labels, class_names))


def list_images(root: Path) -> list[tuple[PurePosixPath, ImageSource]]:
    """Return the images below a folder or in a zip archive: name relative to the root, and source; sorted by name.

    Zip archives lying directly in a folder count as folders. Hidden files and folders are passed over.

    Raises:
        DataError: the root is missing, or an archive is broken.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist. Check the path given as data.")
    found: list[tuple[PurePosixPath, ImageSource]] = []
    if root.is_dir():
        for file in root.rglob("*"):
            name = PurePosixPath(file.relative_to(root).as_posix())
            if _is_image(name) and file.is_file():
                found.append((name, file))
        archives = sorted(root.glob("*.zip"))
    else:
        archives = [root]
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as opened:
                names = [info.filename for info in opened.infolist() if not info.is_dir()]
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{archive} is neither a folder nor a readable zip archive ({error}).") from error
        for member in names:
            name = PurePosixPath(member)
            if _is_image(name):
                found.append((name, ZipMember(archive, member)))
    return sorted(found, key=lambda entry: entry[0].parts)


def _is_image(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() in IMAGE_SUFFIXES and not hidden
