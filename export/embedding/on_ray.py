"""The same parts by Ray Data: a pool of processes on the machines of a cluster, each of which writes whole parts.

Ray starts the processes, assigns the parts, and reassigns those of a process that died. The files, and the point where
an interrupted run continues, are the same as without Ray.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.embedding.parts import class_of_each, embed_rows
from export.embedding.shard import Shard, require_few, rows_of
from export.index.gallery import Encoder, open_encoder
from zoo.data.image_set import ImageSet
from zoo.errors import ModelError, UserError, first_line
from zoo.formats.embedding_parts import EmbeddingFacts, write_part
from zoo.teachers.address import path_of
from zoo.versions import available_cores

log = logging.getLogger(__name__)


class PartWriter:
    """One process of the pool: opens the encoder at its first part, then embeds and writes part after part.

    Args:
        model: the encoder, as ``open_encoder`` takes it.
        folder: folder of the parts, on storage that all machines share.
        facts: what all parts have in common.
        max_unreadable: unreadable images allowed in one part; with more it is not written.
        threads: threads per inference.
        place: folder that relative image paths start from.
    """

    def __init__(
        self, model: str, folder: Path, facts: EmbeddingFacts, max_unreadable: int, threads: int, place: str
    ) -> None:
        self.model, self.folder, self.facts = model, folder, facts
        self.max_unreadable, self.threads, self.place = max_unreadable, threads, place
        self._encoder: Encoder | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write a part.

        Args:
            row: its number as "part", and its images, pickled by :func:`embed_on_ray`, as "images".

        Returns:
            The number as "part"; "broken", id and reason of each unreadable image as JSON; and "error", why the part
            was not written, or "". Errors are returned because Ray would print a raised one with its whole traceback.
        """
        part = int(row["part"])
        try:
            broken = self._write(part, row["images"])
        except (UserError, OSError) as error:
            return {"part": part, "broken": "[]", "error": str(error)}
        return {"part": part, "broken": json.dumps(broken), "error": ""}

    def _write(self, part: int, pickled: bytes) -> list[tuple[str, str]]:
        from ray import cloudpickle

        images: ImageSet = cloudpickle.loads(pickled)
        if self._encoder is None:
            self._encoder = self._opened()
        found, vectors, broken = embed_rows(self._encoder, images)
        require_few(broken, self.max_unreadable)
        write_part(self.folder, part, self.facts, found.ids, vectors, class_of_each(found), broken)
        return list(broken)

    def _opened(self) -> Encoder:
        with contextlib.suppress(OSError):  # without that folder on this machine, no path can be relative to it
            os.chdir(self.place)
        encoder = open_encoder(self.model, self.threads)
        if encoder.facts["digest"] != self.facts.model_digest:
            raise ModelError(
                f"{self.model} on {platform.node()} has digest {encoder.facts['digest'][:12]}, and the command was "
                f"given one with {self.facts.model_digest[:12]}. Put the same model on all machines."
            )
        return encoder


def embed_on_ray(model: str | Path, images: ImageSet, shard: Shard, processes: int | None = None) -> None:
    """Write the missing parts of a shard with the processes of a Ray cluster.

    The cluster is the one that this process is connected to, else the one that the environment variable RAY_ADDRESS
    names, else a new one on this machine alone, which stops when the work is done. Usage reports to Ray are off.

    Args:
        model: the encoder, found under the same name on all machines.
        images: all images, in the same order in each run.
        shard: the parts that this run writes.
        processes: number of processes; None for one per GPU if the model uses GPUs, else one per core.

    Raises:
        UserError: a process found an image, the model or the folder unusable.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import cloudpickle
    from ray.data import ActorPoolStrategy, DataContext

    if not shard.waiting:
        shard.finish()
        return
    ours = not ray.is_initialized()
    if ours:
        _connect()
    try:
        DataContext.get_current().enable_progress_bars = False  # ours is shown
        for name in ("ray.data", "ray.data._internal"):
            logging.getLogger(name).setLevel(logging.ERROR)
        pool, share = shares(model, [node["Resources"] for node in ray.nodes() if node["Alive"]], processes)
        path = path_of(model)
        named = str(model if path is None else path.absolute())
        facts = shard.facts
        writer = (named, shard.folder.absolute(), facts, shard.max_unreadable, max(int(share["num_cpus"]), 1))
        rows = [
            {"part": part, "images": cloudpickle.dumps(images.subset(rows_of(part, facts)))} for part in shard.waiting
        ]
        # One block per part: when a process dies, only its part is repeated.
        parts = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            PartWriter,
            fn_constructor_args=[*writer, str(Path.cwd())],
            compute=ActorPoolStrategy(size=min(pool, len(rows))),
            **share,
        )
        log.info("%d parts by %d processes of Ray", len(rows), min(pool, len(rows)))
        for done in parts.iter_rows():
            if done["error"]:
                raise UserError(str(done["error"]))
            broken = [(str(name), str(reason)) for name, reason in json.loads(done["broken"])]
            shard.count(len(rows_of(int(done["part"]), facts)))
            shard.require_few(broken)
            shard.written(broken)
    except ray.exceptions.RayError as error:
        raise UserError(f"Ray stopped the work: {first_line(error)} The same command goes on from here.") from error
    finally:
        if ours:
            ray.shutdown()
    shard.finish()


def _connect() -> None:
    """Join the cluster at RAY_ADDRESS, or start one on this machine."""
    import ray

    address = os.environ.get("RAY_ADDRESS") or "local"  # without one, Ray would look for a cluster on this machine
    cores = available_cores() if address == "local" else None
    try:
        ray.init(address, num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray's exceptions here share no base class
        where = "does not start here" if address == "local" else f"is not reached at RAY_ADDRESS {address}"
        raise UserError(f"Ray {where} ({first_line(error)}). Leave engine out, or check the cluster.") from error


def shares(
    model: str | Path, machines: Sequence[dict[str, float]], processes: int | None
) -> tuple[int, dict[str, float]]:
    """Return the number of processes, and the resources of each.

    Args:
        model: the encoder; an .onnx file runs on CPUs.
        machines: resources of each machine under Ray's names: "CPU", "GPU".
        processes: number asked for, or None.

    Returns:
        The number, and "num_cpus" and perhaps "num_gpus" for each process: as much as leaves a place for all of them,
        each on one machine and one GPU.
    """
    path = path_of(model)
    on_cpus = path is not None and path.suffix == ".onnx"
    gpus = 0 if on_cpus else int(sum(machine.get("GPU", 0) for machine in machines))
    used = [machine for machine in machines if machine.get("GPU" if gpus else "CPU", 0) >= 1]
    cores = int(sum(machine.get("CPU", 0) for machine in used))
    pool = processes or gpus or max(cores, 1)
    of_gpu = {"num_gpus": _fraction(math.ceil(pool / gpus))} if gpus else {}

    def places(cpus: float) -> int:
        """Return how many processes with this share fit."""
        fitting = [int(machine.get("CPU", 0) / cpus) for machine in used]
        if gpus:
            fitting = [min(each, int(m["GPU"] / of_gpu["num_gpus"])) for each, m in zip(fitting, used, strict=True)]
        return sum(fitting)

    smaller = [*range(max(cores // pool, 1), 0, -1), *map(_fraction, range(2, pool + 1))]
    return pool, {"num_cpus": next((cpus for cpus in smaller if places(cpus) >= pool), 1), **of_gpu}


def _fraction(count: int) -> float:
    """Return a share of which ``count`` fit in 1, with the four decimals that Ray keeps."""
    return 1 if count == 1 else 10_000 // count / 10_000
