"""How often random teachers pass as better than chance; ``zoo.teachers.proof`` promises 1.35 in 1000.

    python -m benchmarks.robustness.random_teachers --teachers 3000

Embeddings are random. 500 teachers at a time share the same rows, each in another order, so that their bound is
computed once. Their scores are computed here, by the published formulas on all pairs of images. If the images are too
few to distinguish a good teacher from chance, the bound is chance, with a warning; these cases are counted separately.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np

from benchmarks.robustness.outcomes import table, write
from zoo.data.continuous import VectorLabels
from zoo.data.image_set import ImageSet
from zoo.retrieval.label_measures import NDCG_K, measure_by_labels
from zoo.retrieval.measures import measure
from zoo.teachers.proof import proof_by_class, proof_by_labels

PASSED, REFUSED, TOO_FEW = "passed", "refused", "too few images to tell"
OUTCOMES = (REFUSED, PASSED, TOO_FEW)
_TOGETHER = 500


@dataclass(frozen=True)
class Setting:
    """The images that random teachers are judged on.

    Attributes:
        images: number of images.
        kind: images per class; or the distribution of continuous labels: "normal", in two dimensions, "heavy", with a
            long tail, or "few values", four of them.
        dims: dimensions of the embeddings; few make hubs, which are near many images.
    """

    images: int
    kind: int | str
    dims: int = 64

    def __str__(self) -> str:
        what = f"classes of {self.kind}" if isinstance(self.kind, int) else f"labels, {self.kind}"
        return f"{what}, {self.images} images, {self.dims} dimensions"


SETTINGS = (
    *(Setting(20, 2), Setting(96, 8), Setting(200, 10), Setting(1000, 5)),
    *(Setting(count, kind) for count in (20, 40, 96, 300) for kind in ("normal", "heavy", "few values")),
    *(Setting(count, kind, dims) for count in (500, 1000) for kind in ("normal", "heavy") for dims in (64, 2)),
    *(Setting(count, "heavy", 2) for count in (40, 96, 300)),
)


def trials(setting: Setting, random: np.random.Generator, teachers: int = _TOGETHER) -> Counter[str]:
    """Return the outcomes of random teachers that share one bound."""
    count = setting.images
    rows = random.normal(size=(count, setting.dims)).astype(np.float32)
    blank = [str(number) for number in range(count)], [np.zeros((8, 8, 3), np.uint8)] * count
    if isinstance(setting.kind, int):
        labels = np.arange(count) // setting.kind
        images = ImageSet(*blank, labels=labels, class_names=[str(label) for label in range(labels[-1] + 1)])
        by_class = measure(rows, images)
        proof, found = proof_by_class(by_class, images), by_class.neighbours[:, :1]
        relevance, discounts = (labels[:, None] == labels[None]).astype(float), np.ones(1)
        best = np.ones(count)
    else:
        values = {
            "normal": lambda: random.normal(size=(count, 2)),
            "heavy": lambda: np.exp(2 * random.normal(size=(count, 1))),
            "few values": lambda: random.integers(0, 4, size=(count, 1)).astype(float),
        }[setting.kind]()
        images = ImageSet(*blank, continuous=VectorLabels(values))
        by_labels = measure_by_labels(rows, images)
        proof, found = proof_by_labels(by_labels, images), by_labels.neighbours[:, :NDCG_K]
        relevance = 1 / (1 + np.linalg.norm(values[:, None] - values[None], axis=2))
        discounts = 1 / np.log2(np.arange(2, NDCG_K + 2))
        others = np.where(np.eye(count, dtype=bool), 0, relevance)
        best = -np.sort(-others, axis=1)[:, :NDCG_K] @ discounts
    if not proof.sure:
        return Counter({TOO_FEW: teachers})
    passed = 0
    for _ in range(teachers):
        owner = random.permutation(count)  # the image that each row is given to
        gains = relevance[owner[:, None], owner[found]] @ discounts
        passed += float((gains / best[owner]).mean()) > proof.bound
    return Counter({PASSED: passed, REFUSED: teachers - passed})


def run(teachers: int) -> dict[str, Counter[str]]:
    """Try all settings and return the outcomes by setting."""
    found: dict[str, Counter[str]] = {}
    for number, setting in enumerate(SETTINGS):
        random = np.random.default_rng([0, number])
        counted: Counter[str] = Counter()
        for _ in range(-(-teachers // _TOGETHER)):
            counted += trials(setting, random)
        found[str(setting)] = counted
        print(setting, dict(counted), flush=True)
    return found


def main() -> int:
    """Run the benchmark, print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=int, default=3000, help="random teachers of each setting")
    options = parser.parse_args()
    found = run(options.teachers)
    print(table(found, list(found), "judged by", OUTCOMES))
    command = f"python -m benchmarks.robustness.random_teachers --teachers {options.teachers}"
    write("random_teachers", command, found, "judged by", outcomes=OUTCOMES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
