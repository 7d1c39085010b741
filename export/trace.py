"""Write down what a plain module computes, call by call, as ONNX nodes of opset 20.

The module runs once on torch's `meta` device, which knows types and shapes and holds no numbers, so that this costs
milliseconds and no memory. Every call of a torch function becomes the one node that it means, named after the module
that made it: what is in the graph is what is in `acd_edge.export.graph`. A function without an entry in the table of
`acd_edge.export.translations` is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from acd_edge.errors import ExportError
from acd_edge.export.translations import TRANSLATIONS
from acd_edge.lazy import require

__all__ = ["Recorder", "Trace", "Value", "Watch", "state_of", "trace_module", "watch_module"]


class Value(NamedTuple):
    """Type and shape of one value of the graph."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass
class Trace:
    """Nodes in the order of computation.

    Attributes:
        nodes: of onnx.
        constants: the small tensors that belong to no parameter.
        values: what the nodes make, by name.
    """

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)


Watch = Callable[[str, Tensor], None]


def trace_module(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Trace:
    """Trace `module(*inputs)`.

    Args:
        module: its parameters keep their names and are not read.
        inputs: name -> any tensor of the wanted type and shape; the numbers do not matter.
        outputs: a name for each tensor that the module returns.

    Raises:
        ExportError: the module calls a function that has no translation.
    """
    feed = {name: torch.empty_like(tensor, device="meta") for name, tensor in inputs.items()}
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in state_of(module).items()}
    recorder = Recorder({**feed, **state})
    with recorder.following(module):
        results = torch.func.functional_call(module, state, tuple(feed.values()))
    recorder.finish([results] if isinstance(results, Tensor) else list(results), outputs)
    return recorder.trace


def watch_module(module: nn.Module, inputs: Mapping[str, Tensor], watch: Watch) -> Any:
    """Run a module on real numbers; `watch` sees every value under the name that `trace_module` gives it."""
    recorder = Recorder({**inputs, **state_of(module)}, watch)
    with recorder.following(module):
        return module(*inputs.values())


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _path_hooks(module: nn.Module, name: str, path: list[str]) -> list[Any]:
    def enter(*_: Any) -> None:
        path.append(name)

    def leave(*_: Any) -> None:
        path.pop()

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


class Recorder(TorchFunctionMode):
    """Translates each torch call that makes a new tensor."""

    def __init__(self, known: Mapping[str, Tensor], watch: Watch = lambda *_: None) -> None:
        super().__init__()
        self.trace = Trace()
        self.path: list[str] = []
        self._names = WeakTensorKeyDictionary({tensor: name for name, tensor in known.items()})
        self._used: Counter[str] = Counter()
        self._watch = watch

    @contextmanager
    def following(self, module: nn.Module) -> Iterator[None]:
        """Record the calls inside the block, and which of the module's parts makes them."""
        hooks = [hook for name, child in module.named_modules() for hook in _path_hooks(child, name, self.path)]
        try:
            with torch.no_grad(), self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [each for each in _tensors(out) if each not in self._names]
        if made:
            translation = TRANSLATIONS.get(func.__name__)
            if translation is None:
                raise ExportError(f"torch's {func.__name__} in {self.path[-1] or 'the model'} has no ONNX translation")
            translation(self, made, *args, **kwargs)
        return out

    def add(self, kind: str, inputs: Sequence[Tensor | str], made: Sequence[Tensor], **attributes: Any) -> None:
        """Append one node that makes the tensors `made`."""
        name = self.fresh(f"{self.path[-1]}/{kind}" if self.path[-1] else kind)
        names = [name, *(self.fresh(f"{name}.{index}") for index in range(1, len(made)))]
        for tensor, output in zip(made, names, strict=True):
            self._names[tensor] = output
            self.trace.values[output] = Value(tensor.dtype, tuple(tensor.shape))
            self._watch(output, tensor)
        self.append(kind, inputs, names, name, attributes)

    def append(self, kind: str, inputs: Sequence[Tensor | str], names: list[str], name: str, attributes: Any) -> None:
        """Append a node with given names."""
        feeds = [each if isinstance(each, str) else self.name_of(each) for each in inputs]
        helper = require("onnx.helper", "export")
        self.trace.nodes.append(helper.make_node(kind, feeds, names, name=name, **attributes))

    def name_of(self, tensor: Tensor) -> str:
        """The value that holds this tensor."""
        if tensor not in self._names:
            raise ExportError(f"a tensor of shape {tuple(tensor.shape)} in {self.path[-1]} was made outside the trace")
        return str(self._names[tensor])

    def alias(self, made: Tensor, source: Tensor) -> None:
        """`made` is `source` under another identity: no node."""
        self._names[made] = self.name_of(source)

    def fresh(self, name: str) -> str:
        """`name`, with a number from its second use on."""
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}_{self._used[name] - 1}"

    def integers(self, values: Sequence[int] | int) -> str:
        """An int64 constant, stored once for all that use the same."""
        each = [values] if isinstance(values, int) else list(values)
        label = "x".join(map(str, each)) + ("_scalar" if isinstance(values, int) else "")
        return self.constant(f"constant/int64_{label}", torch.tensor(values, dtype=torch.int64))

    def scalar(self, value: float, like: Tensor) -> str:
        """A constant of the type of `like`."""
        kind = str(like.dtype).removeprefix("torch.")
        return self.constant(f"constant/{kind}_{value}", torch.tensor(value, dtype=like.dtype))

    def constant(self, name: str, tensor: Tensor) -> str:
        """Store a constant under its name."""
        self.trace.constants[name] = tensor
        return name

    def zero_point(self, scale: Tensor) -> str:
        """Zeros for a scale, new ones for each node.

        ONNX Runtime 1.31 takes Q/DQ that it moves for uint8 where they are not written out, joins the DequantizeLinear
        of layers that read the same tensor where they are shared, and then runs none of them in INT8.
        """
        zeros = torch.zeros(scale.shape, dtype=torch.int8)
        return self.constant(self.fresh(f"{self.path[-1]}/zero_point"), zeros)

    def finish(self, results: list[Tensor], outputs: Sequence[str]) -> None:
        """Give the results the names of the graph's outputs; one that is a parameter as it stands gets a node."""
        renamed = {self.name_of(tensor): name for tensor, name in zip(results, outputs, strict=True)}
        for source in [name for name in renamed if name not in self.trace.values]:
            output = renamed.pop(source)
            tensor = next(each for each in results if self.name_of(each) == source)
            self.append("Identity", [source], [output], output, {})
            self.trace.values[output] = Value(tensor.dtype, tuple(tensor.shape))
        for node in self.trace.nodes:
            for values in (node.input, node.output):
                values[:] = [renamed.get(value, value) for value in values]
        self.trace.values = {renamed.get(name, name): tensor for name, tensor in self.trace.values.items()}


def _tensors(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return [each for each in out if isinstance(each, Tensor)] if isinstance(out, (tuple, list)) else []
