from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from acd_edge.cli import cli
from acd_edge.errors import AcdEdgeError, BundleError, ConfigError, OutputError
from acd_edge.runtime.bundle import Bundle, Golden, threshold_of, write_bundle
from acd_edge.runtime.bundle_files import CALIBRATION_SCHEMA, load_npz
from acd_edge.runtime.bundle_write import check_target, rewrite_bundle
from acd_edge.runtime.manifest import manifest_from_json, seal
from acd_edge.runtime.prompts import DEFAULT_PROMPTS, PromptEnsemble, average, parse_product
from acd_edge.runtime.staging import check_place
from tests.tiny_bundle import tiny_features, tiny_golden, tiny_manifest, write_tiny_bundle


@pytest.mark.parametrize("name", ["b", "b.acd"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    path = write_tiny_bundle(tmp_path / name, text_encoder=True, license="research", fold={"macs_before": 29})
    assert path.is_dir() == (name == "b")
    with Bundle.open(path) as bundle:
        want = tiny_manifest(license="research", fold={"macs_before": 29})
        assert bundle.manifest.with_files({}) == want
        assert set(bundle.manifest.files) == {
            *("model.onnx", "text_features.npz", "golden.npz", "text_encoder.onnx", "tokenizer.json")
        }
        for product, features in tiny_features().items():
            np.testing.assert_array_equal(bundle.text_features[product], features)
        np.testing.assert_array_equal(bundle.golden.image, tiny_golden().image)
        assert bundle.calibration == {}
        assert bundle.model_path.is_file()
        root = bundle.root
    assert root.exists() == (name == "b")  # what a zip was unpacked to is gone
    assert path.exists()
    assert os.listdir(tmp_path) == [name]


def test_a_zip_of_the_same_content_has_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever, and under whatever umask, it is written; written anew a day earlier it once differed."""
    first = write_tiny_bundle(tmp_path / "a.acd").read_bytes()
    write = Path.write_bytes

    def write_yesterday(self: Path, content: bytes) -> int:
        count = write(self, content)
        os.utime(self, (86_400, 86_400 * 8_000))
        self.chmod(0o600)
        return count

    monkeypatch.setattr(Path, "write_bytes", write_yesterday)
    assert write_tiny_bundle(tmp_path / "b.acd").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "b.acd") as archive:
        assert {each.compress_type for each in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None


def test_a_place_below_a_file_or_a_folder_of_others_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/deep/b cannot be written \(.*file: Not a directory\); choose"):
        check_target(tmp_path / "file" / "deep" / "b", force=False)
    with pytest.raises(OutputError, match="File name too long"):
        check_target(tmp_path / f"{'long' * 100}.acd", force=False)
    check_target(tmp_path / "new" / "deep" / "b", force=False)  # folders that are not there are made
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    there = write_tiny_bundle(tmp_path / "there")
    check_target(there, force=True)
    monkeypatch.setattr("tempfile.mkdtemp", read_only)
    for place, force in ((tmp_path / "new" / "b", False), (there, True)):
        with pytest.raises(OutputError, match=r"Read-only file system\); choose"):
            check_target(place, force=force)


def read_only(*_: object, **__: object) -> str:
    raise OSError(30, "Read-only file system")


def test_the_place_of_a_link_is_where_it_leads(tmp_path: Path) -> None:
    """A bundle is written there, not beside the link; a folder of links may be one that takes nothing."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file/b")
    with pytest.raises(OutputError, match=r"link cannot be written \(.*file: Not a directory\)"):
        check_place(tmp_path / "link")
    (tmp_path / "other").symlink_to("new/b")
    check_place(tmp_path / "other")


def change_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((path / "manifest.json").read_text())
    values.pop("sha256")
    change(values)
    (path / "manifest.json").write_text(seal(json.dumps({**values, "sha256": ""})))


def flip(path: Path, at: int = 20) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def link_outside(bundle: Path) -> None:
    (bundle.parent / "outside").write_bytes((bundle / "model.onnx").read_bytes())
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").symlink_to(bundle.parent / "outside")


def name_file(bundle: Path, name: str) -> None:
    change_manifest(bundle, lambda values: values["files"].update({name: values["files"]["model.onnx"]}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: flip(b / "model.onnx"), "model.onnx was altered"),
        (lambda b: flip(b / "text_features.npz", -1), "text_features.npz was altered"),
        (lambda b: flip(b / "golden.npz", 500), "golden.npz was altered"),
        (lambda b: flip(b / "tokenizer.json"), "tokenizer.json was altered"),
        (lambda b: (b / "model.onnx").write_bytes(b"short"), r"5 bytes instead of"),
        (lambda b: (b / "golden.npz").unlink(), "golden.npz is missing"),
        (lambda b: (b / "manifest.json").unlink(), "no manifest.json"),
        (lambda b: (b / "manifest.json").write_text("{"), "is not JSON"),
        (lambda b: (b / "manifest.json").write_text("[]"), "no schema number"),
        (lambda b: change_manifest(b, lambda v: v.update(schema=2)), "schema 2, this acd-edge reads up to 1"),
        (lambda b: change_manifest(b, lambda v: v.update(colour=2)), "unknown key 'colour'"),
        (lambda b: change_manifest(b, lambda v: v.pop("size")), "missing key 'size'"),
        (lambda b: change_manifest(b, lambda v: v.update(size=57)), "do not make size 57"),
        (lambda b: change_manifest(b, lambda v: v.update(size="56")), "size must be a whole number"),
        (lambda b: change_manifest(b, lambda v: v.update(resize="nearest")), "resize must be one of"),
        (lambda b: change_manifest(b, lambda v: v.update(precision="fp4")), "precision must be one of"),
        (lambda b: change_manifest(b, lambda v: v.update(score_mix={"class": 2, "map": 0})), "score_mix"),
        (lambda b: change_manifest(b, lambda v: v.update(score_mix=3)), "manifest.json"),
        (lambda b: change_manifest(b, lambda v: v["products"].update(cup="cup")), "disagree about the products: cup"),
        (lambda b: change_manifest(b, lambda v: v["products"].pop("object")), "'object' is missing"),
        (lambda b: change_manifest(b, lambda v: v["files"].pop("model.onnx")), "lists no model.onnx"),
        (lambda b: change_manifest(b, lambda v: v["files"].pop("tokenizer.json")), "or neither"),
        (lambda b: name_file(b, "../outside"), "outside itself"),
        (lambda b: name_file(b, "/etc/passwd"), "outside itself"),
        (lambda b: name_file(b, "a\\..\\b"), "outside itself"),
        (lambda b: name_file(b, "a//b"), "outside itself"),
        (link_outside, "outside itself: model.onnx is a link"),
    ],
)
def test_damage_is_refused_in_one_line(talking_bundle: Path, damage: Callable[[Path], object], message: str) -> None:
    Bundle.open(talking_bundle)  # the control: whole before
    damage(talking_bundle)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(talking_bundle)
    assert "\n" not in str(caught.value)
    assert str(talking_bundle) in str(caught.value)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.open(tmp_path / "none")
    (tmp_path / "a.acd").write_bytes(b"text")
    with pytest.raises(BundleError, match="neither a folder nor a readable zip"):
        Bundle.open(tmp_path / "a.acd")


def rezip(path: Path, change: Callable[[zipfile.ZipFile, dict[str, bytes]], None]) -> None:
    """Write a zip again through a function that may do anything."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        change(archive, content)


def plain(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        archive.writestr(name, data)


def slip(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    plain(archive, {**content, "../evil": b"x"})


def named_slip(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    manifest = json.loads(content["manifest.json"])
    manifest["files"]["../evil"] = manifest["files"]["model.onnx"]
    plain(archive, {**content, "manifest.json": json.dumps(manifest).encode(), "../evil": b"x"})


def bomb(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    plain(archive, {**content, "model.onnx": bytes(50_000_000)})


def manifest_bomb(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    plain(archive, {**content, "manifest.json": b" " * 50_000_000})


def zip_link(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    entry = zipfile.ZipInfo("model.onnx")
    entry.external_attr = 0o120777 << 16
    archive.writestr(entry, b"/etc/passwd")
    plain(archive, {name: data for name, data in content.items() if name != "model.onnx"})


def reseal(content: dict[str, bytes], **files: bytes) -> dict[str, bytes]:
    """Other files, with a manifest that gives their digests."""
    values = json.loads(content["manifest.json"])
    for name, data in files.items():
        values["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest = seal(json.dumps({**values, "sha256": ""})).encode()
    return {**content, **files, "manifest.json": manifest}


def sealed_bomb(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    plain(archive, reseal(content, zeros=bytes(50_000_000)))


def file_and_folder(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    plain(archive, reseal(content, **{"a": b"x", "a/b": b"y"}))


def by_lzma(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        archive.writestr(name, data, zipfile.ZIP_LZMA)


def locked(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    """Say that the first file needs a password, in both places."""
    plain(archive, content)
    first = archive.infolist()[0]
    first.flag_bits |= 1
    assert archive.fp is not None
    archive.fp.seek(first.header_offset + 6)
    archive.fp.write(b"\x01")
    archive.fp.seek(archive.start_dir)


def in_a_folder(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    plain(archive, {f"bundle/{name}": data for name, data in content.items()})


def missing(archive: zipfile.ZipFile, content: dict[str, bytes]) -> None:
    plain(archive, {name: data for name, data in content.items() if name != "golden.npz"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (slip, r"does not name: '\.\./evil'"),
        (named_slip, "outside itself"),
        (bomb, "more than the manifest says"),
        (manifest_bomb, "more than the manifest says"),
        (zip_link, "holds a link"),
        (missing, "golden.npz is missing"),
        (sealed_bomb, r"would unpack to 50,0\d\d,\d\d\d"),
        (file_and_folder, "cannot be unpacked"),
        (by_lzma, "is packed by method 14; store or deflate it"),
        (locked, "encrypted"),
        (in_a_folder, "no manifest.json"),
        (lambda archive, content: archive.writestr("a", b""), "no manifest.json"),
    ],
)
def test_hostile_zips(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[zipfile.ZipFile, dict[str, bytes]], None],
    message: str,
) -> None:
    path = write_tiny_bundle(tmp_path / "z.acd")
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "unpacked"))
    rezip(path, plain)
    Bundle.open(path).close()  # the control: rewriting alone does no harm
    rezip(path, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(path)
    assert sorted(os.listdir(tmp_path)) == ["unpacked", "z.acd"]
    assert os.listdir(tmp_path / "unpacked") == []


def test_a_zip_with_any_damage_is_refused_or_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_bundle(tmp_path / "z.acd")
    (unpacked := tmp_path / "unpacked").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(unpacked))
    rezip(path, plain)
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), len(whole) // 60):
        for damaged in (whole[:at], whole[:at] + b"\xff" * 8 + whole[at + 8 :]):
            path.write_bytes(damaged)
            try:
                Bundle.open(path).close()
            except BundleError:
                refused += 1
    assert refused > 100  # a few bytes of a zip, such as dates, mean nothing
    assert os.listdir(unpacked) == []


@pytest.mark.parametrize("name", ["x" * 300, "\0", "fifo"])
def test_odd_names_are_no_bundle(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for ever
    with pytest.raises(BundleError, match="there is no bundle at"):
        Bundle.open(tmp_path / name)


def test_a_bundle_that_may_not_be_read_is_one_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read: Permission denied"):
        Bundle.open(bundle)


def test_arrays_that_are_none_are_refused(tmp_path: Path) -> None:
    giant = io.BytesIO()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 2, 8), }".ljust(117) + b"\n"
    with zipfile.ZipFile(giant, "w") as archive:
        archive.writestr("features.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        archive.writestr("names.npy", b"")
    for content, message in [(b"pickle?", "no file of numpy arrays"), (giant.getvalue(), "cannot be read")]:
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(BundleError, match=message):
            load_npz(tmp_path / "a.npz", ("features", "names"))


def test_existing_output_needs_force_and_other_things_are_never_replaced(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    with pytest.raises(OutputError, match="--force"):
        write_tiny_bundle(path)
    write_tiny_bundle(path, force=True, name="second")
    assert Bundle.open(path).manifest.name == "second"
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis").touch()
    with pytest.raises(OutputError, match="is not a bundle"):
        write_tiny_bundle(tmp_path / "papers", force=True)
    assert (tmp_path / "papers" / "thesis").exists()


@pytest.mark.parametrize("strange", ["NOTES.txt", "good/a.png"])
def test_what_lies_beside_the_bundles_files_is_never_lost(tmp_path: Path, strange: str) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    (path / strange).parent.mkdir(exist_ok=True)
    (path / strange).write_text("mine")
    with pytest.raises(OutputError, match=f"also holds {strange}, which is not ours"):
        write_tiny_bundle(path, force=True)
    with Bundle.open(path) as bundle, pytest.raises(OutputError, match="would be lost"):
        rewrite_bundle(bundle.root, bundle.manifest, path, calibration={}, force=True)
    assert (path / strange).read_text() == "mine"


@pytest.mark.parametrize("manifest", ['{"manifest_version": 3}', "[]", "no JSON", '{"files": 7}'])
def test_a_folder_with_a_manifest_of_others_is_not_replaced(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(OutputError, match="is not a bundle"):
        write_tiny_bundle(tmp_path, force=True)


@pytest.mark.parametrize("name", ["text_features.npz", "golden.npz"])
def test_arrays_that_would_fill_the_memory_are_refused_before_they_do(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    with np.load(path / name) as stored:
        arrays = dict(stored)
    large = "features" if "features" in arrays else "image"
    arrays[large] = np.zeros((2000, *arrays[large].shape[1:]), arrays[large].dtype)
    np.savez_compressed(path / name, **arrays)
    monkeypatch.setattr(np, "load", None)  # who gets so far has it in memory
    with pytest.raises(BundleError, match="would unpack to"):
        load_npz(path / name, tuple(arrays))


def test_nan_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    features = tiny_features()
    features["object"][0, 0, 0] = np.nan
    golden = tiny_golden()
    bad_golden = Golden(**{**golden.arrays(), "class_score": np.array([0, np.inf], np.float32)})
    for text_features, samples, message in [
        (features, golden, "features holds NaN"),
        (tiny_features(), bad_golden, "class_score holds NaN"),
        ({"object": tiny_features()["object"]}, golden, "disagree about the products: metal_nut"),
        ({name: 2 * value for name, value in tiny_features().items()}, golden, "every feature has length 1"),
    ]:
        with pytest.raises(BundleError, match=message):
            write_bundle(
                tmp_path / "b", tiny_manifest(), files={"model.onnx": b"x"}, text_features=text_features, golden=samples
            )
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("files", [{}, {"model.onnx": b"", "../x": b""}, {"model.onnx": b"", "manifest.json": b""}])
def test_odd_file_names_are_not_written(tmp_path: Path, files: dict[str, bytes | Path]) -> None:
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "b", tiny_manifest(), files=files, text_features=tiny_features(), golden=tiny_golden())
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_bundle(tmp_path / "b")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match=r"No space left on device; nothing was changed"):
        write_tiny_bundle(path, force=True, name="second")
    assert Bundle.open(path).manifest.name == "tiny"
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("name", ["b", "b.acd"])
def test_calibration_is_written_into_the_bundle_with_its_digest(tmp_path: Path, name: str) -> None:
    path = write_tiny_bundle(tmp_path / name)
    with Bundle.open(path) as bundle:
        content = {"schema": 1, "products": {"object": {"threshold": 0.25}}}
        rewrite_bundle(bundle.root, bundle.manifest, path, calibration=content, force=True)
    with Bundle.open(path) as bundle:
        assert threshold_of(bundle.calibration, "object") == 0.25
        assert threshold_of(bundle.calibration, "metal_nut") is None
        assert "calibration.json" in bundle.manifest.files
        np.testing.assert_array_equal(bundle.golden.image, tiny_golden().image)


@pytest.mark.parametrize(
    "content",
    [[], {"products": {"object": {}}}, *({"products": {"object": {"threshold": odd}}} for odd in ("x", True, 10**400))],
)
def test_odd_calibration_is_refused(tmp_path: Path, content: Any) -> None:
    write_bundle(
        tmp_path / "b",
        tiny_manifest(),
        files={"model.onnx": b""},
        text_features=tiny_features(),
        golden=tiny_golden(),
        calibration=content,
    )
    with pytest.raises(BundleError, match="a threshold for each product"):
        Bundle.open(tmp_path / "b")


def test_a_calibration_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    newer = {"schema": CALIBRATION_SCHEMA + 1, "products": {"object": {"threshold": 0.5}}}
    with Bundle.open(path) as bundle:
        rewrite_bundle(bundle.root, bundle.manifest, path, calibration=newer, force=True)
    with pytest.raises(BundleError, match=r"calibration.json has schema 2, this acd-edge reads up to 1"):
        Bundle.open(path)


def test_manifest_prompts_and_words_survive_json() -> None:
    manifest = tiny_manifest(
        prompts=PromptEnsemble(normal=("ein {}",), abnormal=("ein kaputtes {}",), templates=("{}!",)),
        products={"object": "object", "Würfel": "Würfel aus Stahl"},
    )
    assert manifest_from_json(manifest.to_json()) == manifest


def test_default_prompts_are_the_references() -> None:
    normal, abnormal = DEFAULT_PROMPTS.sentences("cup")
    assert normal == ["cup.", "a photo of cup.", "a cup.", "a photo of a cup.", "the cup.", "a photo of the cup."]
    assert len(abnormal) == 10
    assert abnormal[-1] == "a photo of a cup with damage."


def test_average_is_the_unit_mean() -> None:
    features = np.eye(3, dtype=np.float32)[:2, None]  # two prompts, one level
    np.testing.assert_allclose(average(features), [[0.5**0.5, 0.5**0.5, 0]], atol=1e-7)
    with pytest.raises(AcdEdgeError, match=r"want \(P, N, D\)"):
        average(features[0])


@pytest.mark.parametrize("text", ["", "=", "=words", "name=", " "])
def test_odd_products_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME='words"):
        parse_product(text)


def test_prompts_hold_one_slot() -> None:
    with pytest.raises(ConfigError, match=r"must hold \{\} once"):
        PromptEnsemble(normal=("a cup",))


def test_every_byte_of_the_manifest_counts(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_bytes()
    assert manifest_from_json(text).name
    for at in range(len(text)):
        altered = bytearray(text)
        altered[at] ^= 1
        with pytest.raises(BundleError):
            manifest_from_json(bytes(altered))


def test_a_changed_score_mix_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"class": 0.9', '"class": 0.1'))
    with pytest.raises(BundleError, match=r"manifest\.json was altered"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "arguments",
    [["prompts", "add", "{}", "cup"], ["prompts", "remove", "{}", "metal_nut"], ["calibrate", "{}", "--good", "none"]],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_the_built_in_bundle_stays_as_it_is(
    talking_bundle: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    before = {path: path.read_bytes() for path in talking_bundle.iterdir()}
    link = talking_bundle.parent / "link"
    link.symlink_to(talking_bundle)
    monkeypatch.setattr("acd_edge.runtime.bundle.builtin_bundle", lambda: talking_bundle)
    for path in (talking_bundle, link, talking_bundle / ".." / talking_bundle.name):
        refused = CliRunner().invoke(cli, [argument.format(path) for argument in arguments])
        assert refused.exit_code == 2, refused.output
        assert refused.stderr.startswith("Error: the built-in bundle stays as it is; ")
        assert refused.stderr.count("\n") == 1
    assert before == {path: path.read_bytes() for path in talking_bundle.iterdir()}
