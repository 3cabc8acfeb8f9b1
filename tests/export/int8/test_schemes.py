"""Schemes fit network and target; blocks are the network's modules."""

from __future__ import annotations

import pytest
from onnx import ModelProto
from torch import nn

from export.int8.schemes import blocks_of, matmul_share, schemes_for, shallow_stem, weights_of
from export.onnx.tracing import Traced
from zoo import OptionError


def test_blocks_hold_every_weight_once(traced: Traced, transformer: tuple[nn.Module, ModelProto]) -> None:
    assert shallow_stem(transformer[1]) == []  # a patch has hundreds of products
    for model, network in ((traced.model, traced.graphs.network), transformer):
        stem = weights_of(network, shallow_stem(network))
        matrices = sum(p.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) for p in [m.weight])
        for most in (24, 6):
            blocks = blocks_of(network, most)
            assert 2 <= len(blocks) <= most
            assert sum(weights_of(network, nodes) for nodes in blocks.values()) == matrices - stem
        assert weights_of(network, (node.name for node in network.graph.node)) == matrices


def test_schemes_fit_network_and_target(traced: Traced, transformer: tuple[nn.Module, ModelProto]) -> None:
    convolutional = traced.graphs.network
    assert matmul_share(convolutional) == 0
    assert matmul_share(transformer[1]) > 0.7
    assert {scheme.kind for scheme in schemes_for(convolutional, "x86")} == {"static"}
    assert [scheme.kind for scheme in schemes_for(transformer[1], "x86")[:2]] == ["dynamic", "dynamic"]
    assert schemes_for(convolutional, "x86")[0].name == "static u8s8 per-channel minmax"
    assert schemes_for(convolutional, "arm64")[0].activations == "int8"
    assert {scheme.activations for scheme in schemes_for(convolutional, "web")} == {"uint8"}
    for vnni in (True, False):
        assert schemes_for(convolutional, "x86-vnni", vnni) == schemes_for(convolutional, "x86", vnni=True)
    assert {scheme.reduce_range for scheme in schemes_for(convolutional, "x86", vnni=False)} == {True}
    for target in ("x86", "arm64", "web"):
        schemes = schemes_for(convolutional, target)
        assert {scheme.per_channel for scheme in schemes} == {True, False}
        assert {scheme.ranges for scheme in schemes} == {"minmax", "percentile"}
        assert len({scheme.name for scheme in schemes}) == len(schemes)
    with pytest.raises(OptionError, match=r"'arm'; known are x86, x86-vnni, arm64 and web\. Did you mean arm64\?"):
        schemes_for(convolutional, "arm")
