"""The heat of an overlay in float32, written as its formula stands: the test's oracle, the benchmark's baseline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
GRAY, STRONGEST, VISIBLE_FROM, FULL_FROM = 0.45, 0.68, 0.08, 0.55  # as docstring and comments of `overlay` say


def heated_in_floats(rgb: Pixels, anomaly_map: npt.NDArray[np.float32], colours: Pixels) -> Pixels:
    """(H, W, 3) uint8 under the heat of a map (H, W) in 0 to 1, whose colours (H, W, 3) are given; no contour."""
    gray = np.asarray(Image.fromarray(rgb).convert("L"), np.float32)[..., None]
    faded = rgb * np.float32(1 - GRAY) + gray * np.float32(GRAY)
    values = np.floor(anomaly_map * 255 + np.float32(0.5)) / np.float32(255)
    rising = np.clip((values - VISIBLE_FROM) / (FULL_FROM - VISIBLE_FROM), 0, 1)
    opacity = (rising * rising * (3 - 2 * rising) * np.float32(STRONGEST))[..., None]
    return np.asarray(faded + (colours - faded) * opacity + 0.5, np.uint8)
