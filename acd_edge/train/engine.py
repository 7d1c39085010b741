"""One process, or one of several: the device it computes on, and what the processes tell each other.

A single process needs torch alone. Several are started by `torchrun` and meet through Hugging Face accelerate, which
knows the launchers, the machines and the backends (NCCL between GPUs, gloo between CPUs). Every process works its share
of the same batch off and the gradients are added up, so that all of them hold the same weights after every step.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from acd_edge.errors import ConfigError, DeviceError
from acd_edge.lazy import require

DeviceName = Literal["auto", "cpu", "cuda"]


class StoppedTogether(KeyboardInterrupt):
    """All processes end after the same step, since one of them was asked to."""


class Engine(Protocol):
    """What the loop needs to know of the processes.

    Attributes:
        device: where this process computes.
        rank, count: this process among how many.
    """

    device: torch.device
    rank: int
    count: int

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each."""

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give the first process's values to all, in place."""

    def wait(self) -> None:
        """Until all processes are here."""

    @property
    def interrupted(self) -> bool:
        """Whether this process was asked to stop after the step; a single process is stopped by an exception."""


class SingleProcess:
    """The only process."""

    rank, count, interrupted = 0, 1, False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def sum(self, tensor: Tensor) -> Tensor:
        """What came."""
        return tensor

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Nothing to do."""

    def wait(self) -> None:
        """Nobody to wait for."""


class Accelerated:
    """One of several processes that torchrun started.

    Args:
        device: `auto`, `cpu` or `cuda`; each process takes the GPU of its number on its machine.

    Raises:
        MissingExtra: accelerate is not installed.
        DeviceError: a GPU was asked for and there is none, or fewer than processes on this machine.
    """

    def __init__(self, device: DeviceName) -> None:
        accelerate = require("accelerate", "distributed")
        cpu = torch_device(device).type == "cpu"
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), 0 if cpu else torch.cuda.device_count()
        if not cpu and local >= gpus:
            raise DeviceError(f"process {local + 1} on this machine finds {gpus} GPUs; start one process per GPU")
        self._accelerator: Any = accelerate.Accelerator(cpu=cpu)
        self._broadcast: Callable[..., Any] = accelerate.utils.broadcast
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self._asked = False
        self._before: dict[int, Any] = {number: signal.signal(number, self._ask) for number in _held()}

    @property
    def interrupted(self) -> bool:
        """A signal to end reached this process."""
        return self._asked

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        summed: Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return summed

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give the first process's values to all."""
        for tensor in tensors:
            tensor.copy_(self._broadcast(tensor.detach().clone()))

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Wait for the others and leave the group."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._accelerator.end_training()

    def _ask(self, number: int, frame: object) -> None:
        """Stop after this step, all processes after the same; asked twice, stop now."""
        if self._asked:
            self._before[number](number, frame)
        self._asked = True


@contextmanager
def open_engine(device: DeviceName = "auto") -> Iterator[Engine]:
    """The engine of this process: `Accelerated` where torchrun started several, else `SingleProcess`.

    Raises:
        DeviceError: as `torch_device`, and `Accelerated`.
        MissingExtra: there are several processes and accelerate is not installed.
    """
    if process_count() == 1:
        yield SingleProcess(torch_device(device))
        return
    engine = Accelerated(device)
    yield engine  # after an error the group is left to the launcher: the others may hang in it
    engine.close()


def process_count() -> int:
    """How many processes torchrun started, on all machines."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"WORLD_SIZE in the environment must be a number of processes, got {text!r}")
    return int(text)


def torch_device(name: DeviceName) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one.

    Raises:
        DeviceError: `cuda` was asked for, and torch sees none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        why = "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no GPU of NVIDIA's"
        raise DeviceError(f"--device cuda: {why}; leave it away to train on the CPU")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def share_of(batch: int, rank: int, count: int) -> range:
    """The slots of a batch that process `rank` works off.

    Raises:
        ConfigError: there are more processes than pictures.

    >>> [list(share_of(5, rank, 2)) for rank in (0, 1)]
    [[0, 1], [2, 3, 4]]
    """
    if count > batch:
        raise ConfigError(f"{count} processes cannot share a batch of {batch}; start fewer, or raise --batch")
    return range(rank * batch // count, (rank + 1) * batch // count)


@contextmanager
def undivided() -> Iterator[None]:
    """Hold Ctrl-C and its like back until the block has ended, so that weights are updated wholly or not at all."""
    came: list[tuple[int, Any]] = []
    before: dict[int, Any] = {
        number: signal.signal(number, lambda *signalled: came.append(signalled)) for number in _held()
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:  # the first asked
        before[came[0][0]](*came[0])


def _held() -> list[int]:
    """Signals to end that somebody in this process handles; only the main thread may change who."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if callable(signal.getsignal(number))]
