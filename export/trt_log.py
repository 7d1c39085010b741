"""What TensorRT says when it fails, in words that tell what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from acd_edge.runtime.trt_module import Message

__all__ = ["explain", "is_null_factory"]

_ERROR = 1
_LONGEST = 300  # characters of TensorRT's own words in one of our lines
_MIB = 1 << 20
_Words = Callable[["re.Match[str]", str], str]


@dataclass(frozen=True)
class _Rule:
    """A message of TensorRT and what it means; `words` gets the match and all that was said."""

    pattern: re.Pattern[str]
    words: _Words


def explain(messages: Iterable[Message]) -> str:
    """The cause of a failure and what to do, from TensorRT's log.

    Args:
        messages: severities and texts, in the order in which they came.

    Returns:
        One line, with TensorRT's own words at its end; empty when it said nothing worse than a warning.

    >>> explain([(1, "Error Code 9: Skipping tactic: insufficient memory")])  # doctest: +ELLIPSIS
    'the memory is exhausted; close other programs ... (TensorRT: Error Code 9: Skipping tactic: insufficient memory)'
    """
    said = list(messages)
    errors = [" ".join(text.split()) for severity, text in said if severity <= _ERROR]
    everything = "\n".join(text for _, text in said)
    for rule in _RULES:
        for error in errors:
            if found := rule.pattern.search(error):
                return f"{rule.words(found, everything)} ({_quoted(error)})"
    return f"TensorRT cannot build this graph ({_quoted(errors[0])})" if errors else ""


def is_null_factory(error: TypeError) -> bool:
    """Whether a TensorRT object could not be made at all: pybind's words for a null from the library."""
    return "nullptr" in str(error)


def _quoted(error: str) -> str:
    return f"TensorRT: {error if len(error) <= _LONGEST else error[:_LONGEST] + '...'}"


def _no_implementation(found: re.Match[str], everything: str) -> str:
    """TensorRT's words for a layer that no kernel could be tried for, which is nearly always memory."""
    shortages = "".join(f"; {each}" for each in _shortages(everything)[:1])
    return (
        f"TensorRT ran out of memory at {found.group(1)}{shortages}: close other programs (a desktop takes a lot), or "
        "lower --workspace where the memory is full, raise it where there is plenty"
    )


def _shortages(everything: str) -> Sequence[str]:
    """What single kernels asked for, from the warnings before the error."""
    device = re.findall(r"[Rr]equest(?:ed)?:? (?:size of )?(\d+) ?MB,? [Aa]vailable:? (\d+) ?MB", everything)
    sizes = [f"a kernel wanted {want} MB and {free} MB were free" for want, free in device]
    asked = [int(each) for each in re.findall(r"insuff?icient memory on requested size of (\d+)", everything)]
    return sizes + [f"a kernel wanted {size / _MIB:.0f} MiB" for size in sorted(asked, reverse=True) if size > _MIB]


def _rule(pattern: str, words: str | _Words) -> _Rule:
    return _Rule(re.compile(pattern), words if callable(words) else lambda *_: words)


_MEMORY = "close other programs (a desktop takes a lot), or lower --workspace"
_ANEW = "export the bundle again"
_RULES: tuple[_Rule, ...] = (
    _rule(r"[Cc]ould not find any implementation for node (\{.*?\}|\S+)", _no_implementation),
    _rule(
        r"[Oo]ut ?[Oo]f ?[Mm]emory|cudaErrorMemoryAllocation|\bstd::bad_alloc\b|insufficient memory",
        f"the memory is exhausted; {_MEMORY}",
    ),
    _rule(
        r"[Tt]arget GPU (?:SM|sm)_? ?(\S+) is not supported",
        lambda found, _: f"this TensorRT has no kernels for this GPU (SM {found.group(1)}); use your JetPack's release",
    ),
    _rule(
        r"[Vv]ersion tag does not match|not compatible with this version of TensorRT|[Ss]erialization assertion"
        r"|plan file .*version|built with a different",
        "the engine is of another TensorRT release or device; build it again: acd-edge compile BUNDLE --force",
    ),
    _rule(
        r"[Nn]on-?zero zero[ _-]?point|zero[ _-]?point.{0,80}(?:UINT8|not supported)|UINT8.{0,80}zero[ _-]?point"
        r"|[Aa]symmetric quantiz",
        "the graph is quantised asymmetrically, which TensorRT does not take; make it with acd-edge export --int8",
    ),
    _rule(
        r"[Ss]cale coefficients must all be positive|scale.{0,40}must be positive",
        "a quantisation scale is zero, perhaps rounded to zero in fp16; export again with more pictures in --calib",
    ),
    _rule(
        r"\bU[Ii][Nn][Tt]8\b|\bkUINT8\b",
        f"the graph computes with uint8, which TensorRT only takes at an input that is cast at once; {_ANEW}",
    ),
    _rule(
        r"dedicated kernel|IAttention",
        f"the graph has ONNX's Attention operator, for which this release has no kernel; {_ANEW}",
    ),
    _rule(
        r"No importer registered for op: ?(\w+)|^(\w+)(?: \S+)?: .*[Pp]lugin not found|^(\w+)(?: \S+)?: false$",
        lambda found, _: f"this TensorRT does not take the operator {next(filter(None, found.groups()))}; {_ANEW}",
    ),
    _rule(
        r"BFloat16|BF16.{0,60}(?:not supported|requires)",
        "this GPU or release does not take the graph's bf16; export the bundle with --fp16",
    ),
    _rule(
        r"CUDA initialization failure|cudaError ?(?:35|100|803)\b|driver version is insufficient|no CUDA-capable",
        "TensorRT cannot use the GPU: the driver is absent, or older than the CUDA that TensorRT was made for; "
        "see acd-edge doctor",
    ),
    _rule(r"BuildCancell?ed|[Cc]ancell?ed by user", "the build was cancelled"),
    _rule(r"Input file cannot be found", f"the graph is not where it was; {_ANEW}"),
    _rule(r"No space left on device", "the disk is full; free some space, or set ACD_EDGE_CACHE"),
)
