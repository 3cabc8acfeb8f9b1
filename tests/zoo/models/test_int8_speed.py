from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo.models.int8_speed
from zoo.models.int8_speed import INT8_SPEED, advice, int8_speed

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "quantization" / "architecture-times.jsonl"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"resnet18": 3.0, "mobilenetv4_conv_small": 1.5, "mobilenetv3_small_100": 0.8}
    monkeypatch.setattr(zoo.models.int8_speed, "INT8_SPEED", speeds)


@pytest.mark.parametrize(
    ("arch", "speed"),
    [
        ("resnet18", 3.0),
        ("resnet18.a1_in1k", 3.0),
        ("timm/resnet34.a1_in1k", 3.0),
        ("mobilenetv4_conv_small_050", 1.5),
        ("mobilenetv3_large_100", 0.8),
        ("swin_tiny_patch4_window7_224", None),
    ],
)
def test_an_architecture_or_its_relative(measured: None, arch: str, speed: float | None) -> None:
    assert int8_speed(arch) == speed


def test_advice_names_what_gains(measured: None) -> None:
    said = advice("mobilenetv3_small_050")
    assert said is not None
    assert "mobilenetv3_small_050 gains nothing in speed from int8 (0.80 times fp32" in said
    assert said.endswith("Networks that gain: resnet18, mobilenetv4_conv_small.")
    assert advice("resnet18") is None
    assert advice("swin_tiny_patch4_window7_224") is None


def test_speeds_are_those_of_the_benchmark() -> None:
    lines = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    measured = {line["arch"]: round(line["ms"]["1"]["fp32"] / line["ms"]["1"]["int8"], 2) for line in lines}
    assert measured == INT8_SPEED
