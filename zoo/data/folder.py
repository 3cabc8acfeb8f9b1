"""``folder:PATH``: one folder per class, nested to any depth; or unlabelled images in one flat folder."""

from __future__ import annotations

import logging
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from zoo.data.division.layout import without_parts
from zoo.data.division.splits import Source
from zoo.data.image_set import ImageSet
from zoo.data.stored import ImageSource, ZipMember
from zoo.errors import DataError, printable
from zoo.images import IMAGE_SUFFIXES, require_regular

log = logging.getLogger(__name__)

# folders of file servers and systems: thumbnails and deleted files
_THEIRS = (
    "@eadir/@__thumb/@recycle/@recently-snapshot/@tmp/@sharebin/#recycle/#snapshot/$recycle.bin/__macosx/lost+found/"
    "trashbox/system volume information/network trash folder/temporary items"
)
_OF_SYSTEMS = frozenset(_THEIRS.split("/"))
_OTHER_IMAGES = (  # suffixes of images that are not read
    "heic heics heif hif avci avifs jxl jxr wdp cr2 cr3 crw nef nrw arw srf sr2 dng raf orf rw2 pef srw x3f raw psd "
    "psb xcf svg svgz eps exr hdr dcm nii ico icns tga dds j2k jpx jpf j2c jpc jpm mj2 apng mpo pbm pnm pam pcx sgi dib"
)


def read_folder(path: str) -> Source:
    """Read a folder of images, a zip archive of one, or a folder of zip archives.

    The class of an image is its folder relative to the root (``alphabet/character`` if folders are nested). If all
    images lie in the root itself, they are unlabelled. At least two folders named train, validation, test, query or
    gallery, in any usual spelling, are the data's own split, not classes: in the root, in its only folder, or in each
    class.

    Raises:
        DataError: the folder is missing, not a folder, or holds no image; or only some images lie in class folders or
            split folders.
    """
    root = Path(path)
    members, left_out = found_in(root)
    if not members:
        raise DataError(f"{root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    ids = [str(name) for name, _ in members]
    sources = [source for _, source in members]
    names, split, roles = without_parts(root, [name for name, _ in members])
    folders = [str(name.parent) for name in names]
    if set(folders) == {"."}:
        return Source(ImageSet(ids, sources, roles=roles), split, left_out=left_out)
    if "." in folders:
        stray = ids[folders.index(".")]
        raise DataError(f"{root}: {stray} lies outside the class folders. Move it into one, or remove it.")
    class_names = sorted(set(folders))
    index = {name: i for i, name in enumerate(class_names)}
    labels = np.array([index[folder] for folder in folders], dtype=np.int64)
    return Source(ImageSet(ids, sources, labels, class_names, roles), split, left_out=left_out)


def list_images(root: Path) -> list[tuple[PurePosixPath, ImageSource]]:
    """Return the images below a folder or in a zip archive, like :func:`found_in`."""
    return found_in(root)[0]


def found_in(root: Path) -> tuple[list[tuple[PurePosixPath, ImageSource]], list[str]]:
    """Return the images below a folder or in a zip archive, as name relative to the root and source, sorted by name.

    Also returns the names of images that are left out because their format cannot be read.

    Zip archives directly in the folder are read as if unpacked there; one with images in its root, as if unpacked into
    a folder of its name. Links are followed. Hidden files and folders are skipped, and so are files with other
    suffixes, which the log counts.

    Raises:
        DataError: the root is missing, a folder in it cannot be read, an archive is broken, or an archive's content is
            also there unpacked.
    """
    if not root.exists():
        several = " Give a folder, or in Python a list of paths." if set("*?[") & set(root.name) else ""
        raise DataError(f"{root} does not exist. Check the path given as data.{several}")
    found: list[tuple[PurePosixPath, ImageSource]] = []
    others: list[PurePosixPath] = []
    if root.is_dir():
        for within, folder, files in _folders_below(root):
            for file, is_file in files:
                suffix = "".join(file.rpartition(".")[1:]).lower()
                if suffix in IMAGE_SUFFIXES and is_file:
                    found.append((within / file, folder / file))
                elif suffix != ".zip":
                    others.append(within / file)
        archives = [path for path in sorted(root.iterdir()) if path.suffix.lower() == ".zip" and path.name[0] != "."]
        archives = [path for path in archives if not path.is_dir()]
    else:
        archives = [root]
    for archive in archives:
        try:
            require_regular(archive)
            with zipfile.ZipFile(archive) as opened:
                members = [info.filename for info in opened.infolist() if not info.is_dir()]
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{archive} is neither a folder nor a readable zip archive ({error}). Tables end in .csv, .tsv, .jsonl "
                "or .parquet, and shards in .tar."
            ) from error
        names = [(PurePosixPath(name.replace("\\", "/")), name) for name in members]  # some Windows tools write \
        images = [(name, member) for name, member in names if _is_image(name)]
        others += [name for name, _ in names if not _is_image(name) and not _is_below_passed_over(name)]
        if archive != root and any(len(name.parts) == 1 for name, _ in images):
            images = [(PurePosixPath(archive.stem) / name, member) for name, member in images]
        found += [(name, ZipMember(archive, member)) for name, member in images]
    unread = _tell_others(root, others)
    found.sort(key=lambda entry: entry[0].parts)
    for (name, one), (after, other) in pairwise(found):
        if name == after:
            where = next(source.archive for source in (one, other) if isinstance(source, ZipMember))
            raise DataError(f"{root} holds {name} twice, once in {where}. Remove the archive, or its unpacked copy.")
    return found, [str(name) for name in unread]


def _folders_below(root: Path) -> Iterator[tuple[PurePosixPath, Path, list[tuple[str, bool]]]]:
    """Yield a folder and all folders below, each once, following links, without hidden folders and files.

    Yields:
        The folder's path from the root, the folder, and the names in it that are not folders, each with whether it is
        a file or a link. Broken links are reported when they are read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}). Change its permissions, or move it."
        ) from error

    seen = {os.path.realpath(root)}
    for place, below, names in os.walk(root, followlinks=True, onerror=refuse):
        folder = Path(place)
        shown = sorted((name for name in below if not _is_passed_over(name)), reverse=True)
        found = {os.path.realpath(folder / name): name for name in shown}  # of several, the first by name
        below[:] = sorted(name for target, name in found.items() if target not in seen)
        seen |= found.keys()
        with os.scandir(place) as entries:  # knows the types without a stat for each file
            files = {entry.name for entry in entries if entry.is_file() or entry.is_symlink()}
        kept = [(name, name in files) for name in names if not _is_passed_over(name)]
        yield PurePosixPath(folder.relative_to(root).as_posix()), folder, kept


def _tell_others(root: Path, names: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """Log which files are not images and which are images that cannot be read; return the latter."""
    unread = [name for name in names if name.suffix.lower()[1:] in _OTHER_IMAGES.split()]
    if unread:
        log.warning(
            "%s: left out %d images in formats that cannot be read (%s), such as %s. Convert them to JPEG or PNG.",
            printable(root),
            len(unread),
            printable(_counted(unread)),
            printable(unread[0]),
        )
    rest = sorted(set(names) - set(unread))
    if rest:
        log.info("%s: skipped files that are not images: %s", root, _counted(rest))
    return unread


def _counted(names: Sequence[PurePosixPath]) -> str:
    suffixes = Counter(name.suffix.lower() or name.name for name in names)
    return ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))


def _is_image(name: PurePosixPath) -> bool:
    return name.suffix.lower() in IMAGE_SUFFIXES and not _is_below_passed_over(name)


def _is_below_passed_over(name: PurePosixPath) -> bool:
    return any(map(_is_passed_over, name.parts))


def _is_passed_over(part: str) -> bool:
    return part.startswith(".") or part.lower() in _OF_SYSTEMS
