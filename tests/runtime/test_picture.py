from __future__ import annotations

import itertools
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from acd_edge.errors import AcdEdgeError, ConfigError, SourceError
from acd_edge.runtime.picture import (
    ORIENTATION_TAG,
    PHOTOMETRIC_TAG,
    PLANAR_TAG,
    SEPARATE,
    WHITE_IS_ZERO,
    read_picture,
)
from acd_edge.runtime.preprocess import RESIZE_RULES, resize
from acd_edge.runtime.quiet import quietly
from acd_edge.runtime.sources import open_sources
from tests.interrupts import interrupted_at

RGB = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)


def test_8_bit_colour_comes_back_as_written(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), RGB)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_gray_is_divided_by_257(tmp_path: Path, suffix: str) -> None:
    deep = RGB[..., 0].astype(np.uint16) * 257
    deep[0, 0] += 100  # rounded down
    deep[0, 1] = 1000  # 3.89 is 4
    Image.fromarray(deep).save(tmp_path / f"a{suffix}")
    want = RGB[..., 0].copy()
    want[0, 1] = 4
    np.testing.assert_array_equal(read_picture(tmp_path / f"a{suffix}"), np.repeat(want[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_keeps_its_low_bytes(tmp_path: Path, suffix: str, channels: int) -> None:
    # 12-bit samples: the high bytes alone would leave 16 values
    deep = np.full((*RGB.shape[:2], channels), 4095, np.uint16)
    deep[..., :3] = RGB[..., ::-1].astype(np.uint16) * 16
    cv2.imwrite(str(tmp_path / f"a{suffix}"), deep)
    got = read_picture(tmp_path / f"a{suffix}", bit_depth=12)
    np.testing.assert_array_equal(got, np.round(RGB * (16 * 255 / 4095)).astype(np.uint8))
    assert len(np.unique(got)) > 200


def deep_file(path: Path, value: int, bits: int, *, colour: bool) -> Path:
    """A PNM or JPEG 2000 of one 16-bit value whose header says that its samples have `bits`."""
    if path.suffix in (".ppm", ".pgm"):
        pixels = np.full((4, 4, 3) if colour else (4, 4), value, ">u2")
        path.write_bytes(f"P{6 if colour else 5}\n4 4\n{2**bits - 1}\n".encode() + pixels.tobytes())
    else:
        cv2.imwrite(str(path), np.full((64, 64, 3) if colour else (64, 64), value, np.uint16))
        content = path.read_bytes()
        box, siz = content.index(b"ihdr") + 14, content.index(b"\xff\x4f\xff\x51") + 42
        assert content[box] == content[siz] == 15  # where our reader looks for it
    return path


@pytest.mark.parametrize("name", ["a.ppm", "a.pgm", "c.jp2", "g.jp2"])
def test_bit_depth_counts_for_every_format_with_16_bits(tmp_path: Path, name: str) -> None:
    path = deep_file(tmp_path / name, 4000, 16, colour=name in ("a.ppm", "c.jp2"))
    assert (read_picture(path, bit_depth=12) == 249).all()
    assert (read_picture(path) == 16).all()  # the control: taken as 16 bits it is dark


@pytest.mark.parametrize("bit_depth", [12, 16])
@pytest.mark.parametrize(("name", "bits", "value"), [("a.ppm", 12, 4000), ("a.pgm", 12, 4000), ("a.pgm", 10, 1000)])
def test_a_depth_that_the_header_has_is_believed(
    tmp_path: Path, name: str, bits: int, value: int, bit_depth: int
) -> None:
    path = deep_file(tmp_path / name, value, bits, colour=name.endswith("ppm"))
    assert (read_picture(path, bit_depth=bit_depth) == 249).all()


def test_a_picture_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's reader of EPS runs Ghostscript on the file, whatever the file is called."""
    (path := tmp_path / "evil.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert Image.open(path).format == "EPS"  # the control: asked for any format, Pillow takes it
    with pytest.raises(SourceError, match="is not a picture that can be read here"):
        read_picture(path)


def test_12_bit_pictures_are_dark_without_their_depth_and_refused_when_deeper(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", bit_depth=12).max() == 255
    assert read_picture(tmp_path / "a.png").max() == 16
    with pytest.raises(SourceError, match=r"4095 to 4095, more than 10 bits"):
        read_picture(tmp_path / "a.png", bit_depth=10)
    with pytest.raises(ConfigError, match="9 to 16"):
        read_picture(tmp_path / "a.png", bit_depth=8)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "PA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(RGB).convert("P" if mode == "PA" else mode.replace("A", "") if mode == "LA" else mode)
    want = np.asarray(picture.convert("RGB"))
    if mode in ("LA", "RGBA"):
        picture = Image.fromarray(RGB).convert("L" if mode == "LA" else "RGB")
        want = np.asarray(picture.convert("RGB"))
        picture.putalpha(Image.fromarray(np.zeros(RGB.shape[:2], np.uint8)))  # wholly transparent, and still there
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), want)


def test_cmyk(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    ink.save(tmp_path / "a.jpg", quality=100)
    red = read_picture(tmp_path / "a.jpg")[4, 4]
    assert red[0] > 250
    assert red[1:].max() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # a white corner at the top left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),  # shown after a quarter turn clockwise
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a{suffix}", exif=exif)
    got = read_picture(tmp_path / f"a{suffix}")
    assert got.shape == upright.shape
    np.testing.assert_allclose(got, upright, atol=3)  # JPEG of 8 x 8 blocks keeps flat blocks almost exactly


@pytest.mark.parametrize("shape", [(1, 1, 3), (1000, 20000, 3), (1, 500, 3)])
def test_odd_sizes(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    Image.fromarray(np.full(shape, 7, np.uint8)).save(tmp_path / "a.png", compress_level=1)
    got = read_picture(tmp_path / "a.png")
    assert got.shape == shape
    assert resize(got, 28).shape == (28, 28, 3)


def huge_png(path: Path, side: int) -> None:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    huge_png(tmp_path / "a.png", 20_000)
    with pytest.raises(SourceError, match=r"20000 x 20000 = 400,000,000 pixels.*--max-pixels") as caught:
        read_picture(tmp_path / "a.png")
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="damaged"):  # allowed, so decoded, and there is nothing to decode
        read_picture(tmp_path / "a.png", max_pixels=400_000_001)


def cut(path: Path, suffix: str) -> None:
    Image.fromarray(RGB).save(path.with_suffix(suffix))
    content = path.with_suffix(suffix).read_bytes()
    path.with_suffix(suffix).write_bytes(content[: len(content) * 2 // 3])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp", ".gif"])
def test_truncated_pictures(tmp_path: Path, suffix: str) -> None:
    cut(tmp_path / "a", suffix)
    with pytest.raises(SourceError, match=f"a{suffix}"):
        read_picture(tmp_path / f"a{suffix}")


def test_truncated_16_bit_colour(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), RGB.astype(np.uint16) * 257)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match="damaged or cut short"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"", "is empty"),
        ("a.png", b"text", "is not a picture"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "a.png"),
        ("none.png", None, "No such file"),
        (".", None, "is a folder"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_picture(tmp_path / name)


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(SourceError, match="floating-point"):
        read_picture(tmp_path / "a.tif")


def with_tag(path: Path, tag: int, value: int) -> Path:
    """Change a TIFF tag of one short number where it stands."""
    content = path.read_bytes()
    entry = struct.pack("<HHI", tag, 3, 1)
    assert content.count(entry) == 1
    at = content.index(entry) + len(entry)
    path.write_bytes(content[:at] + struct.pack("<H", value) + content[at + 2 :])
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_white_is_zero_comes_back_as_it_looks(tmp_path: Path, dtype: type[np.unsignedinteger]) -> None:
    gray = RGB[..., 0].astype(dtype) * (257 if dtype is np.uint16 else 1)
    Image.fromarray(gray).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif")[..., 0], RGB[..., 0])
    looks = read_picture(with_tag(tmp_path / "a.tif", PHOTOMETRIC_TAG, WHITE_IS_ZERO))
    np.testing.assert_array_equal(looks[..., 0], 255 - RGB[..., 0])


def test_deep_colour_in_separate_planes_is_refused(tmp_path: Path) -> None:
    """OpenCV and Pillow each give other wrong pixels for it."""
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), RGB.astype(np.uint16) * 257)
    read_picture(path)
    with pytest.raises(SourceError, match="in separate planes"):
        read_picture(with_tag(path, PLANAR_TAG, SEPARATE))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_break_the_picture(tmp_path: Path, suffix: str, exif: bytes) -> None:
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}", exif=exif)
    assert read_picture(tmp_path / f"a{suffix}").shape == RGB.shape


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png"])
def test_of_several_frames_the_first_counts(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (9, 7), (level,) * 3) for level in (0, 255, 255)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / f"a{suffix}").max() < 5


def claim(path: Path, size: int) -> None:
    """Make the header of a small picture claim another size."""
    content = bytearray(path.read_bytes())
    if path.suffix == ".bmp":
        content[18:26] = struct.pack("<ii", size, size)
    elif path.suffix == ".gif":
        content[6:10] = struct.pack("<HH", size, size)
    elif path.suffix == ".tga":
        content[12:16] = struct.pack("<HH", size, size)
    elif path.suffix == ".jpg":
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">HH", size, size)
    elif path.suffix == ".jp2":
        at = content.index(b"ihdr") + 4
        content[at : at + 8] = struct.pack(">II", size, size)
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".tga", ".jpg", ".jp2"])
def test_huge_claims_are_refused_before_decoding(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}")
    claim(tmp_path / f"a{suffix}", 60_000)
    with pytest.raises(SourceError, match=r"60000 x 60000 = 3,600,000,000 pixels"):
        read_picture(tmp_path / f"a{suffix}")


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(SourceError, match=r"a\.png cannot be read: Permission denied"):
        read_picture(tmp_path / "a.png")


def test_c_libraries_are_quiet_inside_and_not_after(capfd: pytest.CaptureFixture[str]) -> None:
    assert quietly(lambda: os.write(2, b"TIFFReadDirectory: noise\n")) == 25
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"


def test_ctrl_c_at_any_moment_of_a_quiet_work_can_be_told(capfd: pytest.CaptureFixture[str]) -> None:
    for moment in itertools.count():
        raised = interrupted_at(moment, lambda: quietly(dict), within=("quiet.py", "contextlib.py"))
        os.write(2, b"ours\n")  # while what was raised is at hand
        assert capfd.readouterr().err == "ours\n", f"interrupted at moment {moment}"
        if raised is None:
            break
    assert moment > 2  # it was interrupted


def test_a_broken_tiff_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.tif", compression="tiff_lzw")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:200] + b"\xff" * 40 + content[240:])
    (source,), _ = open_sources([str(tmp_path / "a.tif")])
    with pytest.raises(SourceError, match="damaged or cut short"):
        next(iter(source.frames()))
    assert capfd.readouterr().err == ""


def by_pillow(rgb: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC))


def test_resize_is_pillows_bit_for_bit() -> None:
    got = resize(RGB, 14)
    np.testing.assert_array_equal(got, by_pillow(RGB, 14))
    plain = cv2.resize(RGB, (14, 14), interpolation=cv2.INTER_CUBIC)  # the control: no antialiasing
    assert np.abs(plain.astype(int) - got).max() > 20
    assert list(RESIZE_RULES) == ["pillow-bicubic"]


def test_resize_refuses_other_rules_and_arrays() -> None:
    with pytest.raises(AcdEdgeError, match="known are pillow-bicubic"):
        resize(RGB, 14, "nearest")
    with pytest.raises(AcdEdgeError, match="want uint8 RGB"):
        resize(RGB[..., 0], 14)
