"""Every error that a user can mend, in one place.

The command line shows the message of an `AcdEdgeError` as one line and exits with `exit_code`; anything else is our own
mistake and keeps its traceback. Each class is also the builtin that a caller would expect to catch.
"""

from __future__ import annotations


class AcdEdgeError(Exception):
    """Base of every error the user can mend. The message says what happened, what came, and what to do."""

    exit_code = 1


class UsageError(AcdEdgeError):
    """Flags that cannot be combined, found only after parsing (exit status 2)."""

    exit_code = 2


class ConfigError(AcdEdgeError, ValueError):
    """A value or a key that a configuration does not know."""


class ShapeError(AcdEdgeError, ValueError):
    """An array of another shape or type than the one expected."""


class MissingExtra(AcdEdgeError, ImportError):
    """A package that belongs to an extra which is not installed."""


class CheckpointError(AcdEdgeError, ValueError):
    """A checkpoint that is incomplete, altered or not one of ours."""


class WeightsError(AcdEdgeError, ValueError):
    """Backbone weights that are absent, of another digest, or not of this architecture."""


class BundleError(AcdEdgeError, ValueError):
    """A bundle that is incomplete, altered, unsafe or of another schema."""


class UnknownProduct(AcdEdgeError, LookupError):
    """A product name without text features, where no text encoder can make them."""


class BackendError(AcdEdgeError, RuntimeError):
    """A runtime library that cannot load or run the graph as asked."""


class EngineError(AcdEdgeError, RuntimeError):
    """An engine that cannot be built, or that this machine may not use."""


class SourceError(AcdEdgeError, OSError):
    """A picture, folder, video, camera or stream that cannot be read."""


class DeviceError(AcdEdgeError, RuntimeError):
    """A device that was asked for and is not there."""


class OutputError(AcdEdgeError, OSError):
    """A place that cannot be written, or that is in use already."""


class DataError(AcdEdgeError, ValueError):
    """A data set whose files do not fit together."""


class ExportError(AcdEdgeError, RuntimeError):
    """A graph that could not be made, or that does not equal its source."""


class BenchError(AcdEdgeError, ValueError):
    """A result of `bench` that cannot be read or compared, or a measurement that gave none."""
