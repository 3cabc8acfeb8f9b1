"""Documents from outside are read with limits, and their values checked."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from zoo.errors import DataError, OptionError, shown
from zoo.formats.arrays import read_arrays
from zoo.formats.documents import (
    MAPPING,
    TEXT,
    list_of,
    maybe,
    number,
    one_of,
    parsed,
    read_document,
    require_kinds,
    seal_of,
    whole,
)
from zoo.formats.preprocessing import Preprocessing
from zoo.formats.yaml_document import read_yaml
from zoo.teachers.ready import ArrayTeacher


@pytest.mark.parametrize(
    ("kind", "fits", "does_not"),
    [
        (whole(1, 9), [1, 9], [0, 10, 1.0, True, "1", None, 10**400]),
        (number("a number"), [1, 0.5, -3], [float("nan"), float("inf"), True, "1", None, 10**400]),
        (number("positive", lambda value: value > 0), [0.1], [0, -1]),
        (list_of(whole(0), 2), [[1, 2], (0, 0)], [[1], [1, 2, 3], [1, "2"], "12", 5, None]),
        (maybe(TEXT), [None, ""], [5, [], {}]),
        (one_of("a", "b"), ["a", "b"], ["c", None, ["a"]]),
        (MAPPING, [{}], [[], None, "a"]),
    ],
)
def test_kinds(kind: object, fits: list[object], does_not: list[object]) -> None:
    for value in fits:
        require_kinds({"key": value}, {"key": kind})  # type: ignore[dict-item]
    for value in does_not:
        with pytest.raises(ValueError, match=r"^key is .*; it must be ") as raised:
            require_kinds({"key": value}, {"key": kind})  # type: ignore[dict-item]
        assert len(str(raised.value)) < 200
    with pytest.raises(ValueError, match="it lacks key"):
        require_kinds({}, {"key": kind})  # type: ignore[dict-item]
    require_kinds({}, {}, {"key": kind})  # type: ignore[dict-item]


def test_deep_nesting_and_huge_numbers_are_no_crash(tmp_path: Path) -> None:
    for text in ("[" * 10**6, '{"a":' * 10**6):
        with pytest.raises(ValueError, match=r"nested too deeply|Expecting"):
            parsed(text)
    with pytest.raises(ValueError, match="digits"):
        parsed("1" * 5000)
    assert shown(10**500) == "a number of very many digits" and len(shown("x" * 10**6)) < 70
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"it holds \[1\], not an object"):
        read_document(tmp_path / "a.json")
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(ValueError, match="more than 64 MiB"):
        read_document(tmp_path / "large.json")


def test_a_seal_knows_values_and_not_their_order() -> None:
    assert seal_of({"a": 1, "b": [0.1]}) == seal_of({"b": [0.1], "a": 1})
    assert len({seal_of({"a": value}) for value in (1, 1.5, "1", None, [1], True)}) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_pct": 1e-4}, "more than 4096 pixels a side"),
        ({"crop_pct": "0.9"}, "crop_pct is '0.9'"),
        ({"crop_pct": float("nan")}, "crop_pct is nan"),
        ({"input_size": (10**18, 10**18)}, "input_size is"),
        ({"input_size": (5000, 32)}, "more than 4096 pixels a side"),
        ({"input_size": (32.0, 32)}, "input_size is"),
        ({"input_size": 32}, "input_size is 32"),
        ({"mean": (0.5,)}, "mean is"),
        ({"std": (0.5, 0.0, 0.5)}, "std is"),
        ({"std": None}, "std is None"),
        ({"interpolation": []}, r"Interpolation \[\]"),
        ({"crop_mode": 5}, "Crop mode 5"),
    ],
)
def test_preprocessing_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Preprocessing(**options)  # type: ignore[arg-type]
    if "input_size" not in options:
        said = {"input_size": [3, 32, 32]} | options
        if options.get("interpolation", options.get("crop_mode")) is None:
            with pytest.raises(OptionError, match=r"crop_pct|mean|std|pixels"):
                Preprocessing.of(said)


def npz(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", content)
    return path


def npy(shape: str, kind: str = "<f4", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    padded = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("(1000000000000000000, 8)"), "says shape"),
        (npy("(1000000000000000000000000000,)"), "says shape"),
        (npy("(3,)", "|O"), "Python objects"),
        (npy("(2, 2)", data=bytes(8)), "ends early"),
        (npy("(268435456,)", "|u1", bytes(2**28 + 1)), "unpacks to"),
        (b"\x93NUMPY\x07\x00", r"format \(7, 0\)"),
        (b"nothing", "magic"),
        (npy("(3, 3").replace(b"}", b"("), "header cannot be read|Cannot parse header"),
        (npy("(-3, 3)"), r"says shape \(-3, 3\)"),
    ],
    ids=["10^18 rows", "10^27 numbers", "objects", "short", "large", "version", "no magic", "no header", "negative"],
)
def test_arrays_are_not_unpacked_beyond_reason(content: bytes, message: str, tmp_path: Path) -> None:
    file = npz(tmp_path / "a.npz", "ids", content)
    del content
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        read_arrays(file, ["ids"])
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    with pytest.raises(DataError, match=r"a\.npz must be an \.npz file with ids and embeddings"):
        ArrayTeacher(file)


def test_arrays_are_numpys(tmp_path: Path) -> None:
    given = {"ids": np.array(["a", "ö"]), "x": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "y": np.zeros((0, 4))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **given)  # type: ignore[operator]
        found = read_arrays(tmp_path / "a.npz", list(given))
        for name, array in given.items():
            np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match="it lacks embeddings"):
        read_arrays(tmp_path / "a.npz", ["embeddings"])


def test_yaml_has_limits(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    for text, message in (
        ("\n".join(laughs), "names more than 100000 values"),
        ("&a [*a]", "nested too deeply"),
        ("[" * 5000, "nested too deeply"),
        ("x" * (2**20 + 1), "more than 1 MiB"),
        ("a: [", "expected the node content"),
        ("? {a: b}\n: c", "."),
        ("!!python/object:os.system x", "could not determine a constructor"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_yaml(file)
    file.write_text("seed: 0\nstudent: &s {arch: resnet18, dim: 8}\nother: *s\n")
    assert read_yaml(file) == {
        "seed": 0,
        "student": {"arch": "resnet18", "dim": 8},
        "other": {"arch": "resnet18", "dim": 8},
    }
