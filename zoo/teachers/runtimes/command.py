"""A program as a model: paths of images in, vectors out. See docs/how-to/runtimes.md for the protocol."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.image_set import ImageSet
from zoo.errors import ModelError, OptionError, first_line, shown
from zoo.files import digest
from zoo.models.facts import COSINE, names_only
from zoo.paths import expanded, is_there
from zoo.progress import progress
from zoo.teachers.address import Options
from zoo.teachers.base import Teacher, pixels_of
from zoo.teachers.runtimes.vectors import require_vectors

_BATCH, _TIMEOUT = 256, 600


class CommandTeacher(Teacher):
    """A program that reads paths of PNG files from standard input and writes a JSON list of numbers for each.

    It is started without a shell, once per ``batch_size`` images (256), and must end within ``timeout`` seconds (600).
    ``validate`` measures it as a model, and gates apply to it; it is not timed, since that would include its start.

    Args:
        command: the program and its arguments, quoted as in a shell.
        options: options of an address: ``metric`` (cosine), ``batch_size`` and ``timeout``.

    Raises:
        OptionError: the command is empty, or its quotes are not closed.
        ModelError: there is no such program.
    """

    runtime = "command"
    ships = True

    def __init__(self, command: str, options: Options | None = None) -> None:
        options = options or Options()
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise OptionError(f"command:{command} cannot be read ({first_line(error)}). Close its quotes.") from error
        if not self._words:
            raise OptionError("command: names no program. Write it after the colon, with its arguments.")
        program = shutil.which(str(expanded(self._words[0])))
        if program is None:
            raise ModelError(
                f"{shown(self._words[0])} of command:{command} is no program that can be run. Check its path."
            )
        self._words[0] = program
        self._timeout = options.timeout or _TIMEOUT
        self._batch = options.batch_size or _BATCH
        self.metric = options.metric or COSINE
        self.name = f"command:{Path(program).name}"
        # For reports, with absolute paths reduced to file names.
        self.source = f"command:{' '.join(map(names_only, self._words))}"
        self.dim: int | None = None
        hashed = hashlib.sha256(f"{command} {self.metric}".encode())
        for word in self._words:
            if is_there(file := Path(word)) and file.is_file():
                hashed.update(digest(file).encode())
        self.digest = hashed.hexdigest()[:16]

    def embed_images(self, images: ImageSet) -> np.ndarray:
        with progress(None, "embedding", len(images)) as seen:
            rows = []
            for start in range(0, len(images), self._batch):
                part = range(start, min(start + self._batch, len(images)))
                rows.append(self._run(images.pixels(index) for index in part))
                seen.update(len(part))
        return np.concatenate(rows)

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        pixels = pixels_of(views)
        parts = [pixels[start : start + self._batch] for start in range(0, len(pixels), self._batch)]
        return torch.from_numpy(np.concatenate([self._run(iter(part)) for part in parts])).to(views.device)

    def _run(self, images: Iterator[np.ndarray]) -> np.ndarray:
        """Run the program on images, uint8 ``(H, W, 3)``; return float32 ``(N, D)``."""
        with tempfile.TemporaryDirectory(prefix="command-") as folder:
            files = []
            for place, pixels in enumerate(images):
                file = Path(folder) / f"{place:06}.png"
                Image.fromarray(pixels).save(file, compress_level=1)
                files.append(file)
            lines = self._answers("".join(f"{file}\n" for file in files))
        rows = [self._vector(line, place + 1) for place, line in enumerate(lines)]
        if len(rows) != len(files):
            raise ModelError(
                f"{self.name} wrote {len(rows)} lines for {len(files)} images; it must write one for each."
            )
        if len({len(row) for row in rows}) > 1:
            raise ModelError(f"{self.name} wrote vectors of different sizes: {sorted({len(row) for row in rows})}.")
        vectors = require_vectors(rows, len(files), self.dim, self.name)
        self.dim = vectors.shape[1]
        return vectors

    def _answers(self, given: str) -> list[str]:
        """Run the program on these lines, and return the lines that it writes.

        Raises:
            ModelError: it cannot be started, fails, takes too long, or does not write text.
        """
        try:
            done = subprocess.run(
                self._words, input=given.encode(), capture_output=True, timeout=self._timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ModelError(
                f"{self.name} did not end within {self._timeout} s. Give #timeout=SECONDS, or a smaller batch_size; or "
                "does it wait for more than its standard input?"
            ) from error
        except OSError as error:
            raise ModelError(f"{self.name} cannot be started ({first_line(error)}).") from error
        if done.returncode:
            errors = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it wrote no error"]
            raise ModelError(f"{self.name} exited with {done.returncode} ({shown_line(errors[-1])}).")
        try:
            return [line for line in done.stdout.decode("utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.name} wrote no text ({first_line(error)}).") from error

    def _vector(self, line: str, place: int) -> list[float]:
        try:
            found: Any = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(type(value) in (int, float) for value in found):
            raise ModelError(
                f"{self.name} wrote {shown(line)} in line {place}; it must be a JSON list of numbers, such as "
                "[0.5, -0.25]. Send messages to standard error."
            )
        return found


def shown_line(line: str) -> str:
    """Return a line of another program as messages show it: long ones cut off."""
    return line if len(line) <= 200 else f"{line[:200]}..."
