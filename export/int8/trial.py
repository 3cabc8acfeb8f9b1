"""Candidates for int8, tried in order: each is quantised, measured by retrieval, timed and recorded."""

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

from export.benchmark.timing import median_and_p95, timed_in_turn
from export.int8.budget import Budget, Drop
from export.int8.judge import Judge, judging, preprocessed, session_of
from export.int8.preparation import Prepared
from export.int8.schemes import Scheme, blocks_of, weights_of
from export.onnx.graph import Graph
from export.onnx.tracing import INPUTS, PIXELS, join
from zoo.data.image_set import ImageSet
from zoo.errors import ModelError, OptionError, first_line
from zoo.progress import progress
from zoo.retrieval.measures import neighbour_overlap

log = logging.getLogger(__name__)

_MOST_FOR_BLOCKS = 500  # images that rank blocks by harm
_LEAST_INT8 = 0.5  # share of the weights; a file with less is refused, because it would be int8 in name only
_UNKNOWN: dict[str, Any] = {
    **dict.fromkeys(("score", "drop", "drop_interval", "standard_error", "neighbour_overlap")),
    "parts": [],
    "inside_budget": False,
    "latency_ms": None,
    "error": None,
}
"""Fields of the entry of a candidate that was not measured."""


class Trial:
    """The candidates tried, in order. Drops are relative to the first, or to ``reference`` if given.

    Attributes:
        scores: scores of each candidate on all judged images, float or bool ``(Q,)``; without those measured on the
            first part only.
    """

    def __init__(
        self,
        judge: Judge,
        calibration: ImageSet,
        content: dict[str, Any],
        budget: Budget,
        save: Callable[[dict[str, Any]], object],
        prefix: str = "",
        reference: ModelProto | None = None,
    ) -> None:
        self.judge = judge
        self.calibration = calibration
        self.content = content
        self.budget = budget
        self.save = save
        self.prefix = prefix
        self.networks: dict[str, ModelProto] = {}
        self.schemes: dict[str, Scheme] = {}
        self.scores: dict[str, np.ndarray] = {}
        self.drops: dict[str, Drop] = {}
        self.prepared = Prepared(judge.graphs, calibration)
        self._reference: list[tuple[np.ndarray, np.ndarray]] | None = None
        if reference is not None:
            self._reference = self._measured(reference, one_by_one=False)

    @property
    def entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content["candidates"]
        return found

    def inside(self) -> list[dict[str, Any]]:
        """Return the int8 candidates within the budget."""
        return [entry for entry in self.entries if entry["precision"] == "int8" and entry["inside_budget"]]

    def add(self, name: str, network: ModelProto, scheme: Scheme | None, in_float: tuple[str, ...] = ()) -> None:
        """Measure a network and record it.

        An int8 candidate outside the budget on the first part, the validation classes, is not measured on the other.
        """
        start = time.monotonic()
        precision, name = "int8" if scheme is not None else name, self.prefix + name
        share = None if scheme is None else _int8_share(network)
        entry: dict[str, Any] = {
            "name": name,
            "precision": precision,
            "scheme": None if scheme is None else asdict(scheme),
            "float_blocks": list(in_float),
            "bytes": len(join(replace(self.judge.graphs, network=network), PIXELS).SerializeToString()),
            "int8_share": share,
            **_UNKNOWN,
        }
        found = self._measured(network, scheme is not None and scheme.kind == "dynamic", scheme is not None)
        if found:
            if self._reference is None:
                self._reference = found
            entry |= self._compared(name, found)
            if share is not None and share < _LEAST_INT8:
                entry |= {"inside_budget": False, "error": f"only {100 * share:.0f} % of the weights are in int8"}
            log.info("%s: %s %.2f %%, %.1f s", name, self.judge.name, 100 * entry["score"], time.monotonic() - start)
        elif self._reference is None:
            raise ModelError(
                f"{self.judge.source} gives embeddings that are not finite on {self.judge.parts[0].images.ids[0]!r} "
                "and others: its weights are broken, or training diverged. Train it again."
            )
        else:
            entry["error"] = "embeddings that are not finite"
        if entry["inside_budget"] or not in_float:  # the others are neither timed nor shipped, and may be many
            self.networks[name] = network
        self.entries.append(entry)
        self.save(self.content)

    def _measured(
        self, network: ModelProto, one_by_one: bool, until_outside: bool = False
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return scores and neighbours on each part, or only the first; empty if an embedding is not finite."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for part in range(len(self.judge.parts)):
            embeddings = self.judge.embed(network, one_by_one, part)
            if not np.isfinite(embeddings).all():
                return []
            found.append(self.judge.measure(embeddings, part))
            if until_outside and self._reference is not None:
                drop = float(self._reference[part][0].mean() - found[part][0].mean())
                if not self.budget.allows(drop):
                    break
        return found

    def _compared(self, name: str, found: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        """Record a candidate's scores, and return the fields of its entry that compare it with the reference."""
        assert self._reference is not None
        known = list(zip(found, self._reference, self.judge.parts, strict=False))
        seed = self.judge.seed
        drops = [Drop.of(scores, expected, seed) for (scores, _), (expected, _), _ in known]
        scores = np.concatenate([scores for (scores, _), _, _ in known])
        expected = np.concatenate([expected for _, (expected, _), _ in known])
        pooled = self.drops[name] = Drop.of(scores, expected, seed)
        overlaps = [neighbour_overlap(neighbours, nearest) for (_, neighbours), (_, nearest), _ in known]
        complete = len(known) == len(self.judge.parts)
        if complete:
            self.scores[name] = scores
        return {
            "score": pooled.score,
            "drop": pooled.mean,
            "drop_interval": list(pooled.interval),
            "standard_error": pooled.standard_error,
            "neighbour_overlap": float(np.average(overlaps, weights=[drop.queries for drop in drops])),
            "parts": [
                {"of": part.of, "queries": drop.queries, "score": drop.score, "drop": drop.mean}
                | {"drop_interval": list(drop.interval)}
                for drop, (_, _, part) in zip(drops, known, strict=True)
            ],
            "inside_budget": complete and self.budget.holds(drops, pooled),
        }

    def add_int8(self, scheme: Scheme, in_float: tuple[str, ...] = ()) -> None:
        """Quantise by a scheme, except some blocks, and measure and record the result; a failure is recorded too.

        Raises:
            OptionError: the temporary folder has no room; no other scheme would fare better.
        """
        name = scheme.name + (f", in float: {', '.join(in_float)}" if in_float else "")
        try:
            network = self.quantized(scheme, in_float)
        except OptionError:
            raise
        except Exception as error:  # onnxruntime's quantisers raise many kinds
            log.warning("%s cannot be made: %s", name, first_line(error))
            self.entries.append(_failed(self.prefix + name, scheme, in_float, first_line(error)))
            return
        self.schemes[self.prefix + name] = scheme
        self.add(name, network, scheme, in_float)

    def quantized(self, scheme: Scheme, in_float: tuple[str, ...] = (), only: str | None = None) -> ModelProto:
        """Return the network quantised except the blocks ``in_float``, or with only one block quantised."""
        network = self.judge.graphs.network
        blocks = blocks_of(network)
        left = [name for block, nodes in blocks.items() if block in in_float for name in nodes]
        if only is not None:
            left = [node.name for node in network.graph.node if node.name not in blocks[only]]
        return self.prepared.quantized(scheme, left)

    def add_mixed(self) -> None:
        """Leave blocks in float, those that harm retrieval most first, until a candidate is within the budget."""
        measured = [entry for entry in self.entries if entry["name"] in self.schemes and entry["error"] is None]
        if not measured:
            return
        # All were measured on the first part, but only some on the other.
        scheme = self.schemes[min(measured, key=lambda entry: entry["parts"][0]["drop"])["name"]]
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
        """Return the blocks, sorted by how much each alone in int8 changes the nearest neighbours, most first."""
        rows = np.sort(judging(self.judge.parts[0].images, _MOST_FOR_BLOCKS, self.judge.seed))
        one_by_one = scheme.kind == "dynamic"
        scheme = replace(scheme, bias_corrected=False)  # correction is slow and only shifts means
        _, nearest = self.judge.measure(self.judge.embed(self.judge.graphs.network, one_by_one, rows=rows), rows=rows)
        overlaps = {}
        for block in progress(blocks, "blocks"):
            embeddings = self.judge.embed(self.quantized(scheme, only=block), one_by_one, rows=rows)
            _, neighbours = self.judge.measure(embeddings, rows=rows)
            overlaps[block] = neighbour_overlap(neighbours, nearest)
        self.content["blocks"] = {"scheme": scheme.name, "images": len(rows), "neighbour_overlap": overlaps}
        return sorted(blocks, key=lambda block: overlaps[block])

    def time(self, runs: int) -> None:
        """Time all candidates in turn, from pixels and from tensors, with one image on one thread."""
        if runs < 1:
            return
        images = self.judge.parts[0].images
        image = np.ascontiguousarray(images.pixels(0))
        tensor = next(preprocessed(self.judge.graphs, images))
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
    """Return the share of the weights of computing nodes that is in int8, in [0, 1]."""
    computing = Graph(network).computing()
    total = sum(node["weights"] for node in computing)
    return sum(node["weights"] for node in computing if node["precision"] == "int8") / max(total, 1)


def _failed(name: str, scheme: Scheme, in_float: tuple[str, ...], error: str) -> dict[str, Any]:
    known = {"name": name, "precision": "int8", "scheme": asdict(scheme), "float_blocks": list(in_float)}
    return known | {"bytes": None, "int8_share": None} | _UNKNOWN | {"error": error}


def _run(session: onnxruntime.InferenceSession, given: dict[str, np.ndarray], run: int) -> None:
    session.run(None, given)
