"""What teachers are named by in text: ``hf:facebook/dinov2-small#cls``, ``clip.onnx#image_embeds,size=224``."""

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
"""What else may stand before a colon: a program to run, and another runtime for an ONNX file."""
POOLINGS = ("cls", "mean")
LAYOUTS = ("nchw", "nhwc")
_PREFIX = re.compile(r"([A-Za-z][\w-]+):(.+)", re.DOTALL)
LARGEST_BATCH = 4096
_LARGEST = {"batch_size": LARGEST_BATCH, "timeout": 24 * 60 * 60}


@dataclass(frozen=True)
class Options:
    """What may follow the ``#`` of an address after the output, as ``name=value``, separated by commas.

    Attributes:
        mean: per channel, of pixels in [0, 1], as ``0.5`` or ``0.48/0.46/0.41``.
        std: as mean.
        size: height and width of the network's input, pixels, as ``224`` or ``224x192``.
        resize: ``center`` for shorter side and centre crop, ``squash`` for both sides regardless of the aspect ratio.
        crop_pct: fraction of the resized image that the crop keeps.
        interpolation: ``bilinear`` or ``bicubic``.
        layout: of an ONNX file's input, ``nchw`` or ``nhwc``.
        metric: ``cosine`` or ``euclidean``.
        batch_size: images that are embedded at a time; by a command, in one run of it.
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
        """Whether anything is said of how pixels become the input."""
        return bool(self._fields())

    def over(self, preprocessing: Preprocessing) -> Preprocessing:
        """Return preprocessing with what is said here in place of its own.

        Raises:
            OptionError: it cannot work.
        """
        return replace(preprocessing, **self._fields())

    @property
    def modes(self) -> dict[str, str]:
        """How images are resized, as far as it is said here, under timm's names."""
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
    """A teacher's name in text, taken apart.

    Attributes:
        text: as it was given.
        family: one of FAMILIES or RUNTIMES, or None for a path.
        name: what comes after the family's prefix: a name of its library, a path, or a command with its arguments.
        output: the output that is taken, or None for the model's own convention.
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
        """Whether it is the path of a file or folder, and nothing more."""
        return self.family is None and self.text == self.name

    def require_output_among(self, known: Sequence[str]) -> None:
        """Refuse an output, or a pooling, where the image side of a library's models has these outputs alone.

        Raises:
            OptionError: another is asked for.
        """
        if self.output not in (None, *known) or self.pooling:
            listed = ", ".join(f"#{name}" for name in known)
            raise OptionError(f"Teacher {self.text} has no output {self.output!r}; known are {listed}.")


def path_of(model: object) -> Path | None:
    """Return the path that a model is given by; None where it is no text, or says more than where a file lies.

    Raises:
        OptionError: the text is no address of a model, or no path that a file can have.
    """
    if not isinstance(model, str | Path):
        return None
    address = parse_address(str(model))
    return given_path(address.name) if address.is_path else None


def parse_address(text: str) -> Address:
    """Take a teacher's name apart; a path that exists as it stands is one.

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
    """Return the options that what an address names can follow: ready embeddings have a metric alone."""
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
    """Return the value of an option.

    Raises:
        ValueError: it is another; says what it must be.
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
