"""What every source gives: frames, with the name that their output will have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, Protocol

from acd_edge.runtime.picture import MAX_PIXELS
from acd_edge.runtime.preprocess import Pixels

Kind = Literal["picture", "video", "live"]


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        source: where it came from, as the user would write it.
        index: number in that source, from 0; a live source counts the frames that it dropped too.
        rgb: (H, W, 3) uint8, upright.
        captured: when a live frame arrived, in seconds of `time.perf_counter`; None for what lies on a disk.
    """

    source: str
    index: int
    rgb: Pixels
    captured: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read, see `read_picture`; `timeout` in seconds is how long a live source may stay silent."""

    bit_depth: int = 16
    max_pixels: int = MAX_PIXELS
    timeout: float = 10.0


class Source(Protocol):
    """Something that gives frames once."""

    @property
    def name(self) -> str:
        """What the user reads."""

    @property
    def kind(self) -> Kind:
        """One picture, a video that ends, or something live."""

    @property
    def output(self) -> PurePosixPath:
        """Place of its output below the output folder, without a suffix."""

    def frames(self) -> Iterator[Frame]:
        """Give every frame.

        Raises:
            SourceError: it cannot be read, or breaks off.
        """
