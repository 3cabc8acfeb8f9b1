"""torch.compile changes the speed of training, not its result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compressor import distill
from zoo import OptionError, train


@pytest.fixture(autouse=True)
def compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()


def test_a_student_learns_the_same(
    photos: Path, tiny_teacher: Path, distil_options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, compile_function = [], torch.compile

    def compile_briefly(function: Callable[..., Any], options: None = None) -> Callable[..., Any]:
        compiled.append(function)
        return compile_function(function, backend="aot_eager")  # the default one takes a minute

    monkeypatch.setattr(torch, "compile", compile_briefly)
    weights = {}
    for chosen in (False, True):
        out, options = tmp_path / str(chosen), distil_options | {"epochs": 1}
        distill(tiny_teacher, f"folder:{photos}", out, arch="test_resnet", dim=8, compile=chosen, **options)
        weights[chosen] = load_file(out / "model.safetensors")
    assert len(compiled) == 2  # teacher and student
    assert weights[True].keys() == weights[False].keys()
    for name, expected in weights[False].items():
        torch.testing.assert_close(weights[True][name], expected, rtol=1e-3, atol=2e-3, msg=name)


def test_without_a_compiler_says_so(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/no/compiler"))
    options: dict[str, Any] = {"image_size": 32, "epochs": 1, "batch_size": 16, "workers": 0, "compile": True}
    with pytest.raises(OptionError, match=r"torch\.compile failed .*C\+\+ compiler.*Set compile to false"):
        train(f"folder:{photos}", tmp_path / "model", arch="test_resnet", dim=8, **options)
