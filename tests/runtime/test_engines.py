"""The cache of engines: its names, its lookups, what it refuses, and what a full disk leaves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from acd_edge.errors import ConfigError, EngineError, OutputError
from acd_edge.runtime import engines
from acd_edge.runtime.engines import (
    BuildOptions,
    Engine,
    EngineKey,
    EngineRecord,
    Stamp,
    TensorRecord,
    all_engines,
    cache_problem,
    cache_root,
    exact_engine,
    gpu_name,
    newest_engine,
    read_timing_cache,
    stale_engine,
    write_engine,
    write_stamp,
    write_timing_cache,
)


@dataclass(frozen=True)
class Orin:
    """What CUDA says of a device."""

    name: str = "Orin"
    compute_capability: str = "8.7"
    driver: str = "540.3"
    total_bytes: int = 8 << 30
    integrated: bool = True


DEVICE = Orin()
KEY = EngineKey(graph="1f" * 32, tensorrt="10.3.0", gpu=gpu_name(DEVICE), driver=DEVICE.driver)
PLAN = b"a plan"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def record(key: EngineKey = KEY, plan: bytes = PLAN, **changes: Any) -> EngineRecord:
    image = TensorRecord(dtype="uint8", shape=(1, 56, 56, 3))
    ids = TensorRecord(dtype="int64", shape=(-1, 12), profile=((1, 12), (16, 12), (64, 12)))
    values: dict[str, Any] = {
        "key": key, "plan_sha256": hashlib.sha256(plan).hexdigest(), "plan_bytes": len(plan), "precision": "fp16",
        "layers": 9, "fused_attentions": 4, "build_seconds": 1.5, "inputs": {"image": image, "input_ids": ids},
        "outputs": {"anomaly_map": TensorRecord(dtype="float32", shape=(1, 56, 56))}, "made_at": "2026-01-01T00:00:00",
        "tools": {"acd-edge": "0.1.0"}, "notes": ("a note",),
    }  # fmt: skip
    return EngineRecord(**{**values, **changes})


def stored(key: EngineKey = KEY, plan: bytes = PLAN, **changes: Any) -> Engine:
    return write_engine(key, plan, record(key, plan, **changes))


def stamped(engine: Engine, passed: bool = True) -> Engine:
    return write_stamp(engine, Stamp(passed=passed, plan_sha256=engine.record.plan_sha256, tolerance={"score": 0.01}))


def test_an_engine_comes_back_as_it_was_written(cache: Path) -> None:
    written = stored()
    found = exact_engine(KEY)
    assert found == written
    assert found is not None
    assert found.plan_bytes() == PLAN
    assert found.folder.parent == cache / "engines"
    assert {each.name for each in found.folder.iterdir()} == {"engine.plan", "engine.json"}
    assert found.record.inputs["input_ids"].profile == ((1, 12), (16, 12), (64, 12))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"graph": "2e" * 32}, "the graph is another"),
        ({"tensorrt": "10.16.2"}, "TensorRT was 10.3.0, is 10.16.2"),
        ({"gpu": "Thor"}, f"the GPU was {KEY.gpu}, is Thor"),
        ({"driver": "540.4"}, "the driver was 540.3, is 540.4"),
        ({"options": BuildOptions(workspace_mib=512)}, "the workspace was 1024 MiB, is 512 MiB"),
        ({"options": BuildOptions(optimization_level=5)}, "the optimization level was 3, is 5"),
        ({"options": BuildOptions(prompts=16)}, "the most prompts at once was 64, is 16"),
    ],
)
def test_whatever_differs_gives_another_engine_and_is_named(changes: dict[str, Any], words: str) -> None:
    stored()
    other = replace(KEY, **changes)
    assert other.digest != KEY.digest
    assert other.differences(KEY) == [words]
    assert exact_engine(other) is None
    stale = stale_engine(other)
    assert (stale is None) == ("graph" in changes)
    if stale is not None:
        assert stale[1] == [words]


def test_a_key_does_not_differ_from_itself() -> None:
    stored()
    assert KEY.differences(KEY) == []
    assert stale_engine(KEY) is None


def test_every_field_of_the_options_is_told() -> None:
    """A new option that `differences` does not know would rebuild an engine without a reason."""
    for name, value in vars(BuildOptions()).items():
        changed = replace(KEY, options=replace(KEY.options, **{name: value - 1}))
        assert len(changed.differences(KEY)) == 1, name


def test_two_modules_of_one_family_are_two_devices() -> None:
    assert gpu_name(DEVICE) != gpu_name(replace(DEVICE, total_bytes=16 << 30))
    assert gpu_name(DEVICE) == gpu_name(replace(DEVICE, total_bytes=(8 << 30) - (60 << 20)))  # what firmware keeps


@pytest.mark.parametrize(
    ("module", "seen"), [(4, 3330), (8, 7620), (16, 15656), (32, 30697), (64, 62841), (128, 125772)]
)
def test_a_little_more_for_the_firmware_is_no_other_device(module: int, seen: int) -> None:
    """About what Orin and Thor modules show, in MiB; a setting that takes a twentieth must not void the engines."""
    names = {gpu_name(replace(DEVICE, total_bytes=int(seen * share) << 20)) for share in (0.95, 0.99, 1.0, 1.01, 1.05)}
    assert names == {f"Orin, compute capability 8.7, about {module} GiB"}


def test_a_run_takes_any_options_and_prefers_what_was_verified() -> None:
    other = replace(KEY, options=BuildOptions(optimization_level=5))
    first = stamped(stored(made_at="2026-01-01T00:00:00"))
    stored(other, b"newer", made_at="2026-01-02T00:00:00")
    assert newest_engine(KEY.graph, KEY.tensorrt, DEVICE) == first
    stamped(first, passed=False)
    newest = newest_engine(KEY.graph, KEY.tensorrt, DEVICE)
    assert newest is not None
    assert newest.record.key == other
    assert newest.state == "never verified"
    for device in (replace(DEVICE, driver="540.4"), replace(DEVICE, name="Thor")):
        assert newest_engine(KEY.graph, KEY.tensorrt, device) is None
    assert newest_engine(KEY.graph, "10.16.2", DEVICE) is None
    assert newest_engine("another", KEY.tensorrt, DEVICE) is None


def test_states() -> None:
    engine = stored()
    assert engine.state == "never verified"
    assert stamped(engine).state == "verified"
    assert stamped(engine, passed=False).state == "failed"
    found = exact_engine(KEY)
    assert found is not None
    assert found.state == "failed"
    assert found.stamp is not None
    assert found.stamp.tolerance == {"score": 0.01}
    with pytest.raises(EngineError, match="stamp is of another plan"):
        write_stamp(engine, Stamp(passed=True, plan_sha256="0" * 64))


def test_a_new_engine_of_the_same_key_loses_the_old_stamp() -> None:
    stamped(stored())
    assert stored(plan=b"built again").state == "never verified"
    found = exact_engine(KEY)
    assert found is not None
    assert (found.state, found.plan_bytes()) == ("never verified", b"built again")


def test_an_engine_that_was_built_anew_is_not_stamped_with_what_was_said_of_the_old_one() -> None:
    engine = stored()
    newer = stamped(stored(plan=b"built again"))
    with pytest.raises(EngineError, match="was built anew, or removed, meanwhile; verify again"):
        stamped(engine, passed=False)
    assert exact_engine(KEY) == newer


def test_a_stamp_of_another_plan_says_nothing() -> None:
    engine = stamped(stored())
    values = json.loads((engine.folder / "verify.json").read_text())
    (engine.folder / "verify.json").write_text(json.dumps({**values, "plan_sha256": "0" * 64}))
    found = exact_engine(KEY)
    assert found is not None
    assert found.state == "never verified"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "key": 3}', "\x00", "[" * 99999])
def test_a_damaged_record_is_no_engine(content: str) -> None:
    engine = stored()
    (engine.folder / "engine.json").write_text(content)
    assert exact_engine(KEY) is None
    assert newest_engine(KEY.graph, KEY.tensorrt, DEVICE) is None


@pytest.mark.parametrize("changes", [{"made_at": None}, {"plan_bytes": "9"}, {"key": {**asdict(KEY), "graph": 1}}])
def test_a_record_with_a_value_of_another_kind_is_no_engine(changes: dict[str, Any]) -> None:
    """Else the oldest and newest are compared, and sizes told, with what cannot be."""
    engine = stored()
    stored(replace(KEY, driver="540.4"))
    path = engine.folder / "engine.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert [each.record.key.driver for each in all_engines()] == ["540.4"]


def test_a_stamp_that_says_neither_true_nor_false_says_nothing() -> None:
    """A word is true to Python, also where it is 'no'."""
    engine = stamped(stored())
    path = engine.folder / "verify.json"
    path.write_text(path.read_text().replace('"passed": true', '"passed": "no"'))
    found = exact_engine(KEY)
    assert found is not None
    assert found.state == "never verified"


@pytest.mark.parametrize("checks", [[{"passed": False}], [{"output": "map"}], ["map"], [3]], ids=str)
def test_a_stamp_that_contradicts_its_lines_says_nothing(checks: list[Any]) -> None:
    engine = stamped(stored())
    path = engine.folder / "verify.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "checks": checks}))
    found = exact_engine(KEY)
    assert found is not None
    assert found.state == "never verified"


def test_a_pipe_or_a_folder_in_place_of_a_file_is_no_engine_and_nobody_waits_for_it() -> None:
    for place in ("engine.json", "verify.json", "engine.plan"):
        engine = stored()
        path = engine.folder / place
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        if place == "engine.plan":
            with pytest.raises(EngineError, match="is no plain file"):
                engine.plan_bytes()
            path.unlink()
            path.mkdir(mode=0o700)
            with pytest.raises(EngineError, match="cannot be read: Is a directory"):
                engine.plan_bytes()
        else:
            assert (exact_engine(KEY) is None) == (place == "engine.json")


def test_an_altered_or_missing_plan_is_refused() -> None:
    engine = stored()
    engine.plan_path.write_bytes(b"A plan")
    with pytest.raises(EngineError, match="was altered; build it again: acd-edge compile BUNDLE --force"):
        engine.plan_bytes()
    engine.plan_path.unlink()
    with pytest.raises(EngineError, match="is missing"):
        engine.plan_bytes()


def test_the_cache_is_open_to_its_owner_alone(cache: Path) -> None:
    engine = stamped(stored())
    mask = os.umask(0)
    try:
        write_timing_cache("10.3.0", DEVICE, b"measured")
    finally:
        os.umask(mask)
    for folder in (cache, cache / "engines", cache / "timing", engine.folder):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    for file in (*engine.folder.iterdir(), *(cache / "timing").iterdir()):
        assert file.stat().st_mode & 0o777 == 0o600, file


@pytest.mark.parametrize("place", ["", "engines", "engines/folder", "engines/folder/engine.plan"])
def test_a_plan_that_others_may_write_is_refused(cache: Path, place: str) -> None:
    engine = stored()
    path = cache / place.replace("folder", engine.folder.name)
    path.chmod(path.stat().st_mode | 0o020)
    with pytest.raises(EngineError, match=r"others may write .*chmod go-w"):
        engine.plan_bytes()
    if path != engine.plan_path:
        assert exact_engine(KEY) is None


def test_a_plan_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = stored()
    lstat = os.lstat

    def stranger(path: Any) -> os.stat_result:
        found = list(lstat(path))
        found[4] = 4711  # st_uid
        return os.stat_result(found)

    monkeypatch.setattr(os, "lstat", stranger)
    with pytest.raises(EngineError, match="belongs to user 4711"):
        engine.plan_bytes()


def test_a_plan_behind_a_link_is_refused(tmp_path: Path) -> None:
    engine = stored()
    aside = tmp_path / "aside"
    engine.plan_path.rename(aside)
    engine.plan_path.symlink_to(aside)
    with pytest.raises(EngineError, match=r"cannot be read|is a link"):
        engine.plan_bytes()


def test_a_file_where_the_cache_should_be(cache: Path) -> None:
    cache.write_text("no folder")
    cache.chmod(0o600)
    assert exact_engine(KEY) is None
    assert newest_engine(KEY.graph, KEY.tensorrt, DEVICE) is None
    with pytest.raises(OutputError, match="Not a directory; set ACD_EDGE_CACHE"):
        stored()


def test_the_cache_itself_may_be_a_link(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    cache.symlink_to(tmp_path / "disk")
    stored()
    found = exact_engine(KEY)
    assert found is not None
    assert found.plan_bytes() == PLAN


def test_a_full_disk_leaves_the_old_engine_or_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamped(stored())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    other = replace(KEY, driver="540.4")
    for key in (KEY, other):
        with pytest.raises(OutputError, match="No space left on device; nothing was changed"):
            stored(key, b"another")
    monkeypatch.undo()
    monkeypatch.setenv("ACD_EDGE_CACHE", str(cache))
    found = exact_engine(KEY)
    assert found is not None
    assert (found.state, found.plan_bytes()) == ("verified", PLAN)
    assert exact_engine(other) is None
    assert [each.name for each in (cache / "engines").iterdir()] == [found.folder.name]


def test_a_record_of_another_engine_is_not_written(cache: Path) -> None:
    with pytest.raises(EngineError, match="record is of another engine"):
        write_engine(KEY, b"another plan", record())
    assert not cache.exists()


def test_the_timing_cache_belongs_to_a_device_and_a_release(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_timing_cache("10.3.0", DEVICE) == b""
    write_timing_cache("10.3.0", DEVICE, memoryview(b"measured"))
    assert read_timing_cache("10.3.0", DEVICE) == b"measured"
    assert read_timing_cache("10.16.2", DEVICE) == b""
    assert read_timing_cache("10.3.0", replace(DEVICE, name="Thor")) == b""
    (cache / "timing").chmod(0o777)
    assert read_timing_cache("10.3.0", DEVICE) == b""
    assert "others may write" in caplog.text


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_root() == tmp_path / "cache"
    monkeypatch.setenv("ACD_EDGE_CACHE", "~/engines")
    assert cache_root() == Path.home() / "engines"
    monkeypatch.delenv("ACD_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "acd-edge"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == Path.home() / ".cache" / "acd-edge"


def test_a_cache_in_no_home_folder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a service whose user has no home folder; reading finds nothing, keeping says what to do."""
    monkeypatch.setenv("ACD_EDGE_CACHE", "~nobody-of-that-name/x")
    assert newest_engine(KEY.graph, KEY.tensorrt, DEVICE) is None
    with pytest.raises(OutputError, match=r"no home folder in ~nobody-of-that-name/x .*; set ACD_EDGE_CACHE"):
        stored()
    monkeypatch.delenv("ACD_EDGE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-that-name").expanduser())
    with pytest.raises(OutputError, match="there is no home folder to keep engines in"):
        stored()


def test_what_is_wrong_with_the_cache_is_told(cache: Path, tmp_path: Path) -> None:
    assert cache_problem() == ""  # nothing there
    stored()
    assert cache_problem() == ""
    cache.chmod(0o777)
    assert cache_problem().endswith(f"run: chmod go-w {cache}")
    cache.rename(tmp_path / "aside")
    cache.symlink_to(tmp_path / "nothing")
    assert "is a link to nothing" in cache_problem()
    cache.unlink()
    cache.touch(mode=0o600)
    assert "Not a directory; set ACD_EDGE_CACHE" in cache_problem()


def test_options_out_of_range() -> None:
    for wrong in ({"workspace_mib": 0}, {"optimization_level": 6}, {"prompts": 0}):
        with pytest.raises(ConfigError, match=r"is 0 to 5|are at least 1"):
            BuildOptions(**wrong)


def test_public_names() -> None:
    assert all(hasattr(engines, name) for name in engines.__all__)
