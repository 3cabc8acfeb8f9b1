"""``folder:PATH``: one folder per class, nested to any depth; or unlabelled images in one flat folder."""

from __future__ import annotations

import logging
import os
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from heapq import merge
from pathlib import Path, PurePosixPath

import numpy as np

from zoo.data.compact import Computed, Texts
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
_NOT_READ = (  # suffixes of other images
    "heic heics heif hif avci avifs jxl jxr wdp cr2 cr3 crw nef nrw arw srf sr2 dng raf orf rw2 pef srw x3f raw psd "
    "psb xcf svg svgz eps exr hdr dcm nii ico icns tga dds j2k jpx jpf j2c jpc jpm mj2 apng pbm pnm pam pcx sgi dib"
)
_OTHER_IMAGES = frozenset(_NOT_READ.split())


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
    left_out: list[str] = []
    members = list(found_in(root, left_out))
    if not members:
        raise DataError(f"{root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    ids = [name for name, _ in members]
    sources = [source for _, source in members]
    names, split, roles = without_parts(root, [PurePosixPath(name) for name in ids])
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


def read_images(path: str, labelled: bool) -> ImageSet:
    """Return the images below a folder in little memory; folders never mean a split.

    Args:
        path: as :func:`read_folder` takes it.
        labelled: take each image's folder as its class, if all images lie in folders.

    Raises:
        DataError: the folder is missing, not a folder, or holds no image.
    """
    root = Path(path)
    ids = Texts()
    folders: dict[str, int] = {}
    of_each = array("q")
    stored: dict[int, ImageSource] = {}  # an archive's directory is in memory anyhow
    for name, source in found_in(root):
        of_each.append(folders.setdefault(name.rpartition("/")[0], len(folders)))
        if not isinstance(source, Path):
            stored[len(ids)] = source
        ids.append(name)
    if not len(ids):
        raise DataError(f"{root} holds no images. Check the path.")
    images = ImageSet(ids, Computed(len(ids), partial(_source, root, ids, stored)))
    if not labelled or "" in folders:
        return images
    class_names = sorted(folders)
    place = np.empty(len(folders), np.int64)
    place[[folders[name] for name in class_names]] = np.arange(len(folders))
    return replace(images, labels=place[np.frombuffer(of_each, np.int64)], class_names=class_names)


def _source(root: Path, ids: Sequence[str], stored: Mapping[int, ImageSource], row: int) -> ImageSource:
    return stored[row] if row in stored else root / ids[row]


def found_in(root: Path, left_out: list[str] | None = None) -> Iterator[tuple[str, ImageSource]]:
    """Yield the images below a folder or in a zip archive: name relative to the root, and source; sorted by name.

    Zip archives directly in the folder are read as if unpacked there; one with images in its root, as if unpacked into
    a folder of its name. Links are followed. Hidden files and folders are skipped, and so are archives further down and
    files with other suffixes, which the log counts.

    Args:
        root: the folder or archive.
        left_out: receives the names of images in formats that cannot be read.

    Raises:
        DataError: the root is missing, a folder in it cannot be read, an archive is broken, or an archive's content is
            also there unpacked.
    """
    if not root.exists():
        several = " Give a folder, or in Python a list of paths." if set("*?[") & set(root.name) else ""
        raise DataError(f"{root} does not exist. Check the path given as data.{several}")
    others = _Others()
    archives = [root]
    kinds: list[Iterable[tuple[str, ImageSource]]] = []
    if root.is_dir():
        kinds.append(_files_below(root, others))
        archives = [path for path in sorted(root.iterdir()) if path.suffix.lower() == ".zip" and path.name[0] != "."]
        archives = [path for path in archives if not path.is_dir()]
    kinds += [_members_of(archive, root, others) for archive in archives]
    last, where = "", root
    for name, source in merge(*kinds, key=lambda entry: entry[0].split("/")):
        where = source.archive if isinstance(source, ZipMember) else where
        if name == last:
            raise DataError(f"{root} holds {name} twice, once in {where}. Remove the archive, or its unpacked copy.")
        last = name
        yield name, source
    others.tell(root)
    if left_out is not None:
        left_out += others.unread


def _members_of(archive: Path, root: Path, others: _Others) -> list[tuple[str, ImageSource]]:
    """Return the images of a zip archive that lies in a folder, or is the root itself; sorted by name."""
    try:
        require_regular(archive)
        with zipfile.ZipFile(archive) as opened:
            members = [info.filename for info in opened.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{archive} is neither a folder nor a readable zip archive ({error}). Tables end in .csv, .tsv, .jsonl "
            "or .parquet, and shards in .tar."
        ) from error
    names = [(PurePosixPath(name.replace("\\", "/")), name) for name in members]  # some tools on Windows write \
    images = [(name, member) for name, member in names if _is_image(name)]
    for name, _ in names:
        if not _is_image(name) and not _is_below_passed_over(name):
            others.add(str(name))
    if archive != root and any(len(name.parts) == 1 for name, _ in images):
        images = [(PurePosixPath(archive.stem) / name, member) for name, member in images]
    images.sort(key=lambda entry: entry[0].parts)
    return [(str(name), ZipMember(archive, member)) for name, member in images]


def _files_below(root: Path, others: _Others) -> Iterator[tuple[str, Path]]:
    """Yield the images below a folder, through links too, each folder once; sorted by name.

    Only one folder's names are in memory, and the remaining ones of the folders above it.

    Args:
        root: where to look.
        others: receives the files that are not images, except hidden ones.
    """
    seen = {os.path.realpath(root)}
    inside = [("", root, _listed(root, seen))]
    while inside:
        within, folder, names = inside[-1]
        for name, is_folder, is_file in names:
            if is_folder:
                inside.append((f"{within}{name}/", folder / name, _listed(folder / name, seen)))
                break
            suffix = "".join(name.rpartition(".")[1:]).lower()
            if suffix in IMAGE_SUFFIXES and is_file:
                yield within + name, folder / name
            elif suffix != ".zip" or within:
                others.add(within + name)
        else:
            inside.pop()


def _listed(folder: Path, seen: set[str]) -> Iterator[tuple[str, bool, bool]]:
    """List a folder without hidden names: each name in order, whether it is a folder, and whether it is a file.

    Args:
        folder: where to look.
        seen: real paths of the folders that are already read or about to be; links to them are skipped. Receives the
            folders in this one.
    """
    names: list[str] = []
    folders, odd = set(), set()
    try:
        with os.scandir(folder) as entries:  # knows the types without a stat for each file
            for entry in entries:
                if _is_passed_over(entry.name):
                    continue
                names.append(entry.name)
                if entry.is_dir():
                    folders.add(entry.name)
                elif not (entry.is_file() or entry.is_symlink()):  # broken links are reported when they are read
                    odd.add(entry.name)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}). Change its permissions, or move it."
        ) from error
    names.sort()
    targets = {os.path.realpath(folder / name): name for name in sorted(folders, reverse=True)}  # the first of several
    entered = {name for target, name in targets.items() if target not in seen}
    seen |= targets.keys()
    return ((name, name in folders, name not in odd) for name in names if name in entered or name not in folders)


class _Others:
    """Files that are left out: other files by suffix, images in formats that cannot be read, archives in folders."""

    def __init__(self) -> None:
        self.unread: list[str] = []
        self._archives: list[str] = []
        self._rest: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count a file."""
        if _suffix_of(name)[1:] in _OTHER_IMAGES:
            self.unread.append(name)
        elif _suffix_of(name) == ".zip":
            self._archives.append(name)
        else:
            self._rest[_suffix_of(name)] += 1

    def tell(self, root: Path) -> None:
        """Log what was left out."""
        if self.unread:
            log.warning(
                "%s: left out %d images in formats that cannot be read (%s), such as %s. Convert them to JPEG or PNG.",
                printable(root),
                len(self.unread),
                printable(_counted(Counter(map(_suffix_of, self.unread)))),
                printable(self.unread[0]),
            )
        if self._archives:
            log.warning(
                "%s: left out %d zip archives inside folders or other archives, such as %s. Unpack them.",
                printable(root),
                len(self._archives),
                printable(self._archives[0]),
            )
        if self._rest:
            log.info("%s: skipped files that are not images: %s", root, _counted(self._rest))


def _suffix_of(name: str) -> str:
    """Return a file's suffix in lower case, or its name if it has none."""
    path = PurePosixPath(name)
    return path.suffix.lower() or path.name


def _counted(suffixes: Counter[str]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))


def _is_image(name: PurePosixPath) -> bool:
    return name.suffix.lower() in IMAGE_SUFFIXES and not _is_below_passed_over(name)


def _is_below_passed_over(name: PurePosixPath) -> bool:
    return any(map(_is_passed_over, name.parts))


def _is_passed_over(part: str) -> bool:
    return part.startswith(".") or part.lower() in _OF_SYSTEMS
