"""The report: every number and word of page and table is right, and everything from outside is escaped."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from export.report.examples import _spread
from export.report.page import render_html
from export.report.plots import _draw_label_distance, _draw_ndcg, _draw_recall, _draw_size
from export.report.tables import print_table
from zoo.data import ImageSet
from zoo.data.continuous import VectorLabels
from zoo.errors import DataError
from zoo.retrieval.label_measures import LabelRetrievalResult, measure_by_labels, random_and_best
from zoo.retrieval.measures import RetrievalResult, measure

Content = dict[str, Any]
Results = dict[str, RetrievalResult]

CLASS_NAMES = ["<script>alert(1)</script>", "a\"b'c", "日本 & é", "{{ 7 * 7 }}", "plain", "tabby", "tortoise", "manx"]
VOID = {"br", "col", "hr", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """What a browser would see: elements, tables by id, text; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.examples: list[tuple[str, list[list[dict[str, str]]]]] = []
        self.text = ""
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows = self.tables[attributes["id"]] = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag == "dd":
            self.text += ": "
        classes = attributes.get("class", "").split()
        if "example" in classes:
            self.examples.append((attributes["data-kind"], []))
        if "strip" in classes:
            self.examples[-1][1].append([])
        if tag == "figure":
            self.examples[-1][1][-1].append(
                {"id": attributes["title"], "class": attributes.get("class", ""), "caption": ""}
            )

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self._rows[-1][-1] += data
        if "figcaption" in self._open:
            self.examples[-1][1][-1][-1]["caption"] += data


def words(text: str) -> str:
    """Return the text with single spaces."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def images() -> ImageSet:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 5)
    ids = [f'<img src="x" onerror="go()">/{i}' for i in range(40)]
    pixels = [rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(40)]
    return ImageSet(ids, pixels, labels, CLASS_NAMES)


@pytest.fixture(scope="module")
def results(images: ImageSet) -> Results:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(8, 16))
    teacher = centres[images.labels] + 0.9 * rng.normal(size=(40, 16))
    model = teacher + 0.9 * rng.normal(size=(40, 16))
    return {"teacher": measure(teacher, images), "onnx-fp32": measure(model, images)}


def gate(**given: Any) -> Content:
    none: Content = {"min_retention": None, "min_gain": None, "gain_by": "mean"}
    return none | {"passed": True, "reasons": [], "narrow": []} | given


def step(origin: str, difference: float, low: float, high: float) -> Content:
    return {"from": origin, "difference": difference, "interval": [low, high]}


@pytest.fixture
def content() -> Content:
    def stage(name: str, recalls: tuple[float, ...], **more: Any) -> Content:
        recall = dict(zip(("1", "2", "4", "8", "10"), recalls, strict=True))
        return {"stage": name, "source": f"runs/<{name}>", "recall": recall, "metric": "cosine", **more}

    def times(*triples: tuple[float, float, int]) -> Content:
        entries = [{"median": m, "p95": p, "threads": t} for m, p, t in triples]
        return {"latency_ms": entries[0], "latency_ms_by_threads": entries}

    return {
        "schema": 1,
        "data": {
            "name": "folder:<b>cats</b>",
            "split": "first-half",
            "train": {"images": 41, "classes": 9},
            "test": {"images": 43, "classes": 8},
            "queries": 40,
            "gallery": 40,
            "left_out": 3,
            "unreadable": 0,
            "chance": 0.1026,
        },
        "verdict": None,
        "gate": gate(min_retention=0.95),
        "stages": [
            stage(
                "teacher",
                (0.83, 0.87125, 0.9, 0.95, 0.96),
                r_precision=0.51234,
                map_at_r=0.41238,
                retention=1.0,
                retention_interval=[1.0, 1.0],
                neighbour_overlap=1.0,
                dim=1024,
                parameters=25_557_032,
                bytes=102_500_000,
                runtime="torch",
                **times((48.214, 60.5, 1), (30.0, 31.0, 2)),
            ),
            stage(
                "onnx-fp32",
                (0.8118, 0.86, 0.891, 0.944, 0.955),
                r_precision=0.50111,
                map_at_r=0.39999,
                retention=0.97807,
                retention_interval=[0.97123, 0.98512],
                step=step("teacher", -0.0182, -0.0301, -0.0049),
                neighbour_overlap=0.7345,
                dim=128,
                parameters=3_116_712,
                bytes=6_029_412,
                runtime="onnxruntime",
                **times((9.45, 11.017, 1), (6.5, 7.25, 2)),
            ),
        ],
        "warnings": [],
        "bootstrap": {"resamples": 2000, "confidence": 0.95, "seed": 7},
        "machine": {"processor": "Some <CPU>", "cores": 2, "system": "Linux", "instruction_sets": ["avx2", "avx512f"]},
        "versions": {"python": "3.11.9", "numpy": "2.4.6"},
    }


def test_page_is_whole_and_refers_to_nothing_outside(content: Content, results: Results, images: ImageSet) -> None:
    html = render_html(content, results, images)
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert page.elements[0] == ("html", {"lang": "en"})
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "a", "form")
        assert not {"href", "srcset"} & set(attributes)
        if tag == "img":
            assert attributes["src"].startswith(("data:image/jpeg;base64,", "data:image/svg+xml;base64,"))
            assert attributes["alt"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "colgroup")


def test_page_is_deterministic(content: Content, results: Results, images: ImageSet) -> None:
    assert render_html(content, results, images) == render_html(copy.deepcopy(content), results, images)


def test_names_are_escaped(content: Content, results: Results, images: ImageSet) -> None:
    html = render_html(content, results, images)
    page = Page(html)
    assert "<script" not in html and 'onerror="' not in html and "<b>cats" not in html and "<CPU>" not in html
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "b", "cpu", "teacher", "onnx-fp32"}
    assert all("onerror" not in attributes for _, attributes in page.elements)
    for name in ("folder:<b>cats</b>", "runs/<onnx-fp32>", "Some <CPU>"):
        assert name in page.text
    captions = {figure["caption"] for _, strips in page.examples for strip in strips for figure in strip}
    assert {caption.lstrip("✓✗ ") for caption in captions} <= set(CLASS_NAMES)
    assert "49" not in captions


def test_names_that_are_not_utf8_can_be_written(content: Content, results: Results, images: ImageSet) -> None:
    strange = replace(images, ids=[f"photo\udcff{i}.jpg" for i in range(40)])
    assert b"photo?" in render_html(content, results, strange).encode("utf-8")


def test_table_of_stages(content: Content, results: Results, images: ImageSet) -> None:
    rows = Page(render_html(content, results, images)).tables["stages"]
    assert rows[1] == ["@1", "@2", "@4", "@8", "@10", "median", "p95"]
    assert rows[2] == [
        *("teacher", "83.00", "87.12", "90.00", "95.00", "96.00", "51.23", "41.24", "100.00 [100.00, 100.00]"),
        *("100.00", "1,024", "25,557,032", "102.50", "48.21", "60.50"),
    ]
    assert rows[3] == [
        *("onnx-fp32", "81.18", "86.00", "89.10", "94.40", "95.50", "50.11", "40.00", "97.81 [97.12, 98.51]"),
        *("73.45", "128", "3,116,712", "6.03", "9.45", "11.02"),
    ]
    assert len(rows) == 4


def test_latency_by_threads(content: Content, results: Results, images: ImageSet) -> None:
    content["stages"][0]["latency_ms_by_threads"].pop()
    assert Page(render_html(content, results, images)).tables["threads"] == [
        ["Model", "1 thread", "2 threads"],
        ["teacher", "48.21 (60.50)", "–"],
        ["onnx-fp32", "9.45 (11.02)", "6.50 (7.25)"],
    ]


def test_steps(content: Content, results: Results, images: ImageSet) -> None:
    middle = copy.deepcopy(content["stages"][1])
    middle |= {"stage": "student", "retention": 0.97807}
    content["stages"].insert(1, middle)
    content["stages"][2]["recall"]["1"] = 0.8
    content["stages"][2] |= {"retention": 0.96386, "step": step("student", -0.0118, -0.025, 0.001)}
    assert Page(render_html(content, results, images)).tables["steps"][1:] == [
        ["teacher → student", "83.00", "81.18", "−1.82 [−3.01, −0.49]", "97.81"],
        ["student → onnx-fp32", "81.18", "80.00", "−1.18 [−2.50, +0.10]", "96.39"],
    ]


@pytest.fixture
def searched(content: Content) -> Content:
    """The content with the model's row once more, through an index and in a mixed pair."""
    model = content["stages"][1]
    index = {"kind": "binary", "of": "onnx-fp32", "parameters": {"overfetch": 10}, "fixed_bytes": 983}
    index |= {"bytes_per_vector": 144.04, "ms_per_query": 0.1234}
    recall = model["recall"] | {"1": 0.8091}
    pair = {"query": "onnx-fp32", "gallery": "teacher", "agreement": 0.99, "between": True, "finding": "1 < <b>2</b>."}
    content["stages"] += [
        model | {"stage": "onnx-fp32 → teacher", "pair": pair, "step": None},
        model | {"stage": "onnx-fp32 + binary", "recall": recall, "index": index},
        model | {"stage": "onnx-fp32 + flat", "index": index | {"parameters": {}, "ms_per_query": None}},
    ]
    content["stages"][-2]["step"] = step("onnx-fp32", -0.0027, -0.004, 0.0)
    content["stages"][-1]["step"] = step("onnx-fp32", 0.0, 0.0, 0.0)
    return content


def test_indexes_and_pairs_are_rows_but_no_models(
    content: Content, searched: Content, results: Results, images: ImageSet
) -> None:
    page = Page(render_html(searched, results, images))
    assert page.tables["indexes"][1:] == [
        ["onnx-fp32 + binary", "80.91", "−0.27 [−0.40, 0.00]", "144.0", "0.123", "overfetch 10"],
        ["onnx-fp32 + flat", "81.18", "0.00 [0.00, 0.00]", "144.0", "–", "–"],
    ]
    assert [row[0] for row in page.tables["stages"][2:]] == [stage["stage"] for stage in searched["stages"]]
    for table in ("steps", "threads"):
        assert len(page.tables[table]) == (2 if table == "steps" else 3)
    assert "onnx-fp32 keeps 97.8\u00a0% of the teacher's Recall@1" in page.text
    assert "1 < <b>2</b>." in page.text
    assert "search is exact, but through indexes, and a query" in page.text
    axes = Figure().subplots()
    _draw_size(axes, searched)
    assert [line.get_label() for line in axes.lines] == ["teacher", "onnx-fp32"]


@pytest.fixture
def beside(content: Content) -> Content:
    """The content with a baseline, and a verdict on it."""
    model = content["stages"][1]
    row = {"stage": "net <i>, PCA to 128", "baseline": "student", "bytes": None, "step": None, "retention": 1.03}
    content["stages"].insert(1, model | row | {"latency_ms": None, "latency_ms_by_threads": []})
    gain = {"difference": -0.049, "interval": [-0.068, -0.031]}
    entry = {"stage": "onnx-fp32", "baseline": row["stage"], "kind": "student", "recall_at_1": gain, "map_at_r": gain}
    content["verdict"] = {"outcome": "worse", "sentence": "It is <b>worse</b>.", "remarks": ["So it is."]}
    content["verdict"] |= {"notes": ["One is left out."], "comparisons": [entry]}
    return content


def test_a_baseline_is_shown_as_one_and_the_verdict_first(beside: Content, results: Results, images: ImageSet) -> None:
    page = Page(render_html(beside, results, images))
    assert [row[0] for row in page.tables["stages"][2:]] == ["teacher", "net <i>, PCA to 128 (baseline)", "onnx-fp32"]
    assert page.tables["untrained"] == [
        ["Model", "Baseline", "Recall@1", "MAP@R"],
        ["onnx-fp32", "net <i>, PCA to 128", "−4.90 [−6.80, −3.10]", "−4.90 [−6.80, −3.10]"],
    ]
    assert ("p", {"class": "verdict worse"}) in page.elements and ("tr", {"class": "baseline"}) in page.elements
    said = ["It is <b>worse</b>.", "So it is.", "One is left out.", "onnx-fp32 keeps 97.8"]
    places = [page.text.index(sentence) for sentence in said]
    assert places == sorted(places)
    assert len(page.tables["steps"]) == 2 and len(page.tables["threads"]) == 3
    axes = Figure().subplots()
    _draw_recall(axes, beside)
    assert [(line.get_label(), line.get_linestyle()) for line in axes.lines] == [
        ("teacher", "-"),
        ("net <i>, PCA to 128 (baseline)", ":"),
        ("onnx-fp32", "--"),
    ]


def test_the_verdict_is_printed_before_the_table(beside: Content) -> None:
    stream = io.StringIO()
    print_table(beside, Console(file=stream, width=200))
    lines = stream.getvalue().splitlines()
    assert lines[:3] == ["It is <b>worse</b>.", "So it is.", "One is left out."] and lines[3].startswith("stage")
    teacher, baseline, rule, model = lines[5:]
    assert words(teacher).startswith("teacher 83.00") and words(model).startswith("onnx-fp32 81.18")
    assert words(baseline).startswith("net <i>, PCA to 128 (baseline) 81.18") and rule.strip() == ""


def test_twenty_rows_look_different(content: Content) -> None:
    model = content["stages"][1]
    content["stages"] += [model | {"stage": f"onnx-fp32-{number}"} for number in range(2, 20)]
    for draw in (_draw_recall, _draw_size):
        axes = Figure().subplots()
        draw(axes, content)
        looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
        assert len(looks) == len(axes.lines) == 20


def test_printed_table_has_what_indexes_take(searched: Content) -> None:
    stream = io.StringIO()
    print_table(searched, Console(file=stream, width=200))
    heading, _, teacher, *_ = lines = stream.getvalue().splitlines()
    assert heading.split()[-2:] == ["bytes/vector", "ms/query"]
    assert teacher.split()[-2:] == ["–", "–"]
    assert [line.split()[-2:] for line in lines if " + " in line] == [["144.0", "0.123"], ["144.0", "–"]]
    assert lines[-1] == "1 < <b>2</b>."


def test_headline(content: Content, results: Results, images: ImageSet) -> None:
    text = Page(render_html(content, results, images)).text
    assert (
        "onnx-fp32 keeps 97.8\u00a0% of the teacher's Recall@1 [97.1,\u00a098.5] with 8.2× fewer parameters, "
        "8× fewer dimensions, a 17× smaller file, 5.1× less latency on one thread (onnxruntime against torch)."
    ) in text
    assert "Recall@1 is 81.18 % against the teacher's 83.00 %; a random order reaches 10.26 %." in text


def test_headline_of_a_model_that_saves_nothing(content: Content, results: Results, images: ImageSet) -> None:
    content["stages"][1] |= {
        "dim": 2048,
        "parameters": 25_557_033,
        "bytes": 205_000_000,
        "runtime": "torch",
        "latency_ms": {"median": 96.43, "p95": 100.0, "threads": 1},
    }
    text = Page(render_html(content, results, images)).text
    assert "[97.1,\u00a098.5] with 2× as many dimensions, a 2× larger file, 2× the latency on one thread." in text


@pytest.mark.parametrize(
    ("found", "state", "verdict"),
    [
        (gate(min_retention=0.95), "passed", "✓ Gate passed: every model keeps at least 95\u00a0% of the teacher's"),
        (
            gate(min_retention=0.985, passed=False, reasons=["98.5\u00a0% was asked for; <b>.", "And more."]),
            "failed",
            "✗ Gate failed: 98.5\u00a0% was asked for; <b>. And more.",
        ),
        (
            gate(min_gain=0.005, narrow=["onnx-fp32 is at +0.6 points"]),
            "passed",
            "Gate passed, narrowly: every model is at least 0.5 points above its network as it comes. "
            "Narrow: onnx-fp32 is at +0.6 points.",
        ),
        (gate(), "none", "No gate: no minimum retention or gain was set."),
    ],
)
def test_gate_in_words_and_colour(
    content: Content, results: Results, images: ImageSet, found: Content, state: str, verdict: str
) -> None:
    content["gate"] = found
    page = Page(render_html(content, results, images))
    assert verdict in page.text
    assert ("p", {"class": f"gate {state}"}) in page.elements


def test_unknown_values_are_dashes(content: Content, results: Results, images: ImageSet) -> None:
    unknown: Content = {"parameters": None, "bytes": None, "latency_ms": None, "latency_ms_by_threads": []}
    for stage in content["stages"]:
        stage |= unknown
    page = Page(render_html(content, results, images))
    assert page.tables["stages"][3][-5:] == ["128", "–", "–", "–", "–"]
    assert "threads" not in page.tables
    assert sum("svg" in attributes.get("src", "") for _, attributes in page.elements) == 1
    assert "[97.1,\u00a098.5] with 8× fewer dimensions." in page.text


def test_queries_lost_and_won(content: Content, results: Results, images: ImageSet) -> None:
    page = Page(render_html(content, results, images))
    teacher, model = results["teacher"], results["onnx-fp32"]
    ids, labels = list(images.ids), np.repeat(np.arange(8), 5)
    expected = {
        "lost": teacher.recall[1] & ~model.recall[1],
        "won": ~teacher.recall[1] & model.recall[1],
        "right": teacher.recall[1] & model.recall[1],
    }
    assert expected["lost"].sum() > 6 and expected["won"].sum() > 0 and expected["right"].sum() > 3
    shown = {kind: [strips for at, strips in page.examples if at == kind] for kind in expected}
    assert len(shown["lost"]) == 6 and len(shown["right"]) == 3
    assert len(shown["won"]) == min(6, expected["won"].sum())
    for kind, examples in shown.items():
        queries = [ids.index(query["id"]) for (query,), _, _ in examples]
        assert len(set(queries)) == len(queries)
        assert all(expected[kind][query] for query in queries)  # every image is a query, so rows are images
        for query, (_, by_teacher, by_model) in zip(queries, examples, strict=True):
            for found, result in ((by_teacher, teacher), (by_model, model)):
                assert [ids.index(figure["id"]) for figure in found] == result.neighbours[query, :5].tolist()
                for figure in found:
                    label = labels[ids.index(figure["id"])]
                    right = label == labels[query]
                    assert figure["class"] == ("right" if right else "wrong")
                    assert figure["caption"] == f"{'✓' if right else '✗'} {CLASS_NAMES[label]}"
    for heading, kind in (("Lost", "lost"), ("Won", "won"), ("Right in both", "right")):
        assert f"{heading}: {expected[kind].sum()}" in page.text
    neither = (~teacher.recall[1] & ~model.recall[1]).sum()
    assert f"wrong in both {neither}." in page.text


def test_nothing_lost_nothing_won(content: Content, results: Results, images: ImageSet) -> None:
    same = {"teacher": results["teacher"], "onnx-fp32": results["teacher"]}
    page = Page(render_html(content, same, images))
    assert "No query was lost." in page.text and "No query was won." in page.text
    assert "Recall@1 is the same in every class." in page.text
    assert [kind for kind, _ in page.examples] == ["right"] * 3


def test_gallery_smaller_than_five(content: Content, images: ImageSet) -> None:
    few = images.subset([0, 1, 5])
    pair = {name: measure(np.eye(3, dtype=np.float32), few) for name in ("teacher", "onnx-fp32")}
    (_, strips), *_ = Page(render_html(content, pair, few)).examples
    assert [len(strip) for strip in strips] == [1, 2, 2]


def test_classes_that_changed_most(content: Content, results: Results, images: ImageSet) -> None:
    teacher, model = results["teacher"].recall[1], results["onnx-fp32"].recall[1]
    expected = []
    for label, name in enumerate(CLASS_NAMES):
        before, after = teacher[images.labels == label].mean(), model[images.labels == label].mean()
        if before != after:
            difference = f"{100 * (after - before):+.2f}".replace("-", "−")
            expected.append([name, "5", f"{100 * before:.2f}", f"{100 * after:.2f}", difference])
    rows = Page(render_html(content, results, images)).tables["classes"][1:]
    assert sorted(rows) == sorted(expected)
    sizes = [abs(float(row[-1].replace("−", "-"))) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_provenance(content: Content, results: Results, images: ImageSet) -> None:
    text = words(Page(render_html(content, results, images)).text)
    for expected in (
        "Measured on: 40 images in 8 classes",
        "Split: first-half",
        "Train: images 41, classes 9",
        "Queries left out: 3,",
        "Bootstrap: 2,000 resamples, 95 % confidence, seed 7",
        "processor Some <CPU>, cores 2, system Linux, instruction sets avx2, avx512f",
        "python 3.11.9, numpy 2.4.6",
    ):
        assert expected in text


def test_images_without_labels_are_refused(content: Content, results: Results, images: ImageSet) -> None:
    with pytest.raises(DataError, match="without labels"):
        render_html(content, results, images.without_labels())


# --- continuous labels ---


def by_label(images: ImageSet) -> tuple[ImageSet, dict[str, LabelRetrievalResult]]:
    """The images with a number each for a label, and what two sets of embeddings measure by it."""
    rng = np.random.default_rng(2)
    numbers = rng.normal(size=40)
    labelled = replace(images, continuous=VectorLabels(numbers))
    teacher = numbers[:, None] + 0.3 * rng.normal(size=(40, 2))
    model = numbers[:, None] + 0.35 * rng.normal(size=(40, 2))
    return labelled, {
        "teacher": measure_by_labels(teacher, labelled, "euclidean"),
        "onnx-fp32": measure_by_labels(model, labelled, "euclidean"),
    }


def measured_by_label(content: Content, images: ImageSet, classes: bool) -> tuple[ImageSet, dict[str, Any]]:
    """Put label measures into the content, in place of those of classes if there are none."""
    labelled, results = by_label(images)
    for stage in content["stages"]:
        stage |= results[stage["stage"]].summary()
        if not classes:
            for key in ("recall", "r_precision", "map_at_r"):
                del stage[key]
    content["data"] |= {"label_distance": "<i>hours</i>"} | random_and_best(results["teacher"], labelled)
    if not classes:
        content["data"]["chance"] = content["data"]["random_order"]["ndcg"]["10"]
        labelled = labelled.without_labels()
    return labelled, results


@pytest.mark.parametrize("classes", [True, False])
def test_label_measures_in_tables(content: Content, results: Results, images: ImageSet, classes: bool) -> None:
    labelled, by_labels = measured_by_label(content, images, classes)
    html = render_html(content, results if classes else {}, labelled, by_labels)
    page = Page(html)
    orders = {"a random order": content["data"]["random_order"], "the best order": content["data"]["best_order"]}
    summaries = {name: result.summary() for name, result in by_labels.items()} | orders
    ks = [str(k) for k in range(1, 11)]
    assert page.tables["ndcg"] == [
        ["Model", *(f"@{k}" for k in ks)],
        *([name, *(f"{100 * summary['ndcg'][k]:.2f}" for k in ks)] for name, summary in summaries.items()),
    ]
    assert page.tables["label_distance"] == [
        ["Model", *(f"@{k}" for k in ks)],
        *([name, *(f"{summary['mean_label_distance'][k]:.4g}" for k in ks)] for name, summary in summaries.items()),
    ]
    assert page.tables["ndcg"][-1][1:] == ["100.00"] * 10
    plots = [attributes["alt"] for _, attributes in page.elements if "svg" in attributes.get("src", "")]
    assert [alt.split()[2] for alt in plots] == (["Recall@K", "Recall@1"] if classes else ["nDCG@10"]) + [
        "nDCG@K",
        "the",
    ]
    assert "<i>hours</i>" in page.text and "i" not in {tag for tag, _ in page.elements}
    assert "nDCG@K: Each of the K nearest images counts" in words(page.text)
    assert ("Recall@K: The share" in words(page.text)) == classes
    assert html == render_html(copy.deepcopy(content), results if classes else {}, labelled, by_labels)


def test_without_classes_the_page_compares_by_label_distance(content: Content, images: ImageSet) -> None:
    labelled, by_labels = measured_by_label(content, images, classes=False)
    page = Page(render_html(content, {}, labelled, by_labels))
    teacher, model = by_labels["teacher"].ndcg_at(10), by_labels["onnx-fp32"].ndcg_at(10)
    assert "onnx-fp32 keeps 97.8\u00a0% of the teacher's nDCG@10 [97.1,\u00a098.5]" in page.text
    assert f"nDCG@10 is {100 * model:.2f} % against the teacher's {100 * teacher:.2f} %; a random order" in page.text
    assert "Measured with 40 queries that the split keeps out of training." in page.text
    assert "Gate passed: every model keeps at least 95\u00a0% of the teacher's nDCG@10." in page.text
    assert "classes" not in page.tables and "Recall" not in page.text and "None" not in page.text
    assert page.tables["stages"][0][1] == "nDCG@10" and page.tables["stages"][2][1] == f"{100 * teacher:.2f}"
    assert page.tables["steps"][1][1:3] == [f"{100 * teacher:.2f}", f"{100 * model:.2f}"]
    assert "Measured on: 40 images" in words(page.text) and "Label distance: <i>hours</i>" in words(page.text)


def test_without_classes_the_queries_that_changed_most_are_shown(content: Content, images: ImageSet) -> None:
    labelled, by_labels = measured_by_label(content, images, classes=False)
    page = Page(render_html(content, {}, labelled, by_labels))
    change = by_labels["onnx-fp32"].ndcg(10) - by_labels["teacher"].ndcg(10)
    order = np.argsort(change, kind="stable")
    ids = list(images.ids)
    assert labelled.continuous is not None
    for kind, heading, expected, total in (
        ("lost", "Lost", order[:6], (change < 0).sum()),
        ("won", "Won", order[::-1][:6], (change > 0).sum()),
    ):
        examples = [strips for at, strips in page.examples if at == kind]
        assert [ids.index(query["id"]) for (query,), _, _ in examples] == expected.tolist()
        assert f"{heading}: {total}" in page.text and total > 6
        for (_, by_teacher, by_model), query in zip(examples, expected, strict=True):
            for found, name in ((by_teacher, "teacher"), (by_model, "onnx-fp32")):
                rows = np.array([ids.index(figure["id"]) for figure in found])
                assert rows.tolist() == by_labels[name].neighbours[query, :5].tolist()
                distances = labelled.continuous.distances(np.array([query]), rows)[0]
                assert [figure["caption"] for figure in found] == [f"{distance:.4g}" for distance in distances]
                assert {figure["class"] for figure in found} == {""}
    same = dict.fromkeys(by_labels, by_labels["teacher"])
    assert "No query was lost." in Page(render_html(content, {}, labelled, same)).text


def test_label_plots_show_the_content(content: Content, images: ImageSet) -> None:
    measured_by_label(content, images, classes=False)
    for draw, key, scale in ((_draw_ndcg, "ndcg", 100), (_draw_label_distance, "mean_label_distance", 1)):
        axes = Figure().subplots()
        draw(axes, content)
        shown = [*content["stages"], content["data"]["random_order"], content["data"]["best_order"]]
        for line, entry in zip(axes.lines, shown, strict=True):
            assert np.asarray(line.get_xdata()).tolist() == list(range(1, 11))
            np.testing.assert_allclose(np.asarray(line.get_ydata()), [scale * v for v in entry[key].values()])
        assert [line.get_label() for line in axes.lines] == ["teacher", "onnx-fp32", "a random order", "the best order"]
    axes = Figure().subplots()
    _draw_size(axes, content)
    assert axes.get_ylabel() == "nDCG@10, %"
    assert np.asarray(axes.lines[0].get_ydata())[0] == pytest.approx(100 * content["stages"][0]["ndcg"]["10"])


@pytest.mark.parametrize("classes", [True, False])
def test_print_table_by_label(content: Content, images: ImageSet, classes: bool) -> None:
    measured_by_label(content, images, classes)
    file = io.StringIO()
    print_table(content, Console(file=file, width=140))
    header, _, teacher, _ = file.getvalue().splitlines()
    stage = content["stages"][0]
    of = {k: (f"{100 * stage['ndcg'][k]:.2f}", f"{stage['mean_label_distance'][k]:.4g}") for k in ("1", "10")}
    if classes:
        assert words(header).startswith("stage Recall@1 @2 @4 @8 MAP@R nDCG@10 distance@10 retention")
        assert words(teacher).startswith(f"teacher 83.00 87.12 90.00 95.00 41.24 {' '.join(of['10'])} 100.00")
    else:
        assert words(header).startswith("stage nDCG@1 distance@1 nDCG@10 distance@10 retention")
        assert words(teacher).startswith(f"teacher {' '.join(of['1'])} {' '.join(of['10'])} 100.00")


def test_spread_takes_classes_before_second_queries() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5, 6])
    assert _spread(np.arange(10), labels, 3) == [0, 6, 9]  # of seven classes the first, middle and last
    assert _spread(np.array([0, 1, 2, 3, 4]), labels, 4) == [0, 3, 1, 4]  # classes 0, 1, then their second rows
    assert _spread(np.array([2, 9]), labels, 6) == [2, 9]
    assert _spread(np.array([], dtype=int), labels, 6) == []


def test_plots_show_the_content(content: Content) -> None:
    axes = Figure().subplots()
    _draw_recall(axes, content)
    for line, stage in zip(axes.lines, content["stages"], strict=True):
        assert line.get_label() == stage["stage"]
        assert np.asarray(line.get_xdata()).tolist() == [1, 2, 4, 8, 10]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), [100 * value for value in stage["recall"].values()])
    axes = Figure().subplots()
    _draw_size(axes, content)
    np.testing.assert_allclose(
        [np.asarray(line.get_xydata())[0] for line in axes.lines], [[102.5, 83.0], [6.029412, 81.18]]
    )
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[1] - axes.get_ylim()[0] == pytest.approx(5)  # points; 1.82 must not fill the height


def test_the_axis_of_sizes_ends_at_100_percent(content: Content) -> None:
    for stage, recall in zip(content["stages"], (1.0, 0.99), strict=True):
        stage["recall"]["1"] = recall
    axes = Figure().subplots()
    _draw_size(axes, content)
    assert axes.get_ylim() == pytest.approx((95.5, 100.5))


def test_print_table(content: Content) -> None:
    content["stages"][0] |= {"parameters": None, "bytes": None, "latency_ms": None}
    file = io.StringIO()
    print_table(content, Console(file=file, width=110))
    header, _, teacher, model = file.getvalue().splitlines()
    assert words(header) == "stage Recall@1 @2 @4 @8 MAP@R retention parameters dim MB ms"
    assert words(teacher) == "teacher 83.00 87.12 90.00 95.00 41.24 100.00 [100.00, 100.00] – 1,024 – –"
    assert words(model) == "onnx-fp32 81.18 86.00 89.10 94.40 40.00 97.81 [97.12, 98.51] 3,116,712 128 6.03 9.45"


def test_print_table_loses_nothing_in_a_narrow_pipe(
    content: Content, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    content["stages"][1]["stage"] = "onnx-fp32-2"
    print_table(content)
    model = capsys.readouterr().out.splitlines()[3]
    assert words(model) == "onnx-fp32-2 81.18 86.00 89.10 94.40 40.00 97.81 [97.12, 98.51] 3,116,712 128 6.03 9.45"


def test_small_files_keep_their_digits(content: Content) -> None:
    content["stages"][1]["bytes"] = 20_480
    file = io.StringIO()
    print_table(content, Console(file=file, width=110))
    assert "0.0205" in file.getvalue()
