"""Fine bins over 0 to 1, narrow towards both ends, where the scores of a sure detector crowd.

A bin spans at most 1/65,536 of its distance from the nearer of 0 and 1. It is found from the bits of that distance as
a float32, which grow with it; 1 - x is exact in float32 for x of at least 1/2 (Sterbenz), so the order is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from acd_edge.errors import DataError

Keys = npt.NDArray[np.int32]

_MANTISSA = 16  # bits that are told apart
_DROPPED = 23 - _MANTISSA
_LEAST = 2.0**-32
"""Nearer to an end than this, all but the end itself is one bin; a softmax at tau = 0.1 over cosines, whose logits
differ by 20 at most, stays above it."""
_LEAST_BITS = int(np.float32(_LEAST).view(np.int32))
_HALF_KEY = 1 + ((int(np.float32(0.5).view(np.int32)) - _LEAST_BITS) >> _DROPPED)
BINS = 2 * _HALF_KEY + 1
"""Bins in all; the first holds 0 alone, the last 1 alone."""


def bin_keys(scores: npt.NDArray[np.floating[Any]]) -> Keys:
    """The bin of each score: never lower for a higher one.

    Args:
        scores: in 0 to 1; those of a wider type are rounded to float32.

    Returns:
        0 to `BINS` - 1, of the shape of the scores.

    Raises:
        DataError: a score is outside 0 to 1.

    >>> bin_keys(np.array([0, 1])).tolist() == [0, BINS - 1]
    True
    """
    values = scores.astype(np.float32, copy=False)
    if values.size and (values.min() < 0 or values.max() > 1):
        raise DataError(f"so many scores are counted in bins over 0 to 1, got {values.min():.6g} to {values.max():.6g}")
    distance = np.abs(np.minimum(values, 1 - values))  # abs turns -0.0, whose bits are not those of 0, into 0
    bits = distance.view(np.int32)
    keys: Keys = np.maximum(bits, _LEAST_BITS)
    keys -= _LEAST_BITS
    keys >>= _DROPPED
    keys += bits > 0
    return np.where(values < 0.5, keys, BINS - 1 - keys)


def is_mixed(keys: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Whether a bin can hold two float32 that differ.

    Not so at 0 and at 1, nor in the bins of 1 - x below 2^-7: they are at most 2^-24 wide, the step of float32 there.
    """
    return (keys > 0) & (keys <= _FIRST_PURE)


_FIRST_PURE = int(bin_keys(np.array([1 - 2.0**-7], np.float32))[0])
