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


def load_library(module: str, extra: str, *, having: str) -> ModuleType:
    """Import a package that may be there in part, or be broken, and say so; for what runs a graph.

    Args:
        module, extra: see `require`.
        having: a name that the package has. What is left of a package that was removed is a folder, and that imports
            too, as a module of nothing.

    Raises:
        MissingExtra: it is not installed, its import fails, or it is not what its name says.

    >>> load_library("json", "cpu", having="InferenceSession")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    acd_edge.errors.MissingExtra: ...json has no InferenceSession, so it is another package or what is left of one; ...
    """
    try:
        found = require(module, extra)
    except MissingExtra:
        raise
    except Exception as error:  # a shared library that is absent, a numpy of another release, a processor too old
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingExtra(
            f"{module} is installed and cannot be loaded ({first}); install it again: "
            f"pip install --force-reinstall 'acd-edge[{extra}]'"
        ) from error
    if not hasattr(found, having):
        place = next(iter(getattr(found, "__path__", [])), module)
        raise MissingExtra(
            f"{place} has no {having}, so it is another package or what is left of one; remove that folder, then: "
            f"pip install --force-reinstall 'acd-edge[{extra}]'"
        )
    return found
