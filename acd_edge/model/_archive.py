"""Reading tensors from a weight file without running anything in it: safetensors, torch.save, TorchScript."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acd_edge.errors import WeightsError
from acd_edge.lazy import require

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DAMAGED = (OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, of a `torch.save`d state dict, or of a TorchScript archive, as stored.

    A state dict under the key `state_dict`, and names that all begin with `module.`, are unwrapped.

    Raises:
        WeightsError: the file is absent, damaged, or holds something else than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weight file at {path}")
    if path.suffix == ".safetensors":
        tensors = _safetensors(path)
    elif is_torchscript(path):
        tensors = _torchscript(path)
    else:
        tensors = state_dict_of(read_pickle(path), path)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, restricted to tensors and plain containers (`weights_only`).

    Raises:
        WeightsError: the file is no such file, or needs code to be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how slowly or unusually the file is written
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds Python objects other than tensors, which are never unpickled here; "
            "save its state dict alone with torch.save"
        ) from error
    except _DAMAGED as error:
        raise WeightsError(f"{path} cannot be read as torch weights: {_first_line(error)}") from error


def state_dict_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds, from under the key `state_dict` where there is one."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}, not a state dict (a mapping of names to tensors)")
    if odd := [
        str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]:
        raise WeightsError(f"{path} is no state dict: {odd[0]} is {type(content[odd[0]]).__name__}, not a tensor")
    return dict(content)


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive, which carries code beside its tensors.

    Raises:
        WeightsError: it is an archive whose list of members is damaged.
    """
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, *_DAMAGED) as error:
        raise WeightsError(f"{path} is a damaged archive: {_first_line(error)}") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    safetensors = require("safetensors", "train")
    try:
        return dict(require("safetensors.torch", "train").load_file(path))
    except (safetensors.SafetensorError, *_DAMAGED) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {_first_line(error)}") from error


def _torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive under their state-dict names; the code inside is not even parsed."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(data) as file:
                root = _ModuleUnpickler(file, archive, data.removesuffix(".pkl")).load()
    except (pickle.UnpicklingError, zipfile.BadZipFile, StopIteration, *_DAMAGED) as error:
        raise WeightsError(f"{path} cannot be read as a TorchScript archive: {_first_line(error)}") from error
    return dict(_walk(root, ""))


class _Module:
    """Stands in for every class that the archive defines: it only keeps its attributes."""


class _ModuleUnpickler(pickle.Unpickler):
    """Knows tensors, containers and `_Module`; any other name in the file is refused, so that nothing can run."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Map a name in the file to one of the few things that may be built."""
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if module.split(".")[0] == "__torch__":
            return _Module
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no archive of weights needs")

    def persistent_load(self, pid: Any) -> Tensor:
        """The flat storage that a ("storage", type, key, device, count) names."""
        _, dtype, key, _, count = pid
        if key not in self._storages:
            raw = bytearray(self._archive.read(f"{self._folder}/{key}"))
            self._storages[key] = (
                torch.frombuffer(raw, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            )
        return self._storages[key]


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _walk(module: _Module, prefix: str) -> list[tuple[str, Tensor]]:
    """(dotted name, tensor) of a module and those below it."""
    found: list[tuple[str, Tensor]] = []
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Module):
            found += _walk(value, f"{prefix}{name}.")
    return found


def _first_line(error: BaseException) -> str:
    words = "" if isinstance(error, KeyError) else str(error).strip()  # of a lookup it is only what was not found
    return (words.splitlines() or ["it is none, or damaged"])[0]
