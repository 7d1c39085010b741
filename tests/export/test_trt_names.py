"""Every TensorRT name, and the arguments of every call, are in each release that the code must run on."""

from __future__ import annotations

import re

import pytest

from tests.tree import modules
from tests.trt_names import distinctive, read_uses, releases, signature, troubles

RELEASES = releases()
SOURCES = {name: path for name, path in modules().items() if re.search(r"\btrt\b", path.read_text(encoding="utf-8"))}
BUILD = SOURCES["acd_edge.export.build"].read_text()
SESSION = SOURCES["acd_edge.runtime.backends.trt_session"].read_text()


def test_the_releases_are_those_of_the_devices() -> None:
    families = {tuple(each.version.split(".")[:2]) for each in RELEASES if not each.version.startswith("1.")}
    assert families == {("10", "3"), ("10", "7"), ("10", "13"), ("10", "16"), ("11", "0"), ("11", "4")}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_name_and_call_is_in_every_release(name: str) -> None:
    assert troubles(SOURCES[name].read_text(), RELEASES) == []


@pytest.mark.parametrize(
    "name", ["export.build", "runtime.trt_module", "runtime.backends.trt_session", "doctor.probes"]
)
def test_nothing_that_only_tensorrt_has_went_by_unseen(name: str) -> None:
    """A name that the walk does not understand is not checked; here there is none."""
    reader = read_uses(SOURCES[f"acd_edge.{name}"].read_text(), RELEASES)
    assert [each for each in reader.unresolved if each[0] in distinctive(RELEASES)] == []
    assert reader.uses


def test_the_walk_sees_what_it_should() -> None:
    seen = {(use.base, use.attribute) for use in read_uses(BUILD, RELEASES).uses}
    assert seen >= {
        ("module", "Builder"),
        ("enum NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_timing_cache"),
        ("ITimingCache", "serialize"),
        ("IOptimizationProfile", "set_shape"),
        ("ITensor", "shape"),
        ("ParserError", "desc"),
        ("EngineInspector", "get_engine_information"),
        ("IProgressMonitor", "step_complete"),
    }
    assert ("IExecutionContext", "execute_async_v3") in {
        (u.base, u.attribute) for u in read_uses(SESSION, RELEASES).uses
    }


CONTROLS = [  # what is changed in the source, into what, and what is seen
    ("build_serialized_network", "build_serialised_network", "Builder has no build_serialised_network"),
    ("trt.BuilderFlag.TF32", "trt.BuilderFlag.FP16", "TensorRT 11.4.0.106: enum BuilderFlag has no FP16"),
    (
        "STRONGLY_TYPED",
        "EXPLICIT_BATCH",
        "NetworkDefinitionCreationFlag has no EXPLICIT_BATCH",
    ),
    ("trt.OnnxParser(network, log)", "trt.OnnxParser(network)", "OnnxParser.__init__ takes no 1 arguments"),
    (
        "set_timing_cache(cache, False)",
        "set_timing_cache(cache)",
        "IBuilderConfig.set_timing_cache takes no 1 arguments",
    ),
    ("set_timing_cache(cache, False)", "set_timing_cache(cache, ignore=False)", "takes no 1 arguments and ['ignore']"),
    ("config.max_aux_streams = 0", "config.max_workspace_size = 0", "IBuilderConfig has no max_workspace_size"),
    ("network.num_outputs == 0", "network.outputs == 0", "INetworkDefinition has no outputs"),
    ("error.desc()", "error.description()", "ParserError has no description"),
    ("each.shape", "each.shapes", "ITensor has no shapes"),
    ("cache.serialize()", "cache.serialise()", "ITimingCache has no serialise"),
    (
        "def step_complete(self, phase_name: str, step: int)",
        "def step_complete(self, step: int)",
        "step_complete takes no 1",
    ),
    ("LayerInformationFormat.JSON", "LayerInformationFormat.Json", "LayerInformationFormat has no Json"),
]


@pytest.mark.parametrize(("was", "becomes", "seen"), CONTROLS, ids=[each[1][:40] for each in CONTROLS])
def test_a_wrong_name_or_call_is_seen(was: str, becomes: str, seen: str) -> None:
    assert was in BUILD
    assert any(seen in each for each in troubles(BUILD.replace(was, becomes), RELEASES))


def test_a_removed_name_in_the_backend_is_seen() -> None:
    changed = SESSION.replace("device_memory_size_v2", "device_memory_size")
    assert any(
        "TensorRT 11.0.0.114: ICudaEngine has no device_memory_size" in each for each in troubles(changed, RELEASES)
    )
    assert any("has no execute_async_v2" in each for each in troubles(SESSION.replace("_v3(", "_v2("), RELEASES))


CHECKED = 'if hasattr(trt.BuilderFlag, "FP16"):\n        config.set_flag(trt.BuilderFlag.FP16)'
ASKED = 'flag = getattr(trt.BuilderFlag, "FP16", None)'
CHOSEN = 'return trt.BuilderFlag.FP16 if hasattr(trt.BuilderFlag, "FP16") else None'


@pytest.mark.parametrize("body", [CHECKED, ASKED, CHOSEN])
def test_what_stands_behind_a_check_is_fine(body: str) -> None:
    source = f"def f(trt: Any, config: Any):\n    {body}"
    assert troubles(source, RELEASES) == []
    unchecked = source.replace("hasattr", "isinstance").replace(ASKED, "flag = trt.BuilderFlag.FP16")
    assert troubles(unchecked, RELEASES)


def test_signatures_are_read_as_pybind_writes_them() -> None:
    read = signature("set_shape(self: A, input: str, min: Dims, opt: Tuple[int, int] = (1, 2)) -> List[Dims]")
    assert read.names == ("input", "min", "opt")
    assert (set(read.optional), read.returns) == ({"opt"}, "List[Dims]")
    assert read.takes(2, frozenset())
    assert read.takes(1, frozenset({"min"}))
    assert not read.takes(1, frozenset())
    assert not read.takes(4, frozenset())
    assert not read.takes(2, frozenset({"min"}))
