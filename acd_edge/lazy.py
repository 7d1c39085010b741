"""Late imports of heavy packages, with the extra that brings them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from acd_edge.errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Args:
        module: dotted name of the module.
        extra: name of the extra of this package that installs it.

    Raises:
        MissingExtra: the top-level package is not installed. A package that is installed and itself lacks something
            raises its own error.

    >>> require("json", "cpu").dumps([1])
    '[1]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise MissingExtra(
            f"this step needs {module}, which is not installed; install it with: pip install 'acd-edge[{extra}]'"
        ) from error
