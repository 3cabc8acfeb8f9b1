"""``shards:FILES``: webdataset's tar archives, with random access."""

from __future__ import annotations

import json
import logging
import tarfile
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from zoo.data.compact import Computed, Texts, most_repeated
from zoo.data.division.splits import Source
from zoo.data.rows import known_columns, text_of
from zoo.data.sources.addresses import Place, open_place, places_in, read_place
from zoo.data.sources.parts import parts_of_files
from zoo.data.stored import StoredImage
from zoo.data.table import COLUMNS, Table, source_of
from zoo.errors import DataError, first_line
from zoo.formats.documents import parsed
from zoo.images import IMAGE_SUFFIXES
from zoo.progress import progress

log = logging.getLogger(__name__)

_LABEL = COLUMNS["label"]
_TEXTS = ("cls", "txt", "json")
_LONGEST_TEXT = 1 << 20  # bytes


def read_shards(path: str, columns: Mapping[str, str] | None = None) -> Source:
    """Read webdataset shards: tar archives in which files with the same name up to the first dot form a sample.

    A sample has an image. Its class may be in a ``.json`` object, under the names of table columns; or else in a
    ``.cls`` file; or else in a ``.txt`` file, unless all texts differ, as captions do. Samples without an image are
    left out and logged. The headers of all shards are read once; images are read when needed.

    Args:
        path: a file, an address, or several: ``shards-{0000..0009}.tar``, ``{train,test}-*.tar``. Files whose names
            begin with train, test and the like are these parts.
        columns: names of the JSON's keys, by their meaning; ``cls`` and ``txt`` count as keys too.

    Raises:
        DataError: a shard is missing, broken or compressed; two samples have the same name; there is no image; or as
            for tables.
    """
    places = places_in(path)
    parts = parts_of_files([str(place) for place in places])
    keys, members, fields = Texts(), Texts(), Texts()
    shards, offsets, sizes = array("l"), array("q"), array("q")
    names: dict[str, None] = {}
    without = 0
    for number, place in enumerate(progress(places, "reading shards")):
        for key, (image, sample) in _samples(place).items():
            if image is None:
                without += 1
                continue
            if parts is not None:
                sample["split"] = parts[number]
            names |= dict.fromkeys(sample)
            keys.append(key)
            members.append(image.member)
            fields.append(json.dumps(sample))
            shards.append(number)
            offsets.append(image.offset)
            sizes.append(image.size)
    if not len(keys):
        raise DataError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    if without:
        log.warning("%s: left out %d samples without an image that can be read", path, without)
    images = Computed(len(keys), lambda row: TarMember(places[shards[row]], members[row], offsets[row], sizes[row]))
    if most_repeated(keys) is not None:  # numbered anew in each shard
        keys = Texts(f"{image.place_name}/{key}" for image, key in zip(images, keys, strict=True))
    header = known_columns(path, list(names), _spellings(fields, names, columns), columns)
    named = {name: column for name, column in zip(names, header, strict=True) if column}
    cells: dict[str, Texts] = {column: Texts() for column in named.values()}
    for sample in map(json.loads, fields):
        for name, column in named.items():
            cells[column].append(sample.get(name, ""))
    table = Table(path, Computed(len(keys), lambda row: f"sample {keys[row]}"), {"id": keys} | cells, images=images)
    return source_of(table)


def _spellings(
    fields: Sequence[str], names: Collection[str], columns: Mapping[str, str] | None
) -> dict[str, tuple[str, ...]]:
    """Return the names of columns, among them of the label the first of JSON's own, cls and txt that there is.

    Args:
        fields: of each sample, in JSON.
        names: of all of them.
        columns: as :func:`read_shards` takes them.
    """
    spellings: dict[str, tuple[str, ...]] = {name: others for name, others in COLUMNS.items() if name != "path"}
    if "id" in (columns or {}):
        spellings["id"] = ()
    if {"label", *_LABEL} & set(names):
        return spellings
    if "cls" in names:
        spellings["label"] = ("cls",)
    elif "txt" in names:
        texts = Texts(json.loads(sample).get("txt", "") for sample in fields)
        if most_repeated(texts) is not None:
            spellings["label"] = ("txt",)
    return spellings


def _samples(place: Place) -> dict[str, tuple[TarMember | None, dict[str, str]]]:
    """Return the samples of a shard by name: the image, if there is one, and the texts under their own names."""
    samples: dict[str, tuple[TarMember | None, dict[str, str]]] = {}
    try:
        with open_place(place) as file, tarfile.open(fileobj=file, mode="r:") as shard:
            for member in shard:
                shard.members = []  # type: ignore[attr-defined]  # which would keep all of them
                if not member.isfile():
                    continue
                name = PurePosixPath(member.name)
                stem, _, ending = name.name.partition(".")
                if not stem:  # a hidden file
                    continue
                key = str(name.with_name(stem))
                image, texts = samples.setdefault(key, (None, {}))
                ending = ending.lower()
                if f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES:
                    found = TarMember(place, member.name, member.offset_data, member.size)
                    samples[key] = (image or found, texts)
                elif ending in _TEXTS:
                    if member.size > _LONGEST_TEXT:
                        raise DataError(f"{place}: {member.name} is text of {member.size} bytes. Remove it.")
                    opened = shard.extractfile(member)
                    texts |= _texts(f"{place}: {member.name}", ending, opened.read() if opened else b"")
    except tarfile.TarError as error:
        raise DataError(
            f"{place} is not a readable tar archive ({first_line(error)}). If it is compressed, decompress it."
        ) from error
    except OSError as error:
        raise DataError(f"{place} cannot be read ({error.strerror or first_line(error)}). Check the path.") from error
    return samples


def _texts(name: str, ending: str, content: bytes) -> dict[str, str]:
    try:
        text = content.decode("utf-8").strip()
        found = parsed(text) if ending == "json" else {ending: text}
    except ValueError as error:  # includes UnicodeDecodeError
        raise DataError(f"{name} is not valid {ending} in UTF-8 ({first_line(error)}). Fix or remove it.") from error
    if not isinstance(found, dict):
        return {}
    return {str(key): text_of(value) for key, value in found.items() if not isinstance(value, list | dict)}


@dataclass(frozen=True)
class TarMember(StoredImage):
    """An image inside a tar archive.

    Attributes:
        shard: the archive.
        member: the file's name in the archive.
        offset: position of its first byte.
        size: its size in bytes.
    """

    shard: Place
    member: str
    offset: int
    size: int

    @property
    def place_name(self) -> str:
        """Return the archive's name without folder and suffix."""
        return PurePosixPath(str(self.shard).replace("\\", "/")).stem

    def content(self) -> bytes:
        return read_place(self.shard, self.offset, self.offset + self.size)

    def mark(self) -> int:
        """Return the size; tar archives have no checksums of their files."""
        return self.size

    def likeness(self) -> int:
        return self.size

    def __str__(self) -> str:
        return f"{self.shard}:{self.member}"
