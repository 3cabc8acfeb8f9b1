"""Which int8 file to ship: candidates are quantised, measured by what they retrieve, timed, and chosen or refused."""

from __future__ import annotations

import logging
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto
from onnxruntime.quantization.calibrate import TensorsData
from tqdm import tqdm

from export.onnx_graph import Graph
from export.quantization import Scheme, blocks_of, calibrate, schemes_for, to_fp16, to_int8, weights_of
from export.timing import median_and_p95, timed_in_turn
from export.tracing import INPUTS, PIXELS, Graphs, Traced, join
from zoo.arguments import require_at_least
from zoo.data.image_set import DataSplits, ImageSet
from zoo.errors import DataError, ModelError, RefusedError, first_line
from zoo.label_retrieval import NDCG_K, measure_by_labels
from zoo.models import facts_of
from zoo.retrieval import drop_interval, measure, neighbour_overlap
from zoo.versions import has_vnni, machine, versions

log = logging.getLogger(__name__)

SCHEMA = 1
MOST_JUDGED = 2000
_MOST_FOR_BLOCKS = 500  # images to find by which blocks harm most
_LEAST_OF_CLASS = 8
_CACHE_BYTES = 256 << 20  # of decoded pixels: those to judge on are needed once, those to calibrate on twice
_LEAST_INT8 = 0.5  # of the weights; a file with less is refused: it would be int8 by name only
_AS_FAST = 1.05  # times the shortest latency, below which the smaller drop decides
_WIDE = 0.1  # a budget that is likely meant in points
_RESAMPLES = 2000
_BATCH = 16
_HOSTS = {"x86": ("x86_64", "amd64"), "arm64": ("aarch64", "arm64")}


@dataclass(frozen=True, eq=False)
class Chosen:
    """The int8 network to ship.

    Attributes:
        network: its graph.
        entry: what ``candidates.json`` says of it.
        content: what ``candidates.json`` holds.
    """

    network: ModelProto
    entry: dict[str, Any]
    content: dict[str, Any]


def choose_int8(
    traced: Traced,
    splits: DataSplits,
    *,
    search: bool,
    target: str = "x86",
    max_drop: float | None = 0.005,
    calibration_images: int = 256,
    max_unreadable: int = 10,
    latency_runs: int = 50,
    seed: int = 0,
    before: RefusedError | None = None,
    save: Callable[[dict[str, Any]], object] = lambda content: None,
) -> Chosen:
    """Quantise a network, measure what each candidate retrieves and how fast it is, and choose one.

    Candidates are judged on validation images, which are of training classes held out, or where there are none on
    training images that were not calibrated on; never on test images. The measure is Recall@1, or nDCG@10 where there
    are continuous labels and no classes.

    Args:
        traced: the model.
        splits: its data.
        search: try all schemes that fit, and where none is inside the budget leave blocks in float, most harmful first;
            otherwise the usual best scheme alone.
        target: what it will run on: "x86", "arm64" or "web".
        max_drop: the budget: how far the measure may fall below fp32's, as a fraction; None for no limit.
        calibration_images: how many training images activations are measured on.
        max_unreadable: how many unreadable images are left out before an error.
        latency_runs: how often each candidate is timed; 0 for never.
        seed: of the choice of images and of bootstrap samples.
        before: where the model was finished after a refusal, that refusal: drops are against its fp32, and what was
            tried then stays on record.
        save: called with what is known after each candidate.

    Raises:
        RefusedError: none is inside the budget.
        DataError: too few images to calibrate or judge with, or without labels to judge by.
        ModelError: the model gives embeddings that are not finite.
        OptionError: unknown target, or no images to calibrate with are asked for.
    """
    require_at_least(1, calibration_images=calibration_images)
    if max_drop is not None and max_drop > _WIDE:
        log.warning("max_drop %g allows int8 to lose %g points; 0.005 is half a point", max_drop, 100 * max_drop)
    calibration, judged, judged_as = _images(splits, calibration_images, max_unreadable, seed)
    network = traced.graphs.network
    schemes = schemes_for(network, target, has_vnni())
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "model": traced.name,
        "target": target,
        "budget": {"max_drop": max_drop},
        "measure": None,
        "calibration": {
            "images": len(calibration),
            "classes": 0 if calibration.labels is None else len(np.unique(calibration.labels)),
            "seed": seed,
        },
        "judged_on": {"images": len(judged), "of": judged_as, "data": splits.name},
        "chosen": None,
        "chosen_by": None,
        "candidates": [],
        "machine": machine(),
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory() as folder:
        judge = _Judge(traced, judged, Path(folder), seed)
        content["measure"] = judge.name
        if before is None:
            trial = _Trial(judge, calibration, content, max_drop, save)
        else:
            content["candidates"] = [entry | {"inside_budget": False} for entry in before.content["candidates"]]
            content["before"] = {name: before.content.get(name) for name in ("chosen_by", "blocks", "calibration")}
            trial = _Trial(judge, calibration, content, max_drop, save, "finished, ", before.network)
        trial.add("fp32", network, None)
        trial.add("fp16", to_fp16(network), None)
        for scheme in schemes if search else schemes[:1]:
            trial.add_int8(scheme)
        if search and not trial.inside():
            trial.add_mixed()
    trial.time(latency_runs)
    entry = _choose(trial, target)
    save(content)
    if entry is None:
        raise RefusedError(*_refusal(trial), content, network)
    return Chosen(trial.networks[entry["name"]], entry, content)


class _Judge:
    """Measures networks on the same images, preprocessed once."""

    def __init__(self, traced: Traced, images: ImageSet, folder: Path, seed: int) -> None:
        self.graphs = traced.graphs
        self.images = images
        self.source = traced.name
        self.metric = facts_of(traced.model).metric
        self.seed = seed
        self.by_class = images.labels is not None
        self.name = "Recall@1" if self.by_class else f"nDCG@{NDCG_K}"
        shape = tuple(dim.dim_value for dim in _type_of(traced.graphs.network.graph.input[0]).shape.dim[1:])
        # On disk, since at 224 pixels 2,000 images take 1.2 GB.
        self.tensors = np.memmap(folder / "tensors", np.float32, "w+", shape=(len(images), *shape))
        prepared = preprocessed(self.graphs, images)
        for row, tensor in enumerate(tqdm(prepared, total=len(images), desc="preparing images", leave=False)):
            self.tensors[row] = tensor[0]

    def embed(self, network: ModelProto, one_by_one: bool, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the embeddings of some rows of the images or of all, float32 ``(N, dim)``.

        Where ranges are found at each run, images must not share a batch, whose range would be that of all of them.
        """
        session = _session(join(replace(self.graphs, network=network), "tensor"), threads=None)
        step = 1 if one_by_one else _BATCH
        wanted = np.arange(len(self.tensors)) if rows is None else rows
        starts = tqdm(range(0, len(wanted), step), desc="embedding", leave=False, disable=rows is not None)
        embedded = [session.run(None, {"tensor": self.tensors[wanted[at : at + step]]})[0] for at in starts]
        return np.concatenate(embedded)

    def measure(self, embeddings: np.ndarray, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the score of each query ``(Q,)`` and its 10 nearest images ``(Q, 10)``."""
        images = self.images if rows is None else self.images.subset(rows)
        if self.by_class:
            result = measure(embeddings, images, self.metric, ks=(1, 10))
            return result.recall[1], result.neighbours
        by_labels = measure_by_labels(embeddings, images, self.metric)
        return by_labels.ndcg(NDCG_K), by_labels.neighbours


class _Trial:
    """What was tried, in order; drops are against the first, or against a network given for that."""

    def __init__(
        self,
        judge: _Judge,
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
                "inside_budget": self.max_drop is None or drop <= self.max_drop,
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
            (name, takes): _session(join(replace(self.judge.graphs, network=network), takes), threads=1)
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


def _choose(trial: _Trial, target: str) -> dict[str, Any] | None:
    """Mark and return the fastest inside the budget; the one that loses least where this machine is not the target."""
    inside = trial.inside()
    if not inside:
        return None
    timed = inside[0]["latency_ms"] is not None
    if timed and platform.machine().lower() in _HOSTS.get(target, ()):
        fastest = min(_milliseconds(entry) for entry in inside)
        as_fast = [entry for entry in inside if _milliseconds(entry) <= _AS_FAST * fastest]
        entry = min(as_fast, key=lambda entry: entry["drop"])
        trial.content["chosen_by"] = "latency here, of those inside the budget"
    else:
        entry = min(inside, key=lambda entry: entry["drop"])
        why = f"latency here says nothing of {target}" if timed else "nothing was timed"
        trial.content["chosen_by"] = f"smallest drop; {why}"
    trial.content["chosen"] = entry["name"]
    return entry


def _milliseconds(entry: dict[str, Any]) -> float:
    median: float = entry["latency_ms"]["tensor"]["median"]
    return median


def _refusal(trial: _Trial) -> tuple[str, str]:
    """Return what was found, and what can be done."""
    measured = [entry for entry in trial.entries if entry["precision"] == "int8" and entry["error"] is None]
    if not measured:
        return "No int8 file could be made; candidates.json says why.", "Ship fp32 or fp16."
    best = min(measured, key=lambda entry: entry["drop"])
    found = (
        f"No int8 file keeps {trial.judge.name} within {100 * (trial.max_drop or 0):g} points of fp32; the best, "
        f"{best['name']}, loses {100 * best['drop']:.2f}."
    )
    remedy = "Allow" if trial.prefix else "Finish the student with qat_epochs, allow"
    return found, f"{remedy} a larger max_drop, or ship fp32."


def _int8_share(network: ModelProto) -> float:
    """Return which share of the weights that nodes multiply by is in int8, in [0, 1]."""
    computing = Graph(network).computing()
    total = sum(node["weights"] for node in computing)
    return sum(node["weights"] for node in computing if node["precision"] == "int8") / max(total, 1)


def preprocessed(graphs: Graphs, images: ImageSet) -> Iterator[np.ndarray]:
    """Yield the network's input for each image, float32 ``(1, 3, h, w)``, by the preprocessing that ships."""
    session = _session(graphs.preprocess, threads=None)
    for index in range(len(images)):
        yield session.run(None, {"image": images.pixels(index)[None]})[0]


def _images(splits: DataSplits, count: int, max_unreadable: int, seed: int) -> tuple[ImageSet, ImageSet, str]:
    """Return images to calibrate on, images to judge on, and what those are."""
    if not len(splits.train):
        raise DataError(f"{splits.name} has no training images to calibrate int8 on. Choose another split.")
    order = balanced(splits.train, len(splits.train), seed)
    if len(splits.validation):
        judged, judged_as = splits.validation, "validation classes"
    else:
        log.warning("%s has no validation images: int8 is judged on training classes.", splits.name)
        judged, judged_as = splits.train.subset(np.sort(order[count:])), "training classes"
    judged = judged.subset(np.sort(judging(judged, MOST_JUDGED, seed)))
    if judged.labels is None and judged.continuous is None:
        raise DataError(
            f"{splits.name} has no labels to judge int8 by. Put each class's images in a folder, give "
            "continuous_labels, or export fp32 or fp16."
        )
    calibration = splits.train.subset(np.sort(order[:count])).checked(max_unreadable, _CACHE_BYTES)
    if not len(judged):
        raise DataError(
            f"All {len(splits.train)} training images of {splits.name} are needed to calibrate on, so none is left to "
            "judge int8 on. Hold classes out (validation), or lower calibration_images."
        )
    return calibration, judged.checked(max_unreadable, _CACHE_BYTES), judged_as


def balanced(images: ImageSet, count: int, seed: int) -> np.ndarray:
    """Return rows of images, as many of each class as there are, drawn at random; int ``(min(count, N),)``.

    Args:
        images: the images; without labels, all are of one class.
        count: how many.
        seed: of the draw.
    """
    shuffled = np.random.default_rng(seed).permutation(len(images))
    groups = np.zeros(len(images), dtype=np.int64) if images.labels is None else images.labels
    return shuffled[np.argsort(_turns(groups, shuffled)[shuffled], kind="stable")][:count]


def judging(images: ImageSet, count: int, seed: int) -> np.ndarray:
    """Return rows of images to retrieve among, int ``(min(count, N),)``: of many classes, and several of each.

    Classes are drawn at random, and from each as many images as all classes could give, but at least 8, queries and
    gallery in turn: with fewer, a query would have hardly another image of its class to find.

    Args:
        images: the images.
        count: how many.
        seed: of the draw.
    """
    if len(images) <= count:
        return np.arange(len(images))
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(images))
    if images.labels is None:
        return shuffled[:count]
    labels = images.labels
    roles = np.zeros(len(images), np.int64) if images.roles is None else np.unique(images.roles, return_inverse=True)[1]
    turns = _turns(labels * (roles.max() + 1) + roles, shuffled)
    classes = generator.permutation(np.unique(labels))
    places = np.empty(labels.max() + 1, dtype=np.int64)
    places[classes] = np.arange(len(classes))
    order = np.lexsort((turns, places[labels]))  # class after class, of each one of every role in turn
    within = np.arange(len(order)) - np.searchsorted(places[labels][order], places[labels][order])
    return order[within < max(_LEAST_OF_CLASS, count // len(classes))][:count]


def _turns(groups: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the how-manieth of its group each row is, in an order of the rows; int ``(N,)``."""
    turns = np.empty(len(groups), dtype=np.int64)
    met: dict[int, int] = {}
    for row in order:
        group = int(groups[row])
        turns[row] = met.get(group, 0)
        met[group] = turns[row] + 1
    return turns


def _failed(name: str, scheme: Scheme, in_float: tuple[str, ...], error: str) -> dict[str, Any]:
    empty = dict.fromkeys(("bytes", "int8_share", "score", "drop", "drop_interval", "neighbour_overlap", "latency_ms"))
    known = {"name": name, "precision": "int8", "scheme": asdict(scheme), "float_blocks": list(in_float)}
    return known | empty | {"inside_budget": False, "error": error}


def _session(proto: ModelProto, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, given: dict[str, np.ndarray], run: int) -> None:
    session.run(None, given)


def _type_of(value: Any) -> Any:
    return value.type.tensor_type
