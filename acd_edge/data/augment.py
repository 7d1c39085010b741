"""Changes that keep a picture's meaning: what is good stays good, and what is defective stays so."""

from __future__ import annotations

import numpy as np

from acd_edge.data.shapes import Bytes, Floats, Rng, cv2, value_noise


def turn(rng: Rng, image: Bytes, mask: Bytes) -> tuple[Bytes, Bytes]:
    """Mirror and turn by quarter circles, picture and mask alike."""
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    quarters = int(rng.integers(4))
    return np.ascontiguousarray(np.rot90(image, quarters)), np.ascontiguousarray(np.rot90(mask, quarters))


def crop(rng: Rng, image: Bytes, mask: Bytes, least: float = 0.5) -> tuple[Bytes, Bytes]:
    """Cut out a random part of at least `least` of the area, its sides changed by up to a fifth.

    The label follows from the mask that is returned: a defect may have stayed outside.
    """
    height, width = mask.shape
    side, aspect = np.sqrt(rng.uniform(least, 1)), np.exp(rng.uniform(-0.2, 0.2))
    rows = int(np.clip(round(side * aspect * height), 1, height))
    columns = int(np.clip(round(side / aspect * width), 1, width))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    part = np.s_[top : top + rows, left : left + columns]
    return np.ascontiguousarray(image[part]), np.ascontiguousarray(mask[part])


def rotate(rng: Rng, image: Bytes, mask: Bytes, most: float = 20) -> tuple[Bytes, Bytes]:
    """Turn by up to `most` degrees about the middle; the corners are mirrored in."""
    height, width = mask.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-most, most), 1.0)
    image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    mask = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
    return image, mask


def recolour(rng: Rng, image: Bytes) -> Bytes:
    """Change gamma, contrast, brightness, tint and light; sometimes gray, sometimes inverted."""
    values = np.arange(256, dtype=np.float32) / 255
    values = values ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    values = (values - 0.5) * np.float32(np.exp(rng.uniform(-0.5, 0.35))) + 0.5 + np.float32(rng.uniform(-0.15, 0.15))
    if rng.random() < 0.05:
        values = 1 - values
    tint = np.exp(rng.uniform(-0.2, 0.2, 3)) if rng.random() < 0.4 else np.ones(3)
    table = np.clip(values[:, None] * tint * 255, 0, 255).astype(np.uint8)  # (256, 3)
    changed: Bytes = cv2.LUT(image, table.reshape(1, 256, 3))
    if rng.random() < 0.2:
        changed = _hue(rng, changed)
    if rng.random() < 0.3:
        changed = np.repeat(cv2.cvtColor(changed, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return _light(rng, changed) if rng.random() < 0.35 else changed


def degrade(rng: Rng, image: Bytes) -> Bytes:
    """Add, each now and then, a camera's faults: mild blur, noise, JPEG blocks."""
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.4))
    if rng.random() < 0.25:
        noise = rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(rng.uniform(2, 10))
        image = np.clip(image.astype(np.float32) + noise[..., None], 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))])
        image = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return image


def _hue(rng: Rng, image: Bytes) -> Bytes:
    turned = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    turned[..., 0] = (turned[..., 0].astype(np.int16) + int(rng.integers(180))) % 180
    back: Bytes = cv2.cvtColor(turned, cv2.COLOR_HSV2RGB)
    return back


def _light(rng: Rng, image: Bytes) -> Bytes:
    """Uneven lighting: a broad, soft factor over the picture; it is no defect."""
    size = max(image.shape[:2])
    field: Floats = value_noise(rng, size, 2)[: image.shape[0], : image.shape[1]]
    factor = 1 + np.float32(rng.uniform(0.1, 0.5)) * (field - np.float32(0.5))
    return np.asarray(np.clip(image.astype(np.float32) * factor[..., None], 0, 255), np.uint8)
