"""Names of teachers as text: ``hf:facebook/dinov2-small#cls``, ``clip.onnx#image_embeds,size=224``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from zoo.arguments import METRICS
from zoo.errors import OptionError, did_you_mean, require_known
from zoo.formats.preprocessing import Preprocessing
from zoo.paths import expanded, given_path, is_there

FAMILIES = ("timm", "hf-hub", "hf", "open_clip", "st", "torchvision")
RUNTIMES = COMMAND, OPENVINO = ("command", "openvino")
"""Other prefixes before a colon: a program to run, and another runtime for an ONNX file."""
POOLINGS = ("cls", "mean")
LAYOUTS = ("nchw", "nhwc")
_PREFIX = re.compile(r"([A-Za-z][\w-]+):(.+)", re.DOTALL)
LARGEST_BATCH = 4096
_LARGEST = {"batch_size": LARGEST_BATCH, "timeout": 24 * 60 * 60}


@dataclass(frozen=True)
class Options:
    """The options after the ``#`` and the output of an address, as ``name=value``, separated by commas.

    Attributes:
        mean: mean per channel, of pixels in [0, 1], such as ``0.5`` or ``0.48/0.46/0.41``.
        std: standard deviation per channel, in the same form.
        size: height and width of the network's input, pixels, such as ``224`` or ``224x192``.
        resize: ``center`` for shorter side and centre crop, ``squash`` for both sides regardless of the aspect ratio.
        crop_pct: fraction of the resized image that the crop keeps.
        interpolation: ``bilinear`` or ``bicubic``.
        layout: layout of an ONNX file's input, ``nchw`` or ``nhwc``.
        metric: ``cosine`` or ``euclidean``.
        batch_size: images that are embedded at a time, or in one run of a command.
        timeout: seconds that one run of a command may take.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    size: tuple[int, int] | None = None
    resize: str | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    layout: str | None = None
    metric: str | None = None
    batch_size: int | None = None
    timeout: int | None = None

    @property
    def says_preprocessing(self) -> bool:
        """Return whether any option concerns preprocessing."""
        return bool(self._fields())

    def over(self, preprocessing: Preprocessing) -> Preprocessing:
        """Return preprocessing with these options in place of its own.

        Raises:
            OptionError: the result cannot work.
        """
        return replace(preprocessing, **self._fields())

    @property
    def modes(self) -> dict[str, str]:
        """Return the options that concern resizing, under timm's names."""
        said = {"interpolation": self.interpolation, "crop_mode": self.resize}
        return {name: value for name, value in said.items() if value is not None}

    def _fields(self) -> dict[str, Any]:
        named: dict[str, Any] = {"input_size": self.size, "crop_mode": self.resize, "crop_pct": self.crop_pct}
        named |= {"interpolation": self.interpolation, "mean": self.mean, "std": self.std}
        said = {name: value for name, value in named.items() if value is not None}
        if self.resize == "squash" and self.crop_pct is None:
            said["crop_pct"] = 1.0
        return said


@dataclass(frozen=True)
class Address:
    """The parsed name of a teacher.

    Attributes:
        text: the name as given.
        family: one of FAMILIES or RUNTIMES, or None for a path.
        name: the part after the family's prefix: a name in its library, a path, or a command with its arguments.
        output: the output to use, or None for the model's own convention.
        pooling: how tokens become a vector, "cls" or "mean", or None.
        options: preprocessing and the like.
    """

    text: str
    family: str | None
    name: str
    output: str | None = None
    pooling: str | None = None
    options: Options = field(default_factory=Options)

    @property
    def is_path(self) -> bool:
        """Return whether it is only the path of a file or folder."""
        return self.family is None and self.text == self.name

    def require_output_among(self, known: Sequence[str]) -> None:
        """Refuse a pooling, and outputs other than these, which are all that a library's image models have.

        Raises:
            OptionError: another output or a pooling is given.
        """
        if self.output not in (None, *known) or self.pooling:
            listed = ", ".join(f"#{name}" for name in known)
            raise OptionError(f"Teacher {self.text} has no output {self.output!r}; known are {listed}.")


def path_of(model: object) -> Path | None:
    """Return the path of a model, or None if it is not text or a path, or more than a path.

    Raises:
        OptionError: the text is not a model's address, or no file can have the path.
    """
    if not isinstance(model, str | Path):
        return None
    address = parse_address(str(model))
    return given_path(address.name) if address.is_path else None


def parse_address(text: str) -> Address:
    """Parse a teacher's name; text that is an existing path is taken as that path.

    Raises:
        OptionError: the family, an option or a value is unknown.
    """
    if is_there(expanded(text)):
        return Address(text, None, text)
    body, mark, fragment = text.rpartition("#")
    if not mark:
        body, fragment = text, ""
    family, name = None, body
    if (found := _PREFIX.fullmatch(body)) and not is_there(expanded(body)):
        require_known("kind of teacher", found[1], (*FAMILIES, *RUNTIMES))
        family, name = found[1], found[2]
    words = [word.strip() for word in fragment.split(",")]
    known = _options_known(family, name)
    if mark and "" in words:
        where = "nothing follows #" if words == [""] else "nothing stands beside a comma"
        raise OptionError(f"{text}: {where}. An output may follow #, and name=value: {', '.join(known)}.")
    first = "" if "=" in words[0] else words.pop(0)
    output, colon, pooling = first.rpartition(":")
    if not colon or pooling.isdigit():  # a number is part of a name, as TensorFlow writes them: Identity:0
        output, colon, pooling = first, "", ""
    if colon:
        require_known("pooling", pooling, POOLINGS)
        if not output:
            raise OptionError(f"{text}: {first!r} names no output. Write the output before the colon, or leave it out.")
    return Address(text, family, name, output or None, pooling or None, _options(words, text, known))


def _options_known(family: str | None, name: str) -> list[str]:
    """Return the options that a kind of teacher has; ready embeddings have a metric only."""
    if family == COMMAND:
        return ["metric", "batch_size", "timeout"]
    every = [each.name for each in fields(Options) if each.name != "timeout"]
    suffix = Path(name).suffix if family in (None, OPENVINO) else ""
    if suffix == ".npz":
        return ["metric"]
    return every if suffix == ".onnx" else [option for option in every if option != "layout"]


def _options(words: list[str], text: str, known: Sequence[str]) -> Options:
    said: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise OptionError(
                f"{text}: {word!r} is no option of such a teacher; after the output these may follow as name=value: "
                f"{', '.join(known)}.{did_you_mean(name, known)}"
            )
        if name in said:
            raise OptionError(f"{text}: {name} is given twice. Leave one out.")
        try:
            said[name] = _value(name, value)
        except ValueError as error:
            raise OptionError(f"{text}: {name} is {value!r}; it must be {error}.") from error
    return Options(**said)


def _value(name: str, value: str) -> Any:
    """Parse the value of an option.

    Raises:
        ValueError: the value is invalid; says what it must be.
    """
    words = {"resize": ("center", "squash"), "interpolation": ("bilinear", "bicubic"), "layout": LAYOUTS}
    words["metric"] = METRICS
    if name in words:
        if value not in words[name]:
            raise ValueError(" or ".join(words[name]))
        return value
    numbers = re.split("[/x]", value)
    try:
        if name in ("mean", "std"):
            found = [float(number) for number in numbers]
            if len(found) in (1, 3):
                return tuple(found * (3 // len(found)))
        elif name == "size":
            sides = [int(number) for number in numbers]
            if len(sides) in (1, 2):
                return sides[0], sides[-1]
        elif name in _LARGEST and 0 < int(value) <= _LARGEST[name]:
            return int(value)
        elif name == "crop_pct" and 0 < float(value) <= 1:
            return float(value)
    except ValueError:
        pass
    needed = {"mean": "one number or three, such as 0.5 or 0.48/0.46/0.41", "size": "pixels, such as 224 or 224x192"}
    needed |= {"std": needed["mean"], "crop_pct": "in (0, 1]"}
    needed |= {option: f"a whole number in 1..{largest}" for option, largest in _LARGEST.items()}
    raise ValueError(needed[name])
