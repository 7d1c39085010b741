"""Late imports of heavy packages, with the extra that brings them."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from acd_edge.errors import MissingExtra

_ALONE = frozenset({"onnx", "onnxruntime", "tokenizers"})
"""What a Jetson may have from PyPI; the extras that bring them bring an OpenCV or a torch that is not JetPack's too."""
_NOT_THERE = frozenset({"train", "export", "compact", "distributed", "tensorboard"})
"""Extras for steps that no Jetson does."""


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
            f"this step needs {module}, which is not installed; {how_to_install(module, extra)}"
        ) from error


def how_to_install(module: str, extra: str, *, again: bool = False) -> str:
    """What to do for a package, as the end of a sentence; where this may be a Jetson, what to do there first.

    Args:
        module, extra: see `require`.
        again: it is there, and broken.
    """
    package, pip = module.partition(".")[0], f"pip install{' --force-reinstall' if again else ''}"
    by_extra = f"{pip} 'acd-edge[{extra}]'"
    if package in _ALONE:
        on_a_jetson = f"{pip} {package}"
    elif package == "cv2":
        on_a_jetson = "sudo apt-get install nvidia-opencv, and an environment made with --system-site-packages"
    elif extra in _NOT_THERE:
        on_a_jetson = "leave this step to the computer that trains and exports"
    else:
        on_a_jetson = ""
    if on_a_jetson and _may_be_a_jetson():
        return f"on a Jetson: {on_a_jetson} (docs/jetson.md); elsewhere: {by_extra}"
    return f"install it {'again' if again else 'with'}: {by_extra}"


def _may_be_a_jetson() -> bool:
    import platform

    return sys.platform == "linux" and platform.machine() == "aarch64"


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
            f"{module} is installed and cannot be loaded ({first}); {how_to_install(module, extra, again=True)}"
        ) from error
    if not hasattr(found, having):
        place = next(iter(getattr(found, "__path__", [])), module)
        raise MissingExtra(
            f"{place} has no {having}, so it is another package or what is left of one; remove that folder, then "
            f"{how_to_install(module, extra, again=True)}"
        )
    return found
