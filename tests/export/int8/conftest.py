"""Networks shared by the tests of int8."""

from __future__ import annotations

import pytest
import torch
from onnx import ModelProto
from torch import nn

from export.onnx.tracing import Traced, trace_model
from zoo import create_model


@pytest.fixture(scope="session")
def traced() -> Traced:
    torch.manual_seed(0)
    return trace_model(create_model("test_resnet", 8, image_size=32).eval())


@pytest.fixture(scope="session")
def transformer() -> tuple[nn.Module, ModelProto]:
    torch.manual_seed(0)
    model = create_model("test_vit", 8, image_size=32).eval()
    return model, trace_model(model).graphs.network
