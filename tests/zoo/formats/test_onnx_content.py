"""An ONNX file includes the files it refers to, and is refused if it changed since export wrote it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from zoo.errors import ModelError
from zoo.files import digest, model_digest
from zoo.formats.onnx_content import content_digest, digest_of, files_of, require_intact, size_of
from zoo.teachers.onnx_file import OnnxTeacher

TinyOnnx = Callable[..., Path]


def with_weights_beside(source: Path, path: Path, name: str = "weights.bin") -> Path:
    onnx.save(onnx.load(source), path, save_as_external_data=True, location=name, size_threshold=50)
    return path


def test_a_file_alone_is_its_own_digest_and_size(tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    file = tiny_onnx(tmp_path / "a.onnx")
    assert files_of(file) == [file]
    assert (digest_of(file), size_of(file)) == (digest(file), file.stat().st_size)
    assert model_digest(file) == digest(file)


def test_weights_beside_a_file_count(tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    file = with_weights_beside(tiny_onnx(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    weights = tmp_path / "weights.bin"
    assert files_of(file) == [file, weights]
    assert size_of(file) == file.stat().st_size + weights.stat().st_size
    before, alone = model_digest(file), digest(file)
    content = bytearray(weights.read_bytes())
    content[1] ^= 1
    weights.write_bytes(content)
    assert digest(file) == alone and model_digest(file) != before


def test_the_content_is_the_same_wherever_weights_lie(tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    file = tiny_onnx(tmp_path / "a.onnx")
    beside = with_weights_beside(file, tmp_path / "b.onnx")
    assert content_digest(beside) == content_digest(file)
    require_intact(beside)
    other = tiny_onnx(tmp_path / "c.onnx", seed=1)
    assert content_digest(other) != content_digest(file)


def test_tensors_in_graphs_inside_nodes_are_found(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        tensor = numpy_helper.from_array(np.ones(300, np.float32), name)
        made = helper.make_node("Constant", [], [f"{name}_out"], value=tensor)
        return helper.make_graph([made], name, [], [helper.make_tensor_value_info(f"{name}_out", 1, [300])])

    node = helper.make_node("If", ["which"], ["y"], then_branch=branch("yes"), else_branch=branch("no"))
    which = helper.make_tensor_value_info("which", TensorProto.BOOL, [])
    graph = helper.make_graph([node], "g", [which], [helper.make_tensor_value_info("y", 1, [300])])
    model = helper.make_model(graph)
    onnx.save(model, tmp_path / "in.onnx")
    for number, tensor in enumerate(attribute.g.node[0].attribute[0].t for attribute in node.attribute):
        onnx.external_data_helper.set_external_data(tensor, f"{number}.bin")
        (tmp_path / f"{number}.bin").write_bytes(tensor.raw_data)
    model = helper.make_model(helper.make_graph([node], "g", [which], list(graph.output)))
    for attribute in model.graph.node[0].attribute:
        attribute.g.node[0].attribute[0].t.ClearField("raw_data")
    onnx.save(model, tmp_path / "out.onnx")
    assert files_of(tmp_path / "out.onnx") == [tmp_path / name for name in ("out.onnx", "0.bin", "1.bin")]
    assert content_digest(tmp_path / "out.onnx") == content_digest(tmp_path / "in.onnx")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../b", "C:\\x", "..\\x", ""])
def test_files_elsewhere_are_not_read(location: str, tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(200))
    (tmp_path / "m").mkdir()
    proto = onnx.load(tiny_onnx(tmp_path / "m" / "a.onnx", digest=False))
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], location)
    proto.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "m" / "a.onnx").write_bytes(proto.SerializeToString())
    for function in (files_of, digest_of, size_of, require_intact, OnnxTeacher):
        with pytest.raises(ModelError, match="only files in its own folder are read"):
            function(tmp_path / "m" / "a.onnx")


def test_missing_and_short_weights_are_named(tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    file = with_weights_beside(tiny_onnx(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    (tmp_path / "weights.bin").write_bytes(bytes(20))
    with pytest.raises(ModelError, match=r"b\.onnx .*weights at bytes 0 to 96 of weights\.bin, which has 20"):
        require_intact(file)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"b\.onnx has weights in .*weights\.bin, which does not exist"):
        OnnxTeacher(file)


def test_damage_is_told_with_both_digests(tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    file = tiny_onnx(tmp_path / "a.onnx")
    said = content_digest(file)
    content = bytearray(file.read_bytes())
    weight = onnx.load(file).graph.initializer[0].raw_data
    content[content.index(weight) + 6] ^= 16
    file.write_bytes(content)
    with pytest.raises(
        ModelError, match=rf"a\.onnx has changed since export wrote it: .*{content_digest(file)[:16]}.*{said[:16]}"
    ):
        OnnxTeacher(file)
    assert OnnxTeacher(tiny_onnx(tmp_path / "old.onnx", digest=False)).metric == "euclidean"


@pytest.mark.parametrize("key", ["metric", "dim", "preprocessing", "precision"])
def test_what_a_file_says_of_itself_is_covered(key: str, tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    proto = onnx.load(tiny_onnx(tmp_path / "a.onnx"))
    entries = {entry.key: entry for entry in proto.metadata_props}
    proto.metadata_props.add(key="note of a user", value="mine")
    onnx.save(proto, tmp_path / "a.onnx")
    require_intact(tmp_path / "a.onnx")
    entries[key].value += " "
    onnx.save(proto, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="has changed since export wrote it"):
        require_intact(tmp_path / "a.onnx")


@pytest.mark.parametrize("content", [b"", b"\x0f", b"\xff" * 30, b"\x3a\xff\xff\xff\xff\xff\xff\x01", b"\x00\x00"])
def test_what_is_no_protobuf_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.onnx is not an ONNX file"):
        OnnxTeacher(tmp_path / "a.onnx")


def test_a_retrained_teacher_with_weights_beside_it_is_another(tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    digests = []
    for seed in (0, 1):
        tiny = tiny_onnx(tmp_path / "a.onnx", seed=seed, digest=False)
        digests.append(OnnxTeacher(with_weights_beside(tiny, tmp_path / "teacher.onnx", "teacher.onnx.data")).digest)
    assert digests[0] != digests[1]
