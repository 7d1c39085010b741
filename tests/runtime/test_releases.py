"""The table of known-bad releases: what it covers, what it leaves alone, and that each row says why and where."""

from __future__ import annotations

import pytest

from acd_edge.runtime.bundle import Bundle, builtin_bundle
from acd_edge.runtime.graph_files import op_types
from acd_edge.runtime.releases import KNOWN_BAD, KnownBad, known_bad

ATTENTION = {"MatMul", "Softmax", "Add"}


@pytest.mark.parametrize(
    ("version", "operators", "severities"),
    [
        ("8.6.2", ATTENTION, {"refuse"}),
        ("10.0.0.6", ATTENTION, {"refuse"}),
        ("10.0.1", ATTENTION, set()),
        ("10.3.0.30", ATTENTION, {"verify first"}),
        ("10.3.0.30", {"Conv"}, set()),
        ("10.7.0.23", ATTENTION, {"verify first"}),
        ("10.12.0", {"Conv"}, set()),
        ("10.16.2.10", ATTENTION, {"verify first"}),
        ("11.1.0.106", {"GridSample"}, {"refuse"}),
        ("11.2.1.2", {"ReduceMax"}, {"refuse"}),
        ("11.3.0.99", {"ReduceMax", *ATTENTION}, set()),
        ("11.4.0.106", {"Attention"}, {"refuse"}),
        ("11.4.0.106", ATTENTION, set()),
    ],
)
def test_what_a_release_is_said_to_do(version: str, operators: set[str], severities: set[str]) -> None:
    assert {each.severity for each in known_bad(version, operators)} == severities


def test_without_operators_every_report_of_the_release_comes() -> None:
    assert set(known_bad("11.2.1", ATTENTION)) < set(known_bad("11.2.1"))


@pytest.mark.parametrize("row", KNOWN_BAD, ids=lambda row: f"{row.first}-{row.last}-{row.pattern[:20]}")
def test_each_row_says_what_where_and_who(row: KnownBad) -> None:
    assert row.symptom
    assert row.pattern
    assert "https://" in row.source
    assert row.covers(row.first)
    assert str(row).startswith(f"TensorRT {row.first}")


def test_the_built_in_graph_is_refused_by_no_release_from_10_3_on() -> None:
    with Bundle.open(builtin_bundle()) as bundle:
        operators = op_types(bundle.model_path)
    assert {"MatMul", "Softmax"} <= operators
    for version in ("10.3.0", "10.7.0", "10.13.3", "10.16.2", "11.0.0", "11.2.1", "11.4.0"):
        assert all(each.severity == "verify first" for each in known_bad(version, operators)), version
