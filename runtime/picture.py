"""Reading one picture file, however it was written, as upright 8-bit RGB."""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from acd_edge.errors import ConfigError, SourceError
from acd_edge.runtime.preprocess import Pixels
from acd_edge.runtime.quiet import quiet_cv2

MAX_PIXELS = 100_000_000
PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2", ".tga"}
)
# What those hold, as Pillow calls it; its other readers are not asked: the one for EPS starts a program on the file.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "TGA")
ORIENTATION_TAG = 0x0112  # EXIF 2.3, section 4.6.4
BITS_TAG, PHOTOMETRIC_TAG, PLANAR_TAG = 258, 262, 284  # TIFF 6.0, section 8
WHITE_IS_ZERO, SEPARATE = 0, 2  # values of the last two
_HEAD = 4096  # bytes in which a JPEG 2000 says how deep its samples are
_JP2_BOX_DEPTH, _JP2_SIZ_DEPTH = 14, 42  # where: from its box `ihdr`, and in a bare codestream (T.800, I.5.3.1, A.5.1)
# What Pillow's plugins raise on broken files; each plugin has its own habits.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
_pillow_limit = threading.Lock()


def read_picture(path: str | Path, *, bit_depth: int = 16, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read a picture as uint8 RGB, (H, W, 3), turned upright as its EXIF says.

    Gray is repeated, alpha dropped, CMYK and palettes converted. Samples deeper than 8 bits are scaled from
    `bit_depth` bits to 8 and rounded: at 16 bits that is a division by 257.

    Args:
        path: PNG, JPEG, BMP, TIFF, WebP, GIF, PPM, JPEG 2000 or TGA; of several frames the first counts.
        bit_depth: bits that a 16-bit file really uses, 9 to 16; cameras often write 10 or 12. A PPM or JPEG 2000 that
            says so itself is taken at its word.
        max_pixels: a picture of more is refused before it is decoded.

    Raises:
        SourceError: the file is absent, empty, truncated, too large, or no picture.
    """
    path = Path(path)
    if not 9 <= bit_depth <= 16:
        raise ConfigError(f"the bit depth of 16-bit pictures is 9 to 16, got {bit_depth}")
    check_file(path, "a picture file")
    try:
        with _opened(path) as picture:
            check_size(str(path), picture.size, max_pixels)
            stated = _stated_bits(picture, path)
            deep_colour = _is_deep_colour(picture, path, stated)
            if stated not in (None, 16):
                bit_depth = 16  # what the header says is believed, and Pillow has scaled it to 16 bits
            picture.load()  # some formats turn themselves upright here, so the tag is read after it
            orientation = _orientation(picture)
            rgb = _deep_colour(path, bit_depth) if deep_colour else _to_rgb(picture, path, bit_depth)
            return _upright(rgb, orientation)
    except (SourceError, ImportError):
        raise
    except UnidentifiedImageError as error:
        raise SourceError(f"{path} is not a picture that can be read here") from error
    except BROKEN as error:
        raise SourceError(f"{path} {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the decoder's
        return f"cannot be read: {error.strerror}"
    return f"is damaged or cut short: {error}"


def check_size(name: str, size_wh: tuple[int, int], max_pixels: int) -> None:
    """Refuse a picture or a frame of more pixels than allowed.

    Raises:
        SourceError: it has more; `name` is in it.
    """
    width, height = size_wh
    if width * height > max_pixels:
        raise SourceError(
            f"{name} has {width} x {height} = {width * height:,} pixels, more than the {max_pixels:,} "
            f"allowed; shrink it, or raise the limit with --max-pixels"
        )


def check_file(path: Path, wanted: str) -> None:
    """Refuse what is no file with something in it; `wanted` says what was expected.

    Raises:
        SourceError: it is absent, a folder or empty.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    if path.is_dir():
        raise SourceError(f"{path} is a folder, {wanted} was expected")
    if size == 0 and path.is_file():
        raise SourceError(f"{path} is empty (0 bytes)")


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open without Pillow's own pixel limit, which is lower than what `max_pixels` may allow."""
    with _pillow_limit, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(path, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with picture:
        yield picture


def _orientation(picture: Image.Image) -> int:
    """What EXIF says; 1, as it lies, where EXIF itself is broken."""
    try:
        return picture.getexif().get(ORIENTATION_TAG, 1)
    except BROKEN:
        return 1


def _stated_bits(picture: ImageFile.ImageFile, path: Path) -> int | None:
    """Bits of a sample as the header of a PPM or JPEG 2000 has them; None for the formats that only know 8 and 16."""
    if picture.format == "PPM":
        args = picture.tile[0][3]
        return int(args[1]).bit_length() if isinstance(args, tuple) and isinstance(args[1], int) else None
    if picture.format == "JPEG2000":
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        box = head.find(b"ihdr")
        return (head[_JP2_SIZ_DEPTH if box < 0 else box + _JP2_BOX_DEPTH] & 0x7F) + 1
    return None


def _is_deep_colour(picture: ImageFile.ImageFile, path: Path, stated: int | None) -> bool:
    """Whether Pillow would cut 16-bit colour down to its high bytes.

    Raises:
        SourceError: the channels lie one after the other, which neither Pillow nor OpenCV reads right with 16 bits.
    """
    if picture.format == "TIFF" and _tag(picture, PLANAR_TAG) == SEPARATE and max(_tags(picture, BITS_TAG)) > 8:
        raise SourceError(f"{path} holds 16-bit colour in separate planes; save it as PNG, or with its channels mixed")
    args = picture.tile[0][3] if picture.tile else ""
    raw = args[0] if isinstance(args, tuple) and args else args
    is_16_bit = stated == 16 or (isinstance(raw, str) and ";16" in raw)
    return picture.mode in ("RGB", "RGBA", "LA", "CMYK") and is_16_bit


def _deep_colour(path: Path, bit_depth: int) -> Pixels:
    cv2 = quiet_cv2()
    # From memory, since OpenCV's own file reader refuses some names that Python can open.
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3:
        raise SourceError(f"{path} holds 16-bit colour of a kind that OpenCV cannot read; save it as PNG")
    rgb: NDArray[np.uint16] = np.ascontiguousarray(pixels[..., 2::-1])  # from BGR or BGRA
    return _to_8_bit(rgb, path, bit_depth)


def _to_rgb(picture: ImageFile.ImageFile, path: Path, bit_depth: int) -> Pixels:
    if picture.mode == "F":
        raise SourceError(f"{path} holds floating-point samples, whose range is unknown; save it with 8 or 16 bits")
    if picture.mode == "I" or picture.mode.startswith("I;"):
        gray = _to_8_bit(np.asarray(picture), path, bit_depth)
        if picture.format == "TIFF" and _tag(picture, PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
            gray = 255 - gray  # Pillow does so up to 8 bits only
        return np.repeat(gray[..., None], 3, axis=2)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _tag(picture: Image.Image, tag: int) -> int:
    return _tags(picture, tag)[0]


def _tags(picture: Image.Image, tag: int) -> tuple[int, ...]:
    """The numbers of a TIFF tag; a single 1, which is every default here, where it stands nowhere."""
    found = picture.tag_v2.get(tag, 1)  # type: ignore[attr-defined]  # a TIFF has it
    return found if isinstance(found, tuple) else (found,)


def _to_8_bit(samples: NDArray[Any], path: Path, bit_depth: int) -> Pixels:
    top = 2**bit_depth - 1
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high > top:
        raise SourceError(
            f"{path} holds samples from {low} to {high}, more than {bit_depth} bits; give its real --bit-depth (to 16)"
        )
    eight: Pixels = ((samples.astype(np.uint32) * 255 + top // 2) // top).astype(
        np.uint8
    )  # at 16 bits a division by 257
    return eight


def _upright(rgb: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation, 1 to 8; anything else is taken as 1."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)
