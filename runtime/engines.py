"""Engines of this machine: what one was built from, where it lies, whether it may be used.

An engine belongs to one machine. The cache names it by a digest over everything that it depends on; beside the plan lie
a record of what it is (`engine.json`) and the result of its verification (`verify.json`).

    $ACD_EDGE_CACHE | $XDG_CACHE_HOME/acd-edge | ~/.cache/acd-edge
        engines/<digest>/engine.plan, engine.json, verify.json
        timing/<digest of the device>.cache
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from acd_edge.errors import EngineError, OutputError
from acd_edge.runtime.engine_records import (
    BuildOptions,
    Device,
    EngineKey,
    EngineRecord,
    Stamp,
    State,
    TensorRecord,
    digest_of,
    from_json,
    gpu_name,
    made,
    to_json,
)
from acd_edge.runtime.private_files import check_private, private_folder, read_private, write_private
from acd_edge.runtime.staging import staged_folder

__all__ = [
    "BuildOptions", "Device", "Engine", "EngineKey", "EngineRecord", "Stamp", "State", "TensorRecord", "all_engines",
    "cache_problem", "cache_root", "exact_engine", "gpu_name", "newest_engine", "prepare_cache",
    "read_timing_cache", "sole_builder", "stale_engine", "write_engine", "write_stamp", "write_timing_cache",
]  # fmt: skip

logger = logging.getLogger(__name__)

PLAN, RECORD, STAMP = "engine.plan", "engine.json", "verify.json"
_SHORT = 32  # hexadecimal digits of a folder's name
_AGAIN = "build it again: acd-edge compile BUNDLE --force"
_LOOK = 0.2  # seconds between looks at a build of another process


@dataclass(frozen=True)
class Engine:
    """An engine in the cache."""

    folder: Path
    record: EngineRecord
    stamp: Stamp | None = None

    @property
    def plan_path(self) -> Path:
        """The plan; read it with `plan_bytes`."""
        return self.folder / PLAN

    @property
    def state(self) -> State:
        """Whether it was found right on this device."""
        if self.stamp is None or self.stamp.plan_sha256 != self.record.plan_sha256:
            return "never verified"
        return "verified" if self.stamp.passed else "failed"

    def plan_bytes(self) -> bytes:
        """The plan, after its owner and its digest were checked: deserialising runs what stands in it.

        Raises:
            EngineError: it is absent, altered, not ours, or others may write it.
        """
        try:
            plan = read_private(self.plan_path, self.folder.parent.parent)
        except FileNotFoundError:
            raise EngineError(f"{self.plan_path} is missing; {_AGAIN}") from None
        if hashlib.sha256(plan).hexdigest() != self.record.plan_sha256:
            raise EngineError(f"{self.plan_path} was altered; {_AGAIN}")
        return plan


def cache_root() -> Path:
    """Where engines lie: `$ACD_EDGE_CACHE`, else `$XDG_CACHE_HOME/acd-edge`, else `~/.cache/acd-edge`.

    Raises:
        OutputError: it would lie in the home folder of a user who has none.
    """
    try:
        if own := os.environ.get("ACD_EDGE_CACHE"):
            return Path(own).expanduser().absolute()
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "acd-edge"  # a relative one is void
    except RuntimeError as error:  # what pathlib says where it finds no home folder
        named = f" in {own}" if own else ""
        raise OutputError(f"there is no home folder{named} to keep engines in; set ACD_EDGE_CACHE") from error


def cache_problem() -> str:
    """Why no engine of the cache can be used, and none be kept, in words; empty where all is well or nothing there."""
    root = cache_root()
    try:
        check_private(root / "engines", root)
    except FileNotFoundError:
        return f"{root} is a link to nothing; set ACD_EDGE_CACHE" if root.is_symlink() and not root.exists() else ""
    except EngineError as error:
        return str(error)
    return ""


def exact_engine(key: EngineKey) -> Engine | None:
    """The engine of exactly this key, or None."""
    engine = _read_engine(_folder(key))
    return engine if engine is not None and engine.record.key == key else None


def newest_engine(graph_digest: str, tensorrt: str, device: Device) -> Engine | None:
    """The engine of a graph for this machine, whatever its build options: the newest verified one, else the newest.

    Args:
        graph_digest: `GraphFile.digest`.
        tensorrt: the release that would run it.
        device: that would run it.
    """
    wanted = (tensorrt, gpu_name(device), device.driver)
    keys = ((each, each.record.key) for each in _engines_of(graph_digest))
    usable = [each for each, key in keys if (key.tensorrt, key.gpu, key.driver) == wanted]
    return max(usable, key=lambda each: (each.state == "verified", each.record.made_at), default=None)


def stale_engine(key: EngineKey) -> tuple[Engine, list[str]] | None:
    """The newest engine of the same graph that is not of this key, and what differs, for the message; or None."""
    others = [each for each in _engines_of(key.graph) if each.record.key != key]
    newest = max(others, key=lambda each: each.record.made_at, default=None)
    return None if newest is None else (newest, key.differences(newest.record.key))


def prepare_cache() -> None:
    """Make the cache and see that it takes a file: what is wrong with it is told before a build, not after minutes.

    Raises:
        EngineError: the cache is open to others.
        OutputError: it cannot be written.
    """
    root = cache_root()
    folder = private_folder(root / "engines", root)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; set ACD_EDGE_CACHE") from error


@contextmanager
def sole_builder(wait: Callable[[], None]) -> Iterator[None]:
    """Inside, no other process builds into this cache; two at once would share the memory, and time each other's load.

    The lock is the folder's own: it leaves no file, and goes with its process. On a disk that knows no locks there is
    none, and of two builds of one engine the later one stays.

    Args:
        wait: called once where another process has to be waited for.

    Raises:
        EngineError, OutputError: see `prepare_cache`.
    """
    prepare_cache()
    handle = os.open(cache_root() / "engines", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _locked(handle):
            wait()
            while not _locked(handle):
                time.sleep(_LOOK)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        logger.debug("the cache cannot be locked: %s", error)
    return True


def write_engine(key: EngineKey, plan: bytes | memoryview, record: EngineRecord) -> Engine:
    """Put an engine into the cache, whole or not at all; one of the same key is replaced, its stamp too.

    Raises:
        EngineError: the record is not of this key and plan, or the cache is open to others.
        OutputError: the place cannot be written; what was there stays.
    """
    if record.key != key or record.plan_sha256 != hashlib.sha256(plan).hexdigest():
        raise EngineError("the record is of another engine; nothing was written")
    root = cache_root()
    folder = _folder(key)
    private_folder(folder.parent, root)
    with staged_folder(folder) as new:
        new.chmod(0o700)
        write_private(new / PLAN, plan)
        write_private(new / RECORD, to_json(record))
    return Engine(folder, record)


def write_stamp(engine: Engine, stamp: Stamp) -> Engine:
    """Put the result of a verification beside an engine; return the engine with it.

    Raises:
        EngineError: the stamp is of another plan, or another one lies there by now.
        OutputError: the place cannot be written.
    """
    if stamp.plan_sha256 != engine.record.plan_sha256:
        raise EngineError(f"the stamp is of another plan than {engine.plan_path}; verify again")
    here = _read_engine(engine.folder)
    if here is None or here.record.plan_sha256 != stamp.plan_sha256:
        raise EngineError(f"the engine in {engine.folder} was built anew, or removed, meanwhile; verify again")
    write_private(engine.folder / STAMP, to_json(stamp))
    return replace(engine, stamp=stamp)


def read_timing_cache(tensorrt: str, device: Device) -> bytes:
    """What earlier builds on this device measured; empty where there is none, or none to be trusted."""
    try:
        return read_private(_timing_path(tensorrt, device), cache_root())
    except FileNotFoundError:
        return b""
    except EngineError as error:
        logger.warning("the timing cache is not used: %s", error)
        return b""


def write_timing_cache(tensorrt: str, device: Device, content: bytes | memoryview) -> None:
    """Keep what a build measured for the next one; a place that cannot be written costs time only, and is a warning."""
    path = _timing_path(tensorrt, device)
    try:
        private_folder(path.parent, cache_root())
        write_private(path, content)
    except (EngineError, OutputError) as error:
        logger.warning("the timing cache is not kept: %s", error)


def _folder(key: EngineKey) -> Path:
    return cache_root() / "engines" / key.digest[:_SHORT]


def _timing_path(tensorrt: str, device: Device) -> Path:
    digest = digest_of({"tensorrt": tensorrt, "gpu": gpu_name(device), "driver": device.driver})
    return cache_root() / "timing" / f"{digest[:_SHORT]}.cache"


def all_engines() -> Iterator[Engine]:
    """Every engine in the cache, of whatever graph, device and release; see its `state`."""
    try:
        folders = sorted(each for each in (cache_root() / "engines").iterdir() if not each.name.startswith("."))
    except OSError:
        return
    for folder in folders:
        engine = _read_engine(folder)
        if engine is not None:
            yield engine


def _engines_of(graph_digest: str) -> Iterator[Engine]:
    return (engine for engine in all_engines() if engine.record.key.graph == graph_digest)


def _read_engine(folder: Path) -> Engine | None:
    """The engine in a folder; None where there is none, or none of this schema. The plan itself is read when used."""
    root = cache_root()
    try:
        record = EngineRecord.from_dict(from_json(read_private(folder / RECORD, root)))
    except FileNotFoundError:
        return None
    except (EngineError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("%s is not used: %s", folder, error)
        return None
    return Engine(folder, record, _read_stamp(folder / STAMP, root))


def _read_stamp(path: Path, root: Path) -> Stamp | None:
    try:
        return made(Stamp, from_json(read_private(path, root)))
    except FileNotFoundError:
        return None
    except (EngineError, ValueError, TypeError) as error:
        logger.warning("%s is not used: %s", path, error)
        return None
