"""Ctrl-C at a chosen moment, for tests of what it may never break."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import FrameType

_MOMENTS = ("call", "c_return")  # where CPython looks for signals: a function begins, or one written in C is back


def interrupted_at(moment: int, action: Callable[[], object], *, within: tuple[str, ...]) -> KeyboardInterrupt | None:
    """Do something and raise Ctrl-C at a moment of it.

    Args:
        moment: 0, 1, ...: which of the moments at which a signal's handler can run.
        action: what is done.
        within: ends of the paths of the modules whose moments count.

    Returns:
        What was raised, with its frames as long as it is kept; None where there are fewer moments.
    """
    left = itertools.count(moment, -1)

    def look(frame: FrameType, event: str, _: object) -> None:
        if event in _MOMENTS and frame.f_code.co_filename.endswith(within) and next(left) == 0:
            raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        action()
    except KeyboardInterrupt as raised:
        return raised
    finally:
        sys.setprofile(before)
    return None
