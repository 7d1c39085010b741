"""A result, and two compared, as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from acd_edge.bench.compare import Pair
from acd_edge.bench.facts import needs_cuda
from acd_edge.bench.statistics import SIGNIFICANT

__all__ = ["aligned", "compared_table", "result_table"]

_COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")
_NAMES = {"end_to_end": "end to end", "decision": "to the decision"}
_STAMPS = {
    "driver": "the camera driver's stamp of the buffer",
    "arrival": "the moment OpenCV gave the frame; exposure, transfer and decoding before it are not seen",
}
_BUSY = 0.5  # load of a core before we began
_FEW = 100  # frames, below which the 99th percentile is about the maximum


def result_table(values: Mapping[str, Any]) -> str:
    """The document of `acd_edge.bench.results` for people."""
    lines = [_title(values), _source(values), "", *_rows(values), "", *_facts(values)]
    return "\n".join(lines + [f"note: {note}" for note in notes(values)])


def aligned(rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """Rows of cells as lines; the first `words` columns start left, numbers end right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) if place < words else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip


def _title(values: Mapping[str, Any]) -> str:
    subject = values["subject"]
    threads = f", {subject['threads']} threads" if subject.get("threads") else ""
    machine = values["machine"]
    return (
        f"{subject['bundle']}: {subject['size']} x {subject['size']}, {subject['precision']}, "
        f"{subject['backend']}{threads}; {_machine(machine)}"
    )


def _machine(machine: Mapping[str, Any]) -> str:
    jetson, gpu = machine.get("jetson"), machine.get("gpu")
    name = jetson["model"] if jetson else machine["cpu"] or "unknown processor"
    return f"{name}, {machine['usable_cores']} cores" + (f", {gpu['name']}" if gpu and not jetson else "")


def _source(values: Mapping[str, Any]) -> str:
    return (
        f"source: {values['source']}; {values['frames']} frames after a first and {values['warm_up_frames']} to warm up"
    )


def _rows(values: Mapping[str, Any]) -> list[str]:
    found = values["rows_ms"]
    whole = found["end_to_end"]["mean"]
    head = ["ms", *_COLUMNS, "share"]
    rows = [head]
    for name, row in found.items():
        cells = ["-"] * len(_COLUMNS) if row is None else [_ms(row[column]) for column in _COLUMNS]
        share = "-" if row is None else f"{100 * row['mean'] / whole:.1f} %"
        rows.append([_NAMES.get(name, name), *cells, "" if name == "decision" else share])
    return aligned(rows)


def _ms(value: float) -> str:
    """Three digits or more that count.

    >>> _ms(0.0123), _ms(4.5678), _ms(123.456)
    ('0.012', '4.57', '123.5')
    """
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _facts(values: Mapping[str, Any]) -> list[str]:
    cold, memory, energy = values["cold"], values["memory"], values["energy"]
    lines = [f"throughput: {values['frames_per_second']:.2f} frames a second"]
    if cold is not None:
        first = cold["first_frame_ms"]["end_to_end"]
        lines.append(f"cold: loaded in {values['load_ms']:.0f} ms, first frame {_ms(first)} ms")
    parts = [_process_memory(memory["peak_rss_mb"]), _gpu_memory(values["machine"])]
    lines.append(f"memory: {'; '.join(part for part in parts if part) or 'this system does not tell'}")
    lines.append(f"energy: {_energy(energy, values.get('power_source'))}")
    lines.append(f"state: {_state(values)}")
    if (soak := values.get("soak")) is not None:
        lines += _soak(soak)
    return lines


def _process_memory(peak_rss_mb: float | None) -> str:
    return "" if peak_rss_mb is None else f"at most {peak_rss_mb:.0f} MiB in the process"


def _gpu_memory(machine: Mapping[str, Any]) -> str:
    if not (gpu := machine.get("gpu")):
        return ""
    return f"{gpu['memory_used_mb']} of {gpu['memory_mb']} MiB of the GPU in use at the end, by all programs"


def _energy(energy: Mapping[str, Any] | None, source: str | None) -> str:
    if energy is None and source is not None:
        return f"not measured, {source} gave no watts over all of the frames"
    if energy is None:
        return "not measured, there is no power monitor here"
    return (
        f"{energy['joules_per_frame_above_idle']:.3f} J a frame above idle, {energy['mean_watts']:.2f} W of which "
        f"{energy['idle_watts']:.2f} W idle ({energy['source']})"
    )


def _state(values: Mapping[str, Any]) -> str:
    after = values["state_after"]
    parts = [str(mode["name"])] if (mode := after["power_mode"]) else []
    if hottest := max(after["temperatures_c"].items(), key=lambda item: item[1], default=None):
        parts.append(f"{hottest[0]} {hottest[1]:.0f} °C")
    clocks = [f"{clock['name']} {clock['now'] / 1e6:.0f} MHz" for clock in after["clocks_hz"]]
    parts += [", ".join(clocks)] if clocks else []
    if (locked := after["clocks_locked"]) is not None:
        parts.append("clocks locked" if locked else "clocks not locked")
    parts.append(f"throttled: {', '.join(values['throttled'])}" if values["throttled"] else "")
    return "; ".join(part for part in parts if part) or "this machine tells no power mode, temperature or clock"


def _soak(soak: Mapping[str, Any]) -> list[str]:
    change = soak["drift"]
    lines = [f"soak: {len(soak['windows'])} windows of {soak['interval_s']:g} s"]
    if change is None:
        return [*lines, "drift: too few frames to tell"]
    found = change["latency"]
    ratio = found["ratio"]
    undecided = "no difference" if found["least_p"] < SIGNIFICANT else "too few frames to tell"
    verdict = "a difference" if found["differs"] else undecided
    lines.append(
        f"drift: last quarter {_ms(found['b'])} ms against first {_ms(found['a'])} ms, ratio {ratio['value']:.3f} "
        f"({ratio['low']:.3f} to {ratio['high']:.3f}), {verdict}"
    )
    if change["hottest_last_c"] is not None:
        lines.append(f"heat: hottest {change['hottest_first_c']:.0f} °C, then {change['hottest_last_c']:.0f} °C")
    lines.append(f"throttled: in {change['throttled_windows']} windows of {change['windows']}")
    return lines


def notes(values: Mapping[str, Any]) -> list[str]:
    """What has to be known to read the numbers."""
    live, rows = values["live"], values["rows_ms"]
    found = []
    load, cores = values["machine"]["load_before"], values["machine"]["usable_cores"]
    if load is not None and load > _BUSY * cores:
        found.append(f"other programs were busy (load {load:g} on {cores} cores); their share is in these times")
    if values["ending"] != "complete":
        found.append(f"{values['ending']}; {values['frames']} frames count")
    if (values["subject"].get("engine") or {}).get("built_now"):
        found.append("the engine was built in this run, which load time and memory hold; take those of another run")
    if needs_cuda(values["subject"]["backend"]) and values["machine"].get("gpu") is None:
        found.append("no Python binding of CUDA told the GPU and its memory; acd-edge doctor says why")
    if rows["copy"] is None:
        found.append("copy: the backend does not tell it apart, infer holds it")
    if live is not None:
        found.append(f"to the decision: from {_STAMPS[live['timed_by']]}")
        counts = f"{live['read']} frames read, {live['dropped']} dropped"
        found.append(f"decode: done beside, in the reading thread; {counts}")
    if values["frames"] < _FEW:
        found.append(f"p99 of {values['frames']} frames is about their maximum; take more --frames")
    if values["kept_one_of"] > 1:
        found.append(f"quantiles of one frame in {values['kept_one_of']}; mean and max of all")
    return found


def compared_table(pairs: Mapping[str, Pair], warnings: Sequence[str], names: tuple[str, str]) -> str:
    """Two results side by side; `names` are their files."""
    head = ["p50, ms", "A", "B", "B / A", "95 % interval", "p", ""]
    rows = [head]
    for name, pair in pairs.items():
        found = pair.comparison
        rows.append([
            _NAMES.get(name, name), _ms(found.a), _ms(found.b), f"{found.ratio.value:.3f}",
            f"{found.ratio.low:.3f} to {found.ratio.high:.3f}", _p(found.p), pair.verdict,
        ])  # fmt: skip
    lines = [f"A: {names[0]}", f"B: {names[1]}", ""]
    lines += aligned(rows)
    method = pairs["end_to_end"].comparison.method
    lines += ["", f"test: {method}; interval: circular block bootstrap of the medians"]
    return "\n".join([*lines, *(f"warning: {each}" for each in warnings)])


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
