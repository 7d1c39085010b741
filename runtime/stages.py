"""The stages of a frame, and how somebody who measures is told where one ends.

The detector and the backends know nothing of measuring but the calls here, so that what is measured is what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

__all__ = ["STAGES", "Lap", "Stage", "TellsStages", "no_lap"]

Stage = Literal["decode", "preprocess", "copy", "infer", "post", "draw", "other"]
STAGES: tuple[Stage, ...] = ("decode", "preprocess", "copy", "infer", "post", "draw")
"""In the order in which a frame passes them; `other` is what lies between them."""

Lap = Callable[[Stage], object]
"""Called where a stage ends: what was done since the call before belongs to it."""


def no_lap(stage: Stage) -> None:
    """Nobody measures."""


@runtime_checkable
class TellsStages(Protocol):
    """A backend that can tell copying from computing inside its `run`, by events on its own stream.

    What neither of its two stages holds, such as the wait for the device, is left out.
    """

    def tell_stages(self, wanted: bool) -> None:
        """Record the events from the next `run` on, or no more; without this call a run records none."""

    @property
    def stage_ms(self) -> Mapping[Stage, float]:
        """Milliseconds of `copy` (to the device and back) and `infer` in the last `run`."""
