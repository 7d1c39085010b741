"""Text that comes from elsewhere, for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text without what would steer a terminal: for each such character a `?`.

    >>> printable("red \x1b[31m")
    'red ?[31m'
    """
    return "".join(char if char.isprintable() else "?" for char in text)
