"""Decoding of each kind of image by read_pixels."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, features

from zoo.errors import DataError
from zoo.images import IMAGE_SUFFIXES, read_pixels, require_pixels
from zoo.models.preprocessing import Preprocess, Preprocessing

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def test_transparent_images_are_laid_on_white(tmp_path: Path) -> None:
    # opaque red, invisible green, half visible black: 0 * 128/255 + 255 * 127/255 = 127
    pixels = np.array([[[255, 0, 0, 255], [0, 255, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = [[RED, WHITE, (127, 127, 127)]]
    assert read_pixels(tmp_path / "a.png").tolist() == np.array(expected).tolist()
    assert read_pixels(pixels).tolist() == np.array(expected).tolist()


def test_a_transparent_palette_colour_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.gif", transparency=1)
    assert read_pixels(tmp_path / "a.gif").tolist() == [[list(RED), list(WHITE)]]


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_is_repeated_over_the_channels(tmp_path: Path, mode: str) -> None:
    grey = np.array([[0, 255], [255, 0]], dtype=np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    assert (read_pixels(tmp_path / "a.png") == grey[:, :, None]).all()
    assert read_pixels(tmp_path / "a.png").shape == (2, 2, 3)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_grey_arrays_are_repeated_over_the_channels(shape: tuple[int, ...]) -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(shape)
    pixels = read_pixels(grey)
    assert pixels.shape == (2, 3, 3)
    assert all((pixels[:, :, channel].ravel() == np.arange(6)).all() for channel in range(3))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_keeps_its_high_byte(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 255, 256, 0x8000, 0xFFFF]], dtype=np.uint16)
    if suffix == "pgm":  # which not every Pillow writes
        (tmp_path / "a.pgm").write_bytes(b"P5 5 1 65535 " + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    assert read_pixels(tmp_path / f"a.{suffix}")[:, :, 1].tolist() == [[0, 0, 1, 128, 255]]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of these chunks, each its type and data."""
    written = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def grey_png(levels: np.ndarray, transparent: int) -> bytes:
    """Return a PNG of grey levels, uint8 or uint16 ``(H, W)``, one of which is transparent (chunk tRNS)."""
    rows = b"".join(b"\0" + row.astype(levels.dtype.newbyteorder(">")).tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 8 * levels.itemsize, 0, 0, 0, 0)
    level = struct.pack(">H", transparent)
    return png((b"IHDR", header), (b"tRNS", level), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def test_a_transparent_level_of_16_bits_becomes_white_as_one_of_8_does(tmp_path: Path) -> None:
    for dtype, step in ((np.uint8, 1), (np.uint16, 256)):
        grey = np.array([[1, 2, 3]], dtype=dtype) * dtype(step)
        (tmp_path / "image.png").write_bytes(grey_png(grey, 2 * step))
        assert read_pixels(tmp_path / "image.png")[0, :, 0].tolist() == [1, 255, 3]


def test_files_of_stereo_cameras_are_images_of_a_folder(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.mpo", format="MPO")
    assert Path("a.mpo").suffix in IMAGE_SUFFIXES  # what read_pixels takes, folders list
    assert read_pixels(tmp_path / "a.mpo").shape == (8, 8, 3)


def test_what_is_no_image_is_said_without_objects_of_python(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    for source in (tmp_path / "a.png", b"", open(tmp_path / "a.png", "rb")):  # noqa: SIM115
        with pytest.raises(DataError, match=r"cannot be read \(cannot identify image file\)\. Fix or remove it"):
            require_pixels(source)


TURNS = {  # of EXIF: what brings stored pixels upright
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),  # "row 0 is the right side": turn clockwise
    7: lambda stored: np.rot90(stored.transpose(1, 0, 2), 2),
    8: lambda stored: np.rot90(stored, 1),
}
WITH_EXIF = {  # every kind that has EXIF, TIFF by both of Pillow's readers and with the tag outside EXIF
    "jpg": {"format": "JPEG"},
    "mpo": {"format": "MPO"},
    "png": {"format": "PNG"},
    "tif": {"format": "TIFF"},
    "tif compressed": {"format": "TIFF", "compression": "tiff_lzw"},
    "tif tag": {"format": "TIFF", "tiffinfo": {}},
    "webp": {"format": "WEBP", "quality": 90},
    "avif": {"format": "AVIF", "quality": 90},
}


@pytest.mark.parametrize("kind", WITH_EXIF)
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_is_applied_once(tmp_path: Path, kind: str, orientation: int) -> None:
    if kind == "avif" and not ("avif" in features.modules and features.check("avif")):
        pytest.skip("this Pillow reads no AVIF")
    corners = np.array([[RED, GREEN, GREEN], [BLUE, WHITE, WHITE]], dtype=np.uint8)
    stored = corners.repeat(16, axis=0).repeat(16, axis=1)
    options: dict[str, object] = dict(WITH_EXIF[kind])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options["tiffinfo" if "tiffinfo" in options else "exif"] = exif
    file = tmp_path / "a"
    Image.fromarray(stored).save(file, **options)  # type: ignore[arg-type]
    expected = TURNS[orientation](stored).astype(int)
    with Image.open(file) as opened, Image.open(file) as loaded, Image.open(file) as copied:
        loaded.load()
        for source in (file, opened, loaded, copied.copy()):
            found = read_pixels(source).astype(int)
            assert found.shape == expected.shape
            assert np.abs(found - expected).mean() < 8  # of lossy kinds; a wrong turn makes 80 or more


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_tiffs_are_turned_once(tmp_path: Path, dtype: type) -> None:
    stored = np.arange(6, dtype=dtype).reshape(2, 3) << (8 if dtype == np.uint16 else 0)
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo={0x0112: 6})
    with Image.open(tmp_path / "a.tif") as image:  # Pillow maps such files into memory, and forgets their turn
        for source in (tmp_path / "a.tif", image):
            assert read_pixels(source)[:, :, 0].tolist() == [[3, 0], [4, 1], [5, 2]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.tif")
    assert (read_pixels(tmp_path / "a.tif") == (0, 255, 255)).all()


@pytest.mark.parametrize("suffix", ["bmp", "png", "ppm", "tif"])
def test_paths_images_and_arrays_give_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    image.save(tmp_path / f"a.{suffix}")
    for source in (tmp_path / f"a.{suffix}", str(tmp_path / f"a.{suffix}"), image, array, array[::-1][::-1]):
        pixels = read_pixels(source)
        assert (pixels == array).all()
        assert pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]


def test_truncated_images_are_errors_not_grey_areas(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match="truncated"):
        read_pixels(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), dtype=np.float32), "uint8, found float32"),
        (np.zeros((4, 4, 2), dtype=np.uint8), r"found \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"found \(0, 4, 3\)"),
        (np.zeros(4, dtype=np.uint8), r"found \(4, 1\)|found \(4,\)"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_pixels(array)


def test_a_broken_note_on_the_camera_does_not_matter(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0  # orientation, and the resolution
    Image.fromarray(np.zeros((2, 3, 3), dtype=np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    content[content.index(b"\x01\x1a\x00\x05") + 3] = 1  # the resolution's type
    (tmp_path / "a.jpg").write_bytes(content)
    with Image.open(tmp_path / "a.jpg") as image, pytest.raises((struct.error, TypeError)):
        ImageOps.exif_transpose(image)
    assert read_pixels(tmp_path / "a.jpg").shape == (3, 2, 3)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_refused(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.ones((2, 3), dtype=dtype)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="32 bits per channel"):
        read_pixels(tmp_path / "a.tif")


def test_sides_may_differ_so_much_and_no_more() -> None:
    assert read_pixels(np.zeros((1, 200), dtype=np.uint8)).shape == (1, 200, 3)
    with pytest.raises(ValueError, match="1 x 201 pixels"):
        read_pixels(np.zeros((201, 1), dtype=np.uint8))


def large(height: int, width: int) -> np.ndarray:
    """A picture of 64 x 64 coloured and noisy tiles, most of which are cut by whatever reduces it."""
    random = np.random.default_rng(0)
    tiles = random.integers(30, 225, (height // 64 + 1, width // 64 + 1, 3)).repeat(64, 0).repeat(64, 1)
    noise = random.normal(0, 6, (height, width, 1))
    return np.clip(tiles[:height, :width] + noise, 0, 255).astype(np.uint8)


def test_large_images_are_reduced_and_networks_see_the_same(tmp_path: Path) -> None:
    Image.fromarray(large(2050, 2200)).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as opened:
        whole = np.array(opened)
    resize = {size: Preprocess(Preprocessing((size, size), 1.0)).resize for size in (256, 512)}
    for pixels in (read_pixels(tmp_path / "a.jpg"), read_pixels(whole)):
        assert pixels.shape == (1025, 1100, 3)
        for size, mean, most in ((256, 0.3, 5), (512, 0.8, 15)):  # as docs/data.md says
            seen, expected = (
                resize[size](torch.from_numpy(a)[None].permute(0, 3, 1, 2).float()) for a in (pixels, whole)
            )
            difference = (seen - expected).abs()
            assert difference.mean() < mean and difference.max() < most


@pytest.mark.parametrize("mode", ["P", "LA", "1"])
def test_large_images_of_any_mode_are_reduced_alike(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(large(64, 60)).convert(mode).resize((2100, 2240), Image.Resampling.NEAREST)
    image.save(tmp_path / "a.png")
    whole = np.array(image.convert("RGB"))
    assert (read_pixels(tmp_path / "a.png") == read_pixels(whole)).all()
    assert abs(read_pixels(whole)[:, :, 1].mean() - whole[:, :, 1].mean()) < 0.5


@pytest.mark.parametrize(("side", "expected"), [(2047, 2047), (2048, 1024), (4096, 1024)])
def test_the_shorter_side_keeps_1024_pixels(side: int, expected: int) -> None:
    flat = np.broadcast_to(np.arange(0, 256, 64, dtype=np.uint8)[:, None].repeat(side // 4 + 1, 0)[:side], (side, side))
    pixels = read_pixels(flat)
    assert pixels.shape == (expected, expected, 3)
    assert [int(pixels[expected * (2 * i + 1) // 8, 5, 0]) for i in range(4)] == [0, 64, 128, 192]


def test_large_turned_images_are_turned(tmp_path: Path) -> None:
    stored = np.zeros((2048, 3000, 3), dtype=np.uint8)
    stored[:, :1500] = RED
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif)
    pixels = read_pixels(tmp_path / "a.jpg").astype(int)
    assert pixels.shape == (1500, 1024, 3)
    assert abs(pixels[100, 500] - RED).max() < 3 and abs(pixels[1400, 500]).max() < 3


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 13000, 13000, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(png((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")))
    tracemalloc.start()
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ValueError, match="13000 x 13000 pixels, more than"),
    ):
        read_pixels(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    with pytest.raises(ValueError, match="20 x 10 pixels, more than max_pixels, 199"):
        read_pixels(Image.new("RGB", (20, 10)), max_pixels=199)
    assert read_pixels(Image.new("RGB", (20, 10)), max_pixels=200).shape == (10, 20, 3)
