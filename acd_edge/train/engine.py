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
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    @property
    def interrupted(self) -> bool:
        """Ctrl-C or a termination reached this process."""
        return self._asked

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        summed: Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return summed

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give the first process's values to all."""
        for tensor in tensors:
            tensor.copy_(self._broadcast(tensor.detach().clone()))

    def close(self) -> None:
        """Wait for the others and leave the group."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._accelerator.end_training()

    def _ask(self, number: int, frame: object) -> None:
        """Stop after this step, all processes after the same; asked twice, stop now."""
        if self._asked:
            raise KeyboardInterrupt
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
    """Hold Ctrl-C back until the block has ended, so that an update of the weights is done wholly or not at all."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    held: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        before(*held[-1])
