"""Candidates for int8, tried in order: each is quantised, measured by what it retrieves, timed and noted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto
from onnxruntime.quantization.calibrate import TensorsData
from tqdm import tqdm

from export.benchmark.timing import median_and_p95, timed_in_turn
from export.int8.judge import Judge, judging, preprocessed, session_of
from export.int8.quantization import calibrate, to_int8
from export.int8.schemes import Scheme, blocks_of, weights_of
from export.onnx.graph import Graph
from export.onnx.tracing import INPUTS, PIXELS, join
from zoo.data.image_set import ImageSet
from zoo.errors import ModelError, first_line
from zoo.retrieval.bootstrap import at_least, drop_interval
from zoo.retrieval.measures import neighbour_overlap

log = logging.getLogger(__name__)

_MOST_FOR_BLOCKS = 500  # images to find by which blocks harm most
_LEAST_INT8 = 0.5  # of the weights; a file with less is refused: it would be int8 by name only
_RESAMPLES = 2000


class Trial:
    """What was tried, in order; drops are against the first, or against a network given for that."""

    def __init__(
        self,
        judge: Judge,
        calibration: ImageSet,
        content: dict[str, Any],
        max_drop: float | None,
        save: Callable[[dict[str, Any]], object],
        prefix: str = "",
        reference: ModelProto | None = None,
    ) -> None:
        self.judge = judge
        self.calibration = calibration
        self.content = content
        self.max_drop = max_drop
        self.save = save
        self.prefix = prefix
        self.networks: dict[str, ModelProto] = {}
        self.schemes: dict[str, Scheme] = {}
        self._ranges: dict[str, TensorsData] = {}
        self._reference: tuple[np.ndarray, np.ndarray] | None = None
        if reference is not None:
            self._reference = judge.measure(judge.embed(reference, one_by_one=False))

    @property
    def entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content["candidates"]
        return found

    def inside(self) -> list[dict[str, Any]]:
        """Return the int8 candidates inside the budget."""
        return [entry for entry in self.entries if entry["precision"] == "int8" and entry["inside_budget"]]

    def add(self, name: str, network: ModelProto, scheme: Scheme | None, in_float: tuple[str, ...] = ()) -> None:
        """Measure a network and note it."""
        start = time.monotonic()
        precision, name = "int8" if scheme is not None else name, self.prefix + name
        share = None if scheme is None else _int8_share(network)
        embeddings = self.judge.embed(network, one_by_one=scheme is not None and scheme.kind == "dynamic")
        entry: dict[str, Any] = {
            "name": name,
            "precision": precision,
            "scheme": None if scheme is None else asdict(scheme),
            "float_blocks": list(in_float),
            "bytes": len(join(replace(self.judge.graphs, network=network), PIXELS).SerializeToString()),
            "int8_share": share,
            "score": None,
            "drop": None,
            "drop_interval": None,
            "neighbour_overlap": None,
            "inside_budget": False,
            "latency_ms": None,
            "error": None,
        }
        if np.isfinite(embeddings).all():
            scores, neighbours = self.judge.measure(embeddings)
            if self._reference is None:
                self._reference = scores, neighbours
            expected, nearest = self._reference
            drop = float(expected.mean() - scores.mean())
            entry |= {
                "score": float(scores.mean()),
                "drop": drop,
                "drop_interval": list(drop_interval(scores, expected, _RESAMPLES, self.judge.seed)),
                "neighbour_overlap": neighbour_overlap(neighbours, nearest),
                "inside_budget": self.max_drop is None or at_least(self.max_drop, drop),
            }
            if share is not None and share < _LEAST_INT8:
                entry |= {"inside_budget": False, "error": f"only {100 * share:.0f} % of the weights are in int8"}
            log.info("%s: %s %.2f %%, %.1f s", name, self.judge.name, 100 * entry["score"], time.monotonic() - start)
        elif self._reference is None:
            raise ModelError(
                f"{self.judge.source} gives embeddings that are not finite on {self.judge.images.ids[0]!r} and others: "
                "its weights are broken, or training diverged. Train it anew."
            )
        else:
            entry["error"] = "embeddings that are not finite"
        if entry["inside_budget"] or not in_float:  # others are neither timed nor shipped, and there may be many
            self.networks[name] = network
        self.entries.append(entry)
        self.save(self.content)

    def add_int8(self, scheme: Scheme, in_float: tuple[str, ...] = ()) -> None:
        """Quantise by a scheme, but for some blocks, measure and note it; a failure is noted too."""
        name = scheme.name + (f", in float: {', '.join(in_float)}" if in_float else "")
        try:
            network = self.quantized(scheme, in_float)
        except Exception as error:  # onnxruntime's quantisers raise many kinds
            log.warning("%s cannot be made: %s", name, first_line(error))
            self.entries.append(_failed(self.prefix + name, scheme, in_float, first_line(error)))
            return
        self.schemes[self.prefix + name] = scheme
        self.add(name, network, scheme, in_float)

    def quantized(self, scheme: Scheme, in_float: tuple[str, ...] = (), only: str | None = None) -> ModelProto:
        """Quantise but for some blocks, or one block only."""
        network = self.judge.graphs.network
        blocks = blocks_of(network)
        left = [name for block, nodes in blocks.items() if block in in_float for name in nodes]
        if only is not None:
            left = [node.name for node in network.graph.node if node.name not in blocks[only]]
        return to_int8(network, scheme, self._ranges_for(scheme), left)

    def _ranges_for(self, scheme: Scheme) -> TensorsData | None:
        if scheme.kind == "dynamic":
            return None
        if scheme.ranges not in self._ranges:
            tensors = preprocessed(self.judge.graphs, self.calibration)
            shown = tqdm(tensors, total=len(self.calibration), desc=f"calibrating, {scheme.ranges}", leave=False)
            self._ranges[scheme.ranges] = calibrate(self.judge.graphs.network, scheme.ranges, shown)
        return self._ranges[scheme.ranges]

    def add_mixed(self) -> None:
        """Leave blocks in float, those first that harm retrieval most, until a candidate is inside the budget."""
        measured = [entry for entry in self.entries if entry["name"] in self.schemes and entry["error"] is None]
        if not measured:
            return
        scheme = self.schemes[min(measured, key=lambda entry: entry["drop"])["name"]]
        network = self.judge.graphs.network
        blocks = blocks_of(network)
        everything = weights_of(network, (node.name for node in network.graph.node))
        left: tuple[str, ...] = ()
        for block in self._most_harmful(scheme, list(blocks)):
            left = (*left, block)
            kept = everything - weights_of(network, (name for each in left for name in blocks[each]))
            if kept < _LEAST_INT8 * everything:
                return
            self.add_int8(scheme, left)
            if self.inside():
                return

    def _most_harmful(self, scheme: Scheme, blocks: list[str]) -> list[str]:
        """Return the blocks, first the one that changes nearest neighbours most when it alone is in int8."""
        rows = np.sort(judging(self.judge.images, _MOST_FOR_BLOCKS, self.judge.seed))
        one_by_one = scheme.kind == "dynamic"
        _, nearest = self.judge.measure(self.judge.embed(self.judge.graphs.network, one_by_one, rows), rows)
        overlaps = {}
        for block in tqdm(blocks, desc="blocks", leave=False):
            embeddings = self.judge.embed(self.quantized(scheme, only=block), one_by_one, rows)
            _, neighbours = self.judge.measure(embeddings, rows)
            overlaps[block] = neighbour_overlap(neighbours, nearest)
        self.content["blocks"] = {"scheme": scheme.name, "images": len(rows), "neighbour_overlap": overlaps}
        return sorted(blocks, key=lambda block: overlaps[block])

    def time(self, runs: int) -> None:
        """Time all candidates in turn, from pixels and from tensors, one image on one thread."""
        if runs < 1:
            return
        image = np.ascontiguousarray(self.judge.images.pixels(0))
        tensor = next(preprocessed(self.judge.graphs, self.judge.images))
        given = {"pixels": {"image": image[None]}, "tensor": {"tensor": tensor}}
        sessions = {
            (name, takes): session_of(join(replace(self.judge.graphs, network=network), takes), threads=1)
            for name, network in self.networks.items()
            for takes in INPUTS
        }
        calls = {key: partial(_run, session, given[key[1]]) for key, session in sessions.items()}
        taken = timed_in_turn(calls, runs)
        for entry in self.entries:
            if entry["name"] in self.networks:
                entry["latency_ms"] = {
                    takes: median_and_p95(taken[entry["name"], takes]) | {"threads": 1} for takes in INPUTS
                }


def _int8_share(network: ModelProto) -> float:
    """Return which share of the weights that nodes multiply by is in int8, in [0, 1]."""
    computing = Graph(network).computing()
    total = sum(node["weights"] for node in computing)
    return sum(node["weights"] for node in computing if node["precision"] == "int8") / max(total, 1)


def _failed(name: str, scheme: Scheme, in_float: tuple[str, ...], error: str) -> dict[str, Any]:
    empty = dict.fromkeys(("bytes", "int8_share", "score", "drop", "drop_interval", "neighbour_overlap", "latency_ms"))
    known = {"name": name, "precision": "int8", "scheme": asdict(scheme), "float_blocks": list(in_float)}
    return known | empty | {"inside_budget": False, "error": error}


def _run(session: onnxruntime.InferenceSession, given: dict[str, np.ndarray], run: int) -> None:
    session.run(None, given)
