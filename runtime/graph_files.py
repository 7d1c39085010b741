"""Which files a graph reads beside itself, and its operators, told without the package onnx: a walk over the file.

An ONNX tensor may lie in another file, whose name stands in the graph. A library that loads the graph opens that file,
so a bundle's graphs may name nothing but the bundle's own files.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from acd_edge.errors import BundleError

# onnx.proto, IR version 13: for each message the fields that lead to a tensor, with the message that they hold.
FIELDS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
        "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
        "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
        "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
        "NodeProto": {5: "AttributeProto"},
        "AttributeProto": {
            5: "TensorProto",
            6: "GraphProto",
            10: "TensorProto",
            11: "GraphProto",
            22: "SparseTensorProto",
            23: "SparseTensorProto",
        },
        "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
        "TensorProto": {13: "StringStringEntryProto"},  # external_data: pairs of key and value
    }
)
_PAIR, _KEY, _VALUE, _LOCATION = "StringStringEntryProto", 1, 2, b"location"
_OPERATOR = 4  # the field of a node that names what it does
_WITH_NODES = frozenset({"GraphProto", "NodeProto", "AttributeProto", "FunctionProto", "TrainingInfoProto"})
_VARINT, _64_BIT, _BYTES, _32_BIT = 0, 1, 2, 5  # wire types; the old groups, 3 and 4, stand in no ONNX file
_LONGEST_VARINT = 10  # bytes


def external_files(path: Path) -> set[str]:
    """The files that the graph in `path` reads its tensors from, as it names them.

    Raises:
        BundleError: the file is no ONNX graph.
    """
    if not path.stat().st_size:
        return set()
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return {name.decode(errors="replace") for name in _locations(data)}
        except (IndexError, ValueError) as error:
            raise BundleError(f"{path.name} is no ONNX graph: {error}; export the bundle again") from error


def op_types(path: Path) -> set[str]:
    """The operators that the graph in `path` uses, such as `MatMul`, those of inner graphs and functions included.

    Raises:
        BundleError: the file is no ONNX graph.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return {name.decode(errors="replace") for name in _operators(data)}
        except (IndexError, ValueError) as error:
            raise BundleError(f"{path.name} is no ONNX graph: {error}; export the bundle again") from error


def _operators(data: mmap.mmap) -> Iterator[bytes]:
    waiting = [("ModelProto", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        inner = FIELDS.get(message, {})
        for number, low, high in _fields(data, start, end):
            if message == "NodeProto" and number == _OPERATOR:
                yield data[low:high]
            elif inner.get(number) in _WITH_NODES:
                waiting.append((inner[number], low, high))


def _locations(data: mmap.mmap) -> Iterator[bytes]:
    waiting = [("ModelProto", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        if message == _PAIR:
            yield from _location(data, start, end)
            continue
        inner = FIELDS[message]
        waiting += [(inner[number], low, high) for number, low, high in _fields(data, start, end) if number in inner]


def _location(data: mmap.mmap, start: int, end: int) -> list[bytes]:
    """What a pair with the key `location` holds; a field that stands twice counts twice."""
    texts = [(number, data[low:high]) for number, low, high in _fields(data, start, end)]
    return [text for number, text in texts if number == _VALUE] if (_KEY, _LOCATION) in texts else []


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each field of one message that holds bytes; the others are passed over."""
    at = start
    while at < end:
        tag, at = _varint(data, at)
        if tag >> 32:  # other readers drop these bits, and would see another field
            raise ValueError(f"a field's number is too large at byte {at:,}")
        kind = tag & 7
        if kind == _BYTES:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError(f"a field at byte {at:,} is longer than what holds it")
            yield tag >> 3, at, at + length
            at += length
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_64_BIT, _32_BIT):
            at += 8 if kind == _64_BIT else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at:,}")
    if at != end:
        raise ValueError(f"a field at byte {at:,} is longer than what holds it")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while shift < 7 * _LONGEST_VARINT:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number of more than {_LONGEST_VARINT} bytes at byte {at:,}")
