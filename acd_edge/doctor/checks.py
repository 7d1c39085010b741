"""One line of the doctor's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["GROUPS", "Check", "Mark"]

Mark = Literal["ok", "note", "missing", "bad"]
"""`note`: worth knowing. `missing`: something that is not there. `bad`: something that will fail or mislead."""

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "machine": "Machine",
        "jetson": "Jetson",
        "python": "Python",
        "pictures": "Pictures and cameras",
        "backends": "What runs the graph",
        "engines": "Engines",
    }
)
"""Key of a section of the table -> its title."""


@dataclass(frozen=True)
class Check:
    """What was looked at, and what to do about it.

    Attributes:
        group: key of `GROUPS`.
        name: what it is about, short.
        text: what was found.
        fix: the one line that mends it: a command, or where there is none, what to do; empty where all is well.
        code: name of the finding for programs, such as `power-mode`; empty for a plain fact.
    """

    group: str
    name: str
    mark: Mark
    text: str
    fix: str = ""
    code: str = ""

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)
